"""What a run's options change: its labels, weights, examples, epochs and depth."""

import numpy as np
import pytest

import run as command
from samkeras.data.images import load_images
from samkeras.experiment.runs import build, data
from samkeras.experiment.runs.member import Member
from samkeras.experiment.runs.run import Run
from tests.experiment.runs.making import SMALL
from tests.helpers import arrays_of, is_precise, parse_runs

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize(
    "options",
    [
        "--method=sam,random,asam,fsam --m_sharpness=64",
        "--p=1.5,inf --ascent_steps=1,2",
        "--method=vasso,unified,monge,light,ssam,second_order --mask_every=2",
        "--method=gsam,gnp,wsam,stable,looksam,aesam,msam --momentum=0.5",
        "--sam_every=1,2 --sam_start=0,0.5",
        "--method=esam,trace,det,frobenius --rho=0.01 --sam_samples=2",
        "--only=all,kernel --scope=global,layer,mup",
        "--amsgrad=true,false --optimizer=adam --beta_2=0.5 --learning_rate=0.01",
    ],
)
def test_every_method_trains(train, recorded, options):
    """Each run leads elsewhere, the base optimizer's too, and is told apart by its
    options in MLflow and in the table."""
    grid = [*SMALL, "--width_mult", "0.1", "--sam", "true,false", *options.split()]
    code, out, _ = train(*grid)
    assert code == 0
    *children, _ = recorded()
    losses = {child.metrics["final_val_loss"] for child in children}
    assert len(losses) == len(children) > 3
    names = [option.partition("=")[0].removeprefix("--") for option in options.split()]
    assert names[0] in out  # the others may be the same for all
    runs = {tuple(child.params[n] for n in ("sam", *names)) for child in children}
    assert len(runs) == len(children)
    assert train(*grid)[0] == 0
    assert len(recorded()) == len(children) + 1


@pytest.mark.each_backend
def test_strict_precision_is_of_its_run_alone(train, recorded, monkeypatch):
    """A CPU rounds nothing anyway: there the weights are the same to the bit."""
    found, finish = [], Member.finish

    def keep(self, model, validation):
        found.append((is_precise(), model.compute_dtype, model.get_weights()))
        finish(self, model, validation)

    monkeypatch.setattr(Member, "finish", keep)
    options = ["--width_mult", "0.1", "--sam"]
    grid = [*SMALL, *options, "--precision", "float32_strict,float32"]
    assert train(*grid)[0] == 0
    (is_strict, policy, strict), (is_other_strict, _, other) = found
    assert (is_strict, policy, is_other_strict) == (True, "float32", False)
    assert not is_precise()
    for left, right in zip(strict, other, strict=True):
        np.testing.assert_array_equal(left, right)
    first, second, _ = recorded()
    assert first.params["precision"] == "float32_strict"
    assert first.tags["fingerprint"] != second.tags["fingerprint"]


@pytest.mark.each_backend
def test_double_precision_is_of_its_run_alone(train, monkeypatch):
    """Of weights, rates, momenta and metrics."""
    found, finish = [], Member.finish

    def keep(self, model, validation):
        numbers = [*model.trainable_variables, *model.optimizer.variables[1:]]
        numbers += model.metrics_variables
        found.append({(v.dtype, np.asarray(v).dtype.name) for v in numbers})
        finish(self, model, validation)

    monkeypatch.setattr(Member, "finish", keep)
    grid = [*SMALL, "--width_mult", "0.1", "--sam", "--optimizer", "adam"]
    assert train(*grid, "--precision", "float64,float32")[0] == 0
    assert found == [{("float64", "float64")}, {("float32", "float32")}]


@pytest.mark.each_backend
def test_label_noise_reaches_training(train, recorded):
    """With every label wrong the true ones are not learnt; noise refuses regression."""
    options = ["--dataset", "mnist_5k", "--train_examples", "512", "--epochs", "3"]
    options += ["--validation_examples", "512"]
    train(*options, "--label_noise", "0,1", target="workloads/mnist_mlp")
    *children, _ = recorded()
    best = {
        child.params["label_noise"]: child.metrics["best_val_accuracy"]
        for child in children
    }
    assert best["0.0"] > 0.3
    assert best["1.0"] < 0.1
    code, _, message = train(*SMALL, "--label_noise", "0.5")
    assert code == 2
    assert "--label_noise" in message


