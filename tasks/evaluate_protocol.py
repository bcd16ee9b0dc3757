"""evaluate, by a protocol: a model and its baselines on many people → rows, figures, tables, pictures; resumable.

<root>/evaluations/<digest>/   record.json, manifest.json, rows.jsonl, rows.parquet, tables.md, grid-<mode>.png
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from prefect import task

from models.tiny.shipped import STAGE1, DamagedWeights, shipped_folder
from storage.canonical import canonical_json, digest_of
from storage.records import Record, commit_record, committed, read_record
from storage.stores import Store, open_store
from tasks.array_bytes import from_npy
from tasks.evaluation_figures import Measured, comparisons, summary_of
from tasks.evaluation_history import (
    EvaluationWorse,
    History,
    Worse,
    series_of,
    tell_worse,
    watched_figures,
)
from tasks.evaluation_methods import BUILT_IN, SUFFIXES, Method, other_images, other_model
from tasks.evaluation_pages import grids
from tasks.evaluation_protocols import EvaluationManifest, build_manifest, protocol_of
from tasks.evaluation_scores import instruments
from tasks.evaluation_tables import count_rows, markdown
from tasks.evaluation_units import (
    SHIPPED,
    EvaluationJob,
    PersonDone,
    PersonWorker,
    model_digest,
    pictures_digest,
    rows_of,
    scores_digest,
)
from tasks.preset import Preset
from tasks.progress import StageProgress
from tasks.ray_pool import PoolConfig, cluster_pool, run_units

# Raise it whenever figures of equal rows would differ: other intervals, other verdicts, other distances of sets.
VERSION = "2"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRequest:
    """What a flow was asked for."""

    protocol: str
    source: str | None = None
    manifest: str | None = None
    """Path or URI of a manifest to use as it is, instead of drawing one."""
    people: int | None = None
    each: int | None = None
    parameters: str = "true"
    model: str | None = None
    models: Mapping[str, str] | None = None
    """Name → URI of other stage-1 models to compare with."""
    images: Mapping[str, str] | None = None
    """Name → folder of pictures that another system made for the manifest."""
    only: tuple[str, ...] = ()
    """Keys of the built-in methods to evaluate, instead of the protocol's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolEvaluation:
    record: Record
    reused: bool
    worse: tuple[Worse, ...]
    """What fell behind the last accepted run; empty where nothing did."""
    series: str
    made: int
    """Pictures made now; the others were found finished."""
    seconds: float = 0.0

    @property
    def facts(self) -> Mapping[str, Any]:
        return self.record.facts

    @property
    def digest(self) -> str:
        return self.record.uri.rstrip("/").rpartition("/")[2]


def requested_manifest(request: EvaluationRequest) -> EvaluationManifest:
    """Raises: ValueError, NoPhotos: no such protocol, source or manifest, or a manifest and what it already says."""
    if request.manifest is not None:
        given = {"source": request.source, "people": request.people, "each": request.each}
        if besides := [name for name, value in given.items() if value is not None]:
            raise ValueError(f"manifest={request.manifest!r} says who is edited and how: leave {', '.join(besides)} out")
        folder, _, name = request.manifest.rpartition("/")
        return EvaluationManifest.from_json(open_store(folder or ".").read(name))
    return build_manifest(protocol_of(request.protocol, people=request.people, each=request.each), request.source)


def requested_methods(request: EvaluationRequest, *, truth: bool) -> tuple[Method, ...]:
    """The methods of an evaluation; those made of the truth only where there is one.

    Raises:
        ValueError: an unknown method, or a name given twice.
    """
    keys = request.only or protocol_of(request.protocol).methods
    if unknown := sorted(set(keys) - set(BUILT_IN)):
        raise ValueError(f"methods={unknown}: choose among {', '.join(BUILT_IN)}")
    methods = [BUILT_IN[key] for key in keys]
    # As the whole model beside it: in a table of ablations nothing is carried from the photograph.
    carried = any(method.carried for method in methods) or not any(method.kind == "model" for method in methods)
    methods += [other_model(name, uri, carried=carried) for name, uri in (request.models or {}).items()]
    methods += [other_images(name, folder) for name, folder in (request.images or {}).items()]
    names = [method.key for method in methods]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two methods are named {repeated[0]!r}: give each its own name")
    return tuple(method for method in methods if truth or not method.is_reference)


