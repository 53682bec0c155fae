"""Whole runs of sentences and graphs: the command line, ablations, resume."""

import keras
import pytest

import run as command
from samkeras.errors import InputError
from samkeras.experiment.options.parsing import parse_command
from samkeras.experiment.runs import data
from samkeras.experiment.runs.build import build_model
from samkeras.experiment.runs.recall import Recall
from samkeras.experiment.runs.run import Run
from samkeras.models import gcn, lstm, tagger
from tests.helpers import add_groups, parse_runs, request_stop

SENTENCES = (("the dog runs", "a b c"), ("dogs run", "b c"), ("run", "c"))
LONG = ("one after the other they all run to the house", "d a a b b b c a a b")


@pytest.fixture
def treebank(tmp_path):
    """A folder of .conllu files: 60 and 20 sentences of 1 to 10 words."""
    for split, count in (("train", 15), ("dev", 5)):
        lines = []
        for words, tags in [*SENTENCES, LONG] * count:
            pairs = zip(words.split(), tags.split(), strict=True)
            for number, (word, tag) in enumerate(pairs, 1):
                columns = [str(number), word, "_", "_", tag, *["_"] * 5]
                lines.append("\t".join(columns))
            lines.append("")
        (tmp_path / f"xx-{split}.conllu").write_text("\n".join(lines))
    return tmp_path


def options_of(workload: str, treebank) -> list[str]:
    """A run of some seconds, with ablations."""
    common = ["--width_mult", "0.05", "--depth", "1", "--sam", "--label_noise", "0.1"]
    pruned = ["--pruner", "snip", "--sparsity", "0.5"]
    data = {
        "ud_pos_transformer": ["--dataset", str(treebank), "--steps", "8"],
        "sst2_lstm": ["--dataset", "crowdflower", "--epochs", "2"],
        "ogbg_gcn": ["--dataset", "solubility", "--epochs", "2"],
    }
    sizes = ["--batch_size", "16", "--train_examples", "56"]
    sizes += ["--validation_examples", "18"]
    if workload == "ud_pos_transformer":
        sizes += ["--eval_every", "4", "--warmup_steps", "4", "--word_dropout", "0.5"]
    return [*data[workload], *sizes, *common, *pruned]


@pytest.fixture
def train(records, tmp_path, monkeypatch, request):
    """A function: (name, target, options, stop) -> (exit code, the runs so far).

    Runs of one name share their folders and experiment. With `stop`, one is requested
    within the second epoch.
    """

    def call(name: str, target: str, options: list[str], stop: bool = False):
        request_stop(monkeypatch, ("train", 1, 1) if stop else None)
        experiment = f"{request.node.name}_{name}"
        places = ["--run_dir", str(tmp_path / name)]
        code = command.main([target, *options, *places, "--experiment", experiment])
        return code, records[experiment]

    return call


def test_runs_of_other_lengths_have_data_of_their_own(treebank):
    """A grid reads a set once for the runs that share it, not for those that cut its
    sentences elsewhere."""
    options = ["--dataset", str(treebank), "--max_length", "4,8", "--seed", "0,1"]
    configs = parse_runs("ud_pos_transformer", options)
    memory = Recall()
    splits = [data.read_data(config, memory) for config in configs]
    assert [s.train.x.shape[1] for s in splits] == [4, 4, 8, 8]
    assert splits[0] is splits[1]


def test_a_length_needs_words(tmp_path):
    target = add_groups("mnist_mlp", tmp_path, "max_length")
    options = ["--dataset", "mnist_5k", "--max_length", "8"]
    (config,) = parse_command(target, options).configs
    with pytest.raises(InputError, match="--max_length needs words, and mnist_5k has"):
        data.describe_data(config)


def test_dropping_words_by_their_counts_needs_a_treebank(tmp_path):
    target = add_groups("sst2_lstm", tmp_path, "treebank")
    options = ["--dataset", "crowdflower", "--word_dropout", "0.5"]
    (config,) = parse_command(target, options).configs
    with pytest.raises(InputError, match="--word_dropout needs a treebank, and crowdf"):
        data.describe_data(config)


@pytest.mark.parametrize(
    ("workload", "own"),
    [
        ("ud_pos_transformer", tagger.DROPOUT),
        ("sst2_lstm", lstm.DROPOUT),
        ("ogbg_gcn", gcn.DROPOUT),
    ],
)
def test_dropout_is_an_option(treebank, workload, own):
    """Its rate reaches every layer; the default is the model's own."""
    rates = []
    for option in ([], ["--dropout", "0.25"]):
        options = [*options_of(workload, treebank), *option]
        (config,) = parse_runs(workload, options)
        model = build_model(Run(config), data.describe_data(config).info)
        layers = [x for x in model.layers if isinstance(x, keras.layers.Dropout)]
        rates.append({layer.rate for layer in layers})
    assert rates == [{own}, {0.25}]


@pytest.mark.parametrize("options", [[], ["--alpha", "10"]])
def test_dropout_needs_a_model_that_has_it(options, tmp_path):
    target = add_groups("mnist_mlp", tmp_path, "dropout")
    options = ["--dataset", "mnist_5k", "--dropout", "0.1", *options]
    (config,) = parse_command(target, options).configs
    with pytest.raises(
        InputError, match=r"^--dropout: the model of mnist_mlp has none"
    ):
        build_model(Run(config), data.describe_data(config).info)


# How many shapes batches have at most, each to train and to evaluate.
@pytest.mark.parametrize(
    ("workload", "num_shapes"),
    [("ud_pos_transformer", 2), ("sst2_lstm", 3), ("ogbg_gcn", 5)],
)
def test_runs_are_recorded(train, treebank, workload, num_shapes):
    """SAM with pruning and noisy labels, in few programs, however many batches."""
    code, (run,) = train("run", f"workloads/{workload}", options_of(workload, treebank))
    assert code == 0
    params, metrics = run.params, run.metrics
    assert float(params["label_noise_realized"]) == pytest.approx(0.1, abs=0.02)
    assert int(params["num_nonzero_params"]) < int(params["num_params"])
    assert 0 < metrics["compiled_programs"] <= 2 * num_shapes


@pytest.mark.slow
@pytest.mark.parametrize("workload", ["ud_pos_transformer", "sst2_lstm", "ogbg_gcn"])
def test_interrupted_runs_end_as_others_do(train, treebank, workload):
    """A run that is stopped within an epoch goes on to the same curves, to the bit."""
    options, target = options_of(workload, treebank), f"workloads/{workload}"
    code, (whole,) = train("whole", target, options)
    assert code == 0
    code, (stopped,) = train("parts", target, options, stop=True)
    assert (code, stopped.status) == (130, "KILLED")
    code, (resumed,) = train("parts", target, options)
    assert (code, resumed) == (0, stopped)
    for name in whole.curves.keys() - {
        "compiled_programs",
        "examples_per_second",
        "seconds",
    }:
        assert resumed.curves[name] == whole.curves[name], name
