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
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
import simplejpeg
import torch
from diffusers import AutoencoderKL
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from preprocess_plain import (
    STAGES,
    prefect_task_an_image,
    processes_side_by_side,
    ray_task_an_image,
    ray_task_with_models_an_image,
    single_process,
    works,
)
from preprocess_rerun import HEADING as RERUN
from preprocess_rerun import rerun_lines
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModel

from flows.presets import debug
from models.images import encode_png
from storage.stores import open_store
from tasks.aligner import Aligner
from tasks.encode import encode
from tasks.extract import extract
from tasks.generation import Generation
from tasks.ray_pool import PoolConfig, ray_session
from tasks.shard import ShardConfig, shard
from tasks.sources import SourceConfig, embedded_portrait, list_photos

HERE = Path(__file__).resolve().parent
FFHQ = 70_000
GOAL = 0.9
H100_CORES = 26
"""Cores that come with one H100 where such machines are rented."""
H100_TFLOPS = 67.0
"""fp32 without tensor cores, by NVIDIA's data sheet (SXM)."""
H100_SHARE = 0.3
"""Of it, for single images: a guess."""
CHOICE = (
    "Pillow is the choice for both. TurboJPEG behind simplejpeg, and OpenCV, would save a few milliseconds of a row that takes a "
    "hundred and more; Pillow says what is wrong with a damaged, animated or oversized file before or while it decodes, and that "
    "is what the status row tells (OpenCV gives nothing for a truncated one, and no reason). Lanczos is kept because FFHQ's own "
    "images were made smaller with it: `reducing_gap`, decoding at half size and area averaging give other pixels."
)
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


# -- the pipeline, with its memory -----------------------------------------------------------------------------


class Memory(threading.Thread):
    """MiB of this process and its descendants by kind, once a second; mapped files are not counted. CPU seconds too."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.rows: list[tuple[float, dict[str, float]]] = []
        self.stages: list[tuple[str, float]] = []
        self.cpu: dict[tuple[int, str], tuple[float, float]] = {}
        """First and last CPU seconds seen, by process and its kind."""
        self.stopped = threading.Event()
        self.began = time.monotonic()

    def run(self) -> None:
        while not self.stopped.wait(1.0):
            self.rows.append((time.monotonic() - self.began, self._look()))

    def mark(self, stage: str) -> None:
        self.stages.append((stage, time.monotonic() - self.began))

    def spans(self) -> list[tuple[float, float]]:
        """Begin and end of each stage, in seconds."""
        times = [at for _, at in self.stages]
        return list(zip(times, [*times[1:], self.rows[-1][0] + 1], strict=True))

    def cpu_seconds(self) -> dict[str, float]:
        """CPU seconds by kind; the last second of a process that ended may be missing."""
        found: dict[str, float] = {}
        for (_, kind), (first, last) in self.cpu.items():
            found[kind] = found.get(kind, 0.0) + last - first
        return found

    def _look(self) -> dict[str, float]:
        found = {"driver": 0.0, "hosts": 0.0, "row processes": 0.0, "Ray": 0.0}
        parents, seen = {}, {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                    name = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    _, resident, mapped = (int(n) for n in (entry / "statm").read_text().split()[:3])
                except (OSError, ValueError):
                    continue
                pid = int(entry.name)
                parents[pid] = int(fields[1])
                cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                seen[pid] = name, (resident - mapped) * os.sysconf("SC_PAGE_SIZE") / 2**20, cpu
        ours, fringe = {os.getpid()}, {os.getpid()}
        while fringe:
            fringe = {child for child, parent in parents.items() if parent in fringe and child not in ours}
            ours |= fringe
        for pid in ours & seen.keys():
            name, size, cpu = seen[pid]
            kind = "driver" if pid == os.getpid() else "Ray"
            kind = "hosts" if name.startswith("ray::_Host") else kind
            kind = "row processes" if "tasks.row_process" in name else kind
            found[kind] += size
            born_here = kind in ("hosts", "row processes")
            first, _ = self.cpu.get((pid, kind), (0.0 if born_here else cpu, cpu))
            self.cpu[pid, kind] = first, cpu
        return found

    def plot(self, path: Path) -> None:
        figure = Figure(figsize=(9, 3.4))
        axes = figure.subplots()
        for kind in ("row processes", "hosts", "Ray", "driver"):
            axes.plot([at for at, _ in self.rows], [found[kind] for _, found in self.rows], label=kind, linewidth=1.3)
        for stage, at in self.stages:
            axes.axvline(at, color="gray", linewidth=0.6)
            axes.text(at, axes.get_ylim()[1], f" {stage}", fontsize=8, va="top")
        axes.set(xlabel="seconds", ylabel="MiB, mapped files not counted", ylim=(0, None))
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})


def pipeline(photos: Path, root: Path, actors: int) -> tuple[list[Generation], Memory]:
    """All three stages, as the flow runs them."""
    preset, store, pool = debug(), open_store(root), PoolConfig(actors=actors)
    config = ShardConfig(samples_per_shard=100, bad_share_limit=0.1)
    memory = Memory()
    memory.start()
    photographs = list_photos(SourceConfig(source=str(photos)), store)
    memory.mark("images")
    images = shard(config, photographs, store, pool)
    memory.mark("maps")
    maps = extract(preset.extract, images, store, pool)
    memory.mark("features")
    features = encode(preset.encode, images, maps, store, pool)
    memory.stopped.set()
    memory.join()
    return [images, maps, features], memory


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


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Core-seconds an image."""

    alone: float
    """The mean of one run before the pipeline's and one after it."""
    by_stage: Mapping[str, float]
    drift: float
    """The later of these two over the earlier one."""
    together: float
    prefect: float
    ray: float
    ray_loading: float


