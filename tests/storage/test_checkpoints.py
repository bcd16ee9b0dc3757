"""Checkpoints: complete or invisible, finite, and restored to any number of ranks."""

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from storage import checkpoints as module
from storage import tensor_file
from storage.checkpoints import CheckpointStore
from storage.errors import CheckpointCorrupt, Conflict, NotFound
from storage.interface import Store
from storage.state_tree import join_state, split_state
from storage.stores import open_store


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path / "root") if request.param == "folder" else request.getfixturevalue("s3_store")


def tensors_of(step: int) -> dict[str, Tensor]:
    return {
        "model.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3) + step,
        "model.half": torch.full((3,), step, dtype=torch.bfloat16),
        "ema.weight": torch.ones(2, 3).T * step,
        "step": torch.tensor(step),
        "nothing": torch.zeros(0, 4),
        "rng": torch.arange(16, dtype=torch.uint8),
    }


def assert_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_save_load_and_retention(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = CheckpointStore(store)
    with pytest.raises(NotFound, match="no complete checkpoint"):
        checkpoints.load()
    for step in (10, 20, 30, 40):
        checkpoints.save(step, tensors_of(step), {"position": step, "rate": 0.1})
        assert checkpoints.latest() == step
        assert len(checkpoints.steps()) == min(2, step // 10)
    loaded = CheckpointStore(store).load()
    assert (loaded.step, loaded.state) == (40, {"position": 40, "rate": 0.1})
    assert_equal(loaded.tensors, tensors_of(40))
    assert_equal(checkpoints.load(30).tensors, tensors_of(30))
    with pytest.raises(NotFound, match="of step 10"):
        checkpoints.load(10)
    assert list(store.folders()) == ["step-00000030", "step-00000040"]
    assert caplog.records == [], "what retention removes is no garbage"


def test_the_same_step_again(store: Store) -> None:
    checkpoints = CheckpointStore(store, keep=3)
    checkpoints.save(1, tensors_of(1), {})
    checkpoints.save(1, tensors_of(1), {})
    for other in ((tensors_of(2), {}), (tensors_of(1), {"x": 1})):
        with pytest.raises(Conflict):
            checkpoints.save(1, *other)
    assert_equal(checkpoints.load(1).tensors, tensors_of(1))


def test_large_states_are_cut_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tensor_file.write_tensors
    monkeypatch.setattr(module, "write_tensors", lambda store, tensors: files(store, tensors, file_bytes=4000))
    tensors = {f"w{n}": torch.full((300,), float(n)) for n in range(10)}
    checkpoints = CheckpointStore(open_store(tmp_path))
    checkpoints.save(1, tensors, {})
    assert len(list(tmp_path.glob("step-00000001/*.safetensors"))) == 4
    assert_equal(checkpoints.load().tensors, tensors)
    assert_equal(checkpoints.load(select=lambda name: name == "w7").tensors, {"w7": tensors["w7"]})


def test_tied_and_viewed_tensors(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    tensors = {"a": base, "b": base, "row": base.reshape(3, 4)[1], "column": base.reshape(3, 4)[:, 1]}
    checkpoints = CheckpointStore(open_store(tmp_path))
    checkpoints.save(1, tensors, {})
    assert_equal(checkpoints.load().tensors, tensors)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.complex64])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    checkpoints = CheckpointStore(open_store(tmp_path))
    tensors = tensors_of(1)
    tensors["ema.bad"] = torch.ones(3, 5, dtype=dtype)
    tensors["ema.bad"][1, 4] = value
    for save in (checkpoints.save, checkpoints.save_in_background):
        with pytest.raises(CheckpointCorrupt, match=r"'ema\.bad' holds"):
            save(1, tensors, {})
    with pytest.raises(ValueError, match="finite"):
        checkpoints.save(1, tensors_of(1), {"loss": value})
    checkpoints.close()
    assert checkpoints.latest() is None


def test_numbers_that_are_not_finite_are_refused_when_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path)
    with monkeypatch.context() as blind:
        blind.setattr(module, "_finite", lambda name, tensor: tensor)
        CheckpointStore(store).save(1, {"w": torch.tensor([1.0, float("nan")])}, {})
    with pytest.raises(CheckpointCorrupt, match="'w' holds nan"):
        CheckpointStore(store).load()


