"""Data sets that a user's function returns: what is taken, and how the rest is
refused."""

import dataclasses
import textwrap
from pathlib import Path

import numpy as np
import pytest

import run as command
from samkeras.data import sources
from samkeras.data.images import load_images
from samkeras.data.molecules import load_molecules
from samkeras.data.sentences import load_sentences
from samkeras.data.summary import summarize
from samkeras.data.treebank import load_treebank
from samkeras.errors import InputError
from samkeras.experiment.runs.data import describe_data
from samkeras.experiment.runs.saved import SavedRun
from tests.data.test_user_arrays import write_npz
from tests.helpers import arrays_of, parse_runs

START = """
import numpy as np
from samkeras.data.augmentation import CropFlip
from samkeras.data.graphs import Graph, as_array
from samkeras.workload import DataInfo, Splits

def give(x, y, shape=(4, 4, 1), outputs=3, classes=3, transform=None, **more):
    info = DataInfo("mine", shape, outputs, None, None, num_classes=classes, **more)
    return Splits(info, lambda: ((x, y), (x, y)), transform=transform)

IMAGES = np.arange(9 * 16, dtype="uint8").reshape(9, 4, 4, 1)
LABELS = np.arange(9) % 3
IDS = np.arange(18).reshape(9, 2) % 4 + 1
WORDS = {"shape": (None,), "vocabulary_size": 5}
PAIR = Graph(np.array([[0.5, 2.0], [1.0, -1.0]]), np.array([[0], [1]]))
GRAPHS = as_array([PAIR] * 9)
NODES = {"shape": (None, 2), "outputs": 1, "classes": 2}
NUMBERS = NODES | {"classes": None}
TASKS = (LABELS[:, None] > 0) * 1.0
"""
LOADERS = {
    "images": lambda name: load_images(name, None),
    "sentences": lambda name: load_sentences(name, None, 2),
    "tags": lambda name: load_treebank(name, None, 2),
    "graphs": lambda name: load_molecules(name, None),
    "graphs of numbers": lambda name: load_molecules(name, None, is_regression=True),
}
RIGHT = {
    "images": "give(IMAGES, LABELS)",
    "sentences": "give(IDS, LABELS, **WORDS)",
    "tags": "give(IDS, IDS % 3, word_counts=(0, 5, 5, 4, 4), **WORDS)",
    "graphs": "give(GRAPHS, TASKS, **NODES)",
    "graphs of numbers": "give(GRAPHS, TASKS * 7, **NUMBERS)",
}


# The first digits of their digests from before what is told of them counted.
KNOWN = {
    "images": "edb6e04f",
    "sentences": "94b03b7f",
    "tags": "a154fe95",
    "graphs": "270ccab2",
    "graphs of numbers": "4dcdac50",
    "images in a column": "0a5a17d0",
}


@pytest.fixture
def write(tmp_path):
    """A function of an expression: the name of a function that returns it."""

    def call(expression: str, name: str = "mine") -> str:
        path = Path(tmp_path / f"{name}.py")
        body = f"def load():\n    return {expression}\n"
        path.write_text(textwrap.dedent(START) + body)
        sources.find_object.cache_clear()
        return f"{path}:load"

    return call


@pytest.mark.one_backend
@pytest.mark.parametrize("kind", RIGHT)
def test_a_function_gives_examples(write, kind):
    """Of all that each workload takes, described in full."""
    splits = LOADERS[kind](write(RIGHT[kind]))
    assert len(splits.train.x) == splits.info.num_train == splits.info.num_validation
    assert splits.content is not None
    assert (splits.train.collate is None) == (kind == "images")


@pytest.mark.one_backend
def test_its_content_is_that_of_its_examples(write):
    """Whatever its code says: a run of other examples is another run."""
    one = load_images(write("give(IMAGES, LABELS)"), None).content
    same = load_images(write("give(IMAGES + 0, LABELS)", "same"), None).content
    other = load_images(write("give(IMAGES + 1, LABELS)", "other"), None).content
    assert one == same != other


MORE_TOLD = [
    ("images", "give(IMAGES, LABELS, outputs=4, classes=4)"),
    ("images", "give(IMAGES, LABELS, transform=CropFlip(padding=1))"),
    ("sentences", "give(IDS, LABELS, **WORDS | {'vocabulary_size': 6})"),
    ("sentences", "give(IDS, LABELS, outputs=4, classes=4, **WORDS)"),
    ("tags", "give(IDS, IDS % 3, word_counts=(0, 5, 5, 4, 9), **WORDS)"),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("kind", "told"), MORE_TOLD)
