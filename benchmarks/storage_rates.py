"""Storage beside plain `webdataset` and plain files, in one run: write, read, resume, verify, checkpoint.

    python benchmarks/storage_rates.py [--folder FOLDER] [--samples 12000]    rewrites benchmarks/storage.md

Samples are those of the features stage: raw bytes of three npy files and a JSON, 36 KiB together. Every candidate hands
out bytes; nothing is decoded. Candidates take turns within a repetition, so that a busy machine hurts all alike.
"""

import argparse
import datetime
import os
import platform
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import webdataset

from storage.checkpoints import CheckpointStore
from storage.manifest import Manifest
from storage.reader import SampleReader
from storage.seaweed import SeaweedServer
from storage.shards import stream_shard, write_shards
from storage.stores import open_store

FIELDS = ("moments.npy", "conditions.npy", "face.npy", "meta.json")
SIZES = {"moments.npy": 16_512, "conditions.npy": 16_512, "face.npy": 2_176, "meta.json": 96}
PER_SHARD = 1000
REPETITIONS = 3
EPOCH = 70_000
"""Samples of FFHQ, for the resume: skipping grows with the epoch, ours does not."""

Times = dict[str, list[float]]


def samples(count: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    noise = np.random.default_rng(0).bytes(1 << 24)
    for n in range(count):
        at = (n * 4099) % (1 << 23)
        yield f"{n:08d}", {name: noise[at : at + size] for name, size in SIZES.items()}


def timed(times: Times, name: str, action: Callable[[], object]) -> None:
    begin = time.perf_counter()
    action()
    times[name].append(time.perf_counter() - begin)


def exhaust(items: Iterator[object]) -> None:
    for _ in items:
        pass


def write_ours(folder: Path | str, count: int) -> Manifest:
    store = open_store(folder)
    shards = tuple(write_shards(store, samples(count), FIELDS, max_samples=PER_SHARD))
    manifest = Manifest(stage="features", fields=FIELDS, config_digest="", code_version="", inputs={}, shards=shards)
    manifest.commit(store)
    return manifest


def write_webdataset(folder: Path, count: int) -> None:
    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "shard-%06d.tar"), maxcount=PER_SHARD, encoder=False, verbose=0) as writer:
        for key, sample in samples(count):
            writer.write({"__key__": key, **sample})


def write_files(folder: Path, count: int) -> None:
    folder.mkdir()
    for key, sample in samples(count):
        for name, content in sample.items():
            (folder / f"{key}.{name}").write_bytes(content)


def read_webdataset(folder: Path, shuffle: int = 0) -> Iterator[object]:
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    dataset = webdataset.WebDataset(urls, shardshuffle=len(urls) if shuffle else False)
    return iter(dataset.shuffle(shuffle) if shuffle else dataset)


def read_files(folder: Path, order: list[int]) -> None:
    for n in order:
        for name in FIELDS:
            (folder / f"{n:08d}.{name}").read_bytes()


def new_reader(folder: Path) -> SampleReader:
    store = open_store(folder)
    manifest = Manifest.read(store)
    assert manifest is not None
    return SampleReader(store, manifest, FIELDS)


def read_random(reader: SampleReader, order: list[int]) -> None:
    for n in order:
        reader[n]


def local_rates(folder: Path, count: int, times: Times) -> None:
    ours, theirs, files = folder / "ours", folder / "webdataset", folder / "files"
    for path in (ours, theirs, files):
        shutil.rmtree(path, ignore_errors=True)
    timed(times, "write ours", lambda: write_ours(ours, count))
    timed(times, "write webdataset", lambda: write_webdataset(theirs, count))
    timed(times, "write files", lambda: write_files(files, count))
    order = random.Random(1).sample(range(count), count)
    for path in ours.iterdir():
        path.read_bytes()  # warms the page cache, as writing did for the others
    reader = new_reader(ours)
    manifest = reader.manifest
    timed(times, "random ours, first pass (verifies)", lambda: read_random(reader, order))
    timed(times, "random ours", lambda: read_random(reader, order))
    timed(times, "sequential ours, random-access reader", lambda: exhaust(iter(reader)))
    reader.close()
    store = open_store(ours)
    timed(
        times,
        "sequential ours, streaming reader (verifies)",
        lambda: [exhaust(stream_shard(store, entry, FIELDS)) for entry in manifest.shards],
    )
    timed(times, "sequential webdataset", lambda: exhaust(read_webdataset(theirs)))
    timed(times, "shuffled webdataset", lambda: exhaust(read_webdataset(theirs, shuffle=1000)))
    timed(times, "random files", lambda: read_files(files, order))


def resume(folder: Path, times: Times) -> None:
    """Until the first sample at 70 % of the epoch is in hand, from a fresh start; both read the same shards."""
    if not folder.exists():
        write_ours(folder, EPOCH)
    at = EPOCH * 7 // 10
    place = random.Random(2).sample(range(EPOCH), EPOCH)[at]
    timed(times, "resume webdataset", lambda: next(islice(read_webdataset(folder), at, None)))
    timed(times, "resume ours", lambda: new_reader(folder)[place])


def remote_rates(folder: Path, count: int, times: Times, server: SeaweedServer, repetition: int) -> None:
    uri = f"s3://{server.bucket}/{repetition}"
    timed(times, "write ours to S3", lambda: write_ours(uri, count))
    store = open_store(uri)
    manifest = Manifest.read(store)
    assert manifest is not None
    reader = SampleReader(store, manifest, FIELDS, folder / f"cache-{repetition}")
    timed(times, "read ours from S3, empty cache", lambda: exhaust(iter(reader)))
    timed(times, "read ours from S3, filled cache", lambda: exhaust(iter(reader)))


