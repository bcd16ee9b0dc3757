"""Which texts name a person, and what is left of them."""

import pytest

from tasks.redaction import BLANK, blanked, mentions


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ada", True),
        ("s3://b/identities/ada/1", True),
        ("canada", False),
        ("ada-2", False),
        ("x=ada,bo", True),
        ("", False),
    ],
)
def test_a_name_counts_as_a_whole(text: str, found: bool) -> None:
    assert mentions(text, "ada") is found


def test_strings_that_name_the_person_are_blanked_wherever_they_are() -> None:
    before = {"identity_id": "ada", "edits": [{"name": "left", "yaw": 3}], "ids": ["bo", "ada"], "n": 1}
    after = {"identity_id": BLANK, "edits": [{"name": "left", "yaw": 3}], "ids": ["bo", BLANK], "n": 1}
    assert blanked(before, ["ada"]) == after
