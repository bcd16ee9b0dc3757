"""Fine-tune, edit and erase one person with real estimator, encoders and networks (small, random ones)."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flows.presets import debug, tiny
from models.diffusion.editor import draws_for
from models.images import decode_png
from models.provenance import read_stamp
from storage.canonical import sha256_of
from storage.errors import Tombstoned
from storage.identities import IdentityStore
from storage.records import Record, commit_record, committed
from storage.stores import Store, open_store
from tasks.array_bytes import from_npy
from tasks.edit_config import EditConfig
from tasks.edit_identity import edit_request, edits_of
from tasks.edit_render import EditJob, load_identity, picture_side, render_edits
from tasks.erase_identity import erase_identity
from tasks.finetune_identity import CONSENT_VARIABLE, NoConsent, changed, check_consent, check_kept, identity_of
from tasks.identity_training import EarlyStop, FinetuneJob, train_identity
from tasks.image_uri import read_image_uri
from tasks.preset import Preset
from tasks.train_data import FEATURES
from tasks.train_state import load_networks
from tasks.verify_image import verify_image
from tests.identity_process import PORTRAIT, SIDE, Reports, small_base, small_preset

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Studio:
    root: Store
    preset: Preset
    base: str
    identity: Record
    reports: Reports

    def job(self, name: str, **changes: object) -> FinetuneJob:
        preset = replace(self.preset, finetune=changed(self.preset.finetune, changes))
        home = IdentityStore(self.root).home(name).child("0" * 16)
        data = read_image_uri(PORTRAIT)
        return FinetuneJob(
            preset=preset, image_uri=PORTRAIT, image_sha256=sha256_of(data), identity_id=name, consent=None,
            base=self.base, root=self.root, home=home,
        )  # fmt: skip

    def finetuned(self, name: str, **changes: object) -> Record:
        job = self.job(name, **changes)
        train_identity(job, read_image_uri(PORTRAIT), Reports())
        return committed(job.home.uri)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    root = open_store(tmp_path_factory.mktemp("studio"))
    studio = Studio(root, small_preset(), small_base(root), None, Reports())  # type: ignore[arg-type]
    job = studio.job("eileen")
    train_identity(job, read_image_uri(PORTRAIT), studio.reports)
    return replace(studio, identity=committed(job.home.uri))


def edited(studio: Studio, edits: Any, *, driver: str | None = None, paste_back: bool = False) -> Record:
    request = edit_request(edits, driver, ("pose", "expression"), studio.root, paste_back=paste_back)
    home = IdentityStore(studio.root).home("eileen").child(f"edits/{sha256_of(repr(request).encode())[:12]}")
    photograph = read_image_uri(PORTRAIT) if paste_back else None
    jobs = [EditJob(identity=studio.identity.uri, home=home, photograph=photograph)]
    render_edits(studio.preset, jobs, request.edits, request.drivers, request.take, Reports())
    return committed(home.uri)


def test_an_identity_holds_what_it_promises(studio: Studio) -> None:
    record, facts = studio.identity, studio.identity.facts
    assert set(record.files) == {
        "weights.safetensors", "preview.png", "README.md", "image.png", "meta.json", "albedo.png", "normal.png",
        "render.png", "mask.png", "params.npy", "texture.png", "landmarks.npy",
        "moments.npy", "conditions.npy", "face.npy", "semantic.npy",
    }  # fmt: skip
    assert facts["lineage"]["image_sha256"] == sha256_of(read_image_uri(PORTRAIT))
    assert set(facts["seconds"]) == {"3D face", "features", "base model", "training", "preview"}
    card = record.read("README.md").decode()
    assert facts["lineage"]["base_digest"] in card
    assert "reconstruction_psnr_db" in card
    assert studio.reports.all[0] == {"step": 0, "note": "3D face"}
    found = read_stamp(record.read("preview.png"))
    assert found is not None
    assert found.intact
    assert decode_png(record.read("preview.png")).shape[1] > 5 * 190
    identity = identity_of(record, reused=False)
    assert identity.metrics["codec_psnr_db"] > 20  # type: ignore[operator]


def test_a_photograph_that_tokens_hold_is_not_said_to_be_left_out() -> None:
    check_kept(tiny(), keep_photograph=True)
    check_kept(debug(), keep_photograph=False)
    with pytest.raises(ValueError, match=r"keep_photograph=false: the semantic tokens of preset 'tiny' \(latent-grid\)"):
        check_kept(tiny(), keep_photograph=False)


def test_without_the_photograph_neither_crop_nor_latents_are_kept(studio: Studio) -> None:
    record = studio.finetuned("shy", keep_photograph=False)
    assert not {"image.png", "moments.npy"} & set(record.files)
    assert picture_side(record) == SIDE
    home = IdentityStore(studio.root).home("shy").child("edits/x")
    request = edit_request([{"name": "left", "yaw": -10}], None, (), studio.root)
    job = EditJob(identity=record.uri, home=home, photograph=None)
    render_edits(studio.preset, [job], request.edits, (), (), Reports())
    stamped = read_stamp(committed(home.uri).read("000.png"))
    assert stamped is not None
    assert not stamped.provenance.composite, "nothing of the photograph is left to be shown"


def test_full_trains_denoiser_and_projection_as_a_plain_loop_does(studio: Studio) -> None:
    """Batch 8 of plain repetition, five steps, against the shared pass: the same weights within 1e-5."""
    steps, copies = 5, 8
    record = studio.finetuned("full", steps=steps, copies=copies, learning_rate=1e-5)
    shared = load_identity(record, load_networks(committed(studio.base)))

    plain = load_networks(committed(studio.base)).train()
    trained = [*plain.denoiser.parameters(), *plain.identity.parameters()]
    config = replace(studio.preset.finetune, learning_rate=1e-5)
    optimiser = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
    key = record.facts["lineage"]["image_sha256"][:16]
    one = {name: torch.from_numpy(from_npy(record.read(f"{name}.npy"))).float()[None] for name in FEATURES}
    batch = {name: tensor.expand(copies, *tensor.shape[1:]).clone() for name, tensor in one.items()}
    for step in range(steps):
        options = {"stratified": config.stratified, "antithetic": config.antithetic}
        draws = draws_for(plain.config, [key], run_seed=0, epoch=step, copies=copies, **options)
        loss = plain.loss(batch, draws)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.clip)
        optimiser.step()
    base = load_networks(committed(studio.base))
    moved = 0.0
    for name, parameter in plain.named_parameters():
        ours = shared.get_parameter(name)
        if name.startswith(("denoiser.", "identity.")):
            torch.testing.assert_close(ours, parameter, atol=1e-5, rtol=0)
            moved = max(moved, float((ours - base.get_parameter(name)).detach().abs().max()))
        else:
            assert torch.equal(ours, base.get_parameter(name)), f"{name} must not be trained"
    assert moved > 4e-5, "five steps of the learning rate, and the loops agree on their direction"


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("lora", {"method": "lora"}),
        ("wide-lora", {"method": "lora", "feed_forward": True}),
        ("tokens", {"method": "tokens"}),
        ("options", {"antithetic": True, "split_projection": True}),
    ],
)
def test_every_method_gives_an_identity_that_loads(studio: Studio, name: str, changes: dict[str, object]) -> None:
    record = studio.finetuned(name, **changes)
    model = load_identity(record, load_networks(committed(studio.base)))
    assert all(torch.isfinite(p).all() for p in model.parameters())
    rates = {"lora": 10, "wide-lora": 10, "tokens": 30, "options": 1}
    assert record.facts["lineage"]["config"]["learning_rate"] == pytest.approx(
        rates[name] * studio.preset.finetune.learning_rate
    )
    if name == "tokens":
        assert record.files["weights.safetensors"]["bytes"] < 10_000


def test_a_share_of_the_fine_tune_lies_between_base_and_tuned(studio: Studio) -> None:
    config = EditConfig()
    assert [config.scale(turned_or_lit=strong) for strong in (True, False)] == [0.35, 1.0]
    assert replace(config, adaptation_scale=0.8).scale(turned_or_lit=True) == 0.8
    with pytest.raises(ValueError, match=r"adaptation_scale=2: choose one from 0"):
        replace(config, adaptation_scale=2)

    base = load_networks(committed(studio.base)).state_dict()
    full, half, none = (
        load_identity(studio.identity, load_networks(committed(studio.base)), scale).state_dict() for scale in (1.0, 0.5, 0.0)
    )
    moved = [name for name in base if not torch.equal(full[name], base[name])]
    assert moved
    for name in base:
        assert torch.equal(none[name], base[name])
        torch.testing.assert_close(half[name].double(), (full[name].double() + base[name].double()) / 2)


def test_early_stopping_keeps_the_best_weights(studio: Studio) -> None:
    record = studio.finetuned("early", steps=40, copies=2, learning_rate=0.5, patience=2)
    validation, losses = record.facts["validation"], record.facts["losses"]
    best = int(np.argmin(validation))
    assert len(losses) < 40, "so large a step must hurt"
    assert len(validation) == 1 + len(losses) // 5
    assert len(validation) - 1 - best == 2
    config = replace(studio.preset.finetune, copies=2)
    model = load_identity(record, load_networks(committed(studio.base))).train()
    batch = {name: torch.from_numpy(from_npy(record.read(f"{name}.npy"))).float()[None] for name in FEATURES}
    watch = EarlyStop(model, [], batch, str(record.facts["lineage"]["image_sha256"])[:16], config)
    assert watch.losses[0] == pytest.approx(min(validation), rel=1e-3), "those of the best look, not of the last"
    assert validation[-1] > 1.01 * min(validation)


def test_prior_preservation_needs_the_features_of_the_base(studio: Studio) -> None:
    with pytest.raises(ValueError, match="prior_weight=1"):
        studio.finetuned("prior", prior_weight=1.0)


def test_edits_are_stamped_and_a_sweep_is_a_film(studio: Studio) -> None:
    asked = [{"name": "left", "yaw": -20}, {"name": "turn", "sweep": {"yaw": [-20, 20]}, "frames": 3}]
    record = edited(studio, asked)
    edits = edits_of(record, reused=False)
    assert [one.name for one in edits.images] == ["left", "turn 000", "turn 001", "turn 002"]
    stamped = read_stamp(record.read("000.png"))
    assert stamped is not None
    assert stamped.intact
    assert stamped.provenance.composite, "background and detail are the photograph's"
    assert json.loads(stamped.provenance.edit)["yaw"] == -20
    assert stamped.provenance.model == studio.identity.facts["lineage"]["base_digest"]
    with Image.open(io.BytesIO(record.read(edits.films["turn"]))) as film:
        assert film.n_frames == 4, "there and back"  # type: ignore[attr-defined]


def test_paste_back_changes_the_photograph_around_the_head_only(studio: Studio, tmp_path: Path) -> None:
    record = edited(studio, [{"name": "smile", "expressions": {"smile": 1}}], paste_back=True)
    data = record.read(record.facts["images"][0]["full"])
    full = decode_png(data)
    original = np.asarray(Image.open(io.BytesIO(read_image_uri(PORTRAIT))).convert("RGB"))
    assert full.shape == original.shape
    np.testing.assert_array_equal(full[-100:], original[-100:])
    assert (full != original).any()
    picture = tmp_path / "full.png"
    picture.write_bytes(data)
    found = verify_image(picture)
    assert found is not None
    assert found["origin"].startswith("a photograph with a part")
    assert found["pixels"] == "unchanged since"


def test_a_driver_folder_is_a_film_of_its_frames(studio: Studio, tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"frame-{number}.png").write_bytes(read_image_uri(PORTRAIT))
    record = edited(studio, None, driver=str(tmp_path))
    assert [one["name"] for one in record.facts["images"]] == ["as the driver 000", "as the driver 001"]
    assert list(record.facts["films"]) == ["as the driver"]


def test_consent_is_asked_for_where_the_installation_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_consent(None) is None
    monkeypatch.setenv(CONSENT_VARIABLE, "1")
    with pytest.raises(NoConsent, match="consent is missing"):
        check_consent("  ")
    assert check_consent("form 17") == "form 17"
    with pytest.raises(ValueError, match="one line"):
        check_consent("a\nb")


def test_an_erased_identity_is_gone_and_refuses_late_writers(studio: Studio) -> None:
    record = studio.finetuned("gone")
    root = studio.root
    commit_record(root.child("evaluations/e1"), {}, {"edits": f"{record.uri}/edits/abc"})
    commit_record(root.child("evaluations/e2"), {}, {"edits": "elsewhere"})
    late = studio.job("gone")  # opened before the erasure, commits after it
    erased = erase_identity(root, "gone", reason="asked by the person", redact_runs=False)
    assert erased.receipt.remaining == 0
    assert erased.receipt.objects_removed >= len(record.files)
    assert (erased.receipt.evaluations_removed, erased.receipt.originals_kept) == (1, 1)
    assert list(root.child("evaluations").folders()) == ["e2"]
    refuse: list[Callable[[], object]] = [
        lambda: studio.job("gone"),
        lambda: train_identity(late, read_image_uri(PORTRAIT), Reports()),
    ]
    for attempt in refuse:
        with pytest.raises(Tombstoned, match="was erased"):
            attempt()
    assert list(root.list("identities/gone/")) == []
    text = b"".join(root.read(info.key) for info in root.list("erasures/"))
    assert b"gone" not in text
    again = erase_identity(root, "gone", reason="twice", redact_runs=False)
    assert (again.receipt.objects_removed, again.receipt.first_asked) == (0, erased.receipt.first_asked)
