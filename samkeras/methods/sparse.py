"""SSAM: a perturbation of the weights that matter most."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Unpack

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from samkeras.hyperparameter import is_integer, is_number
from samkeras.methods.method import (
    Context,
    Perturbation,
    PerturbationOptions,
    Role,
    resize,
)

Tensor = Any


@keras.saving.register_keras_serializable(package="samkeras")
class SSAM(Perturbation):
    """Sparsified SAM by Fisher information (Mi et al. 2022, SSAM-F).

        epsilon = mask * rho * g / (||g||_2 + 1e-12)

    with the norm of all of g. The mask has the share 1 - sparsity of the weights whose
    Fisher information is largest, and is found anew every `mask_every` steps; up to the
    first time it has all of them. The authors square the gradients of single examples,
    in passes of their own. Here F is the sum of the squared gradients of the steps
    since the last mask, which needs no pass: with batches of one example it is the
    empirical Fisher information, with larger ones their mean counts for more in it.

    Args:
        rho: norm of epsilon before it is masked, a number >= 0 or a schedule. Default
            0.05, ours.
        sparsity: share of the weights that are not perturbed, >= 0 and < 1. Default
            0.5, that of most of the paper's results. The number of those that are is
            rounded up.
        mask_every: steps from one mask to the next, >= 1. Default 100, ours; the
            authors' are five epochs.
        options: those of `Perturbation`. The share is of the weights
            that `only` chooses, and that are not pruned.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: `rho` is neither a number nor a schedule.

    Examples:
        >>> model.compile("sgd", "mse", method=samkeras.SSAM(rho=0.1, sparsity=0.8))
    """

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.05,
        sparsity: float = 0.5,
        mask_every: int = 100,
        **options: Unpack[PerturbationOptions],
    ):
        super().__init__(rho, **options)
        if not is_number(sparsity, 0) or float(sparsity) >= 1:
            raise ValueError(
                "sparsity must be a number >= 0 and < 1. "
                f"Received: sparsity={sparsity!r}"
            )
        if not is_integer(mask_every) or mask_every < 1:
            raise ValueError(
                "mask_every must be an integer >= 1. "
                f"Received: mask_every={mask_every!r}"
            )
        self.sparsity = float(sparsity)
        self.mask_every = int(mask_every)

    def build(self, weights: list[keras.Variable], roles: Sequence[Role]) -> None:
        self._fisher = [self.add_state_like(w, "fisher") for w in weights]
        self._masks = [self.add_state_like(w, "mask", "bool") for w in weights]
        for mask in self._masks:
            mask.assign(ops.ones(mask.shape, "bool"))

    def epsilon(self, context: Context) -> list[Tensor]:
        epsilon = self.in_scope(context, resize, context.gradient)
        masks = map(ops.convert_to_tensor, self._masks)
        return [
            ops.where(mask, e, ops.zeros_like(e))
            for mask, e in zip(masks, epsilon, strict=True)
        ]

    def update(self, context: Context, result: list[Tensor]) -> None:
        context = self.restrict(context)
        fisher = [
            f + ops.square(ops.cast(g, f.dtype))
            for f, g in zip(self._fisher, context.gradient, strict=True)
        ]
        whole = [ops.ones_like(f) for f in fisher]
        count = sum(ops.sum(ops.cast(m, "int32")) for m in context.mask(whole))

        def rank() -> list[Tensor]:
            num_kept = ops.maximum(count - _take_share(self.sparsity, count), 1)
            return [_find_largest(fisher, num_kept)]

        # The branch gives a number alone: weights' sizes of it would be kept twice.
        is_due = ops.equal((context.step + 1) % self.mask_every, 0)
        (least,) = context.cond(is_due, rank, lambda: [ops.zeros((), "float32")])
        for f, mask, new in zip(self._fisher, self._masks, fisher, strict=True):
            # Of what has no information nothing is perturbed in any case.
            is_large = ops.logical_and(new >= ops.cast(least, new.dtype), new > 0)
            mask.assign(ops.where(is_due, is_large, ops.convert_to_tensor(mask)))
            f.assign(ops.where(is_due, ops.zeros_like(new), new))

    def get_config(self) -> dict[str, Any]:
        own = {"sparsity": self.sparsity, "mask_every": self.mask_every}
        return {**super().get_config(), **own}


def _take_share(share: float, count: Tensor) -> Tensor:
    """share * count rounded down, of int32 >= 0, in integers alone: float32 has not the
    digits, and JAX neither float64 nor int64.

    The share is the fraction that it was said as, 7/10 of 0.7, which is a little more
    than the float; of nine decimals it is exact."""
    fraction = Fraction(str(share)).limit_denominator(2**31 - 1)
    top, bottom = fraction.numerator, fraction.denominator

    def add(whole: Tensor, rest: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
        """whole + (rest + more) / bottom, where both are less than 1."""
        is_over = rest >= bottom - more
        rest = ops.where(is_over, rest - (bottom - more), rest + more)
        return whole + ops.cast(is_over, "int32"), rest

    # Of the count's leading bits, one more each time, from the 31st.
    def take_bit(number: Tensor, found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        whole, rest = found
        bit = ops.bitwise_and(ops.bitwise_right_shift(count, 30 - number), 1)
        return add(*add(2 * whole, rest, rest), bit * top)

    zeros = (ops.zeros((), "int32"), ops.zeros((), "int32"))
    whole, _ = ops.fori_loop(0, 31, take_bit, zeros)
    return whole


def _find_largest(tensors: list[Tensor], count: Tensor) -> Tensor:
    """The least of the largest numbers of tensors >= 0, as many as `count` says."""

    # They are in the order of their bits, by which it is found in 31 halvings: sorting
    # takes ten times as long.
    def halve(_: Tensor, ends: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        low, high = ends
        middle = low + (high - low) // 2 + (high - low) % 2
        number = ops.view(middle, "float32")
        reached = sum(
            ops.sum(ops.cast(t >= ops.cast(number, t.dtype), "int32")) for t in tensors
        )
        is_enough = reached >= count
        return ops.where(is_enough, middle, low), ops.where(is_enough, high, middle - 1)

    ends = (ops.convert_to_tensor(n, "int32") for n in (0, 2**31 - 1))
    low, _ = ops.fori_loop(0, 31, halve, tuple(ends))
    return ops.view(low, "float32")
