"""Parameters that cannot be are refused before anything is started, with the value."""

from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError

from flows.run_here import run_here
from flows.train_stage1 import configuration
from tasks.user_errors import sentence


def test_fields_of_a_training_can_be_changed_and_others_are_refused() -> None:
    config = configuration("tiny-scratch", workers=1, changes={"batch": 4, "identity": "semantic_only"})
    assert (config.batch, config.identity, config.workers) == (4, "semantic_only", 1)
    with pytest.raises(ValueError, match=r"changes=\['accumulat'\]: there are .*accumulate"):
        configuration(changes={"accumulat": 4})
    with pytest.raises(ValueError, match="identity="):
        configuration(changes={"identity": "neither"})


@pytest.mark.parametrize(
    ("flow", "parameters", "said"),
    [
        ("edit-identity", {"take": ["hair"]}, "take.0='hair': Input should be 'pose', 'expression', 'light' or 'shape'"),
        ("edit-identity", {"steps": 0}, "steps=0: Input should be greater than or equal to 1"),
        ("finetune-identity", {"image_uri": "x" * 3000}, "image_uri='xxx"),
        ("finetune-identity", {"image_uri": "nobody.png"}, "image_uri='nobody.png': there is no such file"),
        ("evaluation", {}, "there is no flow 'evaluation': choose one of preprocess-ffhq"),
    ],
)
def test_a_bad_parameter_is_answered_with_its_value(flow: str, parameters: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, ParameterTypeError)) as caught:
        run_here(flow, parameters)
    text = sentence(caught.value)
    assert text is not None
    assert text.startswith(said), text
    assert len(text) < 300
