"""What does each workload give on its sample, with SAM and without?

    python benchmarks/samples.py
    python benchmarks/samples.py --workloads mnist_mlp,sst2_lstm

Runs the command of each workload as it is written here, in a folder that is thrown
away, and reads the table of its runs. Each takes two minutes at most and needs no
network: data are made, or come with a package. `cpu_s` are the seconds of all cores
together that the whole command took. The pages of the workloads show what `--save`
keeps.
"""

import argparse
import csv
import datetime
import json
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import harness
from harness import Row, make_parser, names_of, report

ROOT = Path(__file__).parents[1]
# Whether SAM helps, as a command says it.
SENTENCE = r"(?m)^(In best|SAM.* gain in best) .*$"
# What networks of convolutions see enough of in seconds, and what it cannot say.
DIGITS = "--dataset mnist_5k --train_examples 1000 --validation_examples 500"
SMALL = (
    "A narrow network, a thousand grey digits and few epochs say that it trains, and "
    "nothing of what SAM gains at its own scale."
)
RESULTS = "../results.md"  # beside the pages of the workloads


class Sample(NamedTuple):
    """A workload's command and what is to be known of its answer."""

    options: str
    note: str
    backend: str = "jax"

    def command(self, workload: str) -> str:
        """As one types it."""
        start = "" if self.backend == "jax" else f"KERAS_BACKEND={self.backend} "
        run = f"{start}python run.py workloads/{workload}"
        return " ".join(f"{run} {self.options} --sam true,false".split())


SAMPLES = {
    "allen_zhu": Sample(
        "--epochs 100 --seed 0,1,2",
        "One width, and an eighth of its epochs: whether the test error falls with the "
        f"width is [figure 21]({RESULTS}#figure-21-the-network-of-allen-zhu-et-al).",
    ),
    "atari_ppo": Sample(
        "--width_mult 0.5 --frames 20000 --eval_every 10000 --eval_games 4",
        "So few frames teach nothing: this says that games are played, trained on and "
        "scored, and nothing of PPO or SAM.",
        "tensorflow",
    ),
    "cifar10_resnet18": Sample(
        f"{DIGITS} --augment false --width_mult 0.0625 --image_size 16 --batch_size 32 "
        "--epochs 4 --seed 0,1,2",
        SMALL,
        "tensorflow",
    ),
    "cifar10_vgg11": Sample(
        f"{DIGITS} --augment false --width_mult 0.0625 --alpha 1 --learning_rate 0.5 "
        "--rho 0.01 --batch_size 32 --epochs 6",
        SMALL,
        "tensorflow",
    ),
    "cifar10_vit": Sample(
        f"{DIGITS} --augment false --width_mult 0.125 --image_size 16 --batch_size 32 "
        "--epochs 5 --seed 0,1,2",
        SMALL,
        "tensorflow",
    ),
    "cifar_pyramidnet": Sample(
        f"{DIGITS} --depth 11 --width_mult 0.25 --image_size 8 --augment none "
        "--batch_size 32 --epochs 3 --seed 0,1,2",
        SMALL,
        "tensorflow",
    ),
    "cifar_resnet32": Sample(
        f"{DIGITS} --depth 8 --image_size 8 --augment none --batch_size 32 --epochs 3 "
        "--seed 0,1,2",
        SMALL,
        "tensorflow",
    ),
    "cifar_shake_shake": Sample(
        f"{DIGITS} --depth 8 --width_mult 0.125 --image_size 8 --augment none "
        "--batch_size 32 --epochs 3 --seed 0,1,2",
        SMALL,
        "tensorflow",
    ),
    "cifar_wrn": Sample(
        f"{DIGITS} --depth 10 --width_mult 0.1 --image_size 8 --augment none "
        "--batch_size 32 --epochs 3 --seed 0,1,2",
        SMALL,
        "tensorflow",
    ),
    "finetune": Sample(
        "--dataset mnist_5k --train_examples 500 --validation_examples 200 "
        "--backbone efficientnet_b0 --pretrained false --image_size 32 --batch_size 32 "
        "--steps 60 --eval_every 30",
        "Trained weights are a download: from random ones, in so few steps, it guesses "
        "among ten digits, which says nothing of fine-tuning.",
        "tensorflow",
    ),
    "graph_regression": Sample(
        "--width_mult 0.25 --epochs 20",
        "A loss of 1 is the mean's. Molecules are few, epochs a fifth of its own, and "
        "rho is not tuned.",
    ),
    "imagenet_resnet": Sample(
        f"{DIGITS} --augment false --width_mult 0.0625 --image_size 32 --batch_size 32 "
        "--m_sharpness 16 --learning_rate 0.1 --epochs 6",
        SMALL,
        "tensorflow",
    ),
    "imagenet_resnet50": Sample(
        f"{DIGITS} --augment false --width_mult 0.0625 --image_size 32 --batch_size 32 "
        "--learning_rate 0.1 --epochs 6 --warmup_steps 30",
        SMALL,
        "tensorflow",
    ),
    "matrix_factorization": Sample(
        "--rank 10 --seed 0,1,2",
        "Both end at float64's rounding, whose size says nothing; how fast they come "
        f"there is [figure 6c]({RESULTS}#figure-6c-matrix-factorization).",
    ),
    "mnist_mlp": Sample(
        "--dataset mnist_5k --epochs 20 --seed 0,1,2",
        "A gain as small as the paper's at this width is within the error of so few "
        "digits.",
    ),
    "mnist_squared": Sample(
        "--dataset mnist_5k --steps 2000 --eval_every 500 --seed 0,1,2",
        "The accuracy is not what it is for: how sharp the minima are, after many more "
        "steps, is [figures 6a and 6b]"
        f"({RESULTS}#figures-6a-and-6b-sharpness-and-non-uniformity).",
    ),
    "ogbg_gcn": Sample(
        "--dataset solubility --width_mult 0.25 --batch_size 64 --epochs 20",
        "Three classes of solubility are not 128 tasks, and simple fingerprints [do "
        f"better]({RESULTS}#molecules-by-solubility).",
    ),
    "relu_1d": Sample(
        "--steps 100000 --learning_rate 2e-4 --seed 0,1,2",
        "The loss is on the twelve points themselves, which SAM at a fixed rho misses; "
        "how simple the functions are is [figure 2]"
        f"({RESULTS}#figure-2-functions-of-one-input).",
    ),
    "sst2_lstm": Sample(
        "--dataset crowdflower --width_mult 0.125 --epochs 2",
        "Two epochs of tweets; a logistic regression on bags of words [does better]"
        f"({RESULTS}#tweets).",
    ),
    "synthetic_mlp": Sample(
        "--width_mult 10 --epochs 20 --seed 0,1,2",
        "One width, and a fifth of its epochs: how the gain grows with the width is "
        f"[figure 1]({RESULTS}#figure-1-synthetic).",
    ),
    "ud_pos_transformer": Sample(
        "--dataset morphgnt --width_mult 0.125 --depth 2 --steps 300 --eval_every 150 "
        "--warmup_steps 50 --learning_rate 0.02",
        "So few steps learn little: each word's most frequent tag [does better]"
        f"({RESULTS}#tagging-greek-words), and so does this model in more of them.",
        "tensorflow",
    ),
}


