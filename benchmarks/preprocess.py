"""Preprocessing beside what people would write first, in one run: images/s a core by stage, memory, overhead.

    python benchmarks/preprocess.py [--images 2000] [--photos FOLDER] [--plain 60] [--folder FOLDER]

rewrites benchmarks/preprocess.md and benchmarks/preprocess-memory.svg. The images are photographs (all of FOLDER that show
a usable face; by default the embedded portrait) resampled with random crops, scales, colours and flips, so each has its
own bytes and its own alignment. `--plain` images go through the candidates: a single process, one Ray task an image,
one Prefect task an image; all do the work of all three stages on one core at a time, models loaded before the clock starts.
"""

import argparse
import datetime
import io
import os
import platform
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
import ray
import simplejpeg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from flows.presets import debug
from models.face3d.maps import ConditionMaps
from models.images import decode_png, encode_png
from storage.stores import open_store
from tasks.array_bytes import from_npy
from tasks.encode import Featurizer, encode
from tasks.extract import Mapper, extract
from tasks.generation import Generation
from tasks.ray_pool import PoolConfig, ray_session
from tasks.shard import Aligner, ShardConfig, shard
from tasks.sources import SourceConfig, embedded_portrait, list_photos

HERE = Path(__file__).resolve().parent
STAGES = ("images", "maps", "features")
FFHQ = 70_000
mpl.rcParams["svg.hashsalt"] = "instaface"


# -- images ----------------------------------------------------------------------------------------------------


def usable(folder: Path | None) -> list[Image.Image]:
    """The photographs that show a face which can be used."""
    paths = (
        [embedded_portrait()] if folder is None else sorted(p for p in folder.iterdir() if p.suffix in (".jpg", ".png"))
    )
    aligner, found = Aligner(ShardConfig()), []
    for path in paths:
        try:
            aligner.align(path.read_bytes(), path.name)
        except ValueError:
            continue
        found.append(Image.open(path).convert("RGB"))
    return found


def resampled(photographs: list[Image.Image], folder: Path, count: int) -> None:
    """`count` JPEGs: crops of 90 to 100 %, scales of 0.8 to 1.25, brightness, colour, and half of them mirrored."""
    folder.mkdir(parents=True)
    for number in range(count):
        numbers = np.random.default_rng(number)
        image = photographs[number % len(photographs)]
        width, height = image.size
        left, top, right, bottom = numbers.uniform(0, 0.05, 4) * [width, height, width, height]
        image = image.crop((int(left), int(top), int(width - right), int(height - bottom)))
        scale = numbers.uniform(0.8, 1.25)
        image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BICUBIC)
        image = ImageEnhance.Brightness(image).enhance(numbers.uniform(0.8, 1.2))
        image = ImageEnhance.Color(image).enhance(numbers.uniform(0.7, 1.3))
        if number % 2:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image.save(folder / f"{number:06d}.jpg", quality=92)


# -- candidates ------------------------------------------------------------------------------------------------


class Plain:
    """The work of all stages on one photograph, as a script would do it."""

    def __init__(self) -> None:
        preset = debug()
        self.aligner, self.mapper = Aligner(preset.shard), Mapper(preset.extract)
        self.featurizer = Featurizer(preset.encode)
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def work(self, path: str) -> int:
        """Bytes of all samples."""
        marks = [time.perf_counter()]
        image = self.aligner.align(Path(path).read_bytes(), path)
        marks.append(time.perf_counter())
        pixels = decode_png(image["image.png"])
        maps = self.mapper.maps(pixels, path, None, from_npy(image["mesh.npy"]))
        marks.append(time.perf_counter())
        mesh = from_npy(maps["landmarks.npy"])
        features = self.featurizer.features(decode_png(image["image.png"]), ConditionMaps.decode(maps), mesh)
        marks.append(time.perf_counter())
        for number, stage in enumerate(STAGES):
            self.seconds[stage] += marks[number + 1] - marks[number]
        return sum(len(data) for sample in (image, maps, features) for data in sample.values())


@cache
def plain() -> Plain:
    """One a process."""
    return Plain()


def one(path: str) -> int:
    return plain().work(path)