def checkpoint(folder: Path, times: Times, repetition: int) -> None:
    tensors = {f"w{n}": torch.rand(4 << 20) for n in range(32)}  # 512 MiB
    with CheckpointStore(open_store(folder / f"checkpoints-{repetition}")) as checkpoints:
        timed(times, "checkpoint, training waits", lambda: checkpoints.save(1, tensors, {}))
        timed(times, "checkpoint, first in the background", lambda: checkpoints.save_in_background(2, tensors, {}))
        checkpoints.wait()
        timed(times, "checkpoint, in the background", lambda: checkpoints.save_in_background(3, tensors, {}))
        checkpoints.wait()
        timed(times, "checkpoint, load", checkpoints.load)


HEAD = ["| samples/s | median | lowest – highest | MiB/s | × |", "|---|---|---|---|---|"]
KIB = sum(SIZES.values()) / 1024


def table(times: Times, count: int, names: list[str]) -> list[str]:
    """One row a candidate; × is the ratio to the first."""
    rows = []
    for name in names:
        rate = count / statistics.median(times[name])
        base = count / statistics.median(times[names[0]])
        spread = f"{count / max(times[name]):,.0f} – {count / min(times[name]):,.0f}"
        rows.append(f"| {name} | {rate:,.0f} | {spread} | {rate * KIB / 1024:,.0f} | {rate / base:.2f} |")
    return [*HEAD, *rows, ""]


def report(times: Times, count: int, remote: int) -> str:
    median = {name: statistics.median(values) for name, values in times.items()}
    piped = "shuffled webdataset"
    first, warm = median["random ours, first pass (verifies)"], median["random ours"]
    writes = [f"write {name}" for name in ("webdataset", "ours", "files")]
    reads = [piped, *(name for name in times if name.startswith(("random", "sequential")))]
    machine = (
        f"{datetime.date.today()}, commit {_commit()}, {platform.machine()}, {os.cpu_count()} cores ({_cpu()}), no GPU, "
        f"Python {platform.python_version()}, webdataset {webdataset.__version__}. {count:,} samples of {KIB:.1f} KiB in "
        f"{len(FIELDS)} fields, {PER_SHARD:,} a shard, page cache warm, one process, {REPETITIONS} repetitions with the "
        "candidates taking turns. All hand out bytes, nothing is decoded. × is the ratio of medians to the first row."
    )
    access = (
        f"**Random access is {median[piped] / warm:.1f} × a shuffled webdataset pipeline**, and {median[piped] / first:.1f} × "
        "in the pass that also verifies every byte."
    )
    verification = (
        f"The first touch of a shard costs {1000 * (first - warm) / (count / PER_SHARD):.0f} ms for "
        f"{PER_SHARD * KIB / 1024:.0f} MiB ({count * KIB / (1 << 20) / (first - warm):.2f} GiB/s: SHA-256, mapping, index), "
        f"once a shard and process. That is {100 * (first - warm) / first:.0f} % of a first pass that does nothing but read, "
        "and nothing in the passes after it."
    )
    resuming = (
        f"From a fresh start until the sample is in hand, its shard verified: {1000 * median['resume ours']:.1f} ms, against "
        f"{1000 * median['resume webdataset']:,.0f} ms of skipping with webdataset: "
        f"**{median['resume webdataset'] / median['resume ours']:.0f} ×**. Ours is exact under any shuffle, skipping is not; ours "
        "costs one shard however long the epoch, skipping grows with it."
    )
    waiting = (
        f"Training waits {median['checkpoint, in the background']:.2f} s (finiteness check and copy; "
        f"{median['checkpoint, first in the background']:.2f} s the first time, when memory is new) of the "
        f"{median['checkpoint, training waits']:.2f} s that a save takes; loading and verifying takes "
        f"{median['checkpoint, load']:.2f} s."
    )
    lines = ["# Storage: rates beside webdataset and plain files", "", machine, ""]
    lines += ["Run again: `python benchmarks/storage_rates.py`.", "", "## Writing"]
    lines += ["Ours includes SHA-256, index, manifest, and fsync of files and folders; the others do none of it.", ""]
    lines += [*table(times, count, writes), "## Reading", *table(times, count, reads), access, ""]
    lines += [
        "## Verification",
        verification,
        "",
        f"## Resuming at 70 % of an epoch of {EPOCH:,} samples",
        resuming,
        "",
    ]
    lines += [f"## S3 (SeaweedFS on loopback, {remote:,} samples)"]
    lines += table(times, remote, [name for name in times if "S3" in name])
    return "\n".join([*lines, "## A checkpoint of 512 MiB", waiting, ""])


def _commit() -> str:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    return asked.stdout.strip()


def _cpu() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return names[0] if names else "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--samples", type=int, default=12_000)
    asked = parser.parse_args()
    times: Times = defaultdict(list)
    remote = asked.samples // 6
    with tempfile.TemporaryDirectory(dir=asked.folder) as name, SeaweedServer(Path(name) / "s3") as server:
        os.environ.update(server.environment)
        for repetition in range(REPETITIONS):
            local_rates(Path(name), asked.samples, times)
            resume(Path(name) / "epoch", times)
            remote_rates(Path(name), remote, times, server, repetition)
            checkpoint(Path(name), times, repetition)
    text = report(times, asked.samples, remote)
    Path(__file__).with_name("storage.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
