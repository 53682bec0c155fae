"""What a backend brings: all that the library asks of one beyond keras.ops."""

from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import keras
import numpy as np

Tensor = Any
Tree = Any
Logs = dict[str, Tensor]
Item = TypeVar("Item")
Pairs = Sequence[tuple[keras.Variable, Tensor]]

NO_DERIVATIVES = (
    "the model has no second derivatives, or none forward, on {backend}: build its "
    "recurrent layers with use_cudnn=False and its attention with "
    "flash_attention=False. {reason}"
)


@dataclass(frozen=True, eq=False)
class Rows:
    """The batches of some steps, all of one shape, whose examples are on the device:
    rows of tables.

    Attributes:
        tables: all examples.
        arrays: what each batch takes of them: [batch, example, ...].
        gather: (tables, arrays of one batch) -> the batch; pure, and a part of compiled
            programs, so that equal ones do the same.
        specs: what a batch is like, keras.KerasTensors.
        start: the first batch of these.
        count: how many these are.
        after: those of another shape that will be taken after these, if it is known.
    """

    tables: Tree
    arrays: Tree
    gather: Callable[[Tree, Tree], Tree]
    specs: Any
    start: int
    count: int
    after: "Rows | None" = None

    @property
    def shape(self) -> Hashable:
        """What batches have in common that one program takes."""
        arrays = keras.tree.flatten((self.tables, self.arrays))
        shapes = tuple((tuple(a.shape), str(a.dtype)) for a in arrays)
        return (self.gather, shapes)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, part: slice) -> "Rows":
        """Some of these batches, one after the other."""
        start, stop, _ = part.indices(self.count)
        return replace(self, start=self.start + start, count=max(0, stop - start))


