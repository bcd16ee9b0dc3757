"""`instaface evaluate` as a user runs it: real Prefect and Ray, two synthetic people, untrained networks."""

import json
import re
from pathlib import Path

import pytest

from storage.records import committed
from storage.stores import open_store
from tasks.evaluation_history import History, Watched
from tests.instaface_command import run_instaface

pytestmark = pytest.mark.slow
SMALL = ("--protocol", "smoke", "--preset", "debug", "--model", "untrained", "--people", "2", "--each", "1")


def test_smoke_makes_a_report_finds_itself_finished_compares_a_folder_and_fails_when_worse(tmp_path: Path) -> None:
    first = run_instaface("evaluate", *SMALL, "--root", "store", "--out", "report", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    page = (tmp_path / "report" / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page), "the page stands alone"
    assert "not available" in page
    assert "do not compare in absolute terms" in page
    assert "the paper (its own data)" in page
    rows = [json.loads(line) for line in (tmp_path / "report" / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 6 * 5
    assert all((tmp_path / "report" / f"grid-{mode}.png").stat().st_size > 10_000 for mode in ("pose", "light"))
    assert (tmp_path / "report" / "rows.parquet").read_bytes()[:4] == b"PAR1"

    asked = run_instaface(
        "evaluate", "manifest", "--protocol", "smoke", "--preset", "debug", "--people", "2", "--each", "1", "--out", "asked",
        cwd=tmp_path,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    assert (tmp_path / "asked" / "manifest.json").read_bytes() == (tmp_path / "report" / "manifest.json").read_bytes()
    given = ("--root", "store", "--out", "other", "--manifest", "asked/manifest.json", "--images", "renders=asked/asked")
    both = run_instaface("evaluate", *SMALL, *given, cwd=tmp_path)
    assert both.returncode == 1
    assert "says who is edited and how: leave people, each out" in " ".join(both.stderr.split())
    theirs = run_instaface("evaluate", *SMALL[:-4], *given, cwd=tmp_path)
    assert theirs.returncode == 0, theirs.stderr
    assert "renders" in (tmp_path / "other" / "tables.md").read_text()
    least = run_instaface("evaluate", *SMALL, "--methods", "copy", "--root", "store", "--out", "least", cwd=tmp_path)
    assert least.returncode == 0, f"what is watched is another method: {least.stderr}"
    (evaluation,) = [
        home for home in open_store(tmp_path / "store").child("evaluations").folders() if _methods(tmp_path, home) == 5
    ]

    histories = [
        History(open_store(tmp_path / "store"), series)
        for series in open_store(tmp_path / "store").child("evaluations/history").folders()
    ]
    assert sorted(len(history.points()) for history in histories) == [1, 2], "what is watched makes the series"
    (history,) = [one for one in histories if len(one.points()) == 2]
    assert [point.accepted for point in history.points()] == [True, True]
    better = tuple(
        Watched(name=one.name, mean=one.mean + 0.5, low=one.mean + 0.4, high=one.mean + 0.6)
        if "ssim" in one.name
        else one
        for one in history.points()[0].figures
    )
    history.add("0" * 16, better)
    worse = run_instaface("evaluate", *SMALL, "--root", "store", "--out", "report", cwd=tmp_path)
    assert worse.returncode == 1
    assert "worse than the last accepted evaluation: pose/ssim_truth" in " ".join(worse.stderr.split())
    assert "finished before, nothing redone" in worse.stderr
    assert not history.points()[-1].accepted
    accepted = run_instaface("evaluate", "accept", evaluation, "--root", "store", cwd=tmp_path)
    assert accepted.returncode == 0, accepted.stderr
    assert history.points()[-1].accepted
    shown = run_instaface("evaluate", "report", evaluation, "--root", "store", "--out", "again", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert (tmp_path / "again" / "report.html").read_text().count("<svg") == 1


def _methods(tmp_path: Path, home: str) -> int:
    store = open_store(tmp_path / "store").child(f"evaluations/{home}")
    return len(committed(store.uri).facts["methods"]) if store.stat("record.json") is not None else 0
