"""The examples of docs/data.md are what they say, as they are written."""

import re
import runpy
from pathlib import Path

import pytest

from samkeras.experiment.runs.data import describe_data
from tests.helpers import parse_runs

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
# All but those that download their data first.
COMMAND = re.compile(
    r"^    (?:KERAS_BACKEND=\w+ )?python run\.py workloads/"
    r"(.* --dataset (?!keras:|spektral:).*)$",
    re.M,
)
FILES = re.findall(r"```python\n(# (\w+\.py).*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the page's files are written and run."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for text, name in FILES:
            (folder / name).write_text(text)
            runpy.run_path(name)
        yield folder


@pytest.mark.one_backend
@pytest.mark.parametrize("line", COMMAND.findall(PAGE.read_text()))
def test_commands_have_their_data(line, folder, monkeypatch):
    monkeypatch.chdir(folder)
    workload, *options = line.split()
    splits = describe_data(parse_runs(workload, options)[0])
    assert len(splits.train) > len(splits.validation) > 0
    assert splits.content is not None
