"""Graphs of a user's own: molecules in tables and .sdf files, and sets of spektral."""

import contextlib
import csv
import dataclasses
import functools
import io
import itertools
import os
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from samkeras.data.content import combine, describe_content, describe_files
from samkeras.data.examples import ArrayExamples, Arrays
from samkeras.data.graphs import Graph, GraphCollate, as_array
from samkeras.data.names import is_function, is_table
from samkeras.data.shares import choose_each, describe_share
from samkeras.data.sources import check_splits
from samkeras.data.splits import Content, DataInfo, Splits
from samkeras.data.summary import SCALES
from samkeras.data.tables import (
    Nested,
    Table,
    as_classes,
    as_lines,
    find_parts,
    read_table,
    refuse_columns,
)
from samkeras.errors import InputError, nearest
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
    path, notes = Path(os.path.expanduser(dataset)), list[str]()
    files, content = [[path]], None  # a file's content is described by itself
    if path.is_dir():
        *files, notes = find_parts(path, SUFFIXES)
        content = describe_files(path, map(str, (*files[0], *files[1])))
    if not any(is_table(str(file)) for part in files for file in part):
        refuse_columns(dataset, text_column=smiles_column)
    rows: list[list[_Molecule]] = []
    for part in files:
        found = [_read_molecules(file, smiles_column, notes) for file in part]
        rows.append([molecule for of_file in found for molecule in of_file])
    tasks = _find_tasks(rows, label_column, is_regression, dataset)
    if len(rows) == 1 and _find_classes(tasks.parts[0], is_regression).any():
        # What is to validate on was chosen of all alike before.
        content = combine([("one in five of each class", describe_content(dataset))])
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
        try:
            if molecule is not None:
                names = molecule.GetPropNames()
                labels = {name: molecule.GetProp(name) for name in names}
        except UnicodeDecodeError:
            raise InputError(
                f"--dataset: molecule {number} of {path} has properties that are not "
                "UTF-8"
            ) from None
        yield molecule, labels, f"molecule {number}"


def _find_tasks(
    parts: list[list[_Molecule]], column: str | None, is_regression: bool, dataset: str
) -> Tasks:
    names = tuple(dict.fromkeys(n for part in parts for m in part for n in m.labels))
    chosen = _choose_columns(parts, names, column, is_regression, dataset)
    columns: list[list[np.ndarray]] = []
    tasks: list[str] = []
    for name in chosen:
        texts = [[_label(m, name) for m in part] for part in parts]
        places = [[m.place for m in part] for part in parts]
        if is_regression or _are(texts, BINARY.__contains__):
            columns.append(
                [_as_numbers(t, p, name) for t, p in zip(texts, places, strict=True)]
            )
            tasks.append(name)
            continue
        of_classes, names = _spread_classes(name, texts, places)
        columns += of_classes
        tasks += names
    return _stack(columns, tasks)


def _label(molecule: _Molecule, name: str) -> str:
    text = molecule.labels.get(name, "")
    if isinstance(text, Nested):
        raise InputError(
            f"--dataset: {molecule.place} must have a text or a number as {name}. "
            f"Received: {text[:60]}"
        )
    return text.strip()


def _spread_classes(
    name: str, texts: list[list[str]], places: list[list[str]]
) -> tuple[list[list[np.ndarray]], list[str]]:
    """A label of classes as tasks: one for each class, or for the second of two.

    Args:
        name: of the label.
        texts: of each part, its classes, "" and the like where missing.
        places: what messages call the examples.

    Returns:
        Of each task its values of each part, and its name.
    """
    labels = [
        [(text, place) for text, place in zip(t, p, strict=True) if _is_given(text)]
        for t, p in zip(texts, places, strict=True)
    ]
    if not labels[0]:
        raise InputError(
            f"--dataset: {places[0][0]} or others must have a {name} to train on. "
            "Received: none"
        )
    classes, names = as_classes(labels)
    wanted = [1] if len(names) == 2 else range(len(names))
    columns = [
        [_spread(t, c == number) for t, c in zip(texts, classes, strict=True)]
        for number in wanted
    ]
    return columns, [f"{name}={names[number]}" for number in wanted]


def _stack(columns: list[list[np.ndarray]], names: list[str]) -> Tasks:
    """Tasks of columns, each of all parts."""
    stacked = [np.stack(part, axis=1) for part in zip(*columns, strict=True)]
    return Tasks(stacked, tuple(names))


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
                f"{nearest(column, names)}"
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
        and not (is_regression and _counts(parts, name))
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


