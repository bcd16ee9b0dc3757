"""Parameters → three 256² maps on one CPU core: the compiled path against pure torch in DECA's manner, in one run.

    python benchmarks/face3d.py

The head has the open head's mesh and FLAME's sizes: 100 + 50 blend shapes, 36 pose correctives, 50 texture
components. Candidates take turns, each on the same 64 random faces in batches of 16; the best and the median
round count.
"""

# ruff: noqa: E402 - libraries read their number of threads when they are imported

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from models.face3d.deca import E_FLAME, build_network
from models.face3d.decode import Decoder
from models.face3d.lighting import light_presets
from models.face3d.morphable import LandmarkSet, MorphableModel, pose_vertices
from models.face3d.open_head import load_open_head
from models.face3d.parameters import FaceParameters
from models.face3d.quantize import to_bytes
from models.face3d.rasterize import Canvas
from models.face3d.render import picture_ndc, render_many
from models.face3d.scanline import scan
from models.face3d.shading import shade_pixels, weighted_light
from models.face3d.skinning import vertex_normals
from models.face3d.texture import TextureSpace
from models.face3d.torch_rasterize import visible_triangles

FACES, BATCH, SIZE = 64, 16, 256


def flame_sized_head(rng: np.random.Generator) -> MorphableModel:
    """The open head's mesh with bases of FLAME's sizes, random but small."""
    head = load_open_head().model
    vertices = len(head.template)

    def basis(count: int) -> np.ndarray:
        return rng.normal(size=(vertices, 3, count)).astype(np.float32) * 1e-5

    picture = rng.uniform(0.2, 0.8, (SIZE, SIZE, 3)).astype(np.float32)
    components = rng.normal(size=(50, SIZE, SIZE, 3)).astype(np.float32) * 0.01
    return dataclasses.replace(
        head,
        name="bench",
        shape_basis=basis(100),
        expression_basis=basis(50),
        pose_basis=basis(36),
        expression_names=(),
        expression_bounds=None,
        expression_rotations=None,
        contour=LandmarkSet(faces=np.zeros((79, 17), np.int32), barycentric=np.full((79, 17, 3), 1 / 3, np.float32)),
        camera_distance=None,
        texture=TextureSpace(mean=picture, basis=components),
    )


def random_faces(rng: np.random.Generator) -> list[FaceParameters]:
    """Heads that fill about half the picture, turned this way and that."""
    lights = list(light_presets().values())
    neutral = FaceParameters.neutral("bench", shape=100, expression=50, texture=50)
    return [
        neutral.replaced(
            shape=rng.normal(size=100),
            expression=rng.normal(size=50),
            texture=rng.normal(size=50),
            pose=np.concatenate([rng.normal(size=3) * [0.15, 0.35, 0.1], [abs(rng.normal()) * 0.1, 0, 0]]),
            camera=[7.5, *rng.normal(size=2) * 0.01],
            light=lights[index % len(lights)],
        )
        for index in range(FACES)
    ]


def batches(faces: list[FaceParameters]) -> Iterator[list[FaceParameters]]:
    return (faces[start : start + BATCH] for start in range(0, len(faces), BATCH))


def compiled(model: MorphableModel, faces: list[FaceParameters]) -> int:
    """What the maps stage does up to PNG."""
    done = 0
    for batch in batches(faces):
        for maps in render_many(model, batch, SIZE):
            to_bytes(maps.albedo, 1.0, 0.0), to_bytes(maps.normal, 0.5, 0.5), to_bytes(maps.render, 1.0, 0.0)
            done += 1
    return done


def in_decas_manner(decoder: Decoder, faces: list[FaceParameters]) -> int:
    """Batched torch over whole pictures: skinning, rasterising, interpolation, grid_sample, shading, to bytes."""
    with torch.inference_mode():
        for batch in batches(faces):
            seen = decoder(batch, frame=(SIZE, SIZE)).pictures
            for picture in (seen.albedo, seen.normal * 0.5 + 0.5, seen.lit):
                (picture.clamp(0, 1) * 255).round().byte().cpu()
    return len(faces)


