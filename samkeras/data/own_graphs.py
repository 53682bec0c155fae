"""Graphs of a user's own: molecules in tables and .sdf files, and sets of spektral."""

import contextlib
import dataclasses
import functools
import io
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from samkeras.data.content import describe_files
from samkeras.data.examples import ArrayExamples, Arrays
from samkeras.data.graphs import Graph, GraphCollate, as_array
from samkeras.data.shares import choose_each, describe_share
from samkeras.data.sources import check_splits, is_function
from samkeras.data.splits import Content, DataInfo, Splits
from samkeras.data.tables import Table, as_classes, find_parts, is_table, read_table
from samkeras.errors import InputError
from samkeras.files import TABLES
from samkeras.imports import explain

SPEKTRAL = "spektral:"
SMILES = ("smiles", "canonical_smiles", "molecule", "mol")
LABELS = ("label", "class", "target", "labels", "y")
SDF = ".sdf"
SUFFIXES = (*TABLES, SDF)
MISSING = ("", "nan", "na", "none", "null")
BINARY = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}
MAX_NAMED = 5


class Tasks(NamedTuple):
    """Labels of graphs.

    Attributes:
        parts: those to train on and, if they are apart, those to validate on:
            float64[graph, task], NaN where one is missing.
        names: of the tasks.
    """

    parts: list[np.ndarray]
    names: tuple[str, ...]


def is_molecules(dataset: str) -> bool:
    """Whether a data set's name is that of a table, an .sdf file or a folder of
    some."""
    path = os.path.expanduser(dataset)
    return is_table(dataset) or dataset.lower().endswith(SDF) or os.path.isdir(path)


def load_molecule_files(
    dataset: str,
    smiles_column: str | None,
    label_column: str | None,
    is_regression: bool,
    featurize: Callable[[Any], Graph],
) -> Splits[ArrayExamples]:
    """Molecules of a table with SMILES or of an .sdf file, or of a folder of such files
    whose names end with train and with dev, val or test. Those that RDKit cannot read
    are left out and counted.

    Args:
        dataset: path of the file or folder.
        smiles_column: the name of a table's column of SMILES. None: smiles, ...
        label_column: the name of the column, or property, of labels. None: label, ...;
            or else all that hold 0, 1 or nothing, of a regression all of numbers.
        is_regression: whether labels are numbers, or else classes.
        featurize: the graph of an RDKit molecule.

    Raises:
        InputError: a file cannot be read, or holds no molecules or no labels.
    """
    path, notes = Path(os.path.expanduser(dataset)), []
    files, content = [[path]], None  # a file's content is described by itself
    if path.is_dir():
        files = [*find_parts(path, SUFFIXES)]
        content = describe_files(path, map(str, (*files[0], *files[1])))
    rows: list[list[_Molecule]] = []
    for part in files:
        found = [_read_molecules(file, smiles_column, notes) for file in part]
        rows.append([molecule for of_file in found for molecule in of_file])
    tasks = _find_tasks(rows, label_column, is_regression, dataset)
    graphs = [as_array([featurize(row.molecule) for row in part]) for part in rows]
    splits = _as_splits(path.name, graphs, tasks, is_regression, notes, "molecules")
    return _check(splits, dataset, content)


class _Molecule(NamedTuple):
    molecule: Any
    labels: dict[str, str]
    place: str


def _read_molecules(
    path: Path, smiles_column: str | None, notes: list[str]
) -> list[_Molecule]:
    try:
        from rdkit import rdBase
    except ImportError:
        raise InputError(
            f"--dataset {path} needs the package rdkit: pip install rdkit"
        ) from None
    molecules, unreadable = [], []
    with rdBase.BlockLogs():
        is_sdf = path.suffix.lower() == SDF
        found = _read_sdf(path) if is_sdf else _read_smiles(path, smiles_column)
        for molecule, labels, place in found:
            if molecule is None or not molecule.GetNumAtoms():
                unreadable.append(place)
                continue
            molecules.append(_Molecule(molecule, labels, f"{place} of {path}"))
    if not molecules:
        raise InputError(
            f"--dataset: {path} must hold molecules that RDKit can read. Received: "
            f"{len(unreadable)} that it cannot"
        )
    if unreadable:
        more = ", ..." if len(unreadable) > MAX_NAMED else ""
        notes.append(
            f"{path.name}: RDKit cannot read {len(unreadable):,} of "
            f"{len(unreadable) + len(molecules):,} molecules, left out: "
            f"{', '.join(unreadable[:MAX_NAMED])}{more}"
        )
    return molecules