def base_model(root: Store, model: str | None, preset: Preset) -> str:
    """The stage-1 model to evaluate: the one named, the only one below root that is built as the preset's (same conditioning and
    identity inputs: baselines are not), or what ships with preset `tiny`.

    Raises:
        ValueError: none, or several to choose from.
    """
    if model is not None:
        model_digest(model)
        return model
    found = [record.uri for record in _models(root) if _as_preset(record, preset)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"{root.uri}/stage1 has {len(found)} models that could be evaluated: {', '.join(sorted(found))}. Say which one: "
            "model=URI (also in the parameters of the schedule)"
        )
    if preset.train.model != "tiny":
        raise ValueError(f"{root.uri}/stage1 has no model of preset {preset.name}: run train-stage1 with this root first")
    try:
        shipped_folder(STAGE1)
    except DamagedWeights as error:
        raise ValueError(
            f"{root.uri} has no stage-1 model and none ships: run train-stage1 first, or name one ({error})"
        ) from error
    return SHIPPED


def _models(root: Store) -> Iterator[Record]:
    stage1 = root.child("stage1")
    for name in stage1.folders():
        record = read_record(stage1.child(name))
        if record is not None:
            yield record


def _as_preset(record: Record, preset: Preset) -> bool:
    """Whether a stage-1 model is built as the preset's; the record of a published one says nothing of what is as usual."""
    config, wanted = record.facts.get("config", {}), preset.train
    return all(config.get(name, getattr(wanted, name)) == getattr(wanted, name) for name in ("conditioning", "identity"))


def evaluate_protocol(preset: Preset, request: EvaluationRequest, root: Store, pool: PoolConfig) -> ProtocolEvaluation:
    """Evaluate, going on where an earlier attempt was interrupted; needs a `ray_session`.

    Raises:
        ValueError, NoPhotos, AssetMissing: the request cannot be met, with the reason.
        UnitFailed: a person could not be evaluated for a reason that is not the photograph.
    """
    manifest = requested_manifest(request)
    check_estimable(preset, manifest)
    methods = requested_methods(request, truth=manifest.has_truth)
    needs_model = any(method.kind == "model" for method in methods)
    base = base_model(root, request.model, preset) if needs_model else "none"
    refuse_empty(manifest, methods)
    for method in methods:
        if method.model is not None and model_digest(method.model) == model_digest(base):
            raise ValueError(f"{method.label!r} is the model that is evaluated as ours ({base}): name ours by model=URI")
    job = EvaluationJob(
        preset=preset, manifest=manifest, methods=methods, base=base, parameters=request.parameters,
        tools=instruments(), root=root.uri,
    )  # fmt: skip
    home = root.child(f"evaluations/{evaluation_digest(job)}")
    made = 0
    with StageProgress("evaluate", total=len(manifest.entries) * len(methods), unit="images") as progress:
        record = read_record(home)
        if record is not None:
            progress.reused({})
        else:
            done = _run(job, pool, progress)
            made = sum(one.made for one in done)
            if all(one.refused is not None for one in done):
                raise ValueError(f"no photograph of the manifest can be used; the first: {done[0].person}: {done[0].refused}")
            record = _commit(job, done, home, progress.seconds)
    reused = progress.note.startswith("finished before")
    subject = record.facts["subject"]
    series = series_of(manifest.protocol, manifest.digest, preset.name, request.parameters, subject)
    figures = watched_figures(record.facts["summary"], subject, truth=manifest.has_truth)
    digest = record.uri.rstrip("/").rpartition("/")[2]
    _, worse = History(root, series).add(digest, figures, tuple(record.facts["not_available"]))
    return ProtocolEvaluation(
        record=record, reused=reused, worse=tuple(worse), series=series, made=made, seconds=progress.seconds
    )


def check_estimable(preset: Preset, manifest: EvaluationManifest) -> None:
    """Raises: ValueError where synthetic people meet an estimator that knows neither their parameters nor their expressions."""
    if manifest.has_truth and preset.extract.estimator != "open":
        raise ValueError(
            f"preset {preset.name!r} estimates faces with {preset.extract.estimator}, and synthetic people are edited in "
            "parameters of the open head: give source=FOLDER, photographs of different people"
        )


def refuse_empty(manifest: EvaluationManifest, methods: Sequence[Method]) -> None:
    """Raises: ValueError for a folder of another system's pictures in which no entry has one: a wrong path, most likely."""
    wanted = {f"{entry.name}{suffix}" for entry in manifest.entries for suffix in SUFFIXES}
    for method in methods:
        if method.images is not None and not any(info.key in wanted for info in open_store(method.images).list()):
            raise ValueError(
                f"{method.label}={method.images!r} has no picture of the manifest, such as {manifest.entries[0].name}.png: check "
                "the folder (NAME=FOLDER), and the names in `instaface evaluate manifest`"
            )


def evaluation_digest(job: EvaluationJob) -> str:
    """Names an evaluation: what decides the scores of every method for every person."""
    scores = [
        [
            method.key,
            method.label,
            [scores_digest(job, pictures_digest(job, method, one)) for one in job.manifest.people],
        ]
        for method in job.methods
    ]
    return digest_of([VERSION, job.manifest.protocol, job.manifest.digest, scores])


