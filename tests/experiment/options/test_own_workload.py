"""A workload in a folder of its own, outside the project, with an option and a method
of its own: examples/two_moons."""

import csv
import json
import os
import pickle
import shutil
import subprocess
import sys

import keras
import pytest

import run as command
from samkeras.errors import InputError
from samkeras.experiment.options import fingerprint
from samkeras.experiment.options.parsing import Study, parse_command
from samkeras.experiment.options.targets import ROOT, Target, resolve_target
from samkeras.experiment.runs import build
from samkeras.experiment.runs.data import describe_data, read_data
from samkeras.experiment.runs.recall import Recall
from samkeras.experiment.runs.run import Run
from tests.helpers import request_stop

pytestmark = pytest.mark.one_backend

SHORT = ["--epochs", "2", "--width_mult", "0.25"]


@pytest.fixture
def folder(tmp_path):
    """A copy of the example, where nothing of the project is beside it."""
    return shutil.copytree(ROOT / "examples" / "two_moons", tmp_path / "moons")


@pytest.fixture
def target(folder) -> Target:
    return resolve_target(str(folder / "two_moons.py"))


def parse_one(target, *options):
    (config,) = parse_command(target, options).configs
    return config


def test_its_own_option_reaches_its_data(target):
    """Each value has data of its own, read once for the runs that share it, though the
    workload looks at it only when it makes the examples."""
    options = ["--spread", "0.1,0.3", "--seed", "0,1"]
    configs = parse_command(target, options).configs
    memory = Recall()
    narrow, again, wide, _ = (read_data(config, memory) for config in configs)
    assert narrow is again
    assert narrow.train.x.std() < wide.train.x.std()
    with pytest.raises(InputError, match="spread must be a number >= 0"):
        parse_one(target, "--spread", "-1")
    with pytest.raises(InputError, match="has no option --word_dropout"):
        parse_one(target, "--word_dropout", "1")


@pytest.mark.each_backend
def test_its_own_method_is_one_of_the_methods(target):
    config = parse_one(target, "--sam", "--method", "lookback", "--rho", "0.3")
    method = Run(config).build_method()
    assert type(method).__name__ == "Lookback"
    assert float(method.rho) == pytest.approx(0.3)
    with pytest.raises(InputError, match=r"fsam, .*lookback\. .*did you mean lookback"):
        parse_one(target, "--sam", "--method", "lokback")


def test_each_folder_has_an_experiment_of_its_own(folder, monkeypatch):
    """Where files have one name; those of workloads/ have theirs."""
    other = shutil.copytree(folder, folder.parent / "stars")
    (other / "inner").mkdir()
    monkeypatch.chdir(other / "inner")
    for path, name in (
        (folder / "two_moons.py", "moons/two_moons"),
        ("../two_moons.py", "stars/two_moons"),
        (ROOT / "workloads" / "mnist_mlp.py", "mnist_mlp"),
    ):
        assert resolve_target(str(path)).experiment == name


def test_its_runs_are_recorded_in_its_experiment(folder, records, tmp_path):
    line = [str(folder / "two_moons.py"), "--epochs", "1", "--width_mult", "0.25"]
    assert command.main([*line, "--run_dir", str(tmp_path / "runs")]) == 0
    assert [*records] == ["moons/two_moons"]


@pytest.fixture
def run_again(folder, records, tmp_path, capsys):
    """A function: options -> what a command prints that trains and compares it, as in
    a process of its own."""

    def call(*options: str) -> str:
        for name in [n for n in sys.modules if n.startswith(("two_moons_", "beside"))]:
            del sys.modules[name]
        fingerprint._digest_module.cache_clear()
        line = [str(folder / "two_moons.py"), "--epochs=1", "--batch_size=500"]
        line += ["--run_dir", str(tmp_path / "runs"), *options]
        assert command.main(line) == 0
        return capsys.readouterr().out

    return call


