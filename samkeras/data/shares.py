"""What of a set is to validate on: a part of it, or a share of what is to train on."""

from collections.abc import Iterable

import numpy as np

from samkeras.errors import InputError

# What parts to validate on are called, files and folders, in capitals or not. A set
# that has several is validated on the first of these: one called test is for the end.
VALIDATION = ("val", "valid", "validation", "dev", "testa", "test", "testing", "testb")
HELD_OUT = 5  # one in so many


def choose_each(labels: np.ndarray) -> np.ndarray:
    """One in five of each class, always the same ones: bool[label].

    Args:
        labels: classes of examples in an order that is random.
    """
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        (places,) = np.nonzero(labels == label)
        chosen[places[HELD_OUT - 1 :: HELD_OUT]] = True
        if len(places) < HELD_OUT:
            chosen[places[1:2]] = True  # of one alone, it is to learn
    return chosen


def describe_share(name: str, chosen: np.ndarray, what: str) -> str:
    """What to say of examples that are chosen to validate on.

    Raises:
        InputError: there are none.
    """
    if not chosen.any():
        raise InputError(
            f"--dataset {name} must have two {what} or more of a class, one of them to "
            f"validate on. Received: {len(chosen):,} {what}"
        )
    return (
        f"{name} has no part to validate on: one in {HELD_OUT} is, "
        f"{np.count_nonzero(chosen):,} of {len(chosen):,} {what}"
    )


def describe_left_out(name: str, chosen: str, left_out: Iterable[str]) -> list[str]:
    """What to say of parts that are neither learnt nor validated on, if there are
    some.

    Args:
        name: the data set's.
        chosen: what it is validated on.
        left_out: the other parts.
    """
    others = ", ".join(left_out)
    return [f"{name} is validated on {chosen}; left out: {others}"] if others else []
