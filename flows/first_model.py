"""The stage-1 model of a store that has none yet: so that the first command of a stranger gives an identity."""

from flows import presets
from flows.parameters import PresetName
from flows.preprocess_ffhq import preprocess_ffhq
from flows.train_stage1 import train_stage1
from tasks.finetune_identity import has_model


def first_model(preset: PresetName, root: str) -> str | None:
    """URI of the model that small presets train, from the embedded portrait, where the store has none.

    None where it has one, or where the preset needs weights that only a person can bring: then the fine-tune says so.
    """
    if presets.by_name(preset).needs or has_model(root):
        return None
    print("The store has no stage-1 model: a first one is made from the embedded portrait")
    features = preprocess_ffhq(root=root, preset=preset)["features"]["uri"]
    return str(train_stage1(features=features, root=root, preset=preset)["uri"])
