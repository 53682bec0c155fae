"""Texts of a user's own, in tables: what is taken, and how the rest is refused."""

import csv
import json
from pathlib import Path

import keras
import numpy as np
import pytest

import run as command
from samkeras.data import molecules, names, sentences
from samkeras.data.sentences import load_sentences
from samkeras.errors import InputError
from samkeras.experiment.options.fingerprint import find_marks
from samkeras.experiment.runs.data import describe_data
from samkeras.losses import ClassCrossentropy
from samkeras.scores import class_accuracy
from tests.data.making import write_sdf
from tests.helpers import arrays_of, parse_runs

ROWS = [(f"good {word}, so good!", "yes") for word in "abcdef"]
ROWS += [(f"bad {word}\nand worse", "no") for word in "abcdef"]


def write(path, rows=ROWS, names=("text", "label")) -> str:
    """A table of the kind that its name says."""
    path.parent.mkdir(exist_ok=True, parents=True)
    with open(path, "w", newline="") as file:
        if path.suffix == ".jsonl":
            for row in rows:
                file.write(json.dumps(dict(zip(names, row, strict=True))) + "\n")
        elif path.suffix == ".tsv":
            for row in (names, *rows):
                file.write("\t".join(str(c).replace("\n", " ") for c in row) + "\n")
        else:
            csv.writer(file).writerows([names, *rows])
    return str(path)


