"""Train the face recogniser of `tiny`: python -m models.tiny.train_recogniser OUT [--people 1200 --pictures 8 …]

Many people in many poses, expressions and lights; an additive angular margin (Deng et al. 2019, arXiv:1801.07698,
equation 3) on the cosine to each person's centre. Prints how well people it has not seen are told apart, and writes a
safetensors file in fp16 (counters stay integers).
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.encoders.portrait_recogniser import WIDTH, RecogniserNetwork
from models.rng import torch_generator
from models.tiny.portrait_data import in_parallel, recogniser_crops

HELD_OUT_SEED = 1000
_SCALE, _MARGIN = 24.0, 0.3


def crops_of(seed: int, people: int, pictures: int, processes: int) -> Tensor:
    """uint8 (people, pictures, 3, 56, 56)."""
    items = [(seed, person, picture) for person in range(people) for picture in range(pictures)]
    crops = torch.from_numpy(np.stack(in_parallel(recogniser_crops, items, processes)))
    planes: Tensor = crops.permute(0, 3, 1, 2).unflatten(0, (people, pictures)).contiguous()
    return planes


def augmented(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Half mirrored, brightness and contrast of each channel varied, a little noise: uint8 → float32 in [-1, 1]."""
    x = crops.float() / 127.5 - 1
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    x[mirrored] = x[mirrored].flip(-1)
    gain = 1 + 0.15 * torch.randn(len(x), 1, 1, 1, generator=generator)
    tint = 0.08 * torch.randn(len(x), 3, 1, 1, generator=generator)
    return x * gain + tint + 0.02 * torch.randn(x.shape, generator=generator)


def margin_loss(embeddings: Tensor, centres: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy over s·cos(θ + m) for the right person and s·cos θ for the others."""
    cosine = nn.functional.normalize(embeddings) @ nn.functional.normalize(centres).T
    right = cosine.gather(1, labels[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
    moved = right * math.cos(_MARGIN) - (1 - right.square()).sqrt() * math.sin(_MARGIN)
    return nn.functional.cross_entropy(_SCALE * cosine.scatter(1, labels[:, None], moved), labels)


def train(network: RecogniserNetwork, crops: Tensor, *, steps: int, batch: int, rate: float, seed: int) -> None:
    """Train in place; crops uint8 (people, pictures, 3, 56, 56)."""
    people, pictures = crops.shape[:2]
    generator = torch_generator(seed, "recogniser")
    centres = nn.Parameter(torch.randn(people, WIDTH, generator=generator))
    optimiser = torch.optim.AdamW([*network.parameters(), centres], lr=rate, weight_decay=5e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.15)
    started, running = time.monotonic(), 0.0
    network.train()
    for step in range(1, steps + 1):
        labels = torch.randint(people, (batch,), generator=generator)
        x = augmented(crops[labels, torch.randint(pictures, (batch,), generator=generator)], generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            embeddings = network(x)
        loss = margin_loss(embeddings.float(), centres, labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        running += float(loss.detach())
        if step % 100 == 0:
            print(f"step {step} loss {running / 100:.3f} {time.monotonic() - started:.0f} s", flush=True)
            running = 0.0


@torch.no_grad()
def measure(network: RecogniserNetwork, crops: Tensor) -> dict[str, float]:
    """How people are told apart: share of pictures whose nearest other picture is of the same person, and the share of
    (same, different) pairs that the cosine orders rightly (area under the curve)."""
    people, pictures = crops.shape[:2]
    network.eval()
    vectors = nn.functional.normalize(network(crops.flatten(0, 1).float() / 127.5 - 1))
    cosine = vectors @ vectors.T
    cosine.fill_diagonal_(-2)
    label = torch.arange(people).repeat_interleave(pictures)
    same = label[:, None] == label[None]
    off = ~torch.eye(len(label), dtype=torch.bool)
    inside, outside = cosine[same & off], cosine[~same].sort().values
    ordered = torch.searchsorted(outside, inside.contiguous()).double().mean() / len(outside)
    nearest = (label[cosine.argmax(dim=1)] == label).double().mean()
    return {
        "nearest": float(nearest),
        "ordered": float(ordered),
        "same": float(inside.mean()),
        "different": float(outside.mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--people", type=int, default=1200)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    crops = crops_of(options.seed, options.people, options.pictures, options.threads)
    print(f"{crops.shape[0]} people × {crops.shape[1]} pictures", flush=True)
    network = RecogniserNetwork()
    train(network, crops, steps=options.steps, batch=options.batch, rate=options.rate, seed=options.seed)
    network = network.half().float()
    print(measure(network, crops_of(HELD_OUT_SEED, 100, 6, options.threads)))
    state = {k: t.half() if t.is_floating_point() else t for k, t in network.state_dict().items()}
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, options.out)


if __name__ == "__main__":
    main()