def _read_smiles(
    path: Path, column: str | None
) -> Iterator[tuple[Any, dict[str, str], str]]:
    from rdkit import Chem

    table: Table = read_table(path)
    place = table.find(column, SMILES, "--text_column")
    for smiles, row, line in zip(
        table.texts(place), table.rows, table.lines, strict=True
    ):
        labels = {
            name: text or ""
            for i, (name, text) in enumerate(zip(table.columns, row, strict=True))
            if i != place
        }
        yield Chem.MolFromSmiles(smiles.strip()), labels, f"line {line}"


def _read_sdf(path: Path) -> Iterator[tuple[Any, dict[str, str], str]]:
    from rdkit import Chem

    if not path.is_file():
        raise InputError(f"--dataset {path}: there is no such file")
    if not path.stat().st_size:
        raise InputError(f"--dataset: {path} must hold molecules. Received: none")
    for number, molecule in enumerate(Chem.SDMolSupplier(str(path)), 1):
        labels = {}
        if molecule is not None:
            labels = {name: molecule.GetProp(name) for name in molecule.GetPropNames()}
        yield molecule, labels, f"molecule {number}"


def _find_tasks(
    parts: list[list[_Molecule]], column: str | None, is_regression: bool, dataset: str
) -> Tasks:
    names = tuple(dict.fromkeys(n for part in parts for m in part for n in m.labels))
    chosen = _choose_columns(parts, names, column, is_regression, dataset)
    columns: list[list[np.ndarray]] = []
    tasks: list[str] = []
    for name in chosen:
        texts = [[m.labels.get(name, "").strip() for m in part] for part in parts]
        if is_regression or _are(texts, BINARY.__contains__):
            columns.append(
                [_as_numbers(t, p, name) for t, p in zip(texts, parts, strict=True)]
            )
            tasks.append(name)
            continue
        labels = [
            [(text, m.place) for text, m in zip(t, p, strict=True) if _is_given(text)]
            for t, p in zip(texts, parts, strict=True)
        ]
        classes, class_names = as_classes(labels)
        ids = [0] if len(class_names) == 2 else range(len(class_names))
        for number in ids:
            # Of two classes the second one is 1.
            wanted = 1 if len(class_names) == 2 else number
            columns.append(
                [_spread(t, c == wanted) for t, c in zip(texts, classes, strict=True)]
            )
            tasks.append(f"{name}={class_names[wanted]}")
    stacked = [
        np.stack([column[i] for column in columns], axis=1) for i in range(len(parts))
    ]
    return Tasks(stacked, tuple(tasks))


def _choose_columns(
    parts: list[list[_Molecule]],
    names: tuple[str, ...],
    column: str | None,
    is_regression: bool,
    dataset: str,
) -> list[str]:
    shown = ", ".join(names)[:200] or "none"
    if column is not None:
        if column not in names:
            raise InputError(
                f"--label_column {column}: {dataset} has the columns {shown}"
            )
        return [column]
    known = [name for name in names if name.strip().lower() in LABELS]
    if known:
        return known[:1]
    is_label = _is_number if is_regression else BINARY.__contains__
    found = [
        name
        for name in names
        if _are([[m.labels.get(name, "").strip() for m in p] for p in parts], is_label)
    ]
    if not found:
        what = "numbers" if is_regression else "0, 1 or nothing"
        raise InputError(
            f"--dataset {dataset} must have a column called {', '.join(LABELS)}, or "
            f"some of {what}, or --label_column says what it is called. Received: "
            f"{shown}"
        )
    return found


def _are(parts: list[list[str]], is_one: Callable[[str], bool]) -> bool:
    """Whether all labels that are given are of a kind, and there are some."""
    given = [text for part in parts for text in part if _is_given(text)]
    return bool(given) and all(map(is_one, given))