def measured(arguments: argparse.Namespace, place: Path, cores: int) -> tuple[Candidates, list[Generation], Memory]:
    """Everything that is compared, one after another."""
    paths = [str(path) for path in sorted((place / "photos").iterdir())[: arguments.plain]]
    paths = [path for path in paths if works(path)]
    before, stages_before = single_process(paths)
    together = processes_side_by_side(paths, cores)
    prefect = prefect_task_an_image(paths)
    with ray_session(cores):
        ray = ray_task_an_image(paths, cores)
        loading = ray_task_with_models_an_image(paths[: 2 * cores], cores)
    with ray_session(cores):
        generations, memory = pipeline(place / "photos", place / "root", cores)
    after, stages_after = single_process(paths)
    candidates = Candidates(
        alone=(before + after) / 2, drift=after / before, together=together, prefect=prefect, ray=ray,
        by_stage={stage: (stages_before[stage] + stages_after[stage]) / 2 for stage in STAGES}, ray_loading=loading,
    )  # fmt: skip
    return candidates, generations, memory


def report(arguments: argparse.Namespace) -> str:
    here = (str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, here))  # Ray's processes import the candidates
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        photographs = usable(arguments.photos)
        resampled(photographs, Path(temporary) / "photos", arguments.images)
        load = os.getloadavg()[0]
        candidates, generations, memory = measured(arguments, Path(temporary), cores)
    memory.plot(arguments.out.with_name("preprocess-memory.svg"))
    lines = heading(arguments, len(photographs), load)
    lines += candidates_table(candidates, generations, cores)
    lines += stages_table(generations, candidates.by_stage, cores)
    images = sum(generations[0].manifest.counts.values())
    spent = ", ".join(f"{kind} {seconds / images * 1000:.0f}" for kind, seconds in sorted(memory.cpu_seconds().items()))
    lines += [f"CPU milliseconds an image, by process: {spent}.", ""]
    lines += memory_lines(memory) + projection(generations, candidates, cores)
    lines += [
        "",
        RERUN,
        "",
        *rerun_lines(arguments.folder),
        "",
        "## Decoding and resizing",
        "",
        "A 1024² face to RGB and to 256², one core, medians of 9.",
        "",
    ]
    lines += ["| | ms |", "|---|---|"]
    lines += [f"| {name} | {value:.1f} |" for name, value in decoding()]
    return "\n".join([*lines, "", CHOICE]) + "\n"


