"""How values are written."""

import numpy as np
import pytest

from samkeras.experiment.options.values import as_text, plain_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (2.0, "2"),
        (0.1, "0.1"),
        (3.3333333, "3.3333333"),  # all of its digits
        (np.float64(1 / 3), "0.3333333333333333"),
        (1e-8, "1e-08"),
        (12345678.0, "12345678.0"),
        (float("inf"), "inf"),
        ("mnist_5k", "mnist_5k"),
        ((0.5, 0.75), "[0.5,0.75]"),
        ([[True, None], []], "[[true,null],[]]"),
    ],
)
def test_a_value_is_short_and_exact(value, text):
    assert as_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (False, "false"),
        (2.0, "2.0"),
        (1e-8, "1e-08"),
        ((0.5, 0.75), "(0.5, 0.75)"),
        ("mnist_5k", "mnist_5k"),
    ],
)
def test_what_is_recorded_of_a_value_stays_what_it_was(value, text):
    assert plain_text(value) == text
