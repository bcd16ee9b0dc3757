"""The process that evaluates one person after another: pictures of every method, then their scores, each committed once.

    <root>/evaluations/pictures/<digest>/   pictures of one method for one person: {entry}.png, or source.png
    <root>/evaluations/scores/<digest>/     rows.json, features.npy, source.npy, truths.npy

A unit is named by what decides it, so an interrupted evaluation goes on where it was, protocols share people, and a new
measure scores pictures that are there without making them again.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.diffusion.editor import InstaFace
from models.diffusion.folder import is_saved_model, load_model
from models.diffusion.presets import debug_config
from models.face3d.detail_carry import VERSION as CARRY
from models.images import BadImage, decode_png, encode_png
from models.provenance import Provenance
from models.tiny.shipped import STAGE1, shipped_folder
from storage.canonical import canonical_json, digest_of, sha256_of
from storage.records import Record, commit_record, committed, read_record
from storage.stores import Store, open_store
from tasks.array_bytes import npy_bytes
from tasks.assets import weights_digest
from tasks.encode import encoders_digest
from tasks.evaluation_methods import Maker, Method, images_digests
from tasks.evaluation_people import Preparation, Subject
from tasks.evaluation_protocols import Entry, EvaluationManifest, Person
from tasks.evaluation_scores import Examiner, Instruments, References
from tasks.extract import estimator_digest
from tasks.marking import SOFTWARE, mark
from tasks.preset import Preset
from tasks.rows import RowFailed
from tasks.train_state import load_networks

Pixels = NDArray[np.uint8]
SHIPPED, UNTRAINED = "shipped", "untrained"
# Raise it whenever the pictures of an unchanged method would change for a reason that no digest shows.
VERSION = "4"
# Weights are read once a process, not once a person.
_estimator, _encoders = cache(estimator_digest), cache(encoders_digest)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationJob:
    preset: Preset
    manifest: EvaluationManifest
    methods: tuple[Method, ...]
    base: str
    """URI of the evaluation's stage-1 model, a folder of one, `shipped` or `untrained`."""
    parameters: str
    """`true` or `estimated`: of synthetic sources."""
    tools: Instruments
    root: str

    def __post_init__(self) -> None:
        if self.parameters not in ("true", "estimated"):
            raise ValueError(f"parameters={self.parameters!r}: choose true or estimated")

    def model(self, method: Method) -> str:
        return method.model or self.base


@dataclass(frozen=True, kw_only=True, slots=True)
class PersonDone:
    """What became of one person."""

    person: str
    scores: Mapping[str, str]
    """Digest of the scores of each method, by key."""
    refused: str | None = None
    """Why the photograph cannot be used; then there are no scores."""
    made: int = 0
    """Pictures made now, not found finished."""
    scored: int = 0


def pictures_digest(job: EvaluationJob, method: Method, person: Person) -> str:
    """Names the pictures of a method for a person: digest of everything that decides them."""
    people = {one.id: one.sha256 for one in job.manifest.people}
    entries = [
        [entry.name, entry.edit, None if entry.driver is None else people[entry.driver], entry.take]
        for entry in job.manifest.entries_of(person.id)
    ]
    parts: list[object] = [VERSION, method.kind, person.sha256, entries, job.preset.shard.size]
    if method.kind in ("paste", "model"):
        parts += [job.parameters, job.preset.extract.estimator, _estimator(job.preset.extract.estimator)]
    if method.kind in ("codec", "model"):
        parts += [job.preset.encode.codec, _encoders(job.preset.encode)]
    if method.kind == "model":
        tuned = replace(job.preset.finetune, gpu=False) if method.finetune else None
        parts += [
            model_digest(job.model(method)), tuned, replace(job.preset.edit, gpu=False, batch=1), method.without,
            method.shuffled, method.carried,
        ]  # fmt: skip
        if method.hidden:
            parts.append("hidden")
        if method.carried and job.preset.edit.carry_detail:
            parts.append(CARRY)
    if method.kind == "images":
        parts.append(images_digests(str(method.images), job.manifest.entries_of(person.id)))
    return digest_of(parts)


def scores_digest(job: EvaluationJob, pictures: str) -> str:
    """Names the scores of pictures: they depend on what judges, and on the parameters that were asked for."""
    return digest_of([pictures, job.tools.digest, job.parameters, _estimator(job.preset.extract.estimator)])


@cache
def model_digest(place: str) -> str:
    """Of the weights of a stage-1 model. Raises ValueError where there is none."""
    if place == UNTRAINED:
        return UNTRAINED
    if place == SHIPPED:
        return weights_digest(shipped_folder(STAGE1))
    if is_saved_model(place):
        return weights_digest(Path(place))
    return digest_of({name: entry["sha256"] for name, entry in committed(place).files.items()})