def _is_given(text: str) -> bool:
    return text.lower() not in MISSING


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _as_numbers(texts: list[str], rows: list[_Molecule], name: str) -> np.ndarray:
    numbers = np.full(len(texts), np.nan)
    for i, text in enumerate(texts):
        if not _is_given(text):
            continue
        if not _is_number(text):
            raise InputError(
                f"--dataset: {rows[i].place} must have a finite number as {name}, or "
                f"nothing. Received: {text[:60]}"
            )
        numbers[i] = float(text)
    return numbers


def _spread(texts: list[str], values: np.ndarray) -> np.ndarray:
    """Values of the texts that are given, NaN for the others."""
    spread = np.full(len(texts), np.nan)
    spread[[_is_given(text) for text in texts]] = values
    return spread


def is_spektral(dataset: str) -> bool:
    """Whether a data set is one of spektral, spektral:NAME."""
    return dataset.startswith(SPEKTRAL)


def load_spektral(dataset: str, is_regression: bool) -> Splits[ArrayExamples]:
    """A set of spektral.datasets, such as QM9, or one of TUDataset, such as PROTEINS,
    which spektral downloads into its own folder.

    Raises:
        InputError: there is no such set, or it cannot be had.
    """
    splits = _load_spektral(dataset, is_regression)
    return _check(splits, dataset, None)


@functools.lru_cache(maxsize=2)
def _load_spektral(dataset: str, is_regression: bool) -> Splits[ArrayExamples]:
    name = dataset.removeprefix(SPEKTRAL)
    try:
        from spektral import datasets
        from spektral.data import Dataset
    except ImportError as error:
        raise InputError(
            f"--dataset {dataset} needs the package spektral: pip install spektral "
            f"({error})"
        ) from None
    kind = getattr(datasets, name, None)
    is_set = isinstance(kind, type) and issubclass(kind, Dataset)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = kind() if is_set and kind else _load_tudataset(name)
    except Exception as error:
        raise InputError(
            f"--dataset {dataset} is none of spektral.datasets nor of TUDataset, or "
            f"cannot be downloaded ({explain(error)[:200]})"
        ) from None
    return convert_spektral(found, dataset, is_regression)


def _load_tudataset(name: str) -> Any:
    """A set of TUDataset, with what spektral's reader of it asks of others mended: a
    list of names on the web, even of sets that are there, and an old name of an
    argument of scikit-learn."""
    from sklearn.preprocessing import OneHotEncoder
    from spektral.datasets import tudataset

    class TUDataset(tudataset.TUDataset):  # its folder is called as its class is
        def available_datasets(self) -> list[str]:  # pyright: ignore
            self.name, self.clean = name, False
            if os.path.isdir(self.path):
                return [name]
            return tudataset.TUDataset.available_datasets()

    def encoder(sparse: bool, **options: Any) -> Any:
        return OneHotEncoder(sparse_output=sparse, **options)

    old = tudataset.OneHotEncoder
    tudataset.OneHotEncoder = encoder
    try:
        return TUDataset(name)
    finally:
        tudataset.OneHotEncoder = old


def convert_spektral(found: Any, dataset: str, is_regression: bool) -> Any:
    """A set of spektral, or a pair of sets to train and to validate on, as Splits; what
    is something else stays so.

    Raises:
        InputError: its graphs have no adjacency, or labels are not of graphs.
    """
    sets = found if isinstance(found, tuple) and len(found) == 2 else (found,)
    if not all(hasattr(each, "graphs") for each in sets):
        return found
    notes: list[str] = []
    parts = [_convert(each, dataset, notes) for each in sets]
    names = _name_tasks(parts, is_regression, dataset)
    tasks = Tasks([_as_tasks(y, is_regression) for _, y in parts], names)
    name = dataset.rpartition(":")[2] if is_function(dataset) else dataset
    graphs = [x for x, _ in parts]
    return _as_splits(name, graphs, tasks, is_regression, notes, "graphs")


