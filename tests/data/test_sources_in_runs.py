"""Runs on data of each kind of source: shown, trained, gone on with and drawn as any
others; and the same where the same data come from elsewhere."""

import csv
import re

import numpy as np
import pytest

import run as command
from samkeras.data import sentences
from samkeras.data.graphs import as_array
from samkeras.data.images import load_images
from samkeras.experiment.runs.member import Member
from samkeras.workload import DataInfo, Splits
from tests.data.making import NARROW, SOURCES, TINY, write_images
from tests.data.test_own_graphs import choose, read_tudataset
from tests.helpers import arrays_of, request_stop


@pytest.fixture
def train(records, tmp_path, monkeypatch):
    """A function: (name, workload, data set, options) -> (exit code, last weights, the
    run's record); `stop` is where the run is asked to stop, see request_stop."""
    final, finish = {}, Member.finish

    def keep_weights(self, model, validation):
        final["weights"] = model.get_weights()
        finish(self, model, validation)

    monkeypatch.setattr(Member, "finish", keep_weights)

    def call(name, workload, dataset, *options, stop=None):
        request_stop(monkeypatch, stop)
        final.clear()
        places = ["--run_dir", str(tmp_path / name), "--experiment", name]
        arguments = [f"workloads/{workload}", "--dataset", dataset, *places, *options]
        code = command.main(arguments)
        return code, final.get("weights"), records[name][-1]

    return call


