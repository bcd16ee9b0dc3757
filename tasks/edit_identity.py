"""edit-identity: identities and edits → images, by FLAME-style numbers or from driver photographs.

Edits lie below the identity they show, `<root>/identities/<id>/<digest>/edits/<digest>/`, so that an erasure takes them
along and a late one is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from prefect import task

from models.face3d.detail_carry import VERSION as CARRY
from models.face3d.editing import TAKES
from storage.canonical import digest_of, sha256_of
from storage.identities import IdentityStore
from storage.records import RECORD, Record, committed, only_record, read_record
from storage.stores import Store, open_store
from tasks.edit_config import EditConfig
from tasks.edit_render import Driver, EditJob, render_edits
from tasks.edit_requests import GRID, GRID_WITHOUT_NAMES, NamedEdit, parse_edits
from tasks.expressions import saved_expressions
from tasks.image_uri import BadImageUri, read_drivers, read_image_uri
from tasks.live import watch
from tasks.preset import Preset
from tasks.progress import StageProgress
from tasks.ray_pool import run_remote

VERSION = "5"


@dataclass(frozen=True, kw_only=True, slots=True)
class EditedImage:
    name: str
    image: str
    """Name of the PNG in the record."""
    render: str
    """Name of the Lambertian render that asked for it."""
    full: str | None = None
    """Name of the photograph with the edit pasted back, where that was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Edits:
    uri: str
    identity_uri: str
    images: tuple[EditedImage, ...]
    films: Mapping[str, str]
    """GIF of each sweep, by name."""
    record: Record
    reused: bool
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EditRequest:
    """One request: these edits of each of these identities."""

    edits: tuple[NamedEdit, ...]
    drivers: tuple[Driver, ...] = ()
    take: tuple[str, ...] = ()
    """What the drivers give: of pose, expression, light, shape."""
    paste_back: bool = False
    """Also put each edit into the photograph the identity was made from, at its resolution."""


def edit_request(
    edits: Sequence[Mapping[str, Any]] | None,
    driver_uri: str | None,
    take: Sequence[str],
    root: Store,
    *,
    paste_back: bool = False,
    estimator: str = "open",
) -> EditRequest:
    """What a flow was asked for, typed and checked. Without a driver `take` means nothing.

    Raises:
        ValueError: an unknown edit or `take`. BadImageUri: driver photographs that may not or cannot be read.
    """
    if unknown := sorted(set(take) - set(TAKES)):
        raise ValueError(f"take={unknown}: a driver gives {', '.join(TAKES)}")
    drivers = read_drivers(driver_uri) if driver_uri is not None else []
    named = parse_edits(
        edits,
        drivers=[name for name, _ in drivers],
        saved=saved_expressions(root),
        grid=GRID if estimator == "open" else GRID_WITHOUT_NAMES,
    )
    return EditRequest(
        edits=named,
        drivers=tuple(Driver(name=name, data=data) for name, data in drivers),
        take=tuple(take) if drivers else (),
        paste_back=paste_back,
    )


def edit_identities(preset: Preset, identities: Sequence[str], request: EditRequest, root: Store) -> list[Edits]:
    """Edit the people whose checkpoints are at `identities`, in this order; a set that is finished is found, not redone.

    All are rendered in one process that loads estimator, codec and each base model once.

    Raises:
        ValueError: nothing finished at a URI, or a photograph to paste into that is gone.
        BadImage, RowFailed: a driver photograph cannot be used.
    """
    records = [committed(uri) for uri in identities]
    homes = [_home(root, record, request, preset.edit) for record in records]
    total = len(request.edits) * len(records)
    with StageProgress("edit", total=total, unit="images") as progress:
        missing = [n for n, home in enumerate(homes) if read_record(home) is None]
        if not missing:
            progress.reused({})
        else:
            jobs = [
                EditJob(
                    identity=records[n].uri,
                    home=homes[n],
                    photograph=_photograph(records[n]) if request.paste_back else None,
                )
                for n in missing
            ]
            done = total - len(missing) * len(request.edits)
            work = partial(run_remote, render_edits, preset, jobs, request.edits, request.drivers, request.take)
            watch(
                lambda mailbox: work(mailbox, gpu=preset.edit.gpu),
                lambda report: progress.step(done + report["step"], report["note"]),
            )
    share = progress.seconds / max(1, len(missing))
    return [
        edits_of(committed(home.uri), reused=n not in missing, seconds=share if n in missing else 0.0)
        for n, home in enumerate(homes)
    ]