def _convert(data: Any, dataset: str, notes: list[str]) -> Arrays:
    graphs, labels = [], []
    for index, graph in enumerate(data.graphs):
        adjacency = data.a if graph.a is None else graph.a
        if adjacency is None or graph.y is None:
            raise InputError(
                f"--dataset {dataset}: graph {index} must have an adjacency matrix a "
                "and a label y. Received: none"
            )
        y = np.atleast_1d(np.asarray(graph.y, "float64"))
        if y.ndim != 1:
            raise InputError(
                f"--dataset {dataset}: graph {index} must have a label, or a vector of "
                f"them, for the graph. Received: y of shape {y.shape}"
            )
        edges = np.stack(adjacency.nonzero()).astype("int32")
        nodes = graph.x
        if nodes is None:
            nodes = np.bincount(edges[0], minlength=adjacency.shape[0])[:, None]
        graphs.append(Graph(np.asarray(nodes, "float32"), edges))
        labels.append(y)
    if not graphs or len({len(y) for y in labels}) > 1:
        raise InputError(
            f"--dataset {dataset} must have graphs with labels of one length. "
            f"Received: {len(graphs)} graphs"
        )
    if data.graphs[0].x is None:
        notes.append(f"{dataset}: nodes have no features; their degree is taken as one")
    return as_array(graphs), np.stack(labels)


def _is_one_hot(y: np.ndarray) -> bool:
    return y.shape[1] > 1 and bool(
        ((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all()
    )


def _as_tasks(y: np.ndarray, is_regression: bool) -> np.ndarray:
    """Labels as tasks: one of two classes, or one for each of more."""
    if is_regression:
        return y
    if _is_one_hot(y):
        return y[:, 1:] if y.shape[1] == 2 else y
    return y


def _name_tasks(
    parts: list[Arrays], is_regression: bool, dataset: str
) -> tuple[str, ...]:
    count = _as_tasks(parts[0][1], is_regression).shape[1]
    if len({y.shape[1] for _, y in parts}) > 1:
        raise InputError(
            f"--dataset {dataset} must have as many labels in both parts. Received: "
            f"{' and '.join(str(y.shape[1]) for _, y in parts)}"
        )
    return tuple(f"label {number}" for number in range(count))


def _as_splits(
    name: str,
    graphs: list[np.ndarray],
    tasks: Tasks,
    is_regression: bool,
    notes: list[str],
    what: str,
) -> Splits[ArrayExamples]:
    """Graphs and labels as a set, one in five to validate on where there is one part;
    labels of a regression brought to mean 0 and variance 1 in training."""
    labels = tasks.parts
    if len(graphs) == 1:
        order = np.random.default_rng(0).permutation(len(graphs[0]))
        chosen = choose_each(np.zeros(len(order), "int32"))
        notes.append(describe_share(name, chosen, what))
        parts = (order[~chosen], order[chosen])
        graphs = [graphs[0][part] for part in parts]
        labels = [labels[0][part] for part in parts]
    files = {"tasks.txt": "\n".join(tasks.names)}
    if is_regression:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a label may be missing everywhere
            mean, deviation = np.nanmean(labels[0], 0), np.nanstd(labels[0], 0)
        deviation = np.where(deviation > 0, deviation, 1)
        labels = [(y - mean) / deviation for y in labels]
        files["tasks.csv"] = "task,mean,deviation\n" + "".join(
            f'"{task}",{m!r},{d!r}\n'
            for task, m, d in zip(
                tasks.names, mean.tolist(), deviation.tolist(), strict=True
            )
        )
    train, validation = (
        (x, y.astype("float32")) for x, y in zip(graphs, labels, strict=True)
    )
    info = DataInfo(
        name,
        (None, graphs[0][0].nodes.shape[1]),
        len(tasks.names),
        len(train[0]),
        len(validation[0]),
        num_classes=None if is_regression else 2,
    )
    return Splits(
        info,
        lambda: (train, validation),
        collate=GraphCollate(),
        files=files,
        notes=notes,
    )


def _check(
    splits: Splits[ArrayExamples], dataset: str, content: Content | None
) -> Splits[ArrayExamples]:
    checked = check_splits(splits, "graphs", dataset)
    if is_spektral(dataset):
        return checked
    return dataclasses.replace(checked, content=content)
