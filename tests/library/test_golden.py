"""Training steps are those that tests/golden.py recorded, however the code is cut."""

import dataclasses
import functools
import itertools

import keras
import numpy as np
import pytest

import samkeras
from tests import golden
from tests.golden import CASES, MIDDLE

# Where the last bits may differ. float32 has 6e-8; SAM and momentum let an error grow.
TOLERANCE = 1e-6
# A number rounded to half precision, as all activations are there, may fall to the
# other side: 2^-8 and 2^-11 of single numbers, of which the weights move by a part.
HALF_TOLERANCE = {"mixed_bfloat16": 1e-2, "mixed_float16": 1e-3}


@pytest.fixture(scope="module")
def recorded() -> tuple[dict[str, golden.Numbers], dict[str, str]]:
    return golden.load()


@functools.cache
def halves(name: str) -> tuple[golden.Numbers, list[np.ndarray]]:
    return golden.train_halves(CASES[name])


def tolerance_of(name: str) -> float:
    return HALF_TOLERANCE.get(CASES[name].policy, TOLERANCE)


def assert_close(actual: golden.Numbers, expected: golden.Numbers, name: str) -> None:
    assert actual.keys() == expected.keys()
    for key, values in expected.items():
        difference = golden.relative_difference(actual[key], values)
        assert difference < tolerance_of(name), key


@pytest.mark.parametrize("name", CASES)
def test_steps_are_the_recorded_ones(name, recorded):
    """To the bit on JAX where they were recorded, else to rounding."""
    cases, environment = recorded
    actual = halves(name)[0]
    assert_close(actual, cases[name], name)
    on_jax = keras.backend.backend() == "jax"
    if on_jax and environment == golden.describe_environment():
        assert golden.is_equal(actual, cases[name])


@pytest.mark.parametrize(
    "name",
    [
        "random",
        "accumulation_clipnorm",
        "float16_skipped",
        "norm_dropout_groups",
        "fused",
    ],
)
def test_resumed_steps_are_the_uninterrupted_ones(name):
    """To the bit: all that steps depend on is in the variables."""
    numbers, state = halves(name)
    start = MIDDLE // CASES[name].steps_per_call
    rest = {key: values[start:] for key, values in numbers.items()}
    assert golden.is_equal(golden.resume(CASES[name], state), rest)


def test_all_cases_are_recorded(recorded):
    assert recorded[0].keys() == CASES.keys()


def test_no_two_cases_are_alike(recorded):
    """So that a feature that is lost makes a difference, larger than any tolerance.

    Half precision stays near float32: there a lost policy shows in the bits alone.
    """
    half = {"bfloat16", "float16"}
    ends = {name: numbers["weights"][-1:] for name, numbers in recorded[0].items()}
    for (name, end), (other, other_end) in itertools.combinations(ends.items(), 2):
        if end.shape == other_end.shape:
            least = 0 if {name, other} <= {"sam", *half} else 1e-3
            difference = golden.relative_difference(end, other_end)
            assert difference > least, (name, other)


@pytest.mark.parametrize("name", ["norm", "two_outputs", "tokens", "convolution"])
def test_a_case_depends_on_its_radius(name, recorded):
    plain = dataclasses.replace(CASES[name], method=lambda: samkeras.SAM(0.0))
    actual = golden.train(golden.start(plain), plain, range(MIDDLE))["weights"]
    expected = recorded[0][name]["weights"][:MIDDLE]
    least = 2 * tolerance_of(name)
    assert golden.relative_difference(actual, expected) > max(least, 1e-3)


def test_large_loss_scales_skip_the_first_steps(recorded):
    """Some, not all of them."""
    weights = recorded[0]["float16_skipped"]["weights"]
    moved = np.any(weights[1:] != weights[:-1], axis=1)
    assert not moved[0]
    assert moved[-1]


def test_differences_are_seen(recorded):
    """The last bit of one number; and a part in 1e5 of one step's."""
    numbers = recorded[0]["sam"]
    weights = numbers["weights"].copy()
    weights[3, 2] = np.nextafter(weights[3, 2], np.float32(np.inf))
    assert not golden.is_equal({**numbers, "weights": weights}, numbers)
    weights = numbers["weights"].copy()
    weights[3] *= 1 + 1e-5
    with pytest.raises(AssertionError):
        assert_close({**numbers, "weights": weights}, numbers, "sam")
