"""Time and FLOPs of InstaFace's networks, naive against ours, as ratios measured in one run.

    python benchmarks/networks.py [--repeats 5] [--threads 2] [--output benchmarks/networks.md]

The two sides of a ratio run alternately, so that whatever else the machine does falls on both; the ratio is of the
medians. Weights are random: time does not depend on them.
"""

import argparse
import dataclasses
import datetime
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from models.diffusion.adaptation import AdaptationConfig, adapt
from models.diffusion.config import InstaFaceConfig
from models.diffusion.editor import InstaFace, draws_for
from models.diffusion.fusion import fuse
from models.diffusion.presets import paper_config
from models.diffusion.sampling import initial_noise, sample_latents
from models.diffusion.schedule import ddim_step, sampling_timesteps
from models.encoders.codec import STABLE_DIFFUSION_VAE, KLCodec

MIDDLE = dataclasses.replace(paper_config(), widths=(96, 192, 384, 384), heads=6, groups=32)
"""Stable Diffusion 1.5's layout (16 guided blocks, 32×32×4 latents) at 0.3 of its width."""
MIDDLE_VAE = {**STABLE_DIFFUSION_VAE, "block_out_channels": (64, 128, 256, 256)}
NOTES = """
## Reading the tables
* *Naive* runs the Guidance Network as ControlNet-like systems do, at every step, and in stage 2 puts eight copies of
  the photograph through everything. A semantic encoder and a recogniser, which a naive step would run too, are left
  out, so the ratio is on the cautious side.
* "Guidance at batch 1" is exact, not an approximation: `tests/models/test_editor.py` holds loss and gradients to the
  batch of eight within 1e-5. "Split projection" changes the method (the Guidance Network keeps the untuned tokens).
* Reference control doubles the denoiser's batch; it buys stronger edits, not time.
* Not measured: a GPU, torch.compile, channels-last.
"""
COPIES = 8
STEPS = 20

Work = Callable[[], object]


def measure(works: dict[str, Work], repeats: int) -> dict[str, tuple[float, float]]:
    """Name → (median seconds, counted GFLOPs); one uncounted warm-up each, then the works take turns."""
    flops = {}
    for name, work in works.items():
        with FlopCounterMode(display=False) as counter:
            work()
        flops[name] = counter.get_total_flops() / 1e9
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return {name: (statistics.median(times), flops[name]) for name, times in seconds.items()}


def inference(config: InstaFaceConfig) -> dict[str, Work]:
    """The UNet part of one edit, without encoders and decoder."""
    model = InstaFace.from_config(config).eval()
    conditions = torch.randn(1, config.condition_channels, 32, 32)
    tokens = torch.randn(1, config.tokens, config.token_width)
    timesteps = sampling_timesteps(STEPS, config.train_steps, config.spacing).tolist()

    @torch.no_grad()
    def loop(guided: bool) -> Tensor:
        z = initial_noise(config, ["a"], 0, (32, 32))
        for t in timesteps:
            features = model.guide(conditions, tokens) if guided else None
            output = model.denoise(z, torch.tensor([t]), tokens, features)
            z = ddim_step(output, z, model.alphas[t], model.alphas[max(t - 50, 0)], config.prediction)
        return z

    def ours(**options: object) -> Tensor:
        arguments = {"keys": ["a"], "steps": STEPS, **options}
        return sample_latents(model, conditions, tokens, **arguments)  # type: ignore[arg-type]

    return {
        "guidance at every step, DDIM 20 (naive)": lambda: loop(True),
        "guidance once, DDIM 20": ours,
        "guidance once, UniPC 8": lambda: ours(solver="unipc", steps=8),
        "guidance once, DDIM 20, reference control": lambda: ours(reference=conditions),
        "plain UNet loop, no guidance": lambda: loop(False),
    }


def fine_tuning(config: InstaFaceConfig) -> dict[str, Work]:
    """One optimiser-free step of stage 2 on eight noisings of one photograph."""
    codec = KLCodec(AutoencoderKL(**MIDDLE_VAE))
    image = torch.rand(1, 3, 256, 256)
    maps = {name: torch.rand(1, 3, 256, 256) for name in config.maps}
    semantic = torch.randn(1, 257, config.semantic_width)
    face = torch.randn(1, config.face_width)
    features_of_photo = {
        "moments": codec.moments(image * 2 - 1),
        "conditions": fuse(codec, maps, config.maps),
        "semantic": semantic,
        "face": face,
    }
    draws = draws_for(config, ["a"], run_seed=0, epoch=0, copies=COPIES)

    def adapted(adaptation: AdaptationConfig) -> InstaFace:
        model = InstaFace.from_config(config)
        adapt(model, adaptation, semantic=semantic, face=face)
        return model

    def step(model: InstaFace, batch: dict[str, Tensor], features: dict[str, Tensor] | None = None) -> None:
        model.zero_grad()
        model(batch, draws, features).backward()

    full = adapted(AdaptationConfig())
    split = adapted(AdaptationConfig(split_projection=True))
    low_rank = adapted(AdaptationConfig(kind="lora", split_projection=True))
    with torch.no_grad():
        cached = split.guide(features_of_photo["conditions"], split.tokens(semantic, face))

    def rows(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.repeat_interleave(COPIES, dim=0) for name, tensor in tensors.items()}

    def naive() -> None:
        pictures = rows({"image": image, **maps})
        moments = codec.moments(pictures.pop("image") * 2 - 1)
        batch = rows({"semantic": semantic, "face": face})
        step(full, {"moments": moments, "conditions": fuse(codec, pictures, config.maps), **batch})

    return {
        "encoders on the fly, all at batch 8 (naive)": naive,
        "encoders once, guidance at batch 8": lambda: step(full, rows(features_of_photo)),
        "encoders once, guidance at batch 1 (ours, exact)": lambda: step(full, features_of_photo),
        "ours, split projection: guidance once a run": lambda: step(split, features_of_photo, cached),
        "ours, split projection, LoRA r16": lambda: step(low_rank, features_of_photo, cached),
    }


def table(results: dict[str, tuple[float, float]]) -> str:
    """Markdown; ratios are to the first row."""
    time_0, flops_0 = next(iter(results.values()))
    lines = ["| | seconds | ratio of time | GFLOPs | ratio of FLOPs |", "|---|---|---|---|---|"]
    for name, (seconds, flops) in results.items():
        ratios = f"{seconds / time_0:.2f} | {flops:,.0f} | {flops / flops_0:.2f}"
        lines.append(f"| {name} | {seconds:.2f} | {ratios} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    sampling = measure(inference(MIDDLE), arguments.repeats)
    training = measure(fine_tuning(MIDDLE), arguments.repeats)
    parameters = sum(p.numel() for p in InstaFace.from_config(MIDDLE).parameters())
    text = f"""# Networks: naive against ours

{datetime.date.today()}, commit {commit}, {arguments.threads} thread(s) of {processor()}, torch {torch.__version__},
float32, medians of {arguments.repeats} repetitions taken in turn. `python benchmarks/networks.py`

A mid-size configuration: Stable Diffusion 1.5's layout with widths {MIDDLE.widths}, {parameters / 1e6:.0f} M
parameters in all, latents 32×32×4, autoencoder of half its width. FLOPs are counted by torch, not estimated.

## One edit: the UNet part
{table(sampling)}

## One step of stage 2: forward and backward, eight noisings of one photograph
{table(training)}
{NOTES}"""
    print(text)
    if arguments.output:
        arguments.output.write_text(text)


def processor() -> str:
    """The processor's name, where the system tells it."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
