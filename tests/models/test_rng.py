import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.rng import numpy_generator, seed_of, torch_generator

PARTS = st.lists(st.one_of(st.integers(), st.text(max_size=20)), min_size=1, max_size=5)


@given(PARTS, PARTS)
def test_seeds_differ_exactly_when_their_parts_do(a: list[str | int], b: list[str | int]) -> None:
    same = [(type(x), x) for x in a] == [(type(x), x) for x in b]
    assert (seed_of(*a) == seed_of(*b)) == same
    assert 0 <= seed_of(*a) < 2**63


def test_parts_do_not_run_into_each_other() -> None:
    assert len({seed_of("ab", "c"), seed_of("a", "bc"), seed_of("abc"), seed_of("ab", "c", "")}) == 4
    assert seed_of(1) != seed_of("1")


def test_a_seed_is_the_same_for_ever() -> None:
    """Checkpoints and manifests depend on it: this number must not change between versions."""
    assert seed_of("run", 7, "photo-1", "noise") == 5569063805879637703


def test_generators_are_repeatable() -> None:
    assert torch.equal(*(torch.randn(5, generator=torch_generator("a", 1)) for _ in range(2)))
    assert np.array_equal(*(numpy_generator("a", 1).normal(size=5) for _ in range(2)))
    first, second = (torch.randn(5, generator=torch_generator("a", i)) for i in (1, 2))
    assert not torch.equal(first, second)


def test_purposeless_and_odd_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one part"):
        seed_of()
    with pytest.raises(TypeError, match="float"):
        seed_of(1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="bool"):
        seed_of(True)