def single_process(paths: list[str], samples: Path) -> tuple[float, Mapping[str, float]]:
    """Seconds an image in one process that also writes what it made, by stage too."""
    worker = Plain()
    worker.work(paths[0])
    worker.seconds = dict.fromkeys(STAGES, 0.0)
    began = time.perf_counter()
    with samples.open("wb") as file:
        for path in paths:
            file.write(bytes(worker.work(path)))
    return (time.perf_counter() - began) / len(paths), {k: v / len(paths) for k, v in worker.seconds.items()}


def ray_task_an_image(paths: list[str], actors: int) -> float:
    """Seconds an image; the worker processes keep their models, which Ray does not promise (with a GPU it does not)."""
    task: Any = ray.remote(num_cpus=1)(one)
    ray.get([task.remote(path) for path in paths[: 2 * actors]])
    began = time.perf_counter()
    ray.get([task.remote(path) for path in paths])
    return (time.perf_counter() - began) * actors / len(paths)


def prefect_task_an_image(paths: list[str]) -> float:
    """Seconds an image, tasks one after another in the flow's process."""
    from prefect import flow, task

    work = task(one, name="one", persist_result=False)
    seconds = 0.0

    @flow(name="a-task-an-image")
    def images() -> None:
        nonlocal seconds
        one(paths[0])
        began = time.perf_counter()
        for path in paths:
            work(path)
        seconds = (time.perf_counter() - began) / len(paths)

    images()
    return seconds


# -- the pipeline, with its memory -----------------------------------------------------------------------------