def _home(root: Store, identity: Record, request: EditRequest, config: EditConfig) -> Store:
    asked = [
        VERSION, CARRY if config.carry_detail else None, replace(config, gpu=False, batch=1), identity.uri,
        [[one.name, asdict(one.edit), one.frame, one.sweep] for one in request.edits],
        list(request.take), [sha256_of(driver.data) for driver in request.drivers], request.paste_back,
    ]  # fmt: skip
    checkpoint = identity.uri.rstrip("/").rpartition("/")[2]
    name = str(identity.facts["identity_id"])
    return IdentityStore(root).home(name).child(f"{checkpoint}/edits/{digest_of(asked)}")


def _photograph(identity: Record) -> bytes:
    """The photograph an identity was made from, if it is still that.

    Raises:
        BadImageUri: it is gone, another one, or was not kept track of.
    """
    lineage = identity.facts["lineage"]
    data = read_image_uri(str(lineage["image_uri"]))
    if sha256_of(data) != lineage["image_sha256"]:
        raise BadImageUri(
            f"image_uri={lineage['image_uri']!r} is no longer the photograph this identity was made from: restore it, "
            "or leave paste_back out"
        )
    return data


def find_identity(root: Store, identity_id: str | None) -> str:
    """URI of the only checkpoint of an identity; with None, of the only identity.

    Raises:
        ValueError: no such identity, or several to choose from.
    """
    remedy = "run finetune-identity with this root first"
    if identity_id is None:
        finished = f"/{RECORD}"
        names = sorted(
            {info.key.split("/")[0] for info in root.child("identities").list() if info.key.endswith(finished)}
        )
        if len(names) != 1:
            listed = ", ".join(names) or "none"
            raise ValueError(
                f"which identity? {root.uri} has: {listed}. Give identity_id" + ("" if names else f", or {remedy}")
            )
        identity_id = names[0]
    return only_record(root, f"identities/{identity_id}", remedy)


def chosen_identities(root: Store, identity_ids: Sequence[str], identity_uri: str | None) -> list[str]:
    """URIs of the checkpoints that a flow was asked to edit: those of names, or one by its URI, or the only one there is.

    Raises:
        ValueError: both ways at once, a URI of something else, of another root (whose erasures would not find the edits), or
            names as in `find_identity`.
    """
    if identity_uri is None:
        return [find_identity(root, name) for name in identity_ids] or [find_identity(root, None)]
    if identity_ids:
        raise ValueError(
            f"identity_uri={identity_uri!r} and the names {', '.join(identity_ids)}: give one or the other; identity_uri is for "
            "one of several checkpoints"
        )
    folder = f"{root.uri.rstrip('/')}/identities/"
    below = open_store(identity_uri).uri.removeprefix(folder).strip("/").split("/")
    if not open_store(identity_uri).uri.startswith(folder) or len(below) != 2:
        raise ValueError(
            f"identity_uri={identity_uri!r} is no checkpoint of an identity below {root.uri}: it looks like {folder}NAME/DIGEST. "
            "For an identity of another root give that root"
        )
    return [committed(identity_uri).uri]


def find_edits(identity: str) -> str:
    """URI of the only edits of the identity at a URI.

    Raises:
        ValueError: none, or several to choose from.
    """
    edits = open_store(identity).child("edits")
    found = [edits.child(name).uri for name in edits.folders() if edits.stat(f"{name}/{RECORD}") is not None]
    if len(found) != 1:
        raise ValueError(
            f"{identity} has {len(found)} sets of edits; run edit-identity, or give edits_uri: {', '.join(found) or 'none yet'}"
        )
    return found[0]


def edits_of(record: Record, *, reused: bool, seconds: float = 0.0) -> Edits:
    """Finished edits from their record."""
    images = tuple(
        EditedImage(name=i["name"], image=i["image"], render=i["render"], full=i.get("full"))
        for i in record.facts["images"]
    )
    return Edits(
        uri=record.uri, identity_uri=str(record.facts["identity"]), images=images,
        films=dict(record.facts.get("films", {})), record=record, reused=reused, seconds=seconds,
    )  # fmt: skip


@task(name="edit", persist_result=False)
def edit_task(
    preset: Preset,
    identity_ids: Sequence[str],
    identity_uri: str | None,
    edits: Sequence[Mapping[str, Any]] | None,
    driver_uri: str | None,
    take: Sequence[str],
    paste_back: bool,
    root: str,
) -> list[Edits]:
    """Identities and edits → images."""
    store = open_store(root)
    identities = chosen_identities(store, identity_ids, identity_uri)
    request = edit_request(
        edits, driver_uri, take, store, paste_back=paste_back, estimator=preset.extract.estimator
    )
    return edit_identities(preset, identities, request, store)
