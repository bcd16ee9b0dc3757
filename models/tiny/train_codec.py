"""Train the codec of `tiny`: python -m models.tiny.train_codec OUT [--people 200 --pictures 3 --minutes 10 …]

The basis is fitted to portraits, their condition maps and photographs, the correction is then trained on random 128²
crops of them. Prints the PSNR on people it has not seen, and writes a safetensors file in fp16.
"""

import argparse
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from models.encoders.trained_codec import TrainedPatchCodec, blocks_of, load_trained_codec
from models.rng import torch_generator
from models.tiny.portrait_data import photograph_crops, portrait_batches

_CROP = 128
_SHARES = {"image": 0.40, "photograph": 0.12, "albedo": 0.11, "normal": 0.26, "render": 0.11}
"""Of the crops of a batch; normals are the hardest."""
HELD_OUT_SEED = 1000


def to_floats(pictures: Tensor) -> Tensor:
    """uint8 → float32 in [-1, 1]."""
    return pictures.float() / 127.5 - 1


def psnr(one: Tensor, other: Tensor) -> Tensor:
    """dB of each row, for pictures in [-1, 1]."""
    return 10 * torch.log10(4 / (one - other).square().mean(dim=(1, 2, 3)))


@torch.no_grad()
def measure(codec: TrainedPatchCodec, pictures: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """Kind → mean PSNR of codec and of its linear part alone; pictures uint8."""
    figures = {}
    for kind, rows in pictures.items():
        codes, linear = [], []
        for some in rows.split(8):
            x = to_floats(some)
            latents = codec.encode(x)
            codes.append(psnr(codec.decode(latents).clamp(-1, 1), x))
            linear.append(psnr(codec.linear_picture(latents).clamp(-1, 1), x))
        figures[kind] = (float(torch.cat(codes).mean()), float(torch.cat(linear).mean()))
    return figures


def random_crops(pictures: dict[str, Tensor], batch: int, generator: torch.Generator) -> Tensor:
    """Crops of all kinds in their shares, half of them mirrored: float32 (batch, 3, 128, 128)."""
    kinds = list(_SHARES)
    weights = torch.tensor([_SHARES[kind] for kind in kinds])
    rows = []
    for index in torch.multinomial(weights, batch, replacement=True, generator=generator):
        source = pictures[kinds[int(index)]]
        number = int(torch.randint(len(source), (), generator=generator))
        top, left = (int(torch.randint(side - _CROP + 1, (), generator=generator)) for side in source.shape[-2:])
        crop = source[number, :, top : top + _CROP, left : left + _CROP]
        rows.append(crop.flip(-1) if torch.rand((), generator=generator) < 0.5 else crop)
    return to_floats(torch.stack(rows))


def train(
    codec: TrainedPatchCodec, pictures: dict[str, Tensor], *, steps: int, batch: int, rate: float, seed: int
) -> None:
    """Train the correction, in place."""
    generator = torch_generator(seed, "codec")
    optimiser = torch.optim.Adam(codec.correction.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=max(steps, 1), pct_start=0.1)
    started, running = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        x = random_crops(pictures, batch, generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            latents = codec.encode(x).float()
            picture = codec.linear_picture(latents).float()
            correction = codec.correction(latents, picture)
        error = (picture + correction.float() - x).square().mean(dim=(1, 2, 3))
        # Decibels, not squares, are averaged: else a few hard pictures decide.
        loss = torch.log(error + 1e-5).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.correction.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        running += float(10 * torch.log10(4 / error.detach()).mean())
        if step % 50 == 0:
            print(f"step {step} {running / 50:.2f} dB {time.monotonic() - started:.0f} s", flush=True)
            running = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--people", type=int, default=100)
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--basis", type=Path, help="Keep the encoder of this file, and so all latents")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    pictures = portrait_batches(options.seed, options.people, options.pictures, processes=options.threads)
    pictures["photograph"] = photograph_crops(seed=options.seed)
    codec = TrainedPatchCodec()
    if options.basis is None:
        codec.fit(torch.cat([blocks_of(to_floats(rows[:200])) for rows in pictures.values()]))
        codec.half().float()
    else:
        codec = load_trained_codec(options.basis).requires_grad_(True)
    train(codec, pictures, steps=options.steps, batch=options.batch, rate=options.rate, seed=options.seed)
    codec = codec.half().float().eval()
    held_out = portrait_batches(HELD_OUT_SEED, 32, 1, processes=options.threads)
    held_out["photograph"] = photograph_crops(seed=HELD_OUT_SEED, each=3)
    for kind, (whole, linear) in measure(codec, held_out).items():
        print(f"{kind:10s} {whole:.2f} dB, linear alone {linear:.2f} dB")
    save_file({key: tensor.half().contiguous() for key, tensor in codec.state_dict().items()}, options.out)


if __name__ == "__main__":
    main()
