"""A user's treebank: what of a folder of .conllu files is taken, and how the rest is
refused."""

import numpy as np
import pytest
from keras import ops

import run as command
from samkeras.data.sequences import NO_LABEL, UNKNOWN
from samkeras.data.treebank import load_treebank, read_conllu
from samkeras.errors import InputError
from samkeras.losses import TokenCrossentropy
from samkeras.scores import TokenAccuracy
from tests.helpers import arrays_of

pytestmark = pytest.mark.one_backend

FULL = [[("le", "l"), ("mot", "n")], [("le", "l"), ("été", "n"), ("fut", "v")]]


def conllu(sentences) -> str:
    """Lines of words and XPOS; as UPOS, the XPOS in capitals."""
    lines = []
    for sentence in sentences:
        for number, (word, tag) in enumerate(sentence, 1):
            columns = [str(number), word, "_", tag.upper(), tag, "_", "0", "root"]
            lines.append("\t".join([*columns, "_", "_"]))
        lines.append("")
    return "\n".join([*lines, ""])


@pytest.fixture
def write(tmp_path):
    """Writes a treebank, as sentences or as text: (train, dev) -> its folder."""

    def call(train=FULL, dev=FULL, name="train"):
        for split, content in ((name, train), ("dev", dev)):
            text = content if isinstance(content, str) else conllu(content)
            (tmp_path / f"x-ud-{split}.conllu").write_bytes(text.encode())
        return str(tmp_path)

    return call


def read(tmp_path, text: str | bytes) -> list:
    path = tmp_path / "x.conllu"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return list(read_conllu(path))


EXPECTED = [(["le", "mot"], ["l", "n"]), (["le", "été", "fut"], ["l", "n", "v"])]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
        lambda text: "\n\n# newpar\n\n" + text + "\n \n\n# end\n",
        lambda text: "# text = le\u2028mot\x85\x0c\r.\n" + text,
        lambda text: "1-2\tlemot" + "\t_" * 8 + "\n" + text,
        lambda text: "0.1\tleft out" + "\t_" * 8 + "\n" + text,
    ],
    ids=["plain", "BOM", "CRLF", "no end", "blank", "comment", "range", "left out"],
)
def test_files_as_they_come(tmp_path, change):
    """The same sentences, with whatever the format or an editor puts around them."""
    assert read(tmp_path, change(conllu(FULL))) == EXPECTED


@pytest.mark.parametrize(
    "sign", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e", "\r"]
)
def test_only_a_newline_ends_a_line(tmp_path, sign):
    """Other signs that Unicode ends a line with are a word's, and no sentences more."""
    words = [[(f"a{sign}b", "n"), (sign, "x")], [("c", "n")]]
    sentences = read(tmp_path, conllu(words))
    assert sentences == [([f"a{sign}b", sign], ["n", "x"]), (["c"], ["n"])]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("\n\n1", "\n1"), "must be word 3, or an empty line"),
        (lambda text: text.replace("2\tm", "3\tm"), "must be word 2"),
        (lambda text: text.replace("2\tm", "9" * 5_000 + "\tm"), "line 2"),
        (lambda text: text.replace("2\tmot", "2\t"), "line 2"),
        (lambda text: text.replace("\tl\t", "\t\t", 1), "line 1"),
        (lambda text: text.replace("\t", "    "), "line 1"),
        (lambda text: "\x0c\n" + text, "line 1"),
        (lambda text: text.encode("utf-16"), "is not UTF-8"),
        (lambda text: text.encode("latin-1"), "is not UTF-8"),
    ],
)
def test_broken_files_are_refused_in_one_line(tmp_path, change, words):
    with pytest.raises(InputError, match=words) as error:
        read(tmp_path, change(conllu(FULL)))
    assert "x.conllu" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.each_backend
def test_a_word_without_a_tag_is_neither_learnt_nor_scored(write):
    """It stays in the sentence. A sentence without any tag is left out."""
    gaps = [[("le", "l"), ("mot", "_")], [("fut", "_")], [("été", "n"), ("le", "l")]]
    splits = load_treebank(write(gaps, gaps), None, None)
    assert splits.info.num_train == splits.info.num_validation == 2
    assert splits.info.num_outputs == 2
    (x, y), (_, y_val) = arrays_of(splits)
    assert np.all(x > UNKNOWN)
    for labels in (y, y_val):
        np.testing.assert_array_equal(labels, [[0, NO_LABEL], [1, 0]])
    assert splits.files["tags.txt"] == "l\nn"
    assert "fut" not in splits.files["vocabulary.txt"]
    assert [note.partition(", ")[2] for note in splits.notes] == [
        f"{split}: 2 of 5 words have no XPOS and are neither learnt nor scored"
        for split in ("train", "dev")
    ]
    logits = np.zeros((*y.shape, 2), "float32")
    changed = logits.copy()
    changed[0, 1] = 5
    loss, metric = TokenCrossentropy(), TokenAccuracy()
    values = [ops.convert_to_numpy(loss(y, out)) for out in (logits, changed)]
    assert values[0] == values[1]
    metric.update_state(y, changed)
    assert float(metric.result()) == pytest.approx(2 / 3)


