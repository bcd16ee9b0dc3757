"""Finished evaluations below a root: find one, list them, accept one, write the report of one."""

from collections.abc import Iterable
from pathlib import Path

from storage.records import Record, committed, read_record
from storage.stores import Store
from tasks.evaluation_history import History, Point, series_of
from tasks.evaluation_pages import write_page
from tasks.evaluation_tables import NOTHING, all_tables
from tasks.workspace import store_at


def history_points(uri: str) -> list[Point]:
    """The runs that compare with an evaluation, itself included, oldest first."""
    return _history(_root_of(uri), committed(uri)).points()


def find_evaluation(root: str | None, name: str | None) -> str:
    """URI of the evaluation whose name begins with `name`; of the one run last, without.

    Raises:
        ValueError: none, or several.
    """
    store = store_at(root)
    known = {point.evaluation: point.time for point, _ in _all_points(store)}
    if name is None:
        if not known:
            raise ValueError(f"{store.uri} has no evaluation by a protocol: run `instaface evaluate` first")
        return store.child(f"evaluations/{max(known, key=lambda one: known[one])}").uri
    home = store.child("evaluations")
    # Measures of one identity's edits lie in the same folder and have no report.
    found = [one for one in home.folders() if one.startswith(name) and _by_protocol(home.child(one))]
    if len(found) != 1:
        listed = ", ".join(sorted(found or known)) or "none"
        raise ValueError(f"evaluation={name!r} names {len(found)} evaluations of {store.uri}; there are: {listed}")
    return home.child(found[0]).uri


def list_evaluations(root: str | None) -> list[tuple[str, ...]]:
    """(time, evaluation, protocol, preset, model, images, accepted) of every run, oldest first."""
    store = store_at(root)
    rows: list[tuple[str, ...]] = []
    for point, _ in sorted(_all_points(store), key=lambda pair: pair[0].time):
        facts = committed(f"{store.uri}/evaluations/{point.evaluation}").facts
        rows.append(
            (point.time, point.evaluation, str(facts["protocol"]), str(facts["preset"]), str(facts["base"]),
             str(facts["images"]), "yes" if point.accepted else "no")
        )  # fmt: skip
    return rows


def accept_evaluation(root: str | None, name: str | None) -> str:
    """Take an evaluation as the new standard of its series; returns its URI."""
    uri = find_evaluation(root, name)
    _history(store_at(root), committed(uri)).accept(uri.rpartition("/")[2])
    return uri


def write_report(uri: str, out: Path) -> Path:
    """Page, tables, rows, manifest and pictures of an evaluation, into a folder; returns the page's path."""
    record = committed(uri)
    return write_page(record, history_points(uri), out)


def show_evaluation(uri: str) -> tuple[str, tuple[str, ...], Iterable[tuple[str, ...]]]:
    """The first table of an evaluation, for a terminal: title, header, rows."""
    tables = all_tables(committed(uri).facts)
    first = tables[0]
    return first.title, first.header, first.rows or ((NOTHING,) * len(first.header),)


def _by_protocol(home: Store) -> bool:
    record = read_record(home)
    return record is not None and record.facts.get("kind") == "protocol"


def _root_of(uri: str) -> Store:
    return store_at(uri.rstrip("/").rpartition("/evaluations/")[0])


def _history(root: Store, record: Record) -> History:
    named = (record.facts[name] for name in ("protocol", "manifest", "preset", "parameters", "subject"))
    return History(root, series_of(*named))


def _all_points(root: Store) -> list[tuple[Point, str]]:
    """Every run of every series."""
    home = root.child("evaluations/history")
    return [(point, series) for series in home.folders() for point in History(root, series).points()]
