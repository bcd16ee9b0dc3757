"""When a training is given up."""

import pytest

from tasks.train_guard import DIVERGED, guard_validation


def test_a_training_whose_validation_goes_up_for_good_is_given_up() -> None:
    best = {"step": 3500, "loss": 0.214}
    guard_validation(500, 9.0, None)
    guard_validation(4000, 0.214 * (DIVERGED - 0.01), best)
    with pytest.raises(FloatingPointError, match=r"step 4000: .* is 0.548, and it was 0.214 at step 3500: .* in best/"):
        guard_validation(4000, 0.548, best)