def assert_same_run(one, other) -> None:
    """To the bit: the weights, and every number that is no time."""
    (code, weights, record), (other_code, other_weights, other_record) = one, other
    assert code == other_code == 0
    for a, b in zip(weights, other_weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert record.curves["val_loss"] == other_record.curves["val_loss"]
    assert record.curves["loss"] == other_record.curves["loss"]


@pytest.mark.one_backend
@pytest.mark.parametrize("kind", SOURCES)
def test_what_was_read_is_shown(kind, tmp_path, capsys, records):
    """Examples, sizes, classes and how many there are of each, the largest share: by
    --dry_run."""
    source = SOURCES[kind]
    dataset = source.make(tmp_path)
    arguments = [f"workloads/{source.workload}", "--dataset", dataset, "--dry_run"]
    assert command.main([*arguments, *source.options, *NARROW]) == 0
    out = capsys.readouterr().out
    assert out.count("training: ") == out.count("validation: ") == 1
    assert all(words in out for words in source.shown), out


@pytest.mark.slow
@pytest.mark.parametrize("kind", SOURCES)
def test_an_interrupted_run_goes_on_to_the_same_weights(kind, tmp_path, train):
    """On both backends, stopped within an epoch."""
    source, run = SOURCES[kind], tmp_path / "run"
    (tmp_path / "data").mkdir()
    dataset = source.make(tmp_path / "data")
    options = (*source.options, *NARROW, "--sam", "--rho", "0.05")
    options += ("--steps_per_execution", "2")  # more would leave no place to stop at
    whole = train("whole", source.workload, dataset, *options)
    code, *_ = train("run", source.workload, dataset, *options, stop=("train", 1, 2))
    assert code == 130
    assert_same_run(train("run", source.workload, dataset, *options), whole)
    (kept,) = run.glob("*/data.txt")
    assert all(words in kept.read_text() for words in source.shown)


def find_baseline(text: str) -> float:
    """What one does who knows the labels and not the examples, on those to validate
    on: the share of the majority; the mean average precision of any order; or the loss
    at the training labels' mean, of labels of variance 1 there."""
    training, validation = text.split("validation: ")
    if shares := re.findall(r"majority: ([\d.]+)", validation):
        return float(shares[0])
    if counts := re.findall(r": (\d+) of (\d+) are 1", validation):
        return sum(int(ones) / int(num) for ones, num in counts) / len(counts)
    moments = r"mean ([\d.]+), variance ([\d.]+)"
    (mean, variance), (other, spread) = (
        map(float, *re.findall(moments, part)) for part in (training, validation)
    )
    return (spread + (other - mean) ** 2) / variance


@pytest.mark.slow
@pytest.mark.parametrize("method", ["base", "sam"])
@pytest.mark.parametrize("kind", SOURCES)
def test_each_is_learnt_beyond_what_its_labels_alone_tell(
    kind, method, tmp_path, train
):
    """On both backends, most of what is left to learn, at the last epoch."""
    source, sam = SOURCES[kind], str(method == "sam").lower()
    (tmp_path / "data").mkdir()
    dataset = source.make(tmp_path / "data")
    options = (*source.learning, "--sam", sam)
    code, _, record = train("run", source.workload, dataset, *options)
    (kept,) = (tmp_path / "run").glob("*/data.txt")
    baseline = find_baseline(kept.read_text())
    assert code == 0
    if kind == "numbers of molecules":
        assert record.metrics["final_val_loss"] < 0.5 * baseline
    else:
        (final,) = (v for k, v in record.metrics.items() if k.startswith("final_val_"))
        assert final > baseline + 0.6 * (1 - baseline)


@pytest.mark.one_backend
def test_an_npz_and_a_folder_of_its_images_give_the_same_run(tmp_path, train):
    folder = write_images(tmp_path)
    (x, y), (v, w) = arrays_of(load_images(folder, None))
    path = str(tmp_path / "d.npz")
    np.savez(path, x_train=x, y_train=y, x_test=v, y_test=w)
    options = (*TINY, *NARROW, "--sam", "--rho", "0.05")
    runs = [train(d[-4:], "mnist_mlp", d, *options) for d in (folder, path)]
    assert_same_run(*runs)


@pytest.mark.one_backend
def test_a_sample_and_a_table_of_it_give_the_same_run(tmp_path, train, monkeypatch):
    """Of tweets, here fewer than the package carries."""
    rng = np.random.default_rng(0)
    rows = [
        (" ".join(rng.choice(["so", "good", "bad", "it"], 5)), sentences.CLASSES[i % 2])
        for i in range(60)
    ]
    sample = tmp_path / "sample.csv"
    with open(sample, "w", newline="") as file:
        csv.writer(file).writerows([("text", "sentiment"), *rows])
    monkeypatch.setattr(sentences, "_find_sample", lambda: sample)
    sentences._read.cache_clear()
    order = np.random.default_rng(0).permutation(60)
    is_dev = np.zeros(60, bool)
    for label in range(2):
        is_dev[order[order % 2 == label][9::10]] = True
    (tmp_path / "own").mkdir()
    parts = {"train": order[~is_dev[order]], "dev": order[is_dev[order]]}
    for part, chosen in parts.items():
        with open(tmp_path / "own" / f"{part}.csv", "w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *(rows[i] for i in chosen)])
    options = (*TINY, *NARROW, "--max_length", "8", "--sam", "--rho", "0.05")
    runs = [
        train(name, "sst2_lstm", dataset, *options)
        for name, dataset in (("a", sentences.TWEETS), ("b", str(tmp_path / "own")))
    ]
    sentences._read.cache_clear()  # of the sample, which is another one
    assert_same_run(*runs)


READ = {}  # what own_reading gives


def own_reading() -> Splits:
    """A set of TUDataset by our own reading of its files, as a user's function gives
    it."""
    graphs, labels = READ["proteins"]
    order, chosen = choose(labels)
    train, validation = (
        (as_array([graphs[i] for i in part]), labels[part])
        for part in (order[~chosen], order[chosen])
    )
    info = DataInfo("proteins", (None, 5), 1, None, None, num_classes=2)
    return Splits(info, lambda: (train, validation))


@pytest.mark.one_backend
def test_spektral_and_our_own_reading_give_the_same_run(proteins, train):
    """Of a set in TUDataset's layout."""
    READ["proteins"] = read_tudataset(proteins)
    options = (*TINY, *NARROW, "--depth", "1", "--sam", "--rho", "0.05")
    runs = [
        train(name, "ogbg_gcn", dataset, *options)
        for name, dataset in (
            ("a", "spektral:PROTEINS"),
            ("b", f"{__name__}:own_reading"),
        )
    ]
    assert_same_run(*runs)
