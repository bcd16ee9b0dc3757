"""The stage-1 model of a store that has none yet: so that the first command of a stranger gives an identity."""

from flows import presets
from flows.parameters import PresetName
from flows.preprocess_ffhq import preprocess_ffhq
from flows.train_stage1 import train_stage1
from tasks.finetune_identity import has_model
from tasks.publish_shipped import SHIPPED, publish_shipped


def base_model(base: str | None, preset: PresetName, root: str) -> str | None:
    """URI of the model that a fine-tune starts from; None: the only one below root.

    `shipped`, or `tiny` in a store without a model: the one in the repository. `debug` in a store without a model: one that
    is trained here for a handful of steps. Presets whose weights only a person can bring get None, and the fine-tune says so.
    """
    if base == SHIPPED:
        return publish_shipped(root)
    configuration = presets.by_name(preset)
    if base is not None or configuration.needs or has_model(root):
        return base
    if configuration.train.model == "tiny":
        print("The store has no stage-1 model: the one that ships with InstaFace is put there")
        return publish_shipped(root)
    print("The store has no stage-1 model: a first one is made from the embedded portrait")
    features = preprocess_ffhq(root=root, preset=preset)["features"]["uri"]
    return str(train_stage1(features=features, root=root, preset=preset)["uri"])
