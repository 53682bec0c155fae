"""What tests of figures need."""

import matplotlib.figure
import pytest
import yaml

from samkeras.experiment.options import targets


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function: (name, fields) -> the path of a figure's file, in a folder that takes
    the place of configs/figures/."""
    folder = tmp_path / "figures"
    folder.mkdir()
    monkeypatch.setattr(targets, "FIGURES", folder)

    def call(name: str, fields: dict):
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(fields, sort_keys=False))
        return path

    return call


@pytest.fixture
def canvas(monkeypatch):
    """A list that gets each canvas that is saved."""
    saved, save = [], matplotlib.figure.Figure.savefig

    def record(self, *args, **kwargs):
        saved.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", record)
    return saved