def test_damage_is_found(tmp_path: Path) -> None:
    checkpoints = CheckpointStore(open_store(tmp_path))
    checkpoints.save(1, tensors_of(1), {})
    checkpoints.save(2, tensors_of(2), {})
    file = next(tmp_path.glob("step-00000002/*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointCorrupt, match="sha256"):
        checkpoints.load()
    assert_equal(checkpoints.load(1).tensors, tensors_of(1))
    file.write_bytes(data[:-1])
    assert checkpoints.latest() == 1
    file.unlink()
    assert checkpoints.latest() == 1


def test_garbage_is_ignored_with_one_warning_each(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    good = CheckpointStore(store)
    good.save(7, tensors_of(7), {})
    newer = json.loads(store.read("step-00000007/manifest.json")) | {"schema_version": 99}
    manifest = store.read("step-00000007/manifest.json")
    garbage = {
        "step-99/manifest.json": manifest,
        "step-abc/x": b"",
        "step-00000008/manifest.json": manifest[: len(manifest) // 2],
        "step-00000009/manifest.json": b"",
        "step-00000010/tensors.safetensors": b"no manifest",
        "step-00000011/manifest.json": manifest,
        "step-00000012/manifest.json": json.dumps(newer).encode(),
        "step-00000013/manifest.json": b"[]",
        "step-99999999999999999999/manifest.json": manifest,
        "lost+found/x": b"",
    }
    for key, content in garbage.items():
        store.create(key, content)
    if (folder := store.local_path("step-00000014")) is not None:
        folder.mkdir()
    checkpoints = CheckpointStore(store)
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        assert checkpoints.latest() == 7
        assert checkpoints.steps() == [7]
    assert_equal(checkpoints.load().tensors, tensors_of(7))
    expected = {key.partition("/")[0] for key in garbage} | ({"step-00000014"} if folder else set())
    warned = [record.getMessage().partition(" is ignored")[0].rpartition("/")[2] for record in caplog.records]
    assert sorted(warned) == sorted(expected)
    checkpoints.save(20, tensors_of(20), {})
    checkpoints.save(21, tensors_of(21), {})
    assert checkpoints.steps() == [20, 21]
    assert store.stat("step-abc/x") is not None, "what is not ours is left alone"
    assert store.stat("step-00000010/tensors.safetensors") is None, "interrupted attempts are removed"


def test_an_interrupted_attempt_is_completed_by_a_different_one(store: Store) -> None:
    checkpoints = CheckpointStore(store)
    checkpoints.save(1, tensors_of(1), {})
    checkpoints.write_part(2, tensors_of(99))  # and then the process was killed
    assert checkpoints.latest() == 1
    checkpoints.save(2, tensors_of(2), {})
    assert_equal(checkpoints.load().tensors, tensors_of(2))
    assert len(list(store.list("step-00000002/"))) == 2, "the orphan is gone"


@pytest.mark.parametrize("writers", [1, 2, 4])
@pytest.mark.parametrize("readers", [1, 3])
def test_any_number_of_ranks(tmp_path: Path, writers: int, readers: int) -> None:
    tensors = {f"layer.{n}.weight": torch.full((4,), float(n)) for n in range(10)}
    names = sorted(tensors)
    store = open_store(tmp_path)
    ranks = [CheckpointStore(store) for _ in range(writers)]
    parts = [
        part
        for rank, checkpoints in enumerate(ranks)
        for part in checkpoints.write_part(5, {name: tensors[name] for name in names[rank::writers]})
    ]
    assert ranks[0].latest() is None
    ranks[0].commit(5, parts, {"world": writers})
    merged: dict[str, Tensor] = {}
    for rank in range(readers):
        mine = set(names[rank::readers])
        loaded = CheckpointStore(store).load(select=mine.__contains__)
        assert set(loaded.tensors) == mine
        merged |= loaded.tensors
    assert_equal(merged, tensors)


def test_a_tensor_has_one_writer(tmp_path: Path) -> None:
    checkpoints = CheckpointStore(open_store(tmp_path))
    parts = [*checkpoints.write_part(1, tensors_of(1)), *checkpoints.write_part(1, {"step": torch.tensor(9)})]
    with pytest.raises(ValueError, match="two parts of step 1 hold the tensor 'step'"):
        checkpoints.commit(1, parts, {})


@pytest.mark.parametrize("step", [-1, 100_000_000])
def test_impossible_steps(tmp_path: Path, step: int) -> None:
    with pytest.raises(ValueError, match="steps go from 0"):
        CheckpointStore(open_store(tmp_path)).save(step, {}, {})


def test_fewer_than_two_are_never_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        CheckpointStore(open_store(tmp_path), keep=1)


class Gate:
    """A store whose uploads wait for permission; everything else is the real store's."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.open = threading.Event()
        self.waiting = threading.Semaphore(0)

    def child(self, prefix: str) -> "Gate":
        gate = Gate(self.inner.child(prefix))
        gate.open, gate.waiting = self.open, self.waiting
        return gate

    def create_from_file(self, key: str, path: Path) -> None:
        self.waiting.release()
        assert self.open.wait(30)
        self.inner.create_from_file(key, path)

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(open_store(tmp_path))
    yield gate
    gate.open.set()


def test_the_upload_leaves_the_training_path(gate: Gate) -> None:
    weights = torch.ones(1000)
    with CheckpointStore(gate) as checkpoints:  # type: ignore[arg-type]
        checkpoints.save_in_background(1, {"w": weights}, {})
        gate.waiting.acquire()
        weights.fill_(2)  # training goes on while the upload is under way
        assert checkpoints.latest() is None
        second = threading.Thread(target=checkpoints.save_in_background, args=(2, {"w": weights}, {}))
        second.start()
        second.join(0.2)
        assert second.is_alive(), "at most one upload is under way"
        gate.open.set()
        second.join()
        checkpoints.wait()
        assert torch.equal(checkpoints.load(1).tensors["w"], torch.ones(1000))
        assert torch.equal(checkpoints.load(2).tensors["w"], torch.full((1000,), 2.0))


def test_a_failed_upload_is_raised_by_the_next_call(tmp_path: Path) -> None:
    checkpoints = CheckpointStore(open_store(tmp_path))
    checkpoints.save(1, tensors_of(1), {})
    checkpoints.save_in_background(1, tensors_of(2), {})
    with pytest.raises(Conflict):
        checkpoints.wait()
    checkpoints.save_in_background(2, tensors_of(2), {})
    checkpoints.close()
    assert checkpoints.steps() == [1, 2]


def test_two_are_complete_at_every_moment(gate: Gate) -> None:
    gate.open.set()
    watcher = CheckpointStore(gate.inner)
    seen: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.append(len(watcher.steps()))

    with CheckpointStore(gate) as checkpoints:  # type: ignore[arg-type]
        checkpoints.save(1, tensors_of(1), {})
        checkpoints.save(2, tensors_of(2), {})
        thread = threading.Thread(target=watch)
        thread.start()
        for step in range(3, 25):
            checkpoints.save_in_background(step, tensors_of(step), {})
    done.set()
    thread.join()
    assert seen
    assert min(seen) >= 2


class Meanwhile:
    """A store during whose first listing two more checkpoints are written, and the old ones forgotten."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.late = True

    def folders(self) -> list[str]:
        found = list(self.inner.folders())
        if self.late:
            self.late = False
            writer = CheckpointStore(self.inner)
            for step in (3, 4):
                writer.save(step, tensors_of(step), {})
        return found

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)


def test_a_look_while_checkpoints_are_forgotten_is_taken_again(tmp_path: Path) -> None:
    inner = open_store(tmp_path)
    for step in (1, 2):
        CheckpointStore(inner).save(step, tensors_of(step), {})
    assert CheckpointStore(Meanwhile(inner)).steps() == [3, 4]  # type: ignore[arg-type]
    inner = open_store(tmp_path / "other")
    CheckpointStore(inner).save(1, tensors_of(1), {})
    assert CheckpointStore(Meanwhile(inner)).latest() == 4  # type: ignore[arg-type]


def test_a_training_state_survives(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            schedule.step()

    train(3)
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "rng": torch.get_rng_state(),
        "position": (3, [1, 2]),
    }
    checkpoints = CheckpointStore(open_store(tmp_path))
    checkpoints.save(3, *split_state(state))
    train(4)
    expected = [parameter.detach().clone() for parameter in model.parameters()]

    loaded = checkpoints.load()
    restored = join_state(loaded.tensors, loaded.state)
    assert restored["position"] == (3, [1, 2])
    model.load_state_dict(restored["model"])
    optimizer.load_state_dict(restored["optimizer"])
    schedule.load_state_dict(restored["schedule"])
    torch.set_rng_state(restored["rng"])
    train(4)
    for found, wanted in zip(model.parameters(), expected, strict=True):
        assert torch.equal(found, wanted)


def test_states_that_cannot_be_split() -> None:
    assert join_state({}, split_state({"__tensor__": 1, 2: [(), {}]})[1]) == {"__tensor__": 1, 2: [(), {}]}
    for wrong, message in (
        ({"a": object()}, "a is a object"),
        ({(1,): 2}, "only str and int keys"),
        ({"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)}, "two tensors have the path"),
    ):
        with pytest.raises(ValueError, match=message):
            split_state(wrong)