def test_a_treebank_without_xpos_offers_upos(write, capsys, tmp_path):
    """And has those; nothing is recorded."""
    text = conllu(FULL).replace("\tl\t", "\t_\t").replace("\tn\t", "\t_\t")
    folder = write(text.replace("\tv\t", "\t_\t"))
    options = ["--dataset", folder, "--run_dir", str(tmp_path / "runs")]
    assert command.main(["workloads/ud_pos_transformer", *options]) == 2
    message = capsys.readouterr().err
    assert "has no XPOS in its split train: all are _" in message
    assert message.endswith("--tags upos\n")
    assert not (tmp_path / "runs").exists()
    splits = load_treebank(folder, None, None, "upos")
    assert splits.files["tags.txt"] == "L\nN\nV"
    np.testing.assert_array_equal(splits.train.y, [[0, 1, -1], [0, 1, 2]])


def test_withheld_words_are_unknown(write):
    """Where all are, that is said and refused."""
    sentences = [[("_", "l"), ("mot", "n")]]
    splits = load_treebank(write(sentences), None, None)
    np.testing.assert_array_equal(splits.train.x, [[UNKNOWN, 2]])
    assert splits.files["vocabulary.txt"] == "<pad>\n<unk>\nmot"
    assert "train: 1 of 2 words are withheld and taken as unknown" in splits.notes[0]
    withheld = [[("_", "l"), ("_", "n")]]
    with pytest.raises(InputError, match="no words in its split train: all are _"):
        load_treebank(write(withheld), None, None)


def test_one_tag_is_nothing_to_learn(write):
    with pytest.raises(InputError, match=r"two tags or more.* Received: n alone"):
        load_treebank(write([[("a", "n"), ("b", "n")]]), None, None)


def test_parts_of_a_split_are_the_split(write, tmp_path, monkeypatch):
    """As those of large treebanks; test files are left alone. ~ is the home folder."""
    write(FULL[:1], name="train-c")
    write(FULL[1:], name="train-a-1")
    write("broken", name="test")
    folder = write("broken", name="pretrain-test")
    assert load_treebank(folder, None, None).info.num_train == 2
    monkeypatch.setenv("HOME", folder)
    assert load_treebank("~", None, None).info.num_train == 2
    (tmp_path / "x-ud-train-c.conllu").unlink()
    (tmp_path / "x-ud-train-a-1.conllu").unlink()
    with pytest.raises(InputError, match=r"ends with train\.conllu, or .* train-a\."):
        load_treebank(folder, None, None)


def test_files_that_change_are_read_again(write):
    """Within one process, as a notebook is."""
    folder = write(FULL)
    known = load_treebank(folder, None, None)
    write(FULL[:1])
    assert load_treebank(folder, None, None).info.num_train == known.info.num_train - 1


def test_the_sample_has_tags_of_its_own():
    with pytest.raises(InputError, match="morphgnt has tags of its own: --tags xpos"):
        load_treebank("morphgnt", None, None, "upos")


def test_tfds_has_the_same_words_and_tags(write, tmp_path, monkeypatch):
    """As the folder: it keeps the lines 1-2, and writes None for no XPOS."""
    pytest.importorskip("conllu")
    tfds = pytest.importorskip("tensorflow_datasets")
    text = (
        "# sent_id = a\n"
        "1-2\tlemot\t_\t_\t_\t_\t_\t_\t_\t_\n"
        "1\tle\t_\tDET\tl\t_\t0\troot\t_\t_\n"
        "2\tmot\t_\tNOUN\t_\t_\t0\troot\t_\t_\n\n"
        "# sent_id = b\n"
        "1\tfut\t_\tVERB\tv\t_\t0\troot\t_\t_\n\n"
    )
    folder = write(text, text)
    files = {split: [f"{folder}/x-ud-{split}.conllu"] for split in ("train", "dev")}
    monkeypatch.setattr(
        tfds.download.DownloadManager, "download_and_extract", lambda *_: files
    )
    name = "universal_dependencies/grc_perseus"
    for tags in ("xpos", "upos"):
        splits = [
            load_treebank(source, folder, None, tags) for source in (folder, name)
        ]
        assert splits[0].files == splits[1].files
        rows = [
            {
                (*x, *y)
                for x, y in zip(s.train.x.tolist(), s.train.y.tolist(), strict=True)
            }
            for s in splits
        ]
        assert rows[0] == rows[1]  # TFDS shuffles them
        assert {len(s.notes) for s in splits} == {2 if tags == "xpos" else 0}
