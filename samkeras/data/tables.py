"""Tables of a user's own: .csv, .tsv and .jsonl files, whose columns have names."""

import csv
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from samkeras.data.names import has_no_columns
from samkeras.data.shares import VALIDATION, describe_left_out
from samkeras.errors import InputError, nearest

WHOLE = re.compile(r"[-+]?[0-9]{1,15}(\.0*)?")
LONGEST = 2**27  # characters of a field
SHOWN = 60  # characters of what was received


@dataclass(frozen=True)
class Table:
    """Rows of texts.

    Attributes:
        path: its file.
        columns: their names.
        rows: texts, None where one is missing, by the place of their column.
        lines: the line that each row begins in.
    """

    path: Path
    columns: tuple[str, ...]
    rows: list[list[str | None]]
    lines: list[int]

    def find(self, given: str | None, known: Iterable[str], option: str) -> int:
        """The place of a column: the one whose name is given, or else the first of
        those that are known, in capitals or not.

        Raises:
            InputError: there is none.
        """
        names = [name.strip().lower() for name in self.columns]
        if given is not None:
            if given in self.columns:
                return self.columns.index(given)
            raise InputError(
                f"{option} {given}: {self.path} has the columns "
                f"{self._shown}{nearest(given, self.columns)}"
            )
        for name in known:
            if name in names:
                return names.index(name)
        raise InputError(
            f"--dataset: {self.path} must have a column called {', '.join(known)}, or "
            f"{option} says what it is called. Received: {self._shown}"
        )

    @property
    def _shown(self) -> str:
        return ", ".join(self.columns)[:200]

    def texts(self, place: int) -> list[str]:
        """A column, of which no text is missing.

        Raises:
            InputError: one is.
        """
        texts = []
        for row, line in zip(self.rows, self.lines, strict=True):
            text = row[place]
            if text is None or not text.strip():
                raise InputError(
                    f"--dataset: line {line} of {self.path} must have a "
                    f"{self.columns[place]}. Received: none"
                )
            if isinstance(text, Nested):
                raise InputError(
                    f"--dataset: line {line} of {self.path} must have a text or a "
                    f"number as {self.columns[place]}. Received: {text[:SHOWN]}"
                )
            texts.append(text)
        return texts


def are_files(dataset: str, suffixes: tuple[str, ...], **columns: str | None) -> bool:
    """Whether a data set is a file of a user's own, or a folder of such.

    Args:
        dataset: its name.
        suffixes: what such files end with.
        columns: options that name columns, as of `refuse_columns`.

    Raises:
        InputError: it is neither, and columns are named.
    """
    if has_no_columns(dataset):  # for which no option names any, see the options
        return False
    if dataset.lower().endswith(suffixes) or os.path.isdir(os.path.expanduser(dataset)):
        return True
    refuse_columns(dataset, **columns)
    return False


def refuse_columns(dataset: str, **columns: str | None) -> None:
    """Raises an InputError if columns are named of what has none.

    Args:
        dataset: what has none.
        columns: the options' values, by their names.
    """
    for option, name in columns.items():
        if name is not None:
            raise InputError(
                f"--{option} {name} needs --dataset FILE.csv, .tsv or .jsonl, or a "
                f"folder of such. Received: --dataset {dataset}"
            )


def as_lines(names: Iterable[str]) -> str:
    """Names, each in a line of its own, whatever lines it may have itself."""
    return "\n".join(re.sub("[\r\n]+", " ", name) for name in names)


def read_table(path: Path) -> Table:
    """Reads a table: .jsonl has an object a line; .csv and .tsv begin with a line of
    the columns' names. In .csv a field may be in quotes, in .tsv a quote is a sign.

    Raises:
        InputError: it cannot be read, is not UTF-8, or a line is not one of the others'
            columns.
    """
    lines = read_lines(path)
    if path.suffix.lower() == ".jsonl":
        table = _read_jsonl(path, lines)
    else:
        table = _read_csv(path, lines)
    if not table.rows:
        raise InputError(f"--dataset: {path} must have rows. Received: none")
    return table