def race(
    candidates: dict[str, Callable[[], int]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Milliseconds a face of every round; candidates alternate, after one unmeasured round."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, run in candidates.items():
            start = clock()
            done = run()
            if turn:
                times[name].append((clock() - start) * 1000 / done)
    return times


def steps(model: MorphableModel, faces: list[FaceParameters], rounds: int) -> dict[str, list[float]]:
    """The parts of the compiled path, each over all faces, so that no part sees the same face twice in a row."""
    vertices = np.concatenate([pose_vertices(model, batch) for batch in batches(faces)])
    placed = [picture_ndc(model, one, posed) for one, posed in zip(faces, vertices, strict=True)]
    normals = [vertex_normals(posed, model.faces) for posed in vertices]
    maps = next(render_many(model, faces[:1]))
    out = [np.empty((SIZE, SIZE, 3), np.float32) for _ in range(3)]
    canvas, none = Canvas(SIZE, SIZE), np.empty((0, 0, 3), np.float32)
    assert model.texture is not None
    texture = model.texture.decode(faces[0].texture[None])[0]
    light = weighted_light(faces[0].light)
    seen = canvas.fragments

    def each(work: Callable[[int], object]) -> Callable[[], int]:
        def run() -> int:
            for index in range(len(faces)):
                work(index)
            return len(faces)

        return run

    def batched(work: Callable[[list[FaceParameters]], object]) -> Callable[[], int]:
        def run() -> int:
            for batch in batches(faces):
                work(batch)
            return len(faces)

        return run

    def shaded(index: int) -> None:
        shade_pixels(
            seen.face, seen.barycentric, model.faces, normals[index], model.corner_uvs, texture, light, none, *out
        )

    canvas.draw(placed[0], model.faces)
    return race(
        {
            "posing, 16 at once": batched(lambda batch: pose_vertices(model, batch)),
            "texture, 16 at once": batched(
                lambda batch: model.texture.decode(np.stack([one.texture for one in batch]))
            ),
            "projection": each(lambda index: picture_ndc(model, faces[index], vertices[index])),
            "vertex normals": each(lambda index: vertex_normals(vertices[index], model.faces)),
            "shading": each(shaded),
            "scanline: face ids and depth": each(lambda index: scan(placed[index], model.faces, seen.face, seen.depth)),
            "scanline and barycentrics": each(lambda index: canvas.draw(placed[index], model.faces)),
            "to bytes": each(lambda _: [to_bytes(one, 1.0, 0.0) for one in (maps.albedo, maps.normal, maps.render)]),
            "four PNG files": each(lambda _: maps.encode()),
        },
        rounds,
    )


def regressor(device: str, rounds: int) -> dict[str, list[float]]:
    """E_flame on 16 crops at once."""
    network = build_network(E_FLAME).eval().to(device)
    crops = torch.rand(BATCH, 3, 224, 224, device=device)

    @torch.inference_mode()
    def run() -> int:
        network(crops).cpu()
        return BATCH

    clock = time.process_time if device == "cpu" else time.perf_counter
    return race({f"E_flame, {device}": run}, rounds, clock)


def show(title: str, times: dict[str, list[float]], base: str | None = None) -> None:
    print(f"\n| {title} | best ms | median ms | best a second |" + (" × |" if base else ""))
    print("|---|---|---|---|" + ("---|" if base else ""))
    for name, values in times.items():
        best = min(values)
        ratio = f" {best / min(times[base]):.1f} |" if base else ""
        print(f"| {name} | {best:.2f} | {statistics.median(values):.2f} | {1000 / best:.0f} |{ratio}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rng = np.random.default_rng(0)
    model, faces = flame_sized_head(rng), random_faces(rng)
    covered = np.mean([one.mask.mean() for one in render_many(model, faces[:16])])
    print(f"{len(model.template)} vertices, {len(model.faces)} triangles, {covered:.0%} of {SIZE}² covered")
    torch_only, torch_with_scanline = Decoder(model, backend="torch"), Decoder(model, backend="numba")
    show(
        "parameters → three uint8 maps",
        race(
            {
                "compiled (numba)": lambda: compiled(model, faces),
                "torch in DECA's manner": lambda: in_decas_manner(torch_only, faces),
                "the same, triangles from the compiled scanline": lambda: in_decas_manner(torch_with_scanline, faces),
            },
            rounds,
        ),
        base="compiled (numba)",
    )
    show("step of the compiled path", steps(model, faces, rounds))
    heads = torch.from_numpy(np.stack([picture_ndc(model, one, pose_vertices(model, [one])[0]) for one in faces[:8]]))
    triangles = torch.from_numpy(model.faces).long()
    backends = {
        name: lambda name=name: len(visible_triangles(heads, triangles, SIZE, SIZE, name))
        for name in ("numba", "torch")
    }
    show("visible triangles, 8 heads", race(backends, rounds), base="numba")
    show("regressor, 16 crops", regressor("cpu", 2))
    if torch.cuda.is_available():
        on_gpu = Decoder(model, backend="torch", device="cuda")
        show(
            torch.cuda.get_device_name(),
            race({"torch render, 16 at once": lambda: in_decas_manner(on_gpu, faces)}, rounds, time.perf_counter),
        )
        show(torch.cuda.get_device_name(), regressor("cuda", rounds))


if __name__ == "__main__":
    main()
