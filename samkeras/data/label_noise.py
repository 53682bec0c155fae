"""Symmetric label noise (paper, section 5.1)."""

import numpy as np


def add_label_noise(
    labels: np.ndarray, rate: float, num_classes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Replaces exactly round(rate * n) of n labels, each by another class at random.

    Labels of any shape: one an example, one a token, or several binary ones an example,
    which are flipped. Missing labels, NaN or negative, are neither counted nor changed.

    Args:
        labels: int or float[example, ...], classes from 0 to num_classes - 1.
        rate: fraction of labels to replace, in [0, 1].
        num_classes: number of classes, at least 2.
        seed: seed of the choice.

    Returns:
        The noisy labels, of the same type and shape (`labels` is left as it is), and
        where they are: int[noisy label, axis of labels], in order.
    """
    present = np.flatnonzero(labels >= 0)  # which NaN is not
    positions, shifts = draw_label_noise(len(present), rate, num_classes, seed)
    chosen = present[positions]
    noisy = labels.copy()
    noisy.flat[chosen] = (labels.flat[chosen] + shifts) % num_classes
    return noisy, np.stack(np.unravel_index(chosen, labels.shape), axis=1)


def draw_label_noise(
    num_labels: int, rate: float, num_classes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which labels become noisy, and how: label -> (label + shift) % num_classes.

    Args:
        num_labels: number of labels.
        rate: fraction of labels to replace, in [0, 1].
        num_classes: number of classes, at least 2.
        seed: seed of the choice.

    Returns:
        The positions of exactly round(rate * num_labels) labels, in order, and their
        shifts, from 1 to num_classes - 1: int64[noisy label] each.
    """
    generator = np.random.default_rng(seed)
    count = round(rate * num_labels)
    positions = np.sort(generator.permutation(num_labels)[:count])
    return positions, generator.integers(1, num_classes, size=count)