class Memory(threading.Thread):
    """MiB of this process and its descendants by kind, once a second; mapped files are not counted."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.rows: list[tuple[float, dict[str, float]]] = []
        self.stopped = threading.Event()
        self.began = time.monotonic()

    def run(self) -> None:
        while not self.stopped.wait(1.0):
            self.rows.append((time.monotonic() - self.began, self._look()))

    def _look(self) -> dict[str, float]:
        found = {"driver": 0.0, "hosts": 0.0, "row processes": 0.0, "Ray": 0.0}
        parents, names, sizes = {}, {}, {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                    names[int(entry.name)] = (
                        (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    )
                    _, resident, mapped = (int(n) for n in (entry / "statm").read_text().split()[:3])
                    sizes[int(entry.name)] = (resident - mapped) * 4096 / 2**20
                except (OSError, ValueError):
                    continue
        ours, fringe = {os.getpid()}, {os.getpid()}
        while fringe:
            fringe = {child for child, parent in parents.items() if parent in fringe and child not in ours}
            ours |= fringe
        for pid in ours & sizes.keys():
            kind = "driver" if pid == os.getpid() else "Ray"
            kind = "hosts" if names[pid].startswith("ray::_Host") else kind
            kind = "row processes" if "tasks.row_process" in names[pid] else kind
            found[kind] += sizes[pid]
        return found

    def plot(self, path: Path, stages: list[tuple[str, float]]) -> None:
        figure = Figure(figsize=(9, 3.4))
        axes = figure.subplots()
        for kind in ("row processes", "hosts", "Ray", "driver"):
            axes.plot([at for at, _ in self.rows], [found[kind] for _, found in self.rows], label=kind, linewidth=1.3)
        for stage, at in stages:
            axes.axvline(at, color="gray", linewidth=0.6)
            axes.text(at, axes.get_ylim()[1], f" {stage}", fontsize=8, va="top")
        axes.set(xlabel="seconds", ylabel="MiB, mapped files not counted", ylim=(0, None))
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})


def pipeline(photos: Path, root: Path, actors: int) -> tuple[list[Generation], Memory, list[tuple[str, float]]]:
    """All three stages, as the flow runs them."""
    preset, store, pool = debug(), open_store(root), PoolConfig(actors=actors)
    config = ShardConfig(samples_per_shard=100, bad_share_limit=0.1)
    memory, marks = Memory(), []
    memory.start()

    def mark(stage: str) -> None:
        marks.append((stage, time.monotonic() - memory.began))

    mark("images")
    images = shard(config, list_photos(SourceConfig(source=str(photos)), store), store, pool)
    mark("maps")
    maps = extract(preset.extract, images, store, pool)
    mark("features")
    features = encode(preset.encode, images, maps, store, pool)
    memory.stopped.set()
    memory.join()
    return [images, maps, features], memory, marks


# -- decoding --------------------------------------------------------------------------------------------------


def decoding() -> list[tuple[str, float]]:
    """Median milliseconds of one 1024² face picture to 256², by library."""
    with Image.open(embedded_portrait()) as portrait:
        image = portrait.convert("RGB").resize((1024, 1024), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    noisy = np.clip(pixels + np.random.default_rng(0).normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)
    jpeg, png = simplejpeg.encode_jpeg(noisy, quality=92, colorspace="RGB"), encode_png(noisy)

    def small(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(Image.fromarray(array).resize((256, 256), Image.Resampling.LANCZOS))

    def draft(data: bytes) -> NDArray[np.uint8]:
        picture = Image.open(io.BytesIO(data))
        picture.draft("RGB", (512, 512))
        return np.asarray(picture.resize((256, 256), Image.Resampling.LANCZOS))

    def pillow(data: bytes) -> NDArray[np.uint8]:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def opencv(data: bytes) -> NDArray[np.uint8]:
        return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB))

    candidates: list[tuple[str, Callable[[], object]]] = [
        ("JPEG decode, Pillow", lambda: pillow(jpeg)),
        ("JPEG decode, simplejpeg", lambda: simplejpeg.decode_jpeg(jpeg)),
        ("JPEG decode, OpenCV", lambda: opencv(jpeg)),
        ("PNG decode, Pillow", lambda: pillow(png)),
        ("PNG decode, OpenCV", lambda: opencv(png)),
        ("1024² → 256², Pillow Lanczos", lambda: small(noisy)),
        ("1024² → 256², Pillow Lanczos with reducing_gap 3", lambda: np.asarray(
            Image.fromarray(noisy).resize((256, 256), Image.Resampling.LANCZOS, reducing_gap=3))),
        ("1024² → 256², OpenCV area", lambda: cv2.resize(noisy, (256, 256), interpolation=cv2.INTER_AREA)),
        ("JPEG → 256², Pillow draft at half size, Lanczos", lambda: draft(jpeg)),
        ("JPEG → 256², Pillow, Lanczos", lambda: small(pillow(jpeg))),
    ]  # fmt: skip
    cv2.setNumThreads(1)
    times: dict[str, list[float]] = {name: [] for name, _ in candidates}
    for _ in range(9):  # candidates take turns, so that a busy machine hurts all alike
        for name, action in candidates:
            began = time.process_time()
            action()
            times[name].append((time.process_time() - began) * 1000)
    return [(name, sorted(values)[len(values) // 2]) for name, values in times.items()]


# -- the report ------------------------------------------------------------------------------------------------


def report(arguments: argparse.Namespace) -> str:
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        place = Path(temporary)
        photographs = usable(arguments.photos)
        resampled(photographs, place / "photos", arguments.images)
        paths = [str(path) for path in sorted((place / "photos").iterdir())[: arguments.plain]]
        paths = [path for path in paths if works(path)]
        alone, by_stage = single_process(paths, place / "samples")
        prefect = prefect_task_an_image(paths)
        with ray_session(cores):
            tasks = ray_task_an_image(paths, cores)
            generations, memory, marks = pipeline(place / "photos", place / "root", cores)
            began = time.perf_counter()
            again, _, _ = pipeline(place / "photos", place / "root", cores)
            rerun = time.perf_counter() - began
        assert all(generation.reused for generation in again)
        memory.plot(HERE / "preprocess-memory.svg", marks)
    lines = heading(arguments, len(photographs), len(paths), load)
    lines += candidates_table(alone, tasks, prefect, generations, cores)
    lines += stages_table(generations, by_stage, cores)
    lines += ["", f"A rerun of the finished dataset took {rerun:.1f} s, listing included; no model was loaded.", ""]
    lines += memory_lines(memory) + projection(generations, cores)
    lines += ["", "| decode and resize of a 1024² face, one core | ms |", "|---|---|"]
    lines += [f"| {name} | {value:.1f} |" for name, value in decoding()]
    return "\n".join(lines) + "\n"


def works(path: str) -> bool:
    """Some crops leave no usable face; the candidates are compared on those that do."""
    try:
        one(path)
    except ValueError:
        return False
    return True


def heading(arguments: argparse.Namespace, photographs: int, compared: int, load: float) -> list[str]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return [
        "# Preprocessing: photographs → aligned images → maps → features",
        "",
        (
            f"{datetime.date.today()}, commit {commit.stdout.strip()}, `python benchmarks/preprocess.py --images "
            f"{arguments.images} --plain {arguments.plain}`. {os.cpu_count()} cores ({platform.machine()}), load {load:.1f} when "
            f"it began, no GPU, preset debug. {arguments.images:,} images resampled from {photographs} photographs; {compared} of "
            "them through the candidates."
        ),
        "",
    ]


def candidates_table(
    alone: float, tasks: float, prefect: float, generations: list[Generation], cores: int
) -> list[str]:
    busy = sum(g.parts["rows"] for g in generations)
    wall = sum(g.seconds for g in generations)
    images = sum(generations[0].manifest.counts.values())
    ours = wall * cores / images
    rows = [
        ("a plain single process", alone),
        ("this pipeline, rows only (in its actors)", busy / images),
        ("this pipeline, wall clock × cores, starts and model loading included", ours),
        ("one Ray task an image, models kept", tasks),
        ("one Prefect task an image, in one process", prefect),
    ]
    return [
        "| | ms an image and core | images/s a core | of the single process |",
        "|---|---|---|---|",
        *(f"| {name} | {s * 1000:.0f} | {1 / s:.2f} | {alone / s:.0%} |" for name, s in rows),
        "",
    ]


def stages_table(generations: list[Generation], by_stage: Mapping[str, float], cores: int) -> list[str]:
    lines = [
        "| stage | rows | good | wall s | images/s | images/s a core | one process, images/s | load | rows | commit | idle, Ray |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one_stage in generations:
        counts, parts = one_stage.manifest.counts, one_stage.parts
        rows, room = sum(counts.values()), one_stage.seconds * parts["actors"]
        shares = {name: parts[name] / room for name in ("load", "rows", "commit")}
        lines.append(
            f"| {one_stage.stage} | {rows:,} | {counts['ok']:,} | {one_stage.seconds:.1f} | {rows / one_stage.seconds:.1f} | "
            f"{rows / one_stage.seconds / cores:.2f} | {1 / by_stage[one_stage.stage]:.2f} | {shares['load']:.1%} | "
            f"{shares['rows']:.1%} | {shares['commit']:.1%} | {1 - sum(shares.values()):.1%} |"
        )
    return lines


def memory_lines(memory: Memory) -> list[str]:
    total = [sum(found.values()) for _, found in memory.rows]
    quarter = max(len(total) // 4, 1)
    return [
        (
            f"Memory of all processes: at most {max(total):,.0f} MiB; see [the plot](preprocess-memory.svg). Mean of the second "
            f"quarter of the run {np.mean(total[quarter : 2 * quarter]):,.0f}, of the last {np.mean(total[-quarter:]):,.0f} MiB."
        ),
        "",
    ]


def projection(generations: list[Generation], cores: int) -> list[str]:
    """Arithmetic, not measurement: core-seconds an image times 70,000, over the cores."""
    seconds = {g.stage: g.parts["rows"] / sum(g.manifest.counts.values()) for g in generations}
    share = sum(g.parts["rows"] for g in generations) / sum(g.seconds * g.parts["actors"] for g in generations)
    total = sum(seconds.values())
    lines = [
        f"70,000 images (FFHQ) at {total * 1000:.0f} core-ms an image and {share:.0%} of the cores' time in rows:",
        "",
        "| cores | hours |",
        "|---|---|",
    ]
    return [*lines, *(f"| {n} | {FFHQ * total / share / n / 3600:.2f} |" for n in (2, 16, 64))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--plain", type=int, default=60)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, default=HERE / "preprocess.md")
    arguments = parser.parse_args()
    arguments.out.write_text(report(arguments), encoding="utf-8")


if __name__ == "__main__":
    main()
