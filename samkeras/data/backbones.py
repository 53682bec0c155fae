"""Networks to fine-tune: which there are, and what a file of one holds."""

import dataclasses
import os
import zipfile
from pathlib import Path
from typing import Any

from samkeras.data.content import combine, describe_content
from samkeras.data.splits import Splits
from samkeras.errors import InputError, nearest

ENDING = ".keras"
# Networks of keras.applications: the module of each, and its function there.
BACKBONES = {
    **{f"efficientnet_b{i}": ("efficientnet", f"EfficientNetB{i}") for i in range(8)},
    **{f"resnet{depth}": ("resnet", f"ResNet{depth}") for depth in (50, 101, 152)},
}


def is_file(backbone: str) -> bool:
    """Whether a network is that of a file, not one that is known by its name."""
    return backbone.endswith(ENDING)


def is_backbone_alone(digest: str | None, backbone: str) -> bool:
    """Whether a network's file is all that with_backbone read of files: the data set is
    known by its name."""
    content = combine([("backbone", describe_content(backbone))])
    return content is not None and content.digest == digest


def check_backbone(backbone: str) -> None:
    """Checks what a network is called, or the file that has it.

    Raises:
        InputError: there is no such network, or the file holds none.
    """
    if not is_file(backbone):
        if backbone not in BACKBONES:
            raise InputError(
                f"--backbone must be a FILE{ENDING}, efficientnet_b0 to b7, resnet50, "
                f"resnet101 or resnet152. Received: {backbone}"
                f"{nearest(backbone, BACKBONES)}"
            )
        return
    path = Path(os.path.expanduser(backbone))
    if not path.is_file():
        beside = path.parent.glob(f"*{ENDING}") if path.parent.is_dir() else ()
        hint = nearest(path.name, [each.name for each in beside])
        raise InputError(f"--backbone {backbone}: there is no such file{hint}")
    if not zipfile.is_zipfile(path):
        raise InputError(f"--backbone {backbone} is no model that keras has saved")


def with_backbone(
    splits: Splits[Any], dataset: str, backbone: str, width_mult: float
) -> Splits[Any]:
    """A data set to fine-tune a network on, whose file is a part of what it holds, so
    that runs from other weights are other runs.

    Args:
        splits: the data set.
        dataset: its name.
        backbone: the network, see check_backbone.
        width_mult: its width.

    Raises:
        InputError: there is no such network, or not of that width.
    """
    check_backbone(backbone)
    if width_mult != 1:
        raise InputError(
            "--width_mult must be 1 in this workload, whose networks have the widths "
            f"that they were trained with. Received: {width_mult:g}"
        )
    parts = {
        "backbone": describe_content(backbone),
        "dataset": splits.content or describe_content(dataset),
    }
    return dataclasses.replace(splits, content=combine(parts.items()))