@pytest.mark.one_backend
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_a_table_of_any_kind_is_the_same_data(tmp_path, kind):
    """Whatever its columns are called, one in five of each class to validate on."""
    expected = load_sentences(write(tmp_path / "d.csv"), None, None)
    names = ("n", "Sentence", "LABEL")
    rows = [(i, *row) for i, row in enumerate(ROWS)]
    found = load_sentences(write(tmp_path / f"x.{kind}", rows, names), None, None)
    for one, other in zip(arrays_of(found), arrays_of(expected), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    assert np.bincount(found.validation.y).tolist() == [1, 1]
    assert found.files["classes.txt"] == "no\nyes"
    assert found.info.num_outputs == 1
    assert "one in 5 is, 2 of 12 texts" in found.notes[0]


@pytest.mark.one_backend
def test_a_sample_that_is_written_out_is_the_same_data(tmp_path):
    """To the bit, and in the same order: its runs are the same."""
    with open(sentences._find_sample(), encoding="latin-1", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["sentiment"] in sentences.CLASSES]
    expected = load_sentences("crowdflower", None, 60)
    order = np.random.default_rng(0).permutation(len(rows))
    labels = np.array([row["sentiment"] == "positive" for row in rows])
    is_dev = np.zeros(len(rows), bool)
    for label in (False, True):
        is_dev[order[labels[order] == label][9::10]] = True
    for name, part in (("train", order[~is_dev[order]]), ("dev", order[is_dev[order]])):
        chosen = [(rows[i]["text"], rows[i]["sentiment"]) for i in part]
        write(tmp_path / "d" / f"tweets-{name}.csv", chosen)
    found = load_sentences(str(tmp_path / "d"), None, 60)
    for one, other in zip(arrays_of(found), arrays_of(expected), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    assert found.info.vocabulary_size == expected.info.vocabulary_size


@pytest.mark.one_backend
def test_labels_are_words_or_numbers(tmp_path):
    """Of any number of classes, numbers in their order."""
    rows = [(f"text {i}", [10, 2, 1][i % 3]) for i in range(30)]
    splits = load_sentences(write(tmp_path / "d.jsonl", rows), None, None)
    assert splits.info.num_outputs == splits.info.num_classes == 3
    assert splits.files["classes.txt"] == "1\n2\n10"
    floats = [(text, float(label)) for text, label in rows]
    same = load_sentences(write(tmp_path / "f.csv", floats), None, None)
    np.testing.assert_array_equal(same.train.y, splits.train.y)


@pytest.mark.one_backend
def test_columns_are_named_by_options(tmp_path, capsys):
    path = write(tmp_path / "d.csv", names=("what", "how"))
    splits = load_sentences(path, None, None, "what", "how")
    assert len(splits.train) == 10
    with pytest.raises(InputError, match=r"--text_column says .* Received: what, how"):
        load_sentences(path, None, None)
    with pytest.raises(InputError, match=r"did you mean what\?"):
        load_sentences(path, None, None, "waht", "how")
    given = ["--dataset", path, "--text_column", "what"]
    assert parse_runs("sst2_lstm", given)[0].text_column == "what"
    assert command.main(["workloads/sst2_lstm", "--text_column", "what"]) == 2
    assert "--dataset FILE.csv" in capsys.readouterr().err


@pytest.mark.one_backend
def test_columns_are_refused_where_there_are_none(tmp_path, capsys):
    """By what a function, spektral or an .sdf file gives, too."""
    sdf = write_sdf(tmp_path)
    for part in ("train", "dev"):
        (tmp_path / f"{part}.sdf").write_bytes(Path(sdf).read_bytes())
    for workload, dataset, option in (
        ("sst2_lstm", "mine.py:load", "label_column"),
        ("ogbg_gcn", "spektral:PROTEINS", "label_column"),
        ("ogbg_gcn", "solubility", "text_column"),
        ("graph_regression", "freesolv", "label_column"),
        ("graph_regression", sdf, "text_column"),
        ("graph_regression", str(tmp_path), "text_column"),
    ):
        given = ["--dataset", dataset, f"--{option}", "x", "--dry_run"]
        assert command.main([f"workloads/{workload}", *given]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert f"--{option}" in message
        assert "needs --dataset FILE.csv, .tsv or .jsonl" in message


@pytest.mark.one_backend
def test_a_grid_has_sets_with_columns_and_without(tmp_path, monkeypatch):
    """The name of a column is of the runs that have some; it makes no other run of the
    others, whatever stands in the folder."""
    for name in names.KNOWN:
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "d.csv", names=("text", "mood"))
    without = ["mine.py:load", "keras:imdb", "spektral:PROTEINS", *names.KNOWN]
    given = ["--dataset", ",".join(["d.csv", *without])]
    first, *others = parse_runs("sst2_lstm", [*given, "--label_column", "mood"])
    _, *bare = parse_runs("sst2_lstm", given)
    assert len(describe_data(first).train) == 10
    for one, other in zip(others, bare, strict=True):
        assert find_marks(one, 1, "jax") == find_marks(other, 1, "jax")
    for dataset in ("tweets", "glue/cola"):  # which may be folders elsewhere
        (config,) = parse_runs(
            "sst2_lstm", ["--dataset", dataset, "--label_column", "mood"]
        )
        with pytest.raises(InputError, match="--label_column mood needs"):
            describe_data(config)


@pytest.mark.one_backend
def test_a_set_without_columns_is_read_in_such_a_grid(tmp_path, monkeypatch):
    """Of either kind; a folder that is called as it is not taken for it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "freesolv").mkdir()
    given = ["--dataset", "freesolv,freesolv.csv", "--label_column", "expt"]
    energies, _ = parse_runs("graph_regression", given)
    assert describe_data(energies).info.num_train == 514
    sample = tmp_path / "sample.csv"
    rows = [(text, "positive" if mood == "yes" else "negative") for text, mood in ROWS]
    write(sample, rows * 10, ("text", "sentiment"))
    monkeypatch.setattr(sentences, "_find_sample", lambda: sample)
    sentences._read.cache_clear()
    (tmp_path / "crowdflower").mkdir()
    given = ["--dataset", "crowdflower,d.csv", "--label_column", "mood"]
    tweets, _ = parse_runs("sst2_lstm", given)
    assert describe_data(tweets).info.num_train == 108
    sentences._read.cache_clear()  # of the sample, which is another one


@pytest.mark.one_backend
def test_sets_that_are_known_are_those_of_the_workloads():
    assert {*molecules.KNOWN, molecules.FREESOLV, sentences.TWEETS} < {*names.KNOWN}


@pytest.mark.one_backend
def test_a_property_of_an_sdf_file_is_named_by_an_option(tmp_path, capsys):
    given = ["--dataset", write_sdf(tmp_path), "--label_column", "label", "--dry_run"]
    assert command.main(["workloads/graph_regression", *given]) == 0
    assert "  label: from " in capsys.readouterr().out


@pytest.mark.one_backend
def test_a_run_is_the_same_one_from_any_folder(tmp_path, monkeypatch):
    """Though its data may stand in the one and not in the other."""
    (tmp_path / "tweets").mkdir()
    given = ["--dataset", "tweets", "--label_column", "mood"]
    marks = []
    for place in (tmp_path, tmp_path / "tweets"):
        monkeypatch.chdir(place)
        (config,) = parse_runs("sst2_lstm", given)
        marks.append(find_marks(config, 1, "jax"))
    assert marks[0] == marks[1]
    assert config.label_column == config.result_fields["label_column"] == "mood"


@pytest.mark.one_backend
def test_of_several_parts_one_is_to_validate_on(tmp_path):
    """The same one as of folders of images; what is left out is said."""
    for count, part in enumerate(("train", "dev", "val", "test", "test-b"), 2):
        write(tmp_path / f"d-{part}.csv", ROWS[6 - count : 6 + count])
    splits = load_sentences(str(tmp_path), None, None)
    assert (len(splits.train), len(splits.validation)) == (4, 8)
    name = tmp_path.name
    told = f"{name} is validated on d-val.csv; left out: d-dev.csv, d-test.csv"
    assert splits.notes == (told,)


@pytest.mark.one_backend
def test_a_table_in_two_formats_is_not_learnt_twice(tmp_path):
    for name in ("a-train.csv", "b-train.csv", "a-train.jsonl", "dev.csv", "dev.tsv"):
        write(tmp_path / name)
    told = r"in one format\. Received: a-train\.csv and a-train\.jsonl"
    with pytest.raises(InputError, match=told):
        load_sentences(str(tmp_path), None, None)
    (tmp_path / "a-train.jsonl").unlink()
    with pytest.raises(InputError, match=r"Received: dev\.csv and dev\.tsv"):
        load_sentences(str(tmp_path), None, None)


@pytest.mark.one_backend
def test_a_grid_shows_each_of_its_data_sets(tmp_path, capsys):
    """Of one file, here; and those that runs share once."""
    path = write(tmp_path / "d.csv")
    given = ["--dataset", path, "--train_examples", "4,8", "--sam", "true,false"]
    assert command.main(["workloads/sst2_lstm", *given, "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert out.count("training: ") == 2
    for count in (4, 8):
        assert f"\ntrain_examples={count}:\ntraining: {count} examples" in out


@pytest.mark.one_backend
@pytest.mark.parametrize("end", ["dev", "val", "validation", "test"])
def test_folders_have_parts(tmp_path, end):
    write(tmp_path / "train.tsv")
    write(tmp_path / f"{end}.tsv", ROWS[4:8])
    splits = load_sentences(str(tmp_path), None, None)
    assert (len(splits.train), len(splits.validation)) == (12, 4)
    assert splits.notes == ()
    known = splits.content
    (tmp_path / "other.txt").write_text("no table")
    assert load_sentences(str(tmp_path), None, None).content == known is not None


@pytest.mark.parametrize("outputs", [1, 3])
def test_loss_and_accuracy_are_those_of_keras(outputs):
    """Of one output, as those were that runs had before."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(9, outputs)).astype("float32")
    labels = rng.integers(0, max(2, outputs), 9)
    if outputs == 1:
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        metric = keras.metrics.BinaryAccuracy(threshold=0.0)
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        metric = keras.metrics.SparseCategoricalAccuracy()
    weights = np.arange(9, dtype="float32")
    ours = keras.metrics.MeanMetricWrapper(class_accuracy, "accuracy")
    for given in (None, weights):
        found, expected = (
            float(f(labels, logits, given)) for f in (ClassCrossentropy(), loss)
        )
        assert found == expected
        assert float(ours(labels, logits, given)) == float(
            metric(labels, logits, given)
        )


BAD = {
    "empty": (b"", "must have rows", "none"),
    "only a header": (b"text,label\n", "must have rows", "none"),
    "more fields": (b"text,label\na,1\nb,2,3\n", "line 3", "3, 'b, 2, 3'"),
    "fewer fields": (b"text,label\na\n", "line 2", "1, 'a'"),
    "an open quote": (b'text,label\n"a,1\nb,2\n', "line 2", "end of data"),
    "no label": (b"text,label\na,1\nb,\n", "line 3", "a label. Received: none"),
    "no text": (b"text,label\na,1\n ,2\n", "line 3", "a text. Received: none"),
    "latin-1": ("text,label\na,1\né,2\n".encode("latin-1"), "line 3", "not UTF-8"),
    "one class": (b"text,label\na,1\nb,1\n", "two classes", "1 alone"),
    "numbers": (b"text,label\na,0.1\nb,0.2\nc,0.3\nd,0.4\n", "4 different", "0.1"),
    "one name twice": (b"text,text\na,1\n", "line 1", "'text' twice"),
    "one of each class": (b"text,label\na,1\nb,2\n", "two texts or more", "2 texts"),
    "other names": (b"what,label\na,1\n", "called text, sentence", "what, label"),
}
BAD_LINES = {
    "no JSON": (b'{"text": "a", "label": 1}\n{"text": \n', "line 2", "not JSON"),
    "a list": (b'{"text": "a", "label": 1}\n["a", 1]\n', "line 2", "an object"),
    "a missing key": (
        b'{"text": "a", "label": 1}\n{"text": "b"}\n',
        "line 2",
        "must have a label",
    ),
    "NaN as a label": (
        b'{"text": "a", "label": 1}\n{"text": "b", "label": NaN}\n',
        "line 2",
        "must have a label. Received: none",
    ),
    "a list as a text": (
        b'{"text": "a", "label": 1}\n{"text": ["b"], "label": 0}\n',
        "line 2",
        "a text or a number as text",
        '["b"]',
    ),
    "an object as a label": (
        b'{"text": "a", "label": {"is": 1}}\n{"text": "b", "label": 0}\n',
        "line 1",
        "a text or a number as label",
    ),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("case", [*BAD, *BAD_LINES])
def test_other_tables_are_refused_in_one_line(tmp_path, case, capsys):
    """With exit code 2; it names the file, the line, and what is allowed."""
    content, *words = {**BAD, **BAD_LINES}[case]
    path = tmp_path / ("d.csv" if case in BAD else "d.jsonl")
    path.write_bytes(content)
    assert command.main(["workloads/sst2_lstm", "--dataset", str(path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("run.py: --dataset")
    assert message.count("\n") == 1
    assert path.name in message
    assert all(word in message for word in words), message


@pytest.mark.one_backend
def test_other_folders_are_refused(tmp_path):
    write(tmp_path / "train.csv")
    with pytest.raises(InputError, match=r"ends with val, .* dev, .*: train\.csv$"):
        load_sentences(str(tmp_path), None, None)
    write(tmp_path / "dev.csv", [("text", "maybe")])
    with pytest.raises(InputError, match=r"line 2 of .*dev\.csv .* no, yes\. Rec"):
        load_sentences(str(tmp_path), None, None)


@pytest.mark.slow_on_tensorflow
def test_many_classes_are_learnt(tmp_path, records):
    """Beyond the share of the largest, with SAM and without."""
    words = ("alpha", "beta", "gamma")
    rng = np.random.default_rng(0)
    rows = [
        (" ".join(rng.permutation([words[i % 3], "and", "more"])), i % 3)
        for i in range(120)  # batches of one size: fewer programs to compile
    ]
    path = write(tmp_path / "d.csv", rows)
    arguments = ["workloads/sst2_lstm", "--dataset", path, "--sam", "true,false"]
    arguments += ["--width_mult", "0.05", "--epochs", "6", "--batch_size", "24"]
    arguments += ["--dropout", "0", "--run_dir", str(tmp_path / "runs")]
    arguments += ["--learning_rate", "0.5"]
    assert command.main(arguments) == 0
    runs = [r for r in records["sst2_lstm"] if r.parent]
    assert len(runs) == 2
    assert all(run.metrics["best_val_accuracy"] > 0.9 for run in runs)
