"""Which runs are about a person, and what is left of their parameters."""

from typing import Any

import pytest

from tasks.redaction import BLANK, Named

SHA = "5" * 64
ADA = Named(identity_id="ada", uris=frozenset({"s3://b/ada.jpg"}), digests=frozenset({SHA}))


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        ({"identity_id": "ada"}, True),
        ({"identity_ids": ["bo", "ada"]}, True),
        ({"identity_uri": "s3://b/root/identities/ada/1"}, True),
        ({"edits_uri": "s3://b/identities/ada/1/edits/2"}, True),
        ({"image_uri": "s3://b/ada.jpg"}, True),
        ({"image_uri": "s3://b/ada.jpg", "identity_id": "bo"}, False),
        ({"source": f"s3://b/{SHA}"}, True),
        ({"identity_id": "ada-2"}, False),
        ({"identity_id": "canada"}, False),
        ({"identity_uri": "s3://b/root/identities/ada-2/1"}, False),
        ({"source": "/home/ada/photos"}, False),
        ({"preset": "ada", "identity_id": "bo"}, False),
        ({"image_uri": "other/s3://b/ada.jpg"}, False),
        ({}, False),
    ],
)
def test_a_run_is_about_a_person_by_its_identity_or_photograph(parameters: dict[str, Any], found: bool) -> None:
    assert ADA.by(parameters) is found


def test_strings_that_name_the_person_are_blanked_and_others_are_not() -> None:
    before = {
        "identity_id": "ada", "identity_ids": ["bo", "ada"], "edits": [{"name": "left", "yaw": 3}], "preset": "ada", "n": 1,
        "identity_uri": "s3://b/identities/ada/1", "image_uri": "s3://b/ada.jpg", "source": "/home/ada/photos",
    }  # fmt: skip
    after = {
        **before, "identity_id": BLANK, "identity_ids": ["bo", BLANK], "identity_uri": BLANK, "image_uri": BLANK,
    }  # fmt: skip
    assert ADA.blanked(before) == after


@pytest.mark.parametrize(("line", "found"), [("edits of ada: 3", True), ("canada", False), ("read s3://b/ada.jpg", True)])
def test_lines_of_a_log_are_counted_by_the_name_as_a_whole(line: str, found: bool) -> None:
    assert ADA.mentioned(line) is found