def _counts(parts: list[list[_Molecule]], name: str) -> bool:
    """Whether a column numbers the rows, as an index that was written with them."""
    for part in parts:
        texts = [m.labels.get(name, "").strip() for m in part]
        if len(texts) < 3 or not all(map(str.isdecimal, texts)):
            return False
        if any(int(a) >= int(b) for a, b in itertools.pairwise(texts)):
            return False
    return True


def _is_given(text: str) -> bool:
    return text.lower() not in MISSING


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _as_numbers(texts: list[str], places: list[str], name: str) -> np.ndarray:
    numbers = np.full(len(texts), np.nan)
    for i, text in enumerate(texts):
        if not _is_given(text):
            continue
        if not _is_number(text):
            raise InputError(
                f"--dataset: {places[i]} must have a finite number as {name}, or "
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
    mend_spektral()
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
    splits = convert_spektral(found, dataset, is_regression)
    return dataclasses.replace(splits, notes=[*splits.notes, *_find_lost(found)])


def mend_spektral() -> None:
    """Has spektral find a function that NumPy calls otherwise now, of which QM9 and
    the transform OneHotLabels are made; where a data set has imported it."""
    misc: Any = sys.modules.get("spektral.utils.misc")
    if misc is not None and not hasattr(misc.np, "in1d"):
        misc.np = types.SimpleNamespace(**vars(np), in1d=np.isin)


def _find_lost(found: Any) -> Iterator[str]:
    """What to say of a set of TUDataset of which spektral gives less than there is: it
    loses the last graphs where they have no edges."""
    path = Path(found.path) / f"{getattr(found, 'name', '')}_graph_indicator.txt"
    if path.is_file():
        count = int(np.loadtxt(path, "int64").max())
        if count > len(found):
            yield (
                f"{SPEKTRAL}{found.name}: spektral leaves out {count - len(found)} of "
                f"{count} graphs, the last ones, which have no edges"
            )


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
    tasks = _as_tasks([y for _, y in parts], is_regression, dataset)
    name = dataset.rpartition(":")[2] if is_function(dataset) else dataset
    graphs = [x for x, _ in parts]
    return _as_splits(name, graphs, tasks, is_regression, notes, "graphs")


def _convert(data: Any, dataset: str, notes: list[str]) -> Arrays:
    graphs, labels = [], []
    # In mixed mode all graphs have the same one.
    shared = None if data.a is None else _find_edges(data.a, dataset)
    for index, graph in enumerate(data.graphs):
        adjacency = data.a if graph.a is None else graph.a
        if adjacency is None or graph.y is None:
            raise InputError(
                f"--dataset {dataset}: graph {index} must have an adjacency matrix a "
                "and a label y. Received: none"
            )
        try:
            y = np.atleast_1d(np.asarray(graph.y, "float64"))
            edges = shared
            if edges is None or graph.a is not None:
                edges = _find_edges(adjacency, f"{dataset}: graph {index}")
            nodes = graph.x
            if nodes is None:
                nodes = np.bincount(edges[0], minlength=adjacency.shape[0])[:, None]
            graphs.append(Graph(np.asarray(nodes, "float32"), edges))
            if len(nodes) != adjacency.shape[0]:
                raise ValueError(f"{len(nodes)} nodes, {adjacency.shape[0]} rows of a")
        except InputError:
            raise
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f"--dataset {dataset}: graph {index} must have arrays of numbers, a "
                f"row of x for each of a. Received: {type(graph.x).__name__} x, "
                f"{type(adjacency).__name__} a, {type(graph.y).__name__} y "
                f"({' '.join(str(error).split())[:60]})"
            ) from None
        if y.ndim != 1:
            raise InputError(
                f"--dataset {dataset}: graph {index} must have a label, or a vector of "
                f"them, for the graph. Received: y of shape {y.shape}"
            )
        labels.append(y)
    if not graphs or len({len(y) for y in labels}) > 1:
        raise InputError(
            f"--dataset {dataset} must have graphs with labels of one length. "
            f"Received: {len(graphs)} graphs"
        )
    if data.graphs[0].x is None:
        notes.append(f"{dataset}: nodes have no features; their degree is taken as one")
    return as_array(graphs), np.stack(labels)


def _find_edges(adjacency: Any, place: str) -> np.ndarray:
    """int32[2, edge] of an adjacency matrix of NumPy, SciPy or, as AdjToSpTensor makes
    it, TensorFlow.

    Raises:
        InputError: one of its numbers is not finite.
    """
    if hasattr(adjacency, "dense_shape"):
        weights, edges = adjacency.values, np.asarray(adjacency.indices).T
    else:
        edges = np.stack(adjacency.nonzero())
        is_sparse = hasattr(adjacency, "tocoo")
        weights = adjacency.tocoo().data if is_sparse else adjacency
    if not np.isfinite(np.asarray(weights, "float64")).all():
        raise InputError(
            f"--dataset {place} must have an adjacency matrix a of finite numbers. "
            "Received: NaN or infinity"
        )
    return edges.astype("int32")


