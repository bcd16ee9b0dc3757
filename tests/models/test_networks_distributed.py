"""Two processes (gloo) against one: the same loss and the same gradients, wrapped by DDP and by FSDP."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from small_networks import assert_same_gradients, batch_of, gradients, small_model
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from models.diffusion.editor import draws_for

KEYS = ["a", "b", "c", "d"]
WORLD = 2
WRAPPERS = ("ddp", "ddp-checkpointing", "fsdp")


def _step(model: Any, rank: int, world: int) -> torch.Tensor:
    """One loss and backward on this rank's share of the keys."""
    config = getattr(model, "module", model).config
    mine = slice(rank * len(KEYS) // world, (rank + 1) * len(KEYS) // world)
    batch = {name: value[mine] for name, value in batch_of(config, len(KEYS)).items()}
    loss: torch.Tensor = model(batch, draws_for(config, KEYS[mine], run_seed=0, epoch=0))
    loss.backward()
    return loss.detach()


def _wrapped(wrapper: str) -> Any:
    model = small_model()
    if wrapper != "ddp":
        model.denoiser.enable_gradient_checkpointing()
        model.guidance.unet.enable_gradient_checkpointing()
        model.train()
    if wrapper != "fsdp":
        return DistributedDataParallel(model)
    for part in (model.denoiser, model.guidance, model.identity):
        fully_shard(part)
    return fully_shard(model)


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    for wrapper in WRAPPERS:
        model = _wrapped(wrapper)
        loss = _step(model, rank, WORLD)
        dist.all_reduce(loss)
        found = {
            name: p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad
            for name, p in getattr(model, "module", model).named_parameters()
            if p.grad is not None
        }
        if rank == 0:
            torch.save({"loss": loss / WORLD, "gradients": found}, f"{folder}/{wrapper}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_worker, args=(str(tmp_path),), nprocs=WORLD)
    model = small_model()
    loss = _step(model, 0, 1)
    expected = gradients(model)
    for wrapper in WRAPPERS:
        result = torch.load(tmp_path / f"{wrapper}.pt", weights_only=True)
        torch.testing.assert_close(result["loss"], loss, rtol=1e-5, atol=0)
        for name, parameter in model.named_parameters():
            parameter.grad = result["gradients"].get(name)
        assert_same_gradients(model, expected, 1e-5)