def rewrite(path, *replaced: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def test_an_edited_workload_trains_again(folder, run_again, monkeypatch):
    """A comment makes no other run, another model does; one that a module beside it
    makes, of which no fingerprint tells, is compared apart."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    path, beside = folder / "two_moons.py", folder / "beside.py"
    beside.write_text("HIDDEN = [32]\n")
    rewrite(path, ("import keras\n", "import beside\nimport keras\n"))
    rewrite(path, ("[32]", "beside.HIDDEN"))
    assert " 162 " in run_again()
    rewrite(path, ("import beside\n", "import beside  # its numbers\n"))
    rewrite(beside, ("[32]", "[640]"))
    mixed = run_again("--seed=0,1")
    assert "1 of 2 runs already finished" in mixed
    assert "models of 162 parameters and 3,202 parameters" in mixed
    rewrite(path, ("beside.HIDDEN", "[640]"))
    anew = run_again()
    assert "already finished" not in anew
    assert " 3,202 " in anew
    sources = folder.parent.glob("runs/*/source/two_moons.py")
    assert sorted("beside.HIDDEN" in file.read_text() for file in sources) == [
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("mode", ["Max", "biggest"])
def test_a_mode_that_is_none_is_refused(folder, target, mode):
    """It would turn all gains around."""
    rewrite(folder / "two_moons.py", ('mode="max"', f'mode="{mode}"'))
    with pytest.raises(InputError, match=r"^mode of a Workload must be max or min"):
        target.load()


def test_a_loss_is_any_that_keras_takes():
    """Or one that a function of the config makes."""
    made = keras.losses.MeanSquaredError()
    own = keras.losses.mean_squared_error
    for loss, expected in (("mse", "mse"), (made, made), (own, own)):
        assert build._find_loss(loss, None) is expected
    assert build._find_loss(lambda config: config, made) is made


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("two_mons.py", "there is no file two_mons.py; did you mean two_moons.py"),
        ("--config", "a target comes first: python run.py TARGET --config"),
    ],
)
def test_what_is_no_target_is_refused(folder, monkeypatch, name, message):
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match=message):
        resolve_target(name)


def test_its_runs_go_to_other_processes(target):
    """Also where its folder lies elsewhere, as on a Ray node."""
    config = parse_one(target, "--spread", "0.3")
    assert pickle.loads(pickle.dumps(config)) == config
    sent = pickle.dumps(config)
    new = target.path.parent.parent / "elsewhere"
    new.mkdir()
    shutil.move(target.path.parent, new)
    sys.path.append(str(new))
    try:
        found = pickle.loads(sent)
    finally:
        sys.path.remove(str(new))
    assert found.spread == 0.3
    assert found.target.path == new / "moons" / "two_moons.py"
    assert found.target.experiment == "moons/two_moons"
    assert describe_data(found).info.name == "two_moons"


def test_a_module_of_a_package_is_a_target(folder, monkeypatch):
    """By its dotted name, from the folder that the package is in."""
    (folder / "__init__.py").touch()
    monkeypatch.chdir(folder.parent)
    target = resolve_target("moons.two_moons")
    assert parse_one(target, "--spread", "0.3").spread == 0.3
    assert target.experiment == "two_moons"
    with pytest.raises(InputError, match="Python finds no such module"):
        resolve_target("moons.three_moons")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", ["has no `workload = Workload(...)`"]),
        ("import no_such_package", ["cannot import", "package' (two_moons.py:1)"]),
        ("x = (", ["cannot import", "SyntaxError", "(two_moons.py, line 1)\n"]),
    ],
)
def test_a_file_that_is_no_workload_is_refused_in_one_line(folder, capsys, text, words):
    (folder / "two_moons.py").write_text(text)
    (folder / "two_moons.yaml").write_text("options: [supervised]")
    path = str(folder / "two_moons.py")
    assert command.main([path, "--dry_run"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("options: Moons", ["options must be a list of names", "Moons"]),
        ("options: [supervised, Moon]", ["options must be of", "Moon", "classes of"]),
        ("options: [Moons]", ["options must have the group of Amounts", "Supervised"]),
        ("sprad: 1", ["unknown field sprad"]),
        ("- 1", ["must hold fields and values"]),
        ("epochs: 1\n---\nepochs: 2", ["must be one document. Received: 2"]),
    ],
)
def test_a_wrong_yaml_file_is_refused_in_one_line(folder, capsys, text, words):
    (folder / "two_moons.yaml").write_text(text)
    assert command.main([str(folder / "two_moons.py"), "--dry_run"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("spread: NonNegativeFloat = 0.2", "workers: int = 3", ["option workers"]),
        ("spread: NonNegativeFloat = 0.2", "epochs: float = 3", ["option epochs"]),
        ("spread: NonNegativeFloat = 0.2", "options: str = 'a'", ["option options"]),
        ("= 0.2", "", ["must give its option spread a default"]),
        ("NonNegativeFloat = 0.2", "dict = None", ["type of its option spread"]),
        ("@dataclass(frozen=True, kw_only=True)", "", ["Moons needs @dataclass"]),
        ('{"lookback"', '{"sam"', ["cannot be called sam"]),
        ("Lookback(config.rho)", "3", ["must give a samkeras.Method", "Received: 3"]),
        ("config.spread", "config.spraed", ["no", "spraed", "did you mean spread"]),
        ("import keras\n", "raise SystemExit(3)\n", ["cannot import", "SystemExit"]),
    ],
)
def test_a_workload_that_is_wrong_is_refused_in_one_line(
    folder, capsys, tmp_path, old, new, words
):
    path = folder / "two_moons.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    line = [str(path), *SHORT, "--sam", "--method", "lookback"]
    line += ["--run_dir", str(tmp_path / "runs")]
    assert command.main([*line, "--tracking_uri", f"sqlite:///{tmp_path}/a.db"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert all(word in message for word in words), message


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n"])
def test_an_empty_yaml_file_means_all_defaults(folder, text):
    (folder / "two_moons.yaml").write_text(text)
    config = parse_one(resolve_target(str(folder / "two_moons.py")))
    assert (config.epochs, config.batch_size) == (1, 128)


def test_its_printed_config_reads_back(folder, capsys):
    target = resolve_target(str(folder / "two_moons.py"))
    with pytest.raises(SystemExit):
        parse_command(target, ["--spread", "0.3", "--print_config"])
    path = folder / "printed.yaml"
    path.write_text(capsys.readouterr().out)
    assert parse_one(target, "--config", str(path)) == parse_one(
        target, "--spread", "0.3"
    )


def test_its_own_method_is_known_in_every_file(folder):
    """In a config and in a study, of a workload without options of its own."""
    path = folder / "two_moons.py"
    path.write_text(path.read_text().replace("config.spread", "0.2"))
    (folder / "two_moons.yaml").write_text("epochs: 2")
    (folder / "own.yaml").write_text("sam: true\nmethod: lookback")
    target = resolve_target(str(path))
    assert parse_one(target, "--config", str(folder / "own.yaml")).method == "lookback"
    study = Study(folder / "noise.yaml", "", [{"sam": True, "method": ["lookback"]}])
    (config,) = parse_command(target, [], study=study).configs
    assert config.method == "lookback"


def test_a_printed_grid_reads_back(target, folder, capsys):
    """Its runs, each for each value of an option that is given, and its session."""
    options = ["--sam=true,false", "--spread=0.1,0.3", "--workers=2"]
    asked = parse_command(target, options)
    with pytest.raises(SystemExit):
        parse_command(target, [*options, "--print_config"])
    path = folder / "printed.yaml"
    path.write_text(capsys.readouterr().out)
    assert parse_command(target, ["--config", str(path)]) == asked
    by_seed = parse_command(target, ["--config", str(path), "--seed", "0,1"]).configs
    assert [c for c in by_seed if c.seed == 0] == asked.configs
    assert len(by_seed) == 2 * len(asked.configs)
    path.write_text(path.read_text().replace("workers: 2", "workers: 3", 1))
    with pytest.raises(InputError, match=r"workers must be the same.*Received: 3, 2"):
        parse_command(target, ["--config", str(path)])


@pytest.mark.each_backend
def test_its_run_goes_on_where_it_was_interrupted(
    folder, store, tmp_path, capsys, monkeypatch
):
    line = [str(folder / "two_moons.py"), *SHORT, "--sam", "--method", "lookback"]
    line += ["--run_dir", str(tmp_path / "runs"), "--tracking_uri", store]
    line += ["--experiment", "own"]

    with monkeypatch.context() as context:
        request_stop(context, ("validate", 0, 0))
        assert command.main(line) == 130
    assert command.main(line) == 0
    assert command.main(line) == 0
    assert "1 of 1 runs already finished" in capsys.readouterr().out


def test_a_picture_may_be_over_its_own_option(folder, records, tmp_path):
    study = folder / "noise.yaml"
    study.write_text(study.read_text().replace("x: width_mult", "x: spread"))
    line = [
        str(study),
        "--epochs=1",
        "--width_mult=0.25",
        "--spread=0.1,0.3",
        "--seed=0",
    ]
    assert command.main([*line, "--run_dir", str(tmp_path / "runs")]) == 0
    (drawn,) = (tmp_path / "runs" / "figures").iterdir()
    with open(drawn / "noise.csv", newline="") as file:
        points = [(p["line"], p["spread"]) for p in csv.DictReader(file)]
    assert points == [("SAM - base", "0.1"), ("SAM - base", "0.3")]
    assert "spread" in (drawn / "noise.svg").read_text()


@pytest.mark.parametrize("kind", ["str = 'a'", "bool = False", "Literal[1] = 1"])
def test_a_picture_is_over_no_option_that_is_no_number(folder, capsys, kind):
    path = folder / "two_moons.py"
    text = path.read_text().replace("NonNegativeFloat = 0.2", kind)
    path.write_text("from typing import Literal\n" + text)
    study = folder / "noise.yaml"
    study.write_text(study.read_text().replace("x: width_mult", "x: spread"))
    assert command.main([str(study)]) == 2
    err = capsys.readouterr().err
    assert "x must be one of epoch" in err
    assert err.endswith("Received: spread\n")


@pytest.mark.slow
def test_its_study_is_drawn_from_anywhere_by_two_workers(folder, tmp_path):
    """By `python -m samkeras`, from a folder that has nothing of the project."""
    away = tmp_path / "away"
    away.mkdir()
    line = [sys.executable, "-m", "samkeras", str(folder / "noise.yaml"), "--workers=2"]
    line += ["--epochs=1", "--width_mult=0.25", "--spread=0.1,0.3", "--seed=0"]
    line += ["--tracking_uri", f"sqlite:///{away}/mlflow.db", "--run_dir", "runs"]
    done = subprocess.run(
        line,
        cwd=away,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (drawn,) = (away / "runs" / "figures").iterdir()
    summary = json.loads((drawn / "summary.json").read_text())
    assert (summary["finished"], summary["runs"]) == (4, 4)
    assert (drawn / "noise.png").stat().st_size > 0