class Interface(Protocol):
    """The functions of a module samkeras/backend/<name>.py."""

    # ── derivatives and compiled functions ──

    def value_and_grad(
        self,
        function: Callable[[list[Tensor]], tuple[Tensor, Tree]],
        weights: list[Tensor],
        variables: list[keras.Variable],
        held: Pairs,
    ) -> tuple[Tree, list[Tensor | None], keras.Variable | None]:
        """Differentiates function(weights) -> (scalar, anything else).

        Args:
            function: reads `weights`, its argument.
            weights: where to differentiate.
            variables: the variables that `weights` stand for, if they do, come first,
                the model's others after them.
            held: pairs of a variable and a value that it really holds meanwhile, for
                what reads variables past keras.

        Returns:
            What else the function gives; the gradient of each weight, None where the
            scalar does not depend on it; and one of `variables` that was read past
            keras, one of the weights' if there is one, or None.
        """
        ...

    def gradient_of(
        self, function: Callable[[Tensor], Tensor], tensor: Tensor
    ) -> Tensor | None:
        """The gradient of function(tensor) -> scalar; None where the scalar does not
        depend on the tensor."""
        ...

    def hessian_product(
        self,
        function: Callable[[list[Tensor]], Tensor],
        weights: list[Tensor],
        vectors: list[Tensor],
    ) -> list[Tensor]:
        """The Hessian of function(weights) -> scalar, times a vector."""
        ...

    def push_forward(
        self,
        function: Callable[[list[Tensor]], Tensor],
        weights: list[Tensor],
        vectors: list[Tensor],
    ) -> Tensor:
        """The Jacobian of function(weights) -> tensor, times a vector."""
        ...

    def explain_derivatives(self) -> AbstractContextManager[None]:
        """Has a compiled function say in one line, as a ValueError, where these two do
        not exist."""
        ...

    def map_each(self, function: Callable[[Tree], Tree], many: Tree) -> Tree:
        """A function of one example, or run, of each: the arrays' first axes are
        these."""
        ...

    def compile_function(self, function: Callable[..., Tree]) -> Callable[..., Tree]:
        """A compiled pure function of tensors."""
        ...

    def compile_reading(
        self,
        function: Callable[..., Tree],
        find_variables: Callable[[], list[keras.Variable]],
    ) -> Callable[..., Tree]:
        """A compiled function that reads some variables, anew at each call, and assigns
        none."""
        ...

    def take_branch(
        self,
        is_part: bool,
        condition: Tensor,
        yes: Callable[[], list[Tensor]],
        no: Callable[[], list[Tensor]],
    ) -> list[Tensor]:
        """What one of two functions returns, tensors of the same shapes and types: a
        branch of a compiled program.

        Args:
            is_part: whether each of a step's copies takes one by itself, as in a loop
                over groups. Else all take the same, and may sum over the copies in it.
            condition: bool scalar.
            yes: what to call where it is true.
            no: what to call where it is not.
        """
        ...

    def trace(self, function: Callable[..., Tree], *arguments: Tree) -> Tree:
        """What a function would return, known by shapes and types alone."""
        ...

    def loop_over_groups(
        self,
        body: Callable[[Tree, Tensor, Tree], tuple[Tree, Tree]],
        carry: Tree,
        batch: Tree,
        size: int,
        count: Tensor,
        like: Tree,
    ) -> tuple[Tree, Tree]:
        """Goes through groups of a batch in a compiled loop.

        Args:
            body: (carry, number, group) -> (carry, outputs of the group's examples).
            carry: what goes from group to group.
            batch: arrays whose first axis is the example.
            size: examples of a group.
            count: number of groups, counted from the batch's first example.
            like: outputs of one group, as `trace` gives them.

        Returns:
            The last carry, and the outputs of all examples.
        """
        ...

    def take_examples(self, batch: Tree, start: Tensor, size: int | None) -> Tree:
        """Examples from `start` on, at most `size`, or all of them with None."""
        ...

    def isolate(self, x: Tensor) -> Tensor:
        """The same, and its gradient the same, computed once even where several
        operations take it."""
        ...

    def is_sparse(self, batch: Tree) -> bool:
        """Whether a batch has a sparse array."""
        ...

    def take_rows(self, table: Tensor, index: Tensor) -> Tensor:
        """Rows of a table, by their places: int[row]."""
        ...

    # ── what stays on the device ──

    def copy_values(self, variables: Iterable[keras.Variable]) -> list[Tensor]:
        """The values that variables have now, where later steps, which reuse their
        memory, leave them alone. The device is not waited for."""
        ...

    def fetch(self, tree: Tree) -> Tree:
        """Arrays of NumPy, of what is on the device or the host already."""
        ...

    def find_memory(self) -> int:
        """The bytes that a device has, a CPU the machine's."""
        ...

    def find_layout(self) -> Hashable:
        """What tells the devices of the scope that one is in from those of others."""
        ...

    def place_table(self, array: np.ndarray) -> Tensor:
        """An array, whole on each of the devices of the scope that one is in."""
        ...

    def place_rows(self, array: np.ndarray) -> Tensor:
        """An array of batches, [batch, example, ...], this process' examples of each,
        the examples split over the devices of the scope that one is in."""
        ...

    # ── how exactly it computes ──

    def full_precision(self) -> AbstractContextManager[None]:
        """Has what is compiled and run in it, in this thread, multiply float32 numbers
        as they are, where the device would round them first."""
        ...

    def double_precision(self) -> AbstractContextManager[None]:
        """Has what is made, compiled and run in it, in this thread, keep numbers of
        float64, which JAX makes float32 otherwise."""
        ...

    # ── variables ──

    def values_of(self, variables: Iterable[keras.Variable]) -> list[Tensor]:
        """The tensors that variables hold here and now."""
        ...

    def make_state(
        self,
        shape: tuple[int, ...],
        dtype: str,
        name: str,
        like: keras.Variable | None = None,
    ) -> keras.Variable:
        """A variable of zeros that belongs to no layer and is the same on all devices,
        or laid out as `like` is."""
        ...

    # ── several devices ──

    def split_batches(self, devices: list[str]) -> AbstractContextManager[None]:
        """Has models that are built and trained in it split every batch over the
        devices, of all processes; a batch is a multiple of their number."""
        ...

    def count_parts(self) -> int:
        """Parts of a batch that are in the hands of separate copies of a step, which
        has to sum over them itself."""
        ...

    def share_of(self, amount: Tensor) -> Tensor | None:
        """This copy's part of an amount's sum over all copies; None where there is
        one."""
        ...

    def sum_over_copies(
        self, tensors: list[Tensor], share: Tensor | None
    ) -> list[Tensor]:
        """Sums tensors over the copies, each weighted with its share; as they are where
        that is None."""
        ...

    def split_groups(
        self,
        function: Callable[
            [list[Tensor], Tree, Tensor], tuple[Tree, list[Tensor], Tree]
        ],
        values: list[Tensor],
        batch: Tree,
        size: int,
    ) -> tuple[Tree, list[Tensor], Tree]:
        """Calls a function on each device's part of a batch, where the parts are whole
        groups, or on the whole batch.

        Args:
            function: (values, part of the batch, its number) -> (means over the part's
                examples, new values, outputs of its examples).
            values: sums of what metrics were updated with.
            batch: arrays whose first axis is the example.
            size: examples of a group.

        Returns:
            The floating point means over the batch's examples, the new values, and the
            outputs.
        """
        ...

    # ── processes ──

    def find_process(self) -> tuple[int, int]:
        """The number of this process, counted from 0, and how many there are."""
        ...

    def broadcast(self, value: Any) -> Any:
        """The value, anything that pickles, that the first process has."""
        ...

    def cache_programs(self) -> None:
        """Keeps compiled programs on disk where the backend can; before it starts."""
        ...

    def use_cpu_only(self) -> None:
        """Leaves GPUs and TPUs to other processes; before the backend starts."""
        ...

    def take_ahead(self, items: Iterable[Item]) -> Generator[Item]:
        """The items, each made while the device works on the one before."""
        ...