def summarize(runs: Sequence[Mapping[str, str]]) -> Row:
    """The mean over the seeds of the best metric and its standard error, without SAM
    and with it.

    Args:
        runs: the lines of a grid's runs.csv.

    Raises:
        ValueError: a run failed.
    """
    from samkeras.experiment.studies.comparison import estimate

    if failures := [run["failure"] for run in runs if run["failure"]]:
        raise ValueError(failures[0])
    best = next(column for column in runs[0] if column.startswith("best_"))
    row: Row = {"metric": best.replace("_", " ", 1)}
    for name, sam in (("base", "False"), ("sam", "True")):
        found = estimate(float(run[best]) for run in runs if run["sam"] == sam)
        row["seeds"] = found.num_seeds
        row[name], row[f"{name}_error"] = found.mean, found.error
    return row


def count_cpu() -> float:
    """The seconds of all cores that the commands so far have taken, which other work on
    the machine changes little."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(workload: str) -> Row:
    """Runs a workload's command and says what came out of it."""
    sample = SAMPLES[workload]
    command = sample.command(workload)
    with tempfile.TemporaryDirectory() as folder:
        words = shlex.split(command.partition("python ")[2])
        places = ["--run_dir", folder, "--tracking_uri", f"sqlite:///{folder}/all.db"]
        before = count_cpu()
        subprocess.run(
            [sys.executable, *words, *places],
            cwd=ROOT,
            env={**os.environ, "KERAS_BACKEND": sample.backend},
            check=True,
        )
        cpu_s = count_cpu() - before
        (grid,) = Path(folder).glob("grid_*")
        with (grid / "runs.csv").open() as file:
            row = summarize(list(csv.DictReader(file)))
        said = re.search(SENTENCE, (grid / "table.txt").read_text())
    row |= {"cpu_s": cpu_s, "says": said[0], "command": command}
    return {"name": workload, "date": datetime.date.today().isoformat(), **row}


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__file__, __doc__, rounds=None)
    parser.add_argument(
        "--workloads",
        type=names_of(SAMPLES),
        default=list(SAMPLES),
        help="with commas between them (default: all); --save keeps the others' rows",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    rows = {workload: run(workload) for workload in args.workloads}
    path = harness.RESULTS / f"{args.save}.json"
    if args.save and path.is_file():
        kept = json.loads(path.read_text())["rows"]
        rows = {row["name"]: row for row in kept} | rows
    report(args, [rows[name] for name in SAMPLES if name in rows])


if __name__ == "__main__":
    main()
