"""A generation of a stage: counts, reasons, reuse, limits. The rows are real files; only the computation is small."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from storage.canonical import digest_of
from storage.stores import Store, open_store
from tasks.generation import Generation, Plan, TooManyBadRows, build_generation, find_generation
from tasks.ray_pool import PoolConfig, UnitFailed
from tasks.unit_host import RowLimits
from tests.tasks.shouter import FIELDS, Shouter, Words

pytestmark = pytest.mark.usefixtures("ray_running")


def build(
    root: Store,
    trace: Path,
    words: list[str],
    *,
    limit: float = 0.5,
    size: int = 2,
    config: str = "c",
    workers: int = 1,
    limits: RowLimits | None = None,
    redrive: tuple[str, ...] = (),
) -> Generation:
    units = [Words(i // size, tuple(words[i : i + size])) for i in range(0, len(words), size)]
    plan = Plan(
        stage="words", fields=FIELDS, config_digest=config, inputs={"words": digest_of(words)}, bad_share_limit=limit,
        total=len(words),
    )  # fmt: skip

    def make(home: str, earlier: tuple[str, ...]) -> Any:
        return partial(Shouter, str(trace), earlier)

    return build_generation(
        root, plan, units, make, PoolConfig(actors=workers, limits=limits or RowLimits()), redrive=redrive
    )


def test_every_input_has_a_row_and_every_good_one_a_sample(tmp_path: Path) -> None:
    root, trace = open_store(tmp_path / "root"), tmp_path / "trace"
    done = build(root, trace, ["a", "bad-b", "c", "boom-d", "e"])
    assert dict(done.manifest.counts) == {"ok": 3, "refused": 1, "error": 1}
    rows = {row.key: row for row in done.status()}
    assert rows["bad-b"].reason == "bad-b cannot be shouted"
    assert rows["boom-d"].reason == "ZeroDivisionError: an error nobody foresaw"
    assert {key: sample["word.txt"] for key, sample in done.reader()} == {"a": b"A", "c": b"C", "e": b"E"}
    quarantined = b"".join(done.store().read(i.key) for i in done.store().list("quarantine/"))
    assert b"bad-b" in quarantined
    assert b"boom-d" in quarantined


def test_a_rerun_computes_nothing(tmp_path: Path) -> None:
    root, trace = open_store(tmp_path / "root"), tmp_path / "trace"
    first = build(root, trace, ["a", "b", "c"])
    trace.unlink()
    second = build(root, trace, ["a", "b", "c"])
    assert second.reused
    assert second.manifest == first.manifest
    assert not trace.exists()


def test_another_input_computes_only_the_rows_that_are_new(tmp_path: Path) -> None:
    root, trace = open_store(tmp_path / "root"), tmp_path / "trace"
    first = build(root, trace, ["a", "b", "c"])
    trace.unlink()
    second = build(root, trace, ["a", "x", "c"])
    assert trace.read_text().split() == ["x"]
    assert second.uri != first.uri
    with pytest.raises(ValueError, match="several generations"):
        find_generation(root, "words", None)
    assert find_generation(root, "words", second.uri).manifest == second.manifest


def test_an_interrupted_generation_goes_on_where_it_was(tmp_path: Path) -> None:
    root, trace = open_store(tmp_path / "root"), tmp_path / "trace"
    trace.with_suffix(".fail").touch()
    with pytest.raises(UnitFailed, match="the whole unit"):
        build(root, trace, ["a", "b", "c"], workers=1)  # one worker: the first unit ends before the second fails
    finished = {info.key.split("/", 2)[2] for info in root.list("words/")}
    assert "manifest.json" not in finished
    assert "units/000000.json" in finished
    uninterrupted = build(open_store(tmp_path / "other"), tmp_path / "other-trace", ["a", "b", "c"])
    for path in (trace, trace.with_suffix(".fail")):
        path.unlink()
    again = build(root, trace, ["a", "b", "c"])
    assert trace.read_text().split() == ["c"]
    assert again.manifest == uninterrupted.manifest


def test_too_many_bad_rows_commit_nothing(tmp_path: Path) -> None:
    root, trace = open_store(tmp_path / "root"), tmp_path / "trace"
    with pytest.raises(TooManyBadRows, match=r"2 of 4 inputs failed .*2 refused.* more than the allowed 25%"):
        build(root, trace, ["a", "bad-1", "bad-2", "d"], limit=0.25)
    with pytest.raises(TooManyBadRows, match="none of 1 inputs"):
        build(root, trace, ["bad-1"], limit=1.0)
    assert not [info for info in root.list() if info.key.endswith("manifest.json")]
    with pytest.raises(ValueError, match="no finished words"):
        find_generation(root, "words", None)


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    one, two = (open_store(tmp_path / name) for name in ("one", "two"))
    words = ["a", "bad-b", "c", "d"]
    first, second = build(one, tmp_path / "t1", words), build(two, tmp_path / "t2", words)
    assert first.manifest.digest == second.manifest.digest
    names = [info.key for info in one.list()]
    assert names == [info.key for info in two.list()]
    assert all(one.read(name) == two.read(name) for name in names)
    assert replace(first, uri="", seconds=0, parts={}) == replace(second, uri="", seconds=0, parts={})


@pytest.mark.faults
def test_rows_that_hang_crash_or_eat_memory_cost_themselves_only(tmp_path: Path) -> None:
    words = ["a", "hang-b", "c", "segfault-d", "e", "eat-f", "stumble-g", "h"]
    limits = RowLimits(row_seconds=1.0, row_memory=200 << 20)
    root, trace = open_store(tmp_path / "root"), tmp_path / "trace"
    done = build(root, trace, words, size=8, workers=1, limits=limits)
    assert dict(done.manifest.counts) == {"ok": 5, "timeout": 1, "crash": 1, "out_of_memory": 1}
    rows = {row.key: row for row in done.status()}
    assert rows["hang-b"].reason == "list/hang-b: it took more than 1 s and was stopped"
    assert "ended with signal SIGSEGV, 2 times of 2" in rows["segfault-d"].reason
    assert rows["eat-f"].status == "out_of_memory"
    # What was made before a crash is not made again; the row that stumbled once is tried once more.
    tries = trace.read_text().split()
    assert {word: tries.count(word) for word in words} == {
        "a": 1, "hang-b": 1, "c": 1, "segfault-d": 2, "e": 1, "eat-f": 1, "stumble-g": 2, "h": 1,
    }  # fmt: skip
    # The good rows lie in a shard as if nothing had happened.
    assert [key for key, _ in done.reader()] == ["a", "c", "e", "stumble-g", "h"]


def test_a_redrive_tries_again_what_failed_and_copies_the_rest(tmp_path: Path) -> None:
    words = ["a", "later-b", "c", "bad-d"]
    root, trace = open_store(tmp_path / "root"), tmp_path / "trace"
    first = build(root, trace, words, size=4, workers=1)
    assert dict(first.manifest.counts) == {"ok": 2, "error": 1, "refused": 1}
    assert build(root, trace, words, size=4, redrive=("timeout",)).uri == first.uri  # nothing of that kind
    trace.with_suffix(".mended").touch()
    trace.unlink()
    second = build(root, trace, words, size=4, workers=1, redrive=("error",))
    assert trace.read_text().split() == ["later-b", "bad-d"]
    assert dict(second.manifest.counts) == {"ok": 3, "refused": 1}
    assert {row.key: row.attempt for row in second.status()} == {"a": 1, "later-b": 2, "c": 1, "bad-d": 2}
    # The same bytes as if nothing had ever failed, and what counts from now on.
    undisturbed = build(open_store(tmp_path / "other"), trace, words, size=4, workers=1)
    assert second.manifest.shards == undisturbed.manifest.shards
    assert build(root, trace, words, size=4).uri == second.uri
    assert build(root, trace, words, size=4, redrive=("error",)).uri == second.uri


@pytest.mark.slow
def test_a_redrive_takes_up_what_was_refused(tmp_path: Path) -> None:
    words = ["a", "later-b", "later-c", "d"]
    root, trace = open_store(tmp_path / "root"), tmp_path / "trace"
    for _ in range(2):
        with pytest.raises(TooManyBadRows, match="2 error"):
            build(root, trace, words, size=4, workers=1, limit=0.3)
    trace.with_suffix(".mended").touch()
    trace.unlink()
    done = build(root, trace, words, size=4, workers=1, limit=0.3, redrive=("error",))
    assert trace.read_text().split() == ["later-b", "later-c"]
    assert dict(done.manifest.counts) == {"ok": 4}