def _run(job: EvaluationJob, pool: PoolConfig, progress: StageProgress) -> list[PersonDone]:
    def watch(report: Mapping[str, Any]) -> None:
        progress.step(progress.done + int(report["pictures"]), str(report["note"]))

    found = {one.person: one for one in run_units(partial(_worker, job), job.manifest.people, pool, watch=watch)}
    progress.step(progress.total)
    return [found[person.id] for person in job.manifest.people]


def _worker(job: EvaluationJob, report: Any) -> PersonWorker:
    return PersonWorker(job, report)


def collect(job: EvaluationJob, done: Sequence[PersonDone]) -> dict[str, Measured]:
    """Rows and features of every method, in the manifest's order; entries of refused photographs are rows too."""
    store = open_store(job.root).child("evaluations")
    out = {}
    for method in job.methods:
        rows: list[dict[str, Any]] = []
        features: list[NDArray[Any]] = []
        sources: list[NDArray[Any]] = []
        truths: list[NDArray[Any]] = []
        for one in done:
            if one.refused is not None:
                rows += [
                    {"person": entry.person, "entry": entry.name, "mode": entry.mode, "status": "refused",
                     "reason": one.refused}
                    for entry in job.manifest.entries_of(one.person)
                ]  # fmt: skip
                continue
            record = committed(f"{store.uri}/scores/{one.scores[method.key]}")
            own = rows_of(record)
            rows += own
            there = [place for place, row in enumerate(own) if row["status"] == "ok"]
            found = from_npy(record.read("features.npy"))
            if len(there):
                features.append(found)
                sources.append(np.repeat(from_npy(record.read("source.npy"))[None], len(there), axis=0))
                true = from_npy(record.read("truths.npy"))
                truths += [true[there]] if len(true) else []
        out[method.key] = Measured(
            rows=rows, features=_joined(features), source=_joined(sources), truth=_joined(truths)
        )
    return out


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def _commit(job: EvaluationJob, done: Sequence[PersonDone], home: Store, seconds: float) -> Record:
    measured = collect(job, done)
    compared = [method.key for method in job.methods if not method.is_reference]
    subject = next((key for key in ("ours", "plain", *compared) if key in compared), None)
    others = {
        method.key: measured[method.key] for method in job.methods if not method.is_reference and method.key != subject
    }
    manifest = job.manifest
    facts: dict[str, Any] = {
        "kind": "protocol", "protocol": manifest.protocol, "source": manifest.source, "manifest": manifest.digest,
        "truth": manifest.has_truth, "people": len(manifest.people), "images": len(manifest.entries),
        "preset": job.preset.name, "encoders": [job.preset.encode.face, job.preset.encode.semantic], "parameters": job.parameters,
        "base": job.base, "base_digest": model_digest(job.base) if job.base != "none" else "none",
        "edit_steps": job.preset.edit.steps, "tune_steps": job.preset.finetune.steps,
        "config": {"edit": asdict(job.preset.edit), "finetune": asdict(job.preset.finetune)},
        "methods": [asdict(method) for method in job.methods], "subject": subject,
        "summary": summary_of(measured), "comparisons": comparisons(measured[subject], others) if subject else [],
        "counts": {key: count_rows(one.rows) for key, one in measured.items()},
        "refused": {one.person: one.refused for one in done if one.refused is not None},
        "scores": {one.person: dict(one.scores) for one in done},
        "not_available": dict(job.tools.missing), "seconds": round(seconds, 1),
    }  # fmt: skip
    rows = [{"method": key, **row} for key, one in measured.items() for row in one.rows]
    files = {
        "manifest.json": manifest.to_json(),
        "rows.jsonl": b"".join(canonical_json(row) + b"\n" for row in rows),
        "rows.parquet": parquet(rows),
        "tables.md": markdown(facts).encode(),
        **grids(open_store(job.root), facts, measured),
    }
    return commit_record(home, files, facts)


def parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as a parquet file; a figure that a row has not is null."""
    names = sorted({name for row in rows for name in row})
    columns = {name: pa.array([row.get(name) for row in rows]) for name in names}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def refuse_worse(evaluation: ProtocolEvaluation) -> None:
    """Tell automations, and fail the run that asks, where an evaluation is worse than the last accepted one.

    Raises:
        EvaluationWorse: it is.
    """
    if evaluation.worse:
        tell_worse(evaluation.series, evaluation.worse, evaluation.digest)
        raise EvaluationWorse(evaluation.worse, evaluation.record.uri)


@task(name="evaluate-protocol", persist_result=False)
def evaluate_protocol_task(
    preset: Preset, request: EvaluationRequest, root: str, workers: int | None
) -> ProtocolEvaluation:
    """A protocol → figures, tables, pictures."""
    pool = cluster_pool(workers, 1.0 if preset.edit.gpu else 0.0)
    return evaluate_protocol(preset, request, open_store(root), pool)