def heading(arguments: argparse.Namespace, photographs: int, load: float) -> list[str]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return [
        "# Preprocessing: photographs → aligned images → maps → features",
        "",
        (
            f"{datetime.date.today()}, commit {commit.stdout.strip()}, `python benchmarks/preprocess.py --images "
            f"{arguments.images} --plain {arguments.plain}`. {os.cpu_count()} cores ({processor()}), load {load:.1f} when it "
            f"began, no GPU, preset debug. {arguments.images:,} images resampled from {photographs} photographs; the first "
            f"{arguments.plain} of them go through the candidates."
        ),
        "",
    ]


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def seconds_a_row(generation: Generation, cores: int, part: str | None = None) -> float:
    """Core-seconds a row: all of the wall clock, or one part of it."""
    spent = generation.seconds * cores if part is None else generation.parts[part]
    return spent / sum(generation.manifest.counts.values())


def steady(generation: Generation, cores: int) -> float:
    """Core-seconds a row once models are loaded."""
    return seconds_a_row(generation, cores) - seconds_a_row(generation, cores, "load")


def candidates_table(found: Candidates, generations: list[Generation], cores: int) -> list[str]:
    wall = sum(seconds_a_row(g, cores) for g in generations)
    verdict = "reached" if found.alone / wall >= GOAL else "missed"
    rows = [
        ("**a plain single process**", found.alone),
        (f"{cores} plain processes at once, each", found.together),
        ("**this pipeline, wall clock × cores**", wall),
        ("this pipeline without starting and loading", sum(steady(g, cores) for g in generations)),
        ("this pipeline, only making rows", sum(seconds_a_row(g, cores, "rows") for g in generations)),
        ("one Ray task an image, its process keeps the models", found.ray),
        ("one Ray task an image, models loaded in it", found.ray_loading),
        ("one Prefect task an image, in one process", found.prefect),
    ]
    return [
        "| all three stages | ms an image and core | images/s a core | of the single process |",
        "|---|---|---|---|",
        *(f"| {name} | {s * 1000:.0f} | {1 / s:.2f} | {found.alone / s:.0%} |" for name, s in rows),
        "",
        (
            f"The single process was measured before and after the pipeline's run (the second time was {found.drift:.2f} of the "
            "first); the table has the mean. Its server aside, Prefect's tasks use one core. The goal is 90 % of the single "
            f"process: {verdict} by wall clock × cores."
        ),
        "",
    ]