def test_what_it_tells_of_them_is_of_its_content(write, kind, told):
    """More classes or words are another model; a run of them is another run."""
    plain, one, same = (
        LOADERS[kind](write(expression, name)).content
        for name, expression in (("a", RIGHT[kind]), ("b", told), ("c", told))
    )
    assert plain != one == same


@pytest.mark.one_backend
def test_what_examples_have_themselves_is_not_told(write):
    """A run that was there before more was asked is known by the same digest."""
    for number, kind in enumerate(RIGHT):
        content = LOADERS[kind](write(RIGHT[kind], f"of_{number}")).content
        assert content.digest[:8] == KNOWN[kind]


@pytest.mark.one_backend
def test_labels_in_a_column_tell_their_classes(write):
    """As flat ones: a run that was there before is known by the same digest."""
    content = load_images(write("give(IMAGES, LABELS[:, None])"), None).content
    assert content.digest[:8] == KNOWN["images in a column"]
    more = "give(IMAGES, LABELS[:, None], outputs=4, classes=4)"
    assert load_images(write(more, "more"), None).content != content


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        ("images", "outputs={0}(4), classes={0}(4)"),
        ("images", "shape=({0}(4), {0}(4), {0}(1))"),
        ("sentences", "vocabulary_size={0}(9), shape=(None,)"),
        ("tags", "word_counts=[{0}(i) for i in (0, 5, 5, 4, 9)], **WORDS"),
    ],
)
def test_numbers_of_numpy_are_told_as_others(write, kind, numbers):
    """JSON, by which what is told is digested, has none of them."""
    given = RIGHT[kind].partition(",")[0] + ", " + "LABELS"
    given = "give(IDS, IDS % 3" if kind == "tags" else given
    found = [
        LOADERS[kind](write(f"{given}, {numbers.format(each)})", name))
        for name, each in (("a", "int"), ("b", "np.int64"))
    ]
    assert found[0].content == found[1].content
    one, other = (dataclasses.replace(each.info, name="") for each in found)
    assert one == other
    whole = (other.num_classes, other.num_outputs, other.vocabulary_size)
    assert {*map(type, (*whole, *other.input_shape))} <= {int, type(None)}


CHANGES = """
class Base:
    def apply(self, images, draws):
        return images

    evaluate = apply

class Mine(Base):
    def __init__(self, value):
        self.value = value

    def draw(self, generator, count):
        return np.zeros(count)
"""


@pytest.mark.one_backend
def test_code_that_a_transform_inherits_is_of_its_content(write):
    """An edit of it makes other runs, as one of the class itself."""
    digests = set()
    for number, change in enumerate(("images", "images + 1", "images")):
        code = CHANGES.replace("return images", f"return {change}")
        name = write("give(IMAGES, LABELS, transform=Mine(1))", f"n{number}")
        with open(name.removesuffix(":load"), "a") as file:
            file.write(code)
        digests.add(load_images(name, None).content.digest)
    assert len(digests) == 2


class Values:
    """What has an attribute, and says nothing of it."""

    def __init__(self, value):
        self.value = value


