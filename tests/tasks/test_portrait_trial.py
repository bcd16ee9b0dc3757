"""The trial on unseen people: the truth scores best, baselines are what they say, fine-tuning leaves the model alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from models.diffusion.editor import InstaFace
from models.diffusion.presets import debug_config
from models.diffusion.sampling import BackgroundLock, sample
from tasks.draw_edits import Photographed, Wanted, draw_edits
from tasks.edit_config import EditConfig, FinetuneConfig
from tasks.encode import EncodeConfig
from tasks.extract import ExtractConfig
from tasks.featurizer import Featurizer
from tasks.mapper import Mapper
from tasks.portrait_scores import CHOICES, Judge, chosen, region_psnr, scored
from tasks.portrait_trial import EDITS, Frozen, Subject, TrialConfig, baselines, made_pictures, meet, tuned

EDIT = EditConfig(steps=2, batch=3, carry_detail=True)
CONFIG = TrialConfig(size=128, edit=EDIT, finetune=FinetuneConfig(steps=1, copies=2, learning_rate=1e-3))


@pytest.fixture(scope="module")
def frozen() -> Frozen:
    encode = EncodeConfig(codec="patch-cosine", semantic="efficientnet-lite0", face="dlib")
    return Frozen(mapper=Mapper(ExtractConfig()), featurizer=Featurizer(encode))


@pytest.fixture(scope="module")
def subject(frozen: Frozen) -> Subject:
    return meet(4, frozen, CONFIG)


@pytest.fixture(scope="module")
def model(subject: Subject) -> InstaFace:
    sizes = {"semantic_width": subject.features["semantic"].shape[-1], "face_width": subject.features["face"].shape[-1]}
    return InstaFace.from_config(debug_config(latent_size=16, **sizes))


def test_true_pictures_score_best_and_baselines_are_what_they_say(frozen: Frozen, subject: Subject) -> None:
    judge = Judge(None)
    truths = {name: subject.truths[name].image for name in ("turn left", "smile", "light below")}
    rows = scored(judge, subject, "truth", truths)
    assert [row["edit"] for row in rows] == list(truths)
    assert all(row["head"] == row["all"] == 99.0 for row in rows)
    assert all(row["points"] == 0.0 for row in rows)
    assert all(row["chosen"] == (row["edit"] if row["edit"] in CHOICES else None) for row in rows)
    found = baselines(subject, frozen.codec)
    assert all(np.array_equal(one, subject.source.image) for one in found["copy of the source"].values())
    assert chosen(subject, subject.source.image) == "source"
    for name in EDITS:
        truth = subject.truths[name]
        heads = [region_psnr(found[method][name], truth.image, truth.head) or 0.0 for method in found]
        assert heads[2] > max(heads[:2]), "the codec alone is nearer to the truth than copy and paste"
        assert np.array_equal(subject.edited[name].maps.mask, truth.maps().mask), "true parameters, true maps"


def test_pictures_are_made_in_order_whatever_the_batch(frozen: Frozen, subject: Subject, model: InstaFace) -> None:
    names = ["", "turn left", "smile", "light left"]
    made = made_pictures(model, frozen.codec, subject, CONFIG, names)
    assert list(made) == names
    assert all(one.shape == (128, 128, 3) for one in made.values())
    alone = made_pictures(model, frozen.codec, subject, replace(CONFIG, edit=replace(EDIT, batch=1)), ["smile"])
    assert np.abs(alone["smile"].astype(int) - made["smile"]).max() <= 1


def test_turned_and_lit_edits_use_a_share_of_the_fine_tune(
    frozen: Frozen, subject: Subject, model: InstaFace
) -> None:
    names, asked = ["turn left", "smile", "light left", "mouth open"], []

    def drawn(edits: Sequence[Wanted], config: EditConfig, image: bool = True) -> list[float]:
        """The shares that the networks were asked for, by edit."""
        asked.clear()
        reported: dict[int, float] = {}

        def networks(share: float) -> InstaFace:
            asked.append(share)
            return model

        source = Photographed(
            key=subject.key, maps=subject.maps, features=subject.features, image=subject.source.image if image else None
        )
        made = draw_edits(
            networks, frozen.codec, source, edits, replace(config, batch=1),
            lambda done, place: reported.update({place: asked[-1]}),
        )  # fmt: skip
        assert len(made) == len(edits)
        return [reported[place] for place in range(len(edits))]

    edits = [subject.edited[name] for name in names]
    assert drawn(edits, EDIT) == [0.35, 1.0, 0.35, 1.0]
    assert asked == [0.35, 1.0], "once a share"
    assert drawn(edits, replace(EDIT, adaptation_scale=0.6)) == [0.6] * 4
    assert drawn(edits, replace(EDIT, carry_detail=False)) == [1.0] * 4
    assert drawn(edits, EDIT, image=False) == [1.0] * 4, "nothing to carry from"
    film = [replace(one, film="talk") for one in edits[:2]]
    assert drawn([*film, edits[3]], EDIT) == [0.35, 0.35, 1.0], "a film does not change its networks"


def test_the_background_is_locked_unless_the_head_turns(
    frozen: Frozen, subject: Subject, model: InstaFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked: list[list[bool]] = []

    def recorded(*arguments: Any, lock: BackgroundLock | None, **options: Any) -> torch.Tensor:
        rows = len(arguments[2])
        locked.append([False] * rows if lock is None else [bool((one == 0).any()) for one in lock.free])
        return sample(*arguments, lock=lock, **options)

    monkeypatch.setattr("tasks.draw_edits.sample", recorded)
    source = Photographed(
        key=subject.key, maps=subject.maps, features=subject.features, image=subject.source.image
    )

    def drawn(config: EditConfig, film: str | None = None) -> list[bool]:
        """Whether the background of a turn, a smile and a light is locked."""
        locked.clear()
        edits = [replace(subject.edited[name], film=film) for name in ("turn left", "smile", "light left")]
        draw_edits(model, frozen.codec, source, edits, config)
        return locked[-1]

    assert drawn(EDIT) == [False, True, True]
    assert drawn(EDIT, film="talk") == [False, False, False], "frames of a film are alike"
    assert drawn(replace(EDIT, carry_detail=False)) == [True, True, True]
    assert drawn(replace(EDIT, background_lock=False)) == [False, False, False]


def test_classifier_free_guidance_wants_a_model_that_knows_of_no_conditions(
    frozen: Frozen, subject: Subject, model: InstaFace
) -> None:
    config = replace(CONFIG, edit=replace(EDIT, guidance_scale=3.0))
    with pytest.raises(ValueError, match=r"guidance_scale=3\.0: this model was trained without condition_dropout"):
        made_pictures(model, frozen.codec, subject, config, ["smile"])
    knowing = InstaFace.from_config(replace(model.config, condition_dropout=0.1))
    plain, guided = (made_pictures(knowing, frozen.codec, subject, one, ["smile"])["smile"] for one in (CONFIG, config))
    assert not np.array_equal(plain, guided)
    with pytest.raises(ValueError, match="guidance_scale=-1"):
        EditConfig(guidance_scale=-1)


def test_a_fine_tune_trains_a_copy(subject: Subject, model: InstaFace) -> None:
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    own, losses = tuned(model, subject, CONFIG)
    assert len(losses) == 1
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert any(not torch.equal(before[name], parameter) for name, parameter in own.named_parameters())


def test_parameters_are_true_or_estimated() -> None:
    with pytest.raises(ValueError, match="true or estimated"):
        TrialConfig(parameters="guessed")