def read_lines(path: Path) -> list[str]:
    """The lines of a text file; other signs that Unicode ends a line with, such as
    U+2028, are a text's.

    Raises:
        InputError: it cannot be read, or is not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"--dataset: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(
            f"--dataset: line {line} of {path} is not UTF-8 ({error.reason})"
        ) from None
    return text.replace("\r\n", "\n").split("\n")


def _read_csv(path: Path, lines: list[str]) -> Table:
    csv.field_size_limit(LONGEST)
    options: dict[str, Any] = {"strict": True}
    if path.suffix.lower() == ".tsv":
        options = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader((f"{line}\n" for line in lines), **options)
    rows, numbers, line = [], [], 1
    columns: tuple[str, ...] = ()
    try:
        for row in reader:
            if any(field.strip() for field in row):
                if not columns:
                    columns = _check_names(path, row)
                elif len(row) != len(columns):
                    raise InputError(
                        f"--dataset: line {line} of {path} must have {len(columns)} "
                        f"columns, {', '.join(columns)[:SHOWN]}. Received: {len(row)}, "
                        f"{', '.join(row)[:SHOWN]!r}"
                    )
                else:
                    rows.append([field if field.strip() else None for field in row])
                    numbers.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"--dataset: line {line} of {path} is not one of a table ({error})"
        ) from None
    return Table(path, columns, rows, numbers)


def _check_names(path: Path, names: list[str]) -> tuple[str, ...]:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"--dataset: line 1 of {path} must have the columns' names, each once. "
            f"Received: {twice!r} twice"
        )
    return tuple(names)


def _read_jsonl(path: Path, lines: list[str]) -> Table:
    objects, numbers = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"--dataset: line {number} of {path} is not JSON ({error})"
            ) from None
        if not isinstance(found, dict):
            raise InputError(
                f"--dataset: line {number} of {path} must be an object, "
                f'{{"text": ..., "label": ...}}. Received: {line[:SHOWN]}'
            )
        objects.append({key: _as_text(value) for key, value in found.items()})
        numbers.append(number)
    columns = tuple(dict.fromkeys(key for each in objects for key in each))
    rows = [[each.get(column) for column in columns] for each in objects]
    return Table(path, columns, rows, numbers)


class Nested(str):
    """A list or an object of JSON, which no column that is taken may have."""


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):  # what Python writes for none
        return None
    text = json.dumps(value)
    return Nested(text) if isinstance(value, list | dict) else text


class Parts(NamedTuple):
    """The files of a folder.

    Attributes:
        train, validation: those of each part.
        notes: what a user should know of others.
    """

    train: list[Path]
    validation: list[Path]
    notes: list[str]


def find_parts(folder: Path, suffixes: tuple[str, ...]) -> Parts:
    """The files of a folder to train on and those to validate on, by what their names
    without suffix end with: train; and val, valid, validation, dev, testa or, where
    there is none of these, test.

    Args:
        folder: the folder.
        suffixes: of the files that are meant; "" for those without.

    Raises:
        InputError: there are none, or one is there in two formats.
    """
    stems: dict[str, str] = {}
    for name in sorted(os.listdir(folder)):
        for suffix in suffixes:
            if name.lower().endswith(suffix) and name[0] != ".":
                stems[name] = name[: len(name) - len(suffix)]
                break

    def find(end: str) -> list[Path]:
        return [folder / n for n, stem in stems.items() if _ends_with(stem, end)]

    train, of_ends = find("train"), [find(end) for end in VALIDATION]
    for ends, files in ((("train",), train), (VALIDATION, [*chain(*of_ends)])):
        if not files:
            shown = ", ".join([*stems][:5]) or "none of these kinds"
            kinds = ", ".join(filter(None, suffixes))
            raise InputError(
                f"--dataset {folder} must have a file whose name ends with "
                f"{', '.join(ends)} and is of {kinds}. Received: {shown}"
            )
    validation, *others = filter(None, of_ends)
    for files in (train, validation):
        _check_formats(folder, files, stems)
    chosen, left_out = (
        [f.name for f in files] for files in (validation, chain(*others))
    )
    notes = describe_left_out(folder.name, ", ".join(chosen), left_out)
    return Parts(train, validation, notes)


def _check_formats(folder: Path, files: list[Path], stems: dict[str, str]) -> None:
    """Raises an InputError where files differ in their suffixes alone: they would be
    learnt twice."""
    by_stem: dict[str, str] = {}
    for name in (file.name for file in files):
        other = by_stem.setdefault(stems[name], name)
        if other != name:
            raise InputError(
                f"--dataset {folder} must have each file in one format. Received: "
                f"{other} and {name}"
            )


def _ends_with(stem: str, end: str) -> bool:
    return re.fullmatch(rf"(.*[^a-z])?{end}", stem.lower()) is not None


def as_classes(
    parts: list[list[tuple[str, str]]],
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Labels as classes: whole numbers in their order, others in that of their letters.

    Args:
        parts: of the examples to train on, and of those to validate on: labels, each
            with the place that it is from.

    Returns:
        int32[label] of each part; the classes' names.

    Raises:
        InputError: they are no classes, or one is in no training example.
    """
    train, *others = parts
    are_whole = all(WHOLE.fullmatch(label.strip()) for label, _ in train)

    def name(label: str) -> str:
        text = label.strip()
        return str(int(float(text))) if are_whole and WHOLE.fullmatch(text) else text

    names = sorted({name(label) for label, _ in train}, key=int if are_whole else None)
    _check_classes(names, train)
    number = {each: i for i, each in enumerate(names)}
    for part in others:
        for label, place in part:
            if name(label) not in number:
                known = ", ".join(names)[:SHOWN]
                raise InputError(
                    f"--dataset: {place} must have a label that a training example "
                    f"has: {known}. Received: {label[:SHOWN]}"
                )
    arrays = [
        np.array([number[name(label)] for label, _ in part], "int32") for part in parts
    ]
    return arrays, tuple(names)


def _check_classes(names: list[str], labels: list[tuple[str, str]]) -> None:
    if len(names) < 2:
        raise InputError(
            f"--dataset: {labels[0][1]} and all others must be of two classes or more. "
            f"Received: {names[0][:SHOWN]} alone"
        )
    if len(names) > max(2, len(labels) // 2):
        label, place = labels[0]
        raise InputError(
            f"--dataset: labels must be classes, of two examples or more in the mean. "
            f"Received: {len(names):,} different labels of {len(labels):,} examples, "
            f"such as {label[:SHOWN]} ({place})"
        )


def places(table: Table) -> Iterator[str]:
    """What messages call the rows."""
    return (f"line {line} of {table.path}" for line in table.lines)
