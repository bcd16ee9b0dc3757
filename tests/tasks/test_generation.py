"""A generation of a stage: counts, reasons, reuse, limits. The rows are real files; only the computation is small."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from storage.canonical import digest_of
from storage.stores import Store, open_store
from storage.units import Unit
from tasks.generation import (
    EarlierRows,
    Generation,
    Plan,
    Row,
    RowFailed,
    TooManyBadRows,
    build_generation,
    find_generation,
    write_unit,
)
from tasks.ray_pool import UnitFailed

pytestmark = pytest.mark.usefixtures("ray_running")
FIELDS = ("word.txt",)


@dataclass(frozen=True)
class Words:
    index: int
    words: tuple[str, ...]


class Shouter:
    """Upper-cases words; refuses some in each of the ways a row can fail. Leaves a trace of every word it computes."""

    def __init__(self, trace: str, home: str, earlier: tuple[str, ...]) -> None:
        self.trace, self.home, self.earlier = Path(trace), open_store(home), EarlierRows(earlier, FIELDS)

    def process(self, unit: Words) -> Unit:
        if unit.index == 1 and self.trace.with_suffix(".fail").exists():
            raise MemoryError("the whole unit")
        rows = [Row(key=word, source=f"list/{word}", content_key=digest_of([word, "v1"])) for word in unit.words]
        return write_unit(self.home, "words", unit.index, rows, FIELDS, self.shout, self.earlier)

    def shout(self, row: Row) -> Mapping[str, bytes]:
        with self.trace.open("a") as file:
            file.write(f"{row.key}\n")
        if row.key.startswith("bad"):
            raise RowFailed("refused", f"{row.key} cannot be shouted")
        if row.key.startswith("boom"):
            raise ZeroDivisionError("an error nobody foresaw")
        return {"word.txt": row.key.upper().encode()}


def build(
    root: Store,
    trace: Path,
    words: list[str],
    *,
    limit: float = 0.5,
    size: int = 2,
    config: str = "c",
    workers: int = 2,
) -> Generation:
    units = [Words(i // size, tuple(words[i : i + size])) for i in range(0, len(words), size)]
    plan = Plan(
        stage="words", fields=FIELDS, config_digest=config, inputs={"words": digest_of(words)}, bad_share_limit=limit,
        total=len(words),
    )  # fmt: skip

    def make(home: str, earlier: tuple[str, ...]) -> Any:
        return partial(Shouter, str(trace), home, earlier)

    return build_generation(root, plan, units, make, workers=workers)


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
    assert replace(first, uri="", seconds=0) == replace(second, uri="", seconds=0)
