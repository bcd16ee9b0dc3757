"""finetune-identity: one photograph → an identity checkpoint (paper §4, stage 2), once for equal input and configuration."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from prefect import task

from storage.canonical import digest_of, sha256_of
from storage.claims import sole_worker
from storage.identities import IdentityStore, check_identity_id
from storage.records import Record, committed, only_record, read_record
from storage.stores import Store, open_store
from tasks.edit_config import RATES, FinetuneConfig
from tasks.finetune_requests import FinetuneRequest, forget_request, note_request
from tasks.frozen_files import INVERTIBLE
from tasks.identity_training import FinetuneJob, train_identity
from tasks.image_uri import absolute_uri, read_image_uri
from tasks.live import watch
from tasks.preset import Preset
from tasks.progress import StageProgress
from tasks.ray_pool import run_remote

VERSION = "2"
CONSENT_VARIABLE = "INSTAFACE_REQUIRE_CONSENT"


class NoConsent(ValueError):
    """This installation asks for a consent reference, and none was given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    identity_id: str
    uri: str
    metrics: Mapping[str, float | None]
    preview: bytes
    """PNG: the aligned photograph, its reconstruction and a few edits."""
    losses: tuple[float, ...]
    phases: Mapping[str, float]
    """Seconds by phase, of the run that trained it."""
    reused: bool
    seconds: float = 0.0


def finetune_identity(
    preset: Preset,
    image_uri: str,
    identity_id: str | None,
    root: Store,
    base: str | None,
    *,
    consent: str | None = None,
) -> Identity:
    """Fine-tune on one photograph, or find it done; below `<root>/identities/<id>/<digest>/`.

    Equal requests at the same time train once: the others wait for the result. Each one's address and consent is noted
    beside it, before anything is made of the photograph.

    Raises:
        BadImageUri, BadImage, RowFailed: the photograph cannot be used, with the reason.
        NoConsent: INSTAFACE_REQUIRE_CONSENT is set and `consent` is empty.
        Tombstoned: the identity was erased.
        ValueError: no stage-1 model, or several to choose from; or the photograph is not to be kept and would be.
    """
    consent = check_consent(consent)
    check_kept(preset, preset.finetune.keep_photograph)
    data = read_image_uri(image_uri)
    image_uri = absolute_uri(image_uri)
    sha256 = sha256_of(data)
    name = check_identity_id(identity_id or f"id-{sha256[:12]}")
    base_uri = base or only_record(root, "stage1", "run train-stage1 with this root first")
    digest = digest_of(
        [VERSION, replace(preset.finetune, gpu=False), preset.shard, preset.extract, preset.encode, preset.edit.steps,
         committed(base_uri).files, sha256]
    )  # fmt: skip
    home = IdentityStore(root).home(name).child(digest)
    request = FinetuneRequest(image_uri=image_uri, image_sha256=sha256, consent=consent)
    note_request(home, request)
    with StageProgress("finetune", total=preset.finetune.steps, unit="steps") as progress, _taken_back(home, request):
        tell = partial(progress.step, 0, "an equal request is being trained; waiting for its result")
        with sole_worker(home, lambda: read_record(home) is not None, waiting=tell) as mine:
            if mine:
                job = FinetuneJob(
                    preset=preset, image_uri=image_uri, image_sha256=sha256, identity_id=name, consent=consent,
                    base=base_uri, root=root, home=home,
                )  # fmt: skip
                watch(
                    lambda mailbox: run_remote(train_identity, job, data, mailbox, gpu=preset.finetune.gpu),
                    lambda report: progress.step(report["step"], report["note"]),
                )
        if not mine:
            progress.reused({})
    note_request(home, request)  # once more: an equal request that failed meanwhile took it back
    return identity_of(committed(home.uri), reused=not mine, seconds=progress.seconds)


@contextmanager
def _taken_back(home: Store, request: FinetuneRequest) -> Iterator[None]:
    """Takes the note of a request back when the fine-tune fails: nothing is kept of a photograph that cannot be used."""
    try:
        yield
    except Exception:
        forget_request(home, request)
        raise


def has_model(root: str) -> bool:
    """Whether a finished stage-1 model is below a root."""
    stage1 = open_store(root).child("stage1")
    return any(info.key.count("/") == 1 and info.key.endswith("/record.json") for info in stage1.list())


def check_consent(consent: str | None) -> str | None:
    """The reference as it is recorded.

    Raises:
        NoConsent: this installation requires one.
        ValueError: it is not one line of at most 200 characters.
    """
    text = (consent or "").strip()
    if len(text) > 200 or not text.isprintable():
        raise ValueError(f"consent={text[:40]!r}…: give a reference of one line and at most 200 characters")
    if not text and os.environ.get(CONSENT_VARIABLE, "") not in ("", "0"):
        raise NoConsent(
            f"consent is missing: {CONSENT_VARIABLE} is set here, so every fine-tune needs the reference of the person's "
            "consent (a document or ticket number)"
        )
    return text or None


def check_kept(preset: Preset, keep_photograph: bool) -> None:
    """Raises: ValueError where an identity without the photograph would hold it all the same."""
    if not keep_photograph and preset.encode.semantic in INVERTIBLE:
        raise ValueError(
            f"keep_photograph=false: the semantic tokens of preset {preset.name!r} ({preset.encode.semantic}) are the photograph's "
            "own latents, from which it can be decoded again, and every edit needs them. Keep it, and erase the identity when "
            "it is done with, or take a preset with other tokens (debug, open, paper)"
        )


def identity_of(record: Record, *, reused: bool, seconds: float = 0.0) -> Identity:
    """A finished identity from its record."""
    facts = record.facts
    return Identity(
        identity_id=str(facts["identity_id"]),
        uri=record.uri,
        metrics={key: None if value is None else round(float(value), 4) for key, value in facts["metrics"].items()},
        preview=record.read("preview.png"),
        losses=tuple(float(value) for value in facts["losses"]),
        phases=dict(facts.get("seconds", {})),
        reused=reused,
        seconds=seconds,
    )


@task(name="finetune", persist_result=False)
def finetune_task(
    preset: Preset,
    image_uri: str,
    identity_id: str | None,
    root: str,
    base: str | None,
    changes: Mapping[str, object],
    consent: str | None,
) -> Identity:
    """One photograph → an identity."""
    preset = replace(preset, finetune=changed(preset.finetune, changes))
    return finetune_identity(preset, image_uri, identity_id, open_store(root), base, consent=consent)


def changed(config: FinetuneConfig, changes: Mapping[str, object]) -> FinetuneConfig:
    """A configuration with the fields of `changes` that are not None. Another method without a learning rate gets the rate
    of the configuration's method, times what RATES says."""
    given = {name: value for name, value in changes.items() if value is not None}
    method = str(given.get("method", config.method))
    if method in RATES and "learning_rate" not in given:
        given["learning_rate"] = config.learning_rate * RATES[method] / RATES[config.method]
    return replace(config, **given)  # type: ignore[arg-type]