def change(array: np.ndarray) -> np.ndarray:
    changed = array.copy()
    changed.flat[array.size // 2] += 1
    return changed


LARGE = np.arange(5000.0)
NESTED = [
    lambda array: (array, 1),
    lambda array: [{"a": array}],
    lambda array: np.array([array, None], object),
    lambda array: Values([array]),
    lambda array: array.reshape(2, -1) if array[2500] > 2500 else array,
]


@pytest.mark.one_backend
@pytest.mark.parametrize("nest", NESTED)
def test_all_of_an_attribute_is_of_the_content(nest):
    """Of a large array too, whose middle its repr leaves out; and its shape."""
    one, same, other = (
        sources._describe_object(Values(nest(array)))
        for array in (LARGE, LARGE.copy(), change(LARGE))
    )
    assert one == same != other


@pytest.mark.one_backend
def test_the_order_of_a_set_is_not_of_the_content():
    """It is by chance: a run would not be found again."""
    one, same = {8, 0}, {0, 8}
    assert repr(one) != repr(same)
    told = [sources._describe_object(Values({"a": (each,)})) for each in (one, same)]
    assert told[0] == told[1]
    own = Values(None)
    own.value = [own]
    assert "..." in sources._describe_object(own)


@pytest.mark.one_backend
def test_a_module_of_the_folder_is_found(write, tmp_path, monkeypatch):
    (tmp_path / "own_data").mkdir()
    write(RIGHT["images"], "own_data/sets")
    write(RIGHT["images"], "own_module")
    monkeypatch.chdir(tmp_path)
    for name in ("own_data.sets", "own_module"):
        assert len(load_images(f"{name}:load", None).train) == 9


@pytest.mark.one_backend
def test_arrays_are_those_of_an_npz(write, tmp_path):
    """With the same checks and on the same scale."""
    path = write_npz(tmp_path / "d.npz")
    code = "x_train y_train x_test y_test"
    arrays = ", ".join(f"FILE['{name}']" for name in code.split())
    name = write(f"several(np.load({path!r}))")
    with open(tmp_path / "mine.py", "a") as file:
        file.write(
            "def several(FILE):\n"
            f"    x, y, v, w = {arrays}\n"
            "    info = DataInfo('m', (6, 6, 1), 4, None, None, 4)\n"
            "    return Splits(info, lambda: ((x / 255, y), (v / 255, w)))\n"
        )
    expected, found = (arrays_of(load_images(n, None)) for n in (path, name))
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


BAD = [
    ("images", "3", "must return samkeras.workload.Splits", "int"),
    ("images", "1 / 0", "ZeroDivisionError", "mine.py:"),
    ("images", RIGHT["sentences"], "needs images", "vocabulary_size 5"),
    ("sentences", RIGHT["images"], "needs sentences", "(4, 4, 1)"),
    ("images", "give(IMAGES[:0], LABELS)", "as many rows", "0 and 9"),
    ("images", "__import__('sys').exit(3)", "SystemExit: 3", "mine.py:"),
    ("images", "give(IMAGES, LABELS + 1)", "y must be from 0 to 2", "Received: 3"),
    (
        "images",
        "give(IMAGES, LABELS, (9, 9, 1))",
        "input_shape, (9, 9, 1)",
        "(4, 4, 1)",
    ),
    ("images", "give(IMAGES, LABELS + 0.5)", "y_train must hold classes", "0.5"),
    ("sentences", "give(IDS + 1, LABELS, **WORDS)", "x must be from 0 to 4", "5"),
    ("sentences", "give(IDS, LABELS - 1, **WORDS)", "y must be from 0 to 2", "-1"),
    ("sentences", "give(IDS / 2, LABELS, **WORDS)", "whole numbers", "float64"),
    ("tags", "give(IDS, IDS % 3, **WORDS)", "word_counts", "vocabulary_size 5"),
    *(
        (
            "tags",
            f"give(IDS, IDS % 3, word_counts={counts}, **WORDS)",
            "word_counts must be whole numbers from 0 on",
            received,
        )
        for counts, received in (
            ("['a'] * 5", "'a'"),
            ("5", "5"),
            ("[np.nan] * 5", "nan"),
            ("[0, 5, 1.5, 4, 4]", "1.5"),
            ("[0, 5, -1, 4, 4]", "-1"),
        )
    ),
    ("images", "give(IMAGES, LABELS, classes='3')", "num_classes must be", "'3'"),
    ("images", "give(IMAGES, LABELS, 16)", "input_shape must be a tuple", "16"),
    ("tags", RIGHT["tags"].replace("% 3", "% 3 - 3"), "y must be from -2", "-3"),
    (
        "sentences",
        "give(np.pad(IDS, ((0, 0), (1, 0))), LABELS, **WORDS)",
        "0 may stand only after the last word",
        "padding='post'. Received: [0, 1, 2] in row 0",
    ),
    (
        "tags",
        RIGHT["tags"].replace("IDS", "np.pad(IDS, ((0, 0), (1, 0)))"),
        "0 may stand only after the last word",
        "[0, 1, 2] in row 0",
    ),
    (
        "sentences",
        "give(IDS * (IDS[:, :1] > 1), LABELS, **WORDS)",
        "a word in each row",
        "none in row 0",
    ),
    (
        "tags",
        RIGHT["tags"].replace("IDS", "np.pad(IDS, ((0, 0), (0, 1)))"),
        "y must be -1 where x is 0",
        "0 in row 0",
    ),
    ("graphs", RIGHT["graphs of numbers"], "graph_regression learns", "num_classes No"),
    ("graphs of numbers", RIGHT["graphs"], "ogbg_gcn learns", "num_classes 2"),
    ("graphs", "give(GRAPHS, TASKS + 1, **NODES)", "y must be of 0 or 1", "2.0"),
    ("graphs", "give(GRAPHS, TASKS * np.nan, **NODES)", "missing ones alone", ""),
    ("graphs", RIGHT["graphs"].replace("TASKS", "LABELS"), "(9, 1)", "(9,)"),
    ("graphs", "give(IMAGES, TASKS, **NODES)", "x must be of samkeras.data", "ndarray"),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("kind", "expression", "rule", "received"), BAD)
def test_what_is_none_is_refused_in_one_line(write, kind, expression, rule, received):
    name = write(expression)
    with pytest.raises(InputError) as error:
        LOADERS[kind](name)
    message = str(error.value)
    assert message.startswith(f"--dataset {name}")
    assert "\n" not in message
    assert rule in message
    assert received in message


@pytest.mark.one_backend
def test_there_are_as_many_classes_as_it_says(write):
    """Though no example may be of the last ones."""
    splits = load_images(write("give(IMAGES, LABELS, outputs=5, classes=5)"), None)
    assert splits.info.num_outputs == splits.info.num_classes == 5


@pytest.mark.one_backend
def test_tasks_of_whole_numbers_are_shown_one_by_one(write):
    """As those of a file, which are floats."""
    tasks = "np.stack([LABELS > 0, LABELS > 1], 1).astype(int)"
    name = write(f"give(GRAPHS, {tasks}, **NODES | {{'outputs': 2}})")
    shown = summarize(load_molecules(name, None))
    assert "label 0: 6 of 9 are 1, 0 missing; majority 0.6667" in shown
    assert "label 1: 3 of 9 are 1, 0 missing; majority 0.6667" in shown


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", "task,mean,deviation\n", "task,mean,deviation\na,b,c\n"]
)
def test_a_file_of_a_functions_own_scales_nothing(write, text):
    """Though it may be called as ours is."""
    splits = load_molecules(write(RIGHT["graphs of numbers"]), None, is_regression=True)
    named = dataclasses.replace(splits, files={"tasks.csv": text})
    assert summarize(named) == summarize(splits)