def stages_table(generations: list[Generation], by_stage: Mapping[str, float], cores: int) -> list[str]:
    lines = [
        "| stage | rows | good | wall s | images/s | a core | one process | loading | rows | commit | Ray, idle |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for stage in generations:
        counts, parts = stage.manifest.counts, stage.parts
        rows, room = sum(counts.values()), stage.seconds * parts["actors"]
        shares = {name: parts[name] / room for name in ("load", "rows", "commit")}
        lines.append(
            f"| {stage.stage} | {rows:,} | {counts['ok']:,} | {stage.seconds:.1f} | {rows / stage.seconds:.1f} | "
            f"{rows / stage.seconds / cores:.2f} | {1 / by_stage[stage.stage]:.2f} | {shares['load']:.1%} | "
            f"{shares['rows']:.1%} | {shares['commit']:.1%} | {1 - sum(shares.values()):.1%} |"
        )
    room = sum(g.seconds * g.parts["actors"] for g in generations)
    used = sum(g.parts[name] for g in generations for name in ("load", "rows", "commit"))
    return [
        *lines,
        "",
        (
            "Shares are of the actors' time. Loading is starting the process that makes rows, loading its models and reading "
            f"the shards; what is left, {1 - used / room:.1%} over all stages, is Ray starting its actors, handing out units "
            "and waiting for the last one."
        ),
        "",
    ]


def memory_lines(memory: Memory) -> list[str]:
    total = [sum(found.values()) for _, found in memory.rows]
    peaks = []
    for start, end in memory.spans():
        inside = [sum(found.values()) for at, found in memory.rows if start <= at < end]
        quarter = max(len(inside) // 4, 1)
        peaks.append((np.mean(inside[quarter : 2 * quarter]), np.mean(inside[-quarter:])))
    flat = ", ".join(
        f"{stage} {early:,.0f} and {late:,.0f}" for stage, (early, late) in zip(STAGES, peaks, strict=True)
    )
    return [
        "## Memory",
        "",
        (
            f"At most {max(total):,.0f} MiB in all processes together, the plain script's models in the driver included "
            "([plot](preprocess-memory.svg)). Means of the second and of the last quarter of each stage, MiB: "
            f"{flat}."
        ),
        "",
    ]


def projection(generations: list[Generation], found: Candidates, cores: int) -> list[str]:
    """Arithmetic, not measurement: core-seconds an image times 70,000, over the cores."""
    row = {g.stage: steady(g, cores) for g in generations}
    start = {g.stage: seconds_a_row(g, cores, "load") * sum(g.manifest.counts.values()) / cores for g in generations}
    total, once = sum(row.values()), sum(start.values())
    lines = [
        "## 70,000 photographs",
        "",
        (
            f"Arithmetic, not measurement: 70,000 × {total * 1000:.0f} core-ms an image ("
            + ", ".join(f"{stage} {value * 1000:.0f}" for stage, value in row.items())
            + f") over the cores, and {once:.0f} s in which every actor loads the models of the stages, once."
        ),
        "",
        "| | hours | images/s |",
        "|---|---|---|",
    ]
    for number in (2, 16, 64):
        seconds = FFHQ * total / number + once
        lines.append(f"| {number} cores | {seconds / 3600:.2f} | {FFHQ / seconds:.1f} |")
    return [*lines, *gpu_projection(row, once)]


def operations_of_open() -> dict[str, float]:
    """TFLOP an image of the encoders of preset open, counted on tensors without data: photograph and three maps at 256²."""
    with torch.device("meta"):
        blocks = (128, 256, 512, 512)
        codec = AutoencoderKL(
            block_out_channels=blocks, layers_per_block=2, latent_channels=4,
            down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        )  # fmt: skip
        config = CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14
        )
        clip = CLIPVisionModel(config)
        picture, small = torch.empty(1, 3, 256, 256), torch.empty(1, 3, 224, 224)
    found = {}
    for name, action in (("four autoencoder passes", lambda: codec.encode(picture)), ("CLIP", lambda: clip(small))):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            action()
        found[name] = counter.get_total_flops() / 1e12 * (4 if "four" in name else 1)
    return found


def gpu_projection(row: Mapping[str, float], once: float) -> list[str]:
    """An estimate from the encoders' arithmetic; nothing of it was run on a GPU."""
    needed = operations_of_open()
    operations = sum(needed.values())
    encode = operations / (H100_TFLOPS * H100_SHARE)
    host = (row["images"] + row["maps"]) / H100_CORES
    seconds = FFHQ * (host + encode) + once
    parts = ", ".join(f"{name} {value * 1000:.0f} GFLOP" for name, value in needed.items())
    return [
        f"| one H100 with {H100_CORES} cores, preset open (**estimate, not run**) | {seconds / 3600:.2f} | {FFHQ / seconds:.1f} |",
        "",
        (
            f"The H100's line is an estimate: the encoders of preset open need {operations:.2f} TFLOP an image ({parts}) and "
            f"are taken to run at {H100_SHARE:.0%} of the card's {H100_TFLOPS:.0f} TFLOP/s without tensor cores, single "
            f"images in fp32, which gives {encode * 1000:.0f} ms an image; shard and extract stay on its {H100_CORES} cores "
            f"({host * 1000:.0f} ms an image) and come first. With this, 70,000 images spend "
            f"{FFHQ * encode / 3600:.2f} hours on the card and {FFHQ * host / 3600:.2f} before it."
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--plain", type=int, default=110)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, default=HERE / "preprocess.md")
    arguments = parser.parse_args()
    arguments.out.write_text(report(arguments), encoding="utf-8")


if __name__ == "__main__":
    main()