def _as_tasks(parts: list[np.ndarray], is_regression: bool, dataset: str) -> Tasks:
    """Labels of graphs, float64[graph, label], as tasks: classes, one-hot or their
    numbers, are one for each, or for the second of two."""
    if len({y.shape[1] for y in parts}) > 1:
        raise InputError(
            f"--dataset {dataset} must have as many labels in both parts. Received: "
            f"{' and '.join(str(y.shape[1]) for y in parts)}"
        )
    y = np.concatenate(parts)
    known, count = y[~np.isnan(y)], y.shape[1]
    are_binary = bool(np.isin(known, (0, 1)).all())
    if not is_regression and are_binary and count > 1 and (y.sum(1) == 1).all():
        classes = [1] if count == 2 else [*range(count)]
        return Tasks([y[:, classes] for y in parts], _name("class", classes))
    if not is_regression and not are_binary and count == 1 and _are_whole(known):
        texts = [["" if np.isnan(v) else f"{v:.0f}" for (v,) in y] for y in parts]
        places = [[f"graph {i} of {dataset}" for i in range(len(y))] for y in parts]
        return _stack(*_spread_classes("label", texts, places))
    return Tasks(parts, _name("label", range(count)))


def _are_whole(numbers: np.ndarray) -> bool:
    return bool((np.isfinite(numbers) & (numbers == np.rint(numbers))).all())


def _name(what: str, numbers: Iterable[int]) -> tuple[str, ...]:
    return tuple(f"{what} {number}" for number in numbers)


def _as_splits(
    name: str,
    graphs: list[np.ndarray],
    tasks: Tasks,
    is_regression: bool,
    notes: list[str],
    what: str,
) -> Splits[ArrayExamples]:
    """Graphs and labels as a set, one in five of each class to validate on where there
    is one part; labels of a regression brought to mean 0 and variance 1 in training."""
    labels = tasks.parts
    if len(graphs) == 1:
        order = np.random.default_rng(0).permutation(len(graphs[0]))
        chosen = choose_each(_find_classes(labels[0], is_regression)[order])
        notes.append(describe_share(name, chosen, what))
        parts = (order[~chosen], order[chosen])
        graphs = [graphs[0][part] for part in parts]
        labels = [labels[0][part] for part in parts]
    files = {"tasks.txt": as_lines(tasks.names)}
    if is_regression:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a label may be missing everywhere
            mean, deviation = np.nanmean(labels[0], 0), np.nanstd(labels[0], 0)
            differ = np.nanmax(labels[0], 0) > np.nanmin(labels[0], 0)
        is_known = np.isfinite(mean) & np.isfinite(deviation) & (deviation > 0)
        is_wrong = differ & ~is_known
        if is_wrong.any():
            task = int(np.argmax(is_wrong))
            raise InputError(
                f"--dataset {name}: numbers must have a mean and a variance that "
                f"float64 holds. Received: {tasks.names[task]}, up to "
                f"{np.nanmax(abs(labels[0][:, task])):g}"
            )
        deviation = np.where(deviation > 0, deviation, 1)
        labels = [(y - mean) / deviation for y in labels]
        table = io.StringIO(newline="")
        rows = zip(tasks.names, mean.tolist(), deviation.tolist(), strict=True)
        csv.writer(table, lineterminator="\n").writerows([SCALES, *rows])
        files["tasks.csv"] = table.getvalue()
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


def _find_classes(labels: np.ndarray, is_regression: bool) -> np.ndarray:
    """Which class each graph is of, of one task or of those of which each graph has
    one, -1 where that is missing: int64[graph]; of others all 0."""
    is_missing = np.isnan(labels)
    if not is_regression and labels.shape[1] == 1:
        return np.where(is_missing, -1, labels).astype("int64")[:, 0]
    has_one = ((labels == 1).sum(axis=1) == 1) & ~is_missing.any(axis=1)
    has_none = is_missing.all(axis=1)
    if is_regression or not (has_one | has_none).all():
        return np.zeros(len(labels), "int64")
    return np.where(has_none, -1, (labels == 1).argmax(axis=1))


def _check(
    splits: Splits[ArrayExamples], dataset: str, content: Content | None
) -> Splits[ArrayExamples]:
    kind = "graphs" if splits.info.num_classes else "graphs of numbers"
    checked = check_splits(splits, kind, dataset)
    if is_spektral(dataset):
        return checked
    return dataclasses.replace(checked, content=content)
