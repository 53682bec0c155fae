"""What tests of figures need."""

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
