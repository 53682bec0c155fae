"""What keras keeps to itself and has no public name for."""

import contextlib
from collections.abc import Generator
from typing import Any

import keras
from keras.src.backend.common.global_state import get_global_attribute


def is_saving_hdf5() -> bool:
    """Whether keras asks for a config to write into an HDF5 file."""
    return bool(get_global_attribute("use_legacy_config", False))


def find_place(optimizer: Any, variable: Any) -> int:
    """A weight's place among those of an optimizer, whose step has it as keras or the
    backend holds it."""
    return optimizer._get_variable_index(variable)


@contextlib.contextmanager
def shapes_alone() -> Generator[None]:
    """A scope whose new variables have shapes and never values: no memory, no time."""

    def waiting() -> list[keras.Variable]:
        return get_global_attribute("uninitialized_variables") or []

    count = len(waiting())
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        del waiting()[count:]  # else keras would make their values in its next scope
