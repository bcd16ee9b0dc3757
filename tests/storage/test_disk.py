"""Folders that several writers make and remove at the same time; names that are taken by something else."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.disk import make_folders, remove_empty_folders, staging_folder


def four_at_once(work: Callable[[], None], times: int) -> None:
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(lambda: [work() for _ in range(times)]) for _ in range(4)]:
            future.result()


def test_staging_folders_come_and_go_beside_one_another(tmp_path: Path) -> None:
    def stage() -> None:
        with staging_folder(tmp_path / ".staging") as folder:
            (folder / "object").write_bytes(b"x")

    four_at_once(stage, 500)
    assert list(tmp_path.iterdir()) == []


def test_folders_are_made_while_others_remove_empty_ones(tmp_path: Path) -> None:
    def make_and_remove() -> None:
        make_folders(tmp_path / "a" / "b")
        remove_empty_folders(tmp_path / "a" / "b", tmp_path)

    four_at_once(make_and_remove, 500)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["file", "dangling link"])
def test_a_name_that_is_taken_is_an_error_not_a_wait(tmp_path: Path, what: str) -> None:
    taken = tmp_path / "taken"
    if what == "file":
        taken.write_bytes(b"x")
    else:
        taken.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        make_folders(taken)
    with pytest.raises((FileExistsError, NotADirectoryError)), staging_folder(taken):
        pass
