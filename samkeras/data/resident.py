"""Examples on the device, where batches are gathered within the compiled step."""

import weakref
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from samkeras.backend import backend
from samkeras.backend.interface import Tensor
from samkeras.data.augmentation import DeviceTransform
from samkeras.data.mixup import Mixup


@dataclass(frozen=True)
class Gather:
    """What a step makes of a batch's rows.

    Attributes:
        transform: what x goes through where rows have draws. None: nothing.
        mixup: how examples are mixed where rows have others to mix with. None: not.
    """

    transform: DeviceTransform | None
    mixup: Mixup | None = None

    def __call__(
        self, tables: tuple[Tensor, Tensor], rows: Mapping[str, Any]
    ) -> tuple[Tensor, ...]:
        """A batch (x, y[, sample_weight]).

        Args:
            tables: x and y of all examples.
            rows: "index": int32[example], places in the tables; "draws": [example,
                ...], where x is changed; "weights": [example], where examples do not
                count alike; "others", of such an "index" and "draws", and "shares":
                [example], where examples are mixed.
        """
        x, y = self._take(tables, rows)
        if self.mixup is not None and "others" in rows:
            others = self._take(tables, rows["others"])
            x, y = self.mixup.mix((x, y), others, rows["shares"], ops)
        # Else every pass of a step would gather them anew.
        x = backend.isolate(x)
        return (x, y, rows["weights"]) if "weights" in rows else (x, y)

    def _take(
        self, tables: tuple[Tensor, Tensor], rows: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        x, y = (backend.take_rows(table, rows["index"]) for table in tables)
        if self.transform is not None and "draws" in rows:
            x = self.transform.apply_on_device(x, rows["draws"])
        return x, y


class Tables:
    """The arrays that are on devices, each once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, Hashable], Tensor] = {}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, array: np.ndarray) -> Tensor:
        """An array on the devices of the scope that one is in: placed there when it is
        asked for first, as long as there is the array itself."""
        key = (id(array), backend.find_layout())
        if key not in self._known:
            self._known[key] = backend.place_table(array)
            weakref.finalize(array, self._known.pop, key, None)
        return self._known[key]


tables = Tables()
