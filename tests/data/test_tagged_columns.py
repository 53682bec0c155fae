"""Files of a word and its tag a line: what is taken, and how the rest is refused."""

import numpy as np
import pytest

import run as command
from samkeras.data import treebank
from samkeras.data.treebank import load_treebank, read_columns
from samkeras.errors import InputError
from tests.helpers import arrays_of

FULL = [[("le", "D"), ("mot", "N")], [("le", "D"), ("été", "N"), ("fut", "V")]]


def text(sentences, separator="\t") -> str:
    lines = ("\n".join(separator.join(pair) for pair in each) for each in sentences)
    return "\n\n".join(lines) + "\n"


def write(path, content=None) -> str:
    path.parent.mkdir(exist_ok=True, parents=True)
    content = text(FULL) if content is None else content
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "content",
    [
        text(FULL),
        text(FULL, " "),
        "\ufeff" + text(FULL, "  ").replace("\n", "\r\n") + "\n\n\n",
        "-DOCSTART- -X- -X- O\n\n" + text(FULL, " x y "),
        text(FULL, "\t ").replace("\n", " \n"),
        "# id=1 x=y\n" + text(FULL).replace("\n\n", "\n\n# id =\n"),
    ],
    ids=["tabs", "spaces", "of Windows", "CoNLL-2003", "tabs and spaces", "comments"],
)
def test_columns_of_any_kind_are_read(tmp_path, content):
    write(tmp_path / "x.txt", content)
    expected = [tuple(map(list, zip(*each, strict=True))) for each in FULL]
    assert [*read_columns(tmp_path / "x.txt")] == expected


@pytest.mark.one_backend
def test_other_white_space_is_of_words(tmp_path):
    """As tweets have it."""
    write(tmp_path / "x.txt", "10\u00a0km N\n\u3000 V\n")
    assert [*read_columns(tmp_path / "x.txt")] == [
        (["10\u00a0km", "\u3000"], ["N", "V"])
    ]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "names",
    [("train.txt", "valid.txt", "test.txt"), ("eng.train", "eng.testa", "eng.testb")],
)
def test_folders_have_parts(tmp_path, names):
    for name in names:
        write(tmp_path / name)
    splits = load_treebank(str(tmp_path), None, None)
    assert (len(splits.train), len(splits.validation)) == (2, 2)
    assert splits.files["tags.txt"].split() == ["D", "N", "V"]
    known = splits.content
    write(tmp_path / names[1], text(FULL[:1]))
    other = load_treebank(str(tmp_path), None, None)
    assert other.content != known is not None
    assert len(other.validation) == 1


@pytest.mark.one_backend
def test_of_a_file_alone_a_part_is_to_validate_on(tmp_path):
    path = write(tmp_path / "all.conll", text(FULL * 10))
    splits = load_treebank(path, None, None)
    assert (len(splits.train), len(splits.validation)) == (16, 4)
    assert "one in 5 is" in splits.notes[0]


@pytest.mark.one_backend
def test_a_sample_that_is_written_out_is_the_same_data(tmp_path):
    """To the bit: its runs are the same."""
    sample = load_treebank("morphgnt", None, 64)
    parts = treebank._read("morphgnt", None, "xpos")
    for name, sentences in zip(("train", "dev"), parts, strict=True):
        pairs = [list(zip(*each, strict=True)) for each in sentences]
        write(tmp_path / f"greek-{name}.tsv", text(pairs))
    found = load_treebank(str(tmp_path), None, 64)
    assert found.info.word_counts == sample.info.word_counts
    for one, other in zip(arrays_of(found), arrays_of(sample), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


BAD = {
    "empty": (b"", "has no sentences in its split train"),
    "no tag": (b"le D\nmot\n", "line 2", "2 columns", "'mot'"),
    "more columns": (b"le D\n\nmot N x\n", "line 3", "2 columns", "'mot N x'"),
    "no word": (b"le\tD\n\tN\n", "line 2", "2 columns"),
    "one tag": (b"le D\nmot D\n", "two tags or more", "D alone"),
    "no tags": (b"le _\nmot _\n", "has no XPOS", "all are _\n"),
    "numbers first": (
        b"1\tle\t_\tD\t_\n2\tmot\t_\tN\tx\n\n1\tle\t_\tD\t_\n",
        "a word first",
        "called .conllu",
    ),
    "latin-1": ("le D\nété N\n".encode("latin-1"), "line 2", "not UTF-8"),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("case", BAD)
def test_other_files_are_refused_in_one_line(tmp_path, case, capsys):
    """With exit code 2; it names the file, the line, and what is allowed."""
    content, *words = BAD[case]
    write(tmp_path / "d" / "train.txt", content)
    write(tmp_path / "d" / "dev.txt")
    arguments = ["workloads/ud_pos_transformer", "--dataset", str(tmp_path / "d")]
    assert command.main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("run.py: --dataset")
    assert message.count("\n") == 1
    assert str(tmp_path / "d") in message
    assert all(word in message for word in words), message


@pytest.mark.one_backend
def test_other_folders_are_refused(tmp_path):
    write(tmp_path / "train.txt")
    with pytest.raises(InputError, match="ends with val, "):
        load_treebank(str(tmp_path), None, None)
    write(tmp_path / "dev.txt")
    with pytest.raises(InputError, match="--tags xpos"):
        load_treebank(str(tmp_path), None, None, "upos")


@pytest.mark.slow_on_tensorflow
def test_tags_are_learnt(tmp_path, records):
    """Beyond the share of the most frequent one, with SAM and without."""
    rng = np.random.default_rng(0)
    tags = {"a": "A", "b": "B", "c": "C", "d": "A"}
    sentences = [
        [(word, tags[word]) for word in rng.choice([*tags], 5)] for _ in range(75)
    ]  # batches of one size: fewer programs to compile
    path = write(tmp_path / "all.txt", text(sentences))
    arguments = ["workloads/ud_pos_transformer", "--dataset", path, "--depth", "1"]
    arguments += ["--sam", "true,false", "--width_mult", "0.0625", "--steps", "40"]
    arguments += ["--eval_every", "40", "--warmup_steps", "10", "--batch_size", "15"]
    arguments += ["--rho", "0.01", "--dropout", "0"]
    arguments += ["--learning_rate", "0.1", "--run_dir", str(tmp_path / "runs")]
    assert command.main(arguments) == 0
    runs = [r for r in records["ud_pos_transformer"] if r.parent]
    assert len(runs) == 2
    assert all(run.metrics["best_val_accuracy"] > 0.7 for run in runs)
