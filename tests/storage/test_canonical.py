import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.canonical import canonical_json, digest_of, sha256_of

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_round_trip(value: object) -> None:
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    backwards = dict(reversed(value.items()))
    assert canonical_json(value) == canonical_json(backwards)
    assert digest_of(value) == digest_of(backwards)


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    names: tuple[str, ...] = ()


def test_form() -> None:
    assert canonical_json({"b": [1, 2.5, None, True], "a": Point(3, ("ß",))}) == (
        '{"a":{"names":["ß"],"x":3},"b":[1,2.5,null,true]}'.encode()
    )
    assert len(digest_of({})) == 16
    assert len(digest_of({}, 64)) == 64
    # FIPS 180-4 appendix: SHA-256 of "abc".
    assert sha256_of(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    "value",
    [float("nan"), [float("inf")], {"a": {1: 2}}, {"a": Path("x")}, b"bytes", {1, 2}, "\ud800", object(), Point],
)
def test_what_has_no_canonical_form(value: object) -> None:
    with pytest.raises(ValueError):
        canonical_json(value)


@pytest.mark.parametrize("length", [0, 3, 130])
def test_digest_lengths(length: int) -> None:
    with pytest.raises(ValueError, match="even number"):
        digest_of(1, length)