@pytest.mark.one_backend
def test_a_name_that_is_not_there_is_told(write):
    name = write(RIGHT["images"])
    for wrong, words in (
        (name.replace("mine.py", "gone.py"), "there is no file"),
        (name.replace(":load", ":lod"), "did you mean load?"),
        ("no.such:load", "cannot import no.such"),
        ("nosuch:load", "cannot import nosuch"),
    ):
        with pytest.raises(InputError, match=words):
            load_images(wrong, None)


@pytest.mark.one_backend
def test_a_run_finds_its_data_from_any_folder(write, tmp_path, monkeypatch):
    write(RIGHT["images"])
    (config,) = parse_runs("mnist_mlp", ["--dataset", "mine.py:load"])
    params = {"started_in": str(tmp_path), "data_digest": ""}
    monkeypatch.chdir(tmp_path)
    splits = describe_data(config)
    assert splits.content is not None
    params["data_digest"] = splits.content.digest
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    saved = SavedRun(tmp_path, config, {}, params, "", "", ("", ""))
    with pytest.warns(UserWarning, match="edited since"):  # its mark is none
        assert len(saved.data.train) == 9


def test_runs_on_it_are_trained_and_shown(
    write, tmp_path, capsys, records, monkeypatch
):
    """As any others."""
    write(RIGHT["images"])
    monkeypatch.chdir(tmp_path)
    arguments = ["workloads/mnist_mlp", "--dataset", "mine.py:load"]
    arguments += ["--batch_size", "3", "--epochs", "2", "--sam", "true,false"]
    arguments += ["--run_dir", str(tmp_path / "runs")]
    assert command.main([*arguments, "--dry_run"]) == 0
    shown = "training: 9 examples of 4 x 4 x 1\n  3 classes: 0 3, 1 3, 2 3\n"
    assert capsys.readouterr().out.count(shown) == 1
    assert command.main(arguments) == 0
    found = list((tmp_path / "runs").glob("*/data.txt"))
    assert len(found) == 2
    assert all(shown in path.read_text() for path in found)