def test_label_noise_is_recorded(train, recorded):
    """The artifact holds each noisy label's place, true and noisy class; the realised
    rate is a parameter."""
    options = ["--dataset", "mnist_5k", "--train_examples", "90", "--epochs", "1"]
    options += ["--validation_examples", "90"]
    train(*options, "--label_noise", "0.33", target="workloads/mnist_mlp")
    (run_,) = recorded()
    assert run_.params["label_noise_realized"] == str(30 / 90)
    assert "label_noise.npz" in run_.files
    with np.load(run_.folder / "label_noise.npz") as file:
        indices, true, noisy = (file[name] for name in ("indices", "true", "noisy"))
    assert indices.shape == (30, 1)
    labels = load_images("mnist_5k", None).train.y
    np.testing.assert_array_equal(labels[indices[:, 0]], true)
    assert np.all(noisy != true)


def test_a_pruned_run_matches_the_dense_ones_size(train, recorded, tmp_path):
    """Its best weights hold as many non-zero parameters as the run says, the number of
    the dense model at the width to match."""
    options = ["--dataset", "mnist_5k", "--train_examples", "256", "--epochs", "1"]
    options += ["--validation_examples", "256"]
    options += ["--width_mult", "0.5", "--match_width", "0.1", "--sam"]
    options += ["--pruner", "snip,random,magnitude"]
    code, out, _ = train(*options, target="workloads/mnist_mlp")
    assert code == 0
    dense = 784 * 30 + 30 + 30 * 10 + 10 + 10 * 10 + 10
    assert out.count(f"{dense:,}") == 3
    *children, _ = recorded()
    assert {c.params["num_nonzero_params"] for c in children} == {str(dense)}
    assert {c.params["num_params"] for c in children} == {"125810"}
    for path in (tmp_path / "runs").glob("*/config.yaml"):
        (config,) = parse_runs("mnist_mlp", ["--config", str(path)])
        model = build.build_model(Run(config), data.describe_data(config).info)
        model.load_weights(path.with_name("best.weights.h5"))
        kernels = sum(np.count_nonzero(w) for w in model.get_weights() if w.ndim == 2)
        assert kernels + (150 + 50 + 10) == dense
        assert model.masks.num_pruned == 125_810 - dense


def test_a_dry_run_counts_what_pruning_leaves(train):
    options = ["--dry_run", "--pruner", "snip", "--sparsity", "0.9"]
    _, out, _ = train(*options, target="workloads/mnist_mlp")
    kernels = 784 * 300 + 300 * 100 + 100 * 10
    left = 410 + round(0.1 * kernels)
    assert f"parameters: 266,610 trainable, non-zero: {left:,}" in out
    assert "sparsity: 0.9\nmatch_width: null\n" in out  # as the command line has them


def test_holdout_takes_its_examples_from_the_training_set():
    """A fixed tenth of the training set, the rest to train on, none of the test set."""
    options = ["--dataset", "mnist_5k", "--holdout", "0.1", "--train_examples", "1000"]
    (config,) = parse_runs("mnist_mlp", options)
    splits, whole = data.describe_data(config), load_images("mnist_5k", None)
    assert (splits.info.num_train, splits.info.num_validation) == (900, 100)
    (x, y), (x_val, y_val) = arrays_of(splits)
    assert (len(x), len(y), len(x_val), len(y_val)) == (900, 900, 100, 100)
    parts = {image.tobytes() for image in x} | {image.tobytes() for image in x_val}
    assert parts == {image.tobytes() for image in whole.train.x[:1000]}
    (other,) = parse_runs("mnist_mlp", [*options, "--seed", "1"])
    np.testing.assert_array_equal(data.describe_data(other).validation.y, y_val)


def test_holdout_must_leave_both_parts(capsys):
    options = ["--dataset", "mnist_5k", "--holdout", "0.01", "--train_examples", "20"]
    assert command.main(["workloads/mnist_mlp", *options]) == 2
    assert "0.01 of 20 examples" in capsys.readouterr().err


def test_twice_the_epochs_stretch_the_schedule(train, recorded):
    """epochs_mult 2 of 2 epochs is 4, with the milestones at the same fractions."""
    milestones = ["--lr_milestones", "[0.5]", "--learning_rate", "0.01"]
    train(*SMALL, "--width_mult", "0.1", "--epochs_mult", "2", *milestones)
    (run_,) = recorded()
    rates = list(run_.curves["learning_rate"].values())
    assert rates == pytest.approx([0.01, 0.01, 1e-3, 1e-3])


@pytest.mark.parametrize(
    ("workload", "depth", "count"),
    [
        ("mnist_mlp", 1, 784 * 300 + 300 + 300 * 10 + 10),
        ("mnist_mlp", 3, 784 * 300 + 300 + 2 * (300 * 300 + 300) + 300 * 10 + 10),
        ("synthetic_mlp", 2, 100 * 100 + 100 + 100 * 100 + 100 + 100 + 1),
    ],
)
def test_depth_is_the_number_of_equal_hidden_layers(workload, depth, count):
    (config,) = parse_runs(workload, ["--depth", str(depth)])
    info = data.describe_data(config).info
    assert build.measure_size(Run(config), info).num_params == count