def load_base(place: str, preset: Preset) -> InstaFace:
    """A stage-1 model by its URI or folder, the one that ships, or seeded random networks of preset `debug`.

    Raises:
        ValueError: nothing finished there, or `untrained` for another preset.
    """
    if place == UNTRAINED:
        if preset.train.model != "debug":
            raise ValueError(f"model=untrained is for preset=debug, not {preset.name}: train one, or leave model out")
        return InstaFace.from_config(debug_config(latent_size=preset.shard.size // 8), seed=0).eval()
    if place == SHIPPED:
        return load_model(shipped_folder(STAGE1)).eval()
    if is_saved_model(place):
        return load_model(place).eval()
    return load_networks(committed(place)).eval()


class PersonWorker:
    """One actor: holds estimator, encoders, base models and judges, and evaluates people."""

    def __init__(self, job: EvaluationJob, report: Callable[[Mapping[str, Any]], None] | None) -> None:
        gpu = job.preset.edit.gpu
        if not gpu:
            torch.set_num_threads(1)  # one actor a core
        self.job = job
        self.report = report
        self.device = "cuda" if gpu else "cpu"
        self.store: Store = open_store(job.root).child("evaluations")
        self._preparation: Preparation | None = None
        self._maker: Maker | None = None
        self._examiner: Examiner | None = None

    def process(self, person: Person) -> PersonDone:
        job = self.job
        pictures = {method.key: pictures_digest(job, method, person) for method in job.methods}
        scores = {key: scores_digest(job, digest) for key, digest in pictures.items()}
        wanted = [m for m in job.methods if read_record(self.store.child(f"scores/{scores[m.key]}")) is None]
        count = len(job.manifest.entries_of(person.id))
        self._tell((len(job.methods) - len(wanted)) * count, f"{person.id}: found")
        if not wanted:
            return PersonDone(person=person.id, scores=scores)
        self._load()
        assert self._preparation is not None
        try:
            subject = self._preparation.subject(job.manifest, person)
        except (RowFailed, BadImage) as error:
            self._tell(len(wanted) * count, f"{person.id}: {error}")
            return PersonDone(person=person.id, scores={}, refused=str(error))
        seen = self._examiner.references(subject)  # type: ignore[union-attr]  # loaded above
        made = 0
        for method in wanted:
            made += self._evaluate(method, subject, seen, pictures[method.key], scores[method.key])
            self._tell(count, f"{person.id}: {method.label}")
        return PersonDone(person=person.id, scores=scores, made=made, scored=len(wanted) * count)

    def _load(self) -> None:
        if self._preparation is not None:
            return
        job = self.job
        self._preparation = Preparation(job.preset, job.parameters, self.device)
        base = cache(lambda place: load_base(place, job.preset))
        self._maker = Maker(
            job.preset, self._preparation.featurizer.codec, lambda place: base(place or job.base), self.device
        )
        self._examiner = Examiner(job.tools, self._preparation.mapper.estimator, self.device)

    def _evaluate(self, method: Method, subject: Subject, seen: References, pictures: str, scores: str) -> int:
        """Pictures and scores of one method; returns how many pictures were made now."""
        home = self.store.child(f"pictures/{pictures}")
        record, images, count = read_record(home), None, 0
        if record is None:
            began = time.monotonic()
            images, facts = self._maker.make(method, subject)  # type: ignore[union-attr]  # loaded by process
            files = picture_files(method, images, self._provenance(method))
            facts = {**facts, "method": asdict(method), "person": subject.person.id, "device": self.device}
            facts["seconds"] = round(time.monotonic() - began, 3)
            record, count = commit_record(home, files, facts), len(images)
            if any(record.files[name]["sha256"] != sha256_of(data) for name, data in files.items()):
                images = None  # another process was first, with other rounding: its pictures are scored
        if images is None:
            images = stored_pictures(record, [entry.name for entry in subject.entries])
        began = time.monotonic()
        measured, features = self._examiner.rows(  # type: ignore[union-attr]  # loaded by process
            subject, images, seen, record.facts.get("missing", {})
        )
        rows = in_order(self.job.manifest.entries_of(subject.person.id), measured, subject.unusable)
        commit_record(
            self.store.child(f"scores/{scores}"),
            {
                "rows.json": canonical_json(rows), "features.npy": npy_bytes(features),
                "source.npy": npy_bytes(seen.source_features), "truths.npy": npy_bytes(seen.truth_features),
            },
            {"pictures": record.uri, "person": subject.person.id, "seconds": round(time.monotonic() - began, 3)},
        )  # fmt: skip
        return count

    def _provenance(self, method: Method) -> Provenance | None:
        """What pictures of networks say about themselves; those of others are stored as they are."""
        if method.kind != "model":
            return None
        edit = self.job.preset.edit
        return Provenance(
            software=SOFTWARE, model=model_digest(self.job.model(method)), identity="", edit=f"evaluation: {method.key}",
            composite=edit.background_lock or (method.carried and edit.carry_detail),
        )  # fmt: skip

    def _tell(self, pictures: int, note: str) -> None:
        if self.report is not None and pictures:
            self.report({"pictures": pictures, "note": note})


def in_order(
    entries: Sequence[Entry], measured: Sequence[Mapping[str, Any]], unusable: Mapping[str, str]
) -> list[Mapping[str, Any]]:
    """A row for every entry of the manifest: those that could not be made are refused, with the reason."""
    rows = {str(row["entry"]): row for row in measured}
    for entry in entries:
        if entry.name in unusable:
            rows[entry.name] = {
                "person": entry.person, "entry": entry.name, "mode": entry.mode, "status": "refused",
                "reason": unusable[entry.name],
            }  # fmt: skip
    return [rows[entry.name] for entry in entries]


def picture_files(
    method: Method, images: Mapping[str, Pixels], provenance: Provenance | None = None
) -> dict[str, bytes]:
    """PNG by name; a copy of the source is stored once."""
    if method.kind == "copy":
        return {"source.png": encode_png(next(iter(images.values())))}
    files = {f"{name}.png": encode_png(image) for name, image in images.items()}
    return files if provenance is None else {name: mark(data, provenance) for name, data in files.items()}


def stored_pictures(record: Record, names: list[str]) -> dict[str, Pixels]:
    """Pictures of a committed record by the name of their entry; those it has not got are left out."""
    if "source.png" in record.files:
        return dict.fromkeys(names, decode_png(record.read("source.png")))
    return {name: decode_png(record.read(f"{name}.png")) for name in names if f"{name}.png" in record.files}


def rows_of(record: Record) -> list[dict[str, Any]]:
    """The rows of a committed set of scores."""
    rows: list[dict[str, Any]] = json.loads(record.read("rows.json"))
    return rows
