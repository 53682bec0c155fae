"""Sparsity at initialization: scores, thresholds and masks (paper, section 5.2).

Scores are of kernels only: of dense, convolutional, recurrent and embedding layers.
Biases and parameters of normalization are never pruned.
"""

# Users pass what annotations forbid, and are told so.
# pyright: reportUnnecessaryIsInstance=false

from collections.abc import Iterable
from numbers import Real
from typing import Any

import keras
import numpy as np
from keras import ops

from samkeras.errors import nearest
from samkeras.hyperparameter import is_integer
from samkeras.model import SAMModel

METHODS = ("snip", "random", "magnitude")
KERNEL_NAMES = ("kernel", "embeddings")

Batch = tuple[Any, ...]


def prune_at_init(
    model: SAMModel,
    method: str,
    sparsity: float,
    data: Batch | Iterable[Batch] | None = None,
    *,
    seed: int = 0,
    allow_empty_layers: bool = False,
) -> None:
    """Prunes a model before its training: the pruned weights stay zero for ever.

    Exactly round((1 - sparsity) * n) of the n entries of all kernels are kept, those
    with the highest scores; of equal scores, the first ones. The paper's authors keep
    n - int(sparsity * n) - 1, for random of each kernel: as many, or one less.

        snip       |w * dL/dw|, kept by one threshold over all kernels
                   (Lee et al. 2019, equation 5)
        random     uniform, the same fraction of each kernel to within one weight
        magnitude  |w|, the same fraction of each kernel to within one weight

    Args:
        model: a built SAMModel, for snip a compiled one, not trained yet.
        method: "snip", "random" or "magnitude".
        sparsity: fraction of the kernels' entries to prune, 0 <= sparsity < 1.
        data: for snip, a batch (x, y) or (x, y, sample_weight), or an iterable of
            such batches, which score as one large batch.
        seed: seed of random's scores. Default 0.
        allow_empty_layers: whether a kernel may lose all its weights. Default False.

    Raises:
        TypeError: `model` is not a SAMModel.
        ValueError: an argument is out of its range, the model is not ready, a score
            is not finite, or a kernel would lose all its weights.

    Examples:
        >>> samkeras.prune_at_init(model, "snip", sparsity=0.5, data=(x, y))
        >>> int(np.count_nonzero(model.get_weights()[0]))  # of 4
        2
    """
    if not isinstance(model, SAMModel):
        raise TypeError(f"model must be a samkeras.SAMModel. Received: {model!r}")
    if method not in METHODS:
        raise ValueError(
            f"method must be one of {', '.join(METHODS)}. "
            f"Received: {method!r}{nearest(str(method), METHODS)}"
        )
    if not is_integer(seed) or seed < 0:
        raise ValueError(f"seed must be an integer >= 0. Received: {seed!r}")
    _check_ready(model, method)
    kernels = find_kernels(model)
    sizes = [int(np.prod(kernel.shape)) for kernel in kernels]
    num_kept = count_kept(sum(sizes), sparsity)
    if method == "snip":
        scores = np.concatenate([np.ravel(s) for s in _score_snip(model, data)])
        kept = np.split(keep_highest(scores, num_kept), np.cumsum(sizes)[:-1])
    else:
        if method == "random":
            generator = np.random.default_rng(seed)
            scores = [generator.random(size) for size in sizes]
        else:
            scores = [np.abs(np.ravel(ops.convert_to_numpy(k))) for k in kernels]
        counts = apportion(num_kept, sizes)
        kept = list(map(keep_highest, scores, counts))
    empty = [k.path for k, mask in zip(kernels, kept, strict=True) if not mask.any()]
    if empty and not allow_empty_layers:
        raise ValueError(
            f"{method} at sparsity {sparsity:g} leaves no weight of "
            f"{', '.join(empty)}; lower the sparsity"
            f"{', take random or magnitude' if method == 'snip' else ''}, or set "
            "allow_empty_layers"
        )
    shaped = [m.reshape(k.shape) for k, m in zip(kernels, kept, strict=True)]
    model.set_masks(list(zip(kernels, shaped, strict=True)))


def find_kernels(model: keras.Model) -> list[keras.Variable]:
    """The trainable weights that can be pruned."""
    return [v for v in model.trainable_variables if v.name.endswith(KERNEL_NAMES)]


def count_kept(size: int, sparsity: float) -> int:
    """How many of `size` entries a sparsity keeps: round((1 - sparsity) * size).

    Raises:
        ValueError: `sparsity` is not in [0, 1).
    """
    is_number = isinstance(sparsity, Real) and not isinstance(sparsity, bool)
    if not is_number or not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be >= 0 and < 1. Received: {sparsity!r}")
    return round((1 - sparsity) * size)


def apportion(total: int, sizes: list[int]) -> list[int]:
    """Splits `total` in proportion to `sizes`, each share rounded down or up.

    The largest remainders are rounded up, of equal ones the first, so that the shares
    sum up exactly.
    """
    whole = sum(sizes)
    shares = [total * size // whole for size in sizes]
    remainders = [total * size % whole for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: -remainders[i])
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares


def keep_highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Where the `count` highest scores are, of equal ones the first: bool[score]."""
    if count == 0:
        return np.zeros(len(scores), bool)
    threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
    kept = scores > threshold
    equal = np.flatnonzero(scores == threshold)
    kept[equal[: count - np.count_nonzero(kept)]] = True
    return kept


def _check_ready(model: SAMModel, method: str) -> None:
    if not model.built:
        raise ValueError("build the model before pruning it, such as by calling it")
    if model.masks is not None:
        raise ValueError("the model is pruned already")
    steps = 0 if model.optimizer is None else np.asarray(model.optimizer.iterations)
    if steps > 0:
        # Its momentum would go on moving the pruned weights.
        raise ValueError(
            "prune the model before its training, or compile it anew to start its "
            f"optimizer afresh. Received: {steps} steps"
        )
    if method == "snip" and not model.compiled:
        raise ValueError("compile the model before pruning by snip, which needs a loss")


def _score_snip(
    model: SAMModel, data: Batch | Iterable[Batch] | None
) -> list[np.ndarray]:
    """|w * dL/dw| of each kernel: float32, of its shape."""
    if data is None:
        raise ValueError("pruning by snip needs data: a batch (x, y)")
    batches = [data] if isinstance(data, tuple) else data
    gradients_of = model.make_gradient_function()
    sums, num_examples = None, 0
    for batch in batches:
        size = len(keras.tree.flatten(batch[0])[0])
        gradients = [size * ops.convert_to_numpy(g) for g in gradients_of(batch)]
        sums = gradients if sums is None else list(map(np.add, sums, gradients))
        num_examples += size
    if sums is None:
        raise ValueError("pruning by snip needs data, and there is no batch in it")
    by_weight = {
        id(weight): gradient / num_examples
        for weight, gradient in zip(model.trainable_variables, sums, strict=True)
    }
    scores = [
        np.abs(ops.convert_to_numpy(kernel) * by_weight[id(kernel)])
        for kernel in find_kernels(model)
    ]
    if not all(np.isfinite(score).all() for score in scores):
        raise ValueError(
            "snip's scores are not finite: check the data, or prune in float32"
        )
    return scores
