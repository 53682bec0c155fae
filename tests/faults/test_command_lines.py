"""Random command lines over all workloads: whatever is asked for, the end is an exit
code with a reason."""

import collections
import json
import os
import queue
import random
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import pytest

from samkeras.experiment.options.config import NEW_NAMES, known_defaults, option_types
from samkeras.experiment.options.methods import OPTIONS
from samkeras.experiment.options.parsing import SESSION_FIELDS
from samkeras.experiment.options.targets import ROOT, find_target

pytestmark = pytest.mark.faults

# Other lines: FUZZ_SEED=1 make test-faults
SEED = int(os.environ.get("FUZZ_SEED", "0"))
NUM_LINES = int(os.environ.get("FUZZ_LINES", "300"))
NUM_PROCESSES = 2
LINES_A_PROCESS = 60  # then a new one, as compiled programs stay in memory
LINE_LIMIT_SEC = 240
LIMIT_SEC = int(os.environ.get("FUZZ_SECONDS", "600"))

TINY = "--train_examples 32 --validation_examples 16 --batch_size 8 --epochs 1"
SMALL_IMAGES = f"{TINY} --dataset mnist_5k --width_mult 0.03 --depth 1"
SHORT_SENTENCES = f"{TINY} --width_mult 0.03 --depth 1 --max_length 8"
# A target, and options that make its runs take a second.
TARGETS = {
    "workloads/mnist_mlp": f"{TINY} --dataset mnist_5k --width_mult 0.03",
    "workloads/synthetic_mlp": f"{TINY} --width_mult 0.03",
    "workloads/cifar10_resnet18": f"{SMALL_IMAGES} --image_size 8",
    "workloads/cifar10_vgg11": f"{SMALL_IMAGES} --image_size 32",
    "workloads/cifar10_vit": f"{SMALL_IMAGES} --image_size 8",
    "workloads/imagenet_resnet50": f"{SMALL_IMAGES} --image_size 32",
    "workloads/sst2_lstm": f"{SHORT_SENTENCES} --dataset crowdflower",
    "workloads/ud_pos_transformer": f"{SHORT_SENTENCES} --dataset morphgnt",
    "workloads/ogbg_gcn": f"{TINY} --dataset solubility --width_mult 0.03 --depth 1",
    "workloads/atari_ppo": "--frames 64 --eval_every 64 --eval_games 1 --num_actors 2 "
    "--rollout_steps 16 --rollout_epochs 1 --batch_size 16 --width_mult 0.03",
    "configs/figures/figure1_synthetic.yaml": f"--preset small {TINY} --seed 0 "
    "--width_mult 0.03,0.05",
    "configs/figures/figure5a_mnist.yaml": f"--preset small {TINY} --seed 0 "
    "--width_mult 0.03",
}
WEIGHTS = (6, 6, 2, 1, 2, 1, 2, 2, 2, 1, 1, 1)

HOSTILE = """
0 -1 1e400 -1e400 nan inf -inf null true [] {} , ,, 1, ,1 [1 1] 1_000 0x10 010 1:30
+1 -0.0 .5 5. . - e5 1e5000 1e-400 3.5e38 1e38 1e-45 2147483647 2147483648 4294967296
99999999999999999999 ~ ~/x /proc .. a,b a/b %s {0} $HOME sgd SGD none None False maybe
""".split()  # noqa: SIM905
HOSTILE += ["", " ", "\t", "a b", "a\nb", "\0", "\x1b[31m", "\udcff", "\u0663", "💥"]
HOSTILE += ["9" * 5000, "x" * 5000, "[" * 5000, ",".join(["1"] * 5000), "[0.5,nan]"]

# Values that are allowed, of which some make no sense together.
NUMBERS = ["0.001", "0.01", "0.1", "0.5", "0.9", "1", "2"]
VALID = {
    "seed": ["0", "1", "7,8", "4294967295"],
    "width_mult": ["0.01", "0.02", "0.02,0.03", "0.05"],
    "p": ["1.1", "1.5", "2", "3", "inf", "2,inf"],
    "ascent_steps": ["1", "2", "3", "1,2"],
    "eta": ["0", "0.01", "1", "1e30"],
    "sigma": ["0", "0.5", "1", "2", "1e30"],
    "ema_decay": ["0", "0.5", "0.9", "0.99999994"],
    "theta": ["1e-30", "0.4", "1"],
    "lam": ["0", "0.5", "1", "1e30"],
    "sam_samples": ["1", "2"],
    "esam_beta": ["1e-30", "0.5", "1"],
    "esam_gamma": ["1e-30", "0.5", "1"],
    "mask_sparsity": ["0", "0.5", "0.99999994"],
    "mask_every": ["1", "2", "1000000"],
    "m_sharpness": ["1", "2", "3", "4", "8", "16", "null"],
    "sparsity": ["0", "0.1", "0.5", "0.5,0.9", "0.99"],
    "match_width": ["0.01", "0.02", "1"],
    "batch_size": ["1", "3", "8", "16", "1000000"],
    "learning_rate": ["0", "0.001", "0.1", "1", "100", "1e30"],
    "rho": ["0", "0.05", "0.1,0.5", "10", "1e30"],
    "weight_decay": ["0", "0.001", "0.1", "10", "1e30"],
    "clip_norm": ["1e-6", "1", "1e30"],
    "epsilon": ["1e-30", "1e-8", "1", "1e30"],
    "lr_milestones": ["[]", "[0.5]", "[0.25,0.75],[0.9]", "[0.9,0.1,0.1]"],
    "steps_per_execution": ["1", "2", "3", "1000000"],
    "steps": ["1", "2", "4", "null"],
    "eval_every": ["1", "2", "64", "1000000"],
    "epochs": ["1", "2"],
    "epochs_mult": ["0.1", "1", "1.5", "2"],
    "train_examples": ["1", "7", "8", "31", "null", "2147483647"],
    "validation_examples": ["1", "7", "16", "2147483647"],
    "depth": ["1", "2"],
    "image_size": ["1", "4", "8", "27", "28", "29", "32", "33", "100000"],
    "max_length": ["1", "2", "8", "16"],
    "frames": ["1", "32", "64"],
    "eval_games": ["1", "2"],
    "num_actors": ["1", "2", "4"],
    "rollout_steps": ["1", "8", "16"],
    "rollout_epochs": ["1", "2"],
    "game": ["breakout", "pong", "Breakout", "brakout", "ALE/Breakout-v5"],
    "warmup_steps": ["0", "1", "3", "1000000"],
    "experiment": ["fuzz", "a/b", "💥", "x" * 300],
    "run_dir": ["/proc/x", "/dev/null", "/dev/null/x"],
    "tracking_uri": ["foo://x", "http://", "sqlite:////nonexistent/x.db"],
    "data_dir": ["/nonexistent", "/tmp", "/dev/null"],
    "verbose": ["0", "1", "2"],
    "workers": ["1", "0", "1,2"],
    "ray": ["null", "nowhere", "127.0.0.1"],
    "dataset": ["mnist_5k", "crowdflower", "morphgnt", "solubility", "teacher_student"],
}
# With which options they mean something.
NEEDED = {
    "sparsity": ("pruner", "snip,random"),
    "match_width": ("pruner", "magnitude"),
    "warmup_steps": ("lr_schedule", "cosine"),
    "lr_milestones": ("lr_schedule", "step"),
    "lr_decay": ("lr_milestones", "[0.5]"),
    "beta_1": ("optimizer", "adam"),
    "beta_2": ("optimizer", "adamw"),
    "amsgrad": ("optimizer", "adam"),
    "momentum": ("optimizer", "sgd"),
    "eval_every": ("steps", "4"),
}
NAMES = ["cifar-10", "CIFAR10", "foo bar", "mnist:9.9.9", "glue", "glue/sts2", "x.npy"]


def make_files(folder: Path) -> dict[str, list[str]]:
    """Files of users' own, sound ones and others, by the option that takes them."""
    rng = np.random.default_rng(SEED)
    x, y = rng.integers(0, 256, (32, 8, 8, 3), np.uint8), rng.integers(0, 3, 32)
    sound = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    changes = {
        "sound": {},
        "grey": {"x_train": x[..., 0], "x_test": x[..., 0]},
        "one_hot": {"y_train": np.eye(3)[y], "y_test": np.eye(3)[y]},
        "signs": {"y_train": 2 * (y > 0) - 1, "y_test": 2 * (y > 0) - 1},
        "nan_labels": {"y_train": np.where(y == 0, np.nan, y)},
        "huge_label": {"y_train": np.where(y == 0, 2_000_000_000, y)},
        "text_labels": {"y_train": np.array(["a", "b"] * 16)},
        "short_labels": {"y_train": y[:5]},
        "scaled": {"x_train": x / 255, "x_test": x / 255},
        "nan_pixels": {"x_train": np.full(x.shape, np.nan, "float32")},
        "other_size": {"x_test": x[:, :5]},
        "vectors": {"x_train": x[:, 0, :, 0], "x_test": x[:, 0, :, 0]},
        "scalar": {"x_train": np.zeros(())},
        "empty": {"x_train": x[:0], "y_train": y[:0]},
        "objects": {"x_train": np.array([None] * 32)},
        "complex": {"x_train": x * 1j},
        "no_test": {"x_test": ...},
    }
    for name, change in changes.items():
        arrays = {k: v for k, v in {**sound, **change}.items() if v is not ...}
        np.savez(folder / f"{name}.npz", **arrays)
    whole = (folder / "sound.npz").read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (folder / "nothing.npz").write_bytes(b"")
    (folder / "flipped.npz").write_bytes(bytes(b ^ 4 for b in whole))
    (folder / "a,b.npz").write_bytes(whole)
    (folder / "folder.npz").mkdir()
    row = "1\tword\tword\tNOUN\tnn\t_\t0\troot\t_\t_\n"
    texts = {
        "sound": f"# a\n{row}\n" * 20,
        "no_xpos": f"{row}\n".replace("nn", "_") * 20,
        "separators": f"{row}\n".replace("word", "wo\u2028rd\x85\x0c") * 20,
        "bom": "\ufeff" + f"{row}\n" * 20,
        "short_rows": "1\tword\n\n" * 20,
        "nothing": "",
        "blank": "\n\n\n",
    }
    for name, text in texts.items():
        treebank = folder / f"{name}_treebank"
        treebank.mkdir()
        for split in ("train", "dev"):
            (treebank / f"x-ud-{split}.conllu").write_text(text)
    configs = {
        "sound": "rho: 0.2\nsam: true",
        "older": "perturbation: random\nsam: true",
        "twice": "rho: 0.2\nrho: 0.1",
        "numbers": "1: 2",
        "null": "rho: null",
        "nested": "rho: " + "[" * 5000,
        "long": "seed: " + "9" * 5000,
        "alias": "rho: &a 1\nmomentum: *a",
        "of_another": "workload: nowhere",
        "other_options": "image_size: 16\nframes: 3\nmax_length: 3",
        "text": "hello",
        "list": "- 1",
        "nothing": "",
    }
    for name, text in configs.items():
        (folder / f"{name}.yaml").write_text(text)
    paths = [str(path) for path in sorted(folder.iterdir())]
    return {
        "dataset": [path for path in paths if not path.endswith(".yaml")] + NAMES,
        "config": [path for path in paths if path.endswith(".yaml")]
        + [
            str(folder),
            str(folder / "sound.npz"),
            str(ROOT / "configs" / "cifar10_vit.yaml"),
        ],
    }


def make_line(rng: random.Random, files: dict[str, list[str]]) -> list[str]:
    """The arguments of one random command, but where it writes."""
    (target,) = rng.choices(list(TARGETS), WEIGHTS)
    workload = Path(target).stem
    if target.startswith("configs/"):
        workload = re.search("^workload: (.*)$", (ROOT / target).read_text(), re.M)[1]
    words = TARGETS[target].split()
    options = dict(zip(words[::2], words[1::2], strict=True))
    hints = option_types(find_target(workload))
    # Less often of where and how runs are done, which is soon refused.
    names = [n for n in hints if n not in SESSION_FIELDS or rng.random() < 0.3]
    for name in rng.sample(names, rng.choice([0, 1, 1, 2, 2, 3, 4])):
        options[f"--{name}"] = random_value(rng, name, hints[name], files)
    if rng.random() < 0.25:
        name = rng.choice(("dataset", "config"))
        options[f"--{name}"] = rng.choice(files[name])
    of_sam = [name for name in OPTIONS if f"--{name}" in options]
    if rng.random() < (0.9 if of_sam else 0.5):
        options["--sam"] = rng.choice(["true", "true,false"])
    if of_sam and rng.random() < 0.9:
        options.setdefault("--method", rng.choice(OPTIONS[of_sam[-1]]))
    for name, (needed, values) in NEEDED.items():
        if f"--{name}" in options and needed in hints and rng.random() < 0.9:
            options.setdefault(f"--{needed}", values)
    if rng.random() < 0.1:
        name = rng.choice(("pruner", "optimizer", "lr_schedule"))
        choices = typing.get_args(hints[name])
        options[f"--{name}"] = ",".join(rng.sample(choices, 2))
    if "--steps" in options:
        options.pop("--epochs", None)
        options.setdefault("--eval_every", "1")
    if rng.random() < 0.3:
        options["--dry_run"] = "true"
    arguments = [word for pair in options.items() for word in pair]
    if rng.random() < 0.1:
        spoil(rng, arguments)
    return [target, *arguments]


def spoil(rng: random.Random, arguments: list[str]) -> None:
    """Adds, doubles, drops or misspells a word."""
    at = rng.randrange(len(arguments) + 1)
    extra = ["--", "-x", "--roh", "--help", "-h", "--print_config", "--image_size=8"]
    extra += [f"--{name}=1" for name in (*known_defaults(), *NEW_NAMES)] + HOSTILE
    if rng.random() < 0.6 or not arguments:
        arguments.insert(at, rng.choice(extra))
    elif rng.random() < 0.5:
        del arguments[min(at, len(arguments) - 1)]
    else:
        arguments += arguments[:2]


def random_value(
    rng: random.Random, name: str, hint: Any, files: dict[str, list[str]]
) -> str:
    """A value of an option: mostly one that it takes."""
    if rng.random() < 0.15:
        return rng.choice(HOSTILE)
    if name in VALID:
        return rng.choice(VALID[name] + files.get(name, []))
    choices = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return str(rng.choice(choices))
    return rng.choice(["true", "false"] if hint is bool else NUMBERS)


def make_lines(folder: Path) -> list[list[str]]:
    rng, files = random.Random(SEED), make_files(folder)
    return [make_line(rng, files) for _ in range(NUM_LINES)]


class Runner:
    """A process that runs lines, and its successors.

    Args:
        folder: where its runs go.
    """

    def __init__(self, folder: Path):
        self.folder, self.store = folder, folder / "mlflow.db"
        self.process, self.count = None, 0
        self.places = {
            "--tracking_uri": f"sqlite:///{self.store}",
            "--run_dir": str(folder / "runs"),
            "--experiment": "fuzz",
        }
        folder.mkdir()

    def run(self, line: list[str]) -> tuple[int | None, str]:
        """Runs a line. Returns its exit code and what is wrong with its end, if so."""
        if self.process is None:
            self.process, self.count = self._start(), 0
        given = {word.partition("=")[0] for word in line}
        missing = [p for p in self.places.items() if p[0] not in given]
        target, *options = line
        line = [target, *(word for pair in missing for word in pair), *options]
        print(json.dumps(line), file=self.process.stdin, flush=True)
        reply = self._read_reply()
        self.count += 1
        if isinstance(reply, str):
            self.process = None
            return None, reply
        if self.count == LINES_A_PROCESS:
            self.stop()
        return reply["code"], find_fault(reply, line)

    def _start(self) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.faults.run_lines", str(self.store)],
            # Its files go where ~ and . are.
            cwd=self.folder,
            env={
                **os.environ,
                "HOME": str(self.folder),
                "KERAS_BACKEND": keras.backend.backend(),
                "MLFLOW_TRACKING_URI": self.places["--tracking_uri"],
                "PYTHONPATH": str(ROOT),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def _read_reply(self) -> dict | str:
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(LINE_LIMIT_SEC):
                self.process.kill()
                self.process.wait()
                return f"takes more than {LINE_LIMIT_SEC} s"
        text = self.process.stdout.readline()
        if text:
            return json.loads(text)
        code = self.process.wait()
        return f"the process died: {signal.Signals(-code).name if code < 0 else code}"

    def stop(self) -> None:
        if self.process is not None:
            self.process.communicate()
            self.process = None


def find_fault(reply: dict, line: list[str]) -> str:
    """What is wrong with how a line ended; nothing if all is well."""
    none = "nan" if "--p" in line else "nan|inf"  # which is a norm too
    code, out, err = reply["code"], reply["out"], reply["err"]
    printed = out + err
    # A failed run may say that its loss was NaN.
    results = "\n".join(line for line in out.split("\n") if "FAILED" not in line)
    end = f"exit code {code}: {printed[-1000:]}"
    faults = {
        reply["trace"][-1000:]: reply["trace"],
        f"a traceback: {end}": "Traceback (most recent" in printed,
        f"another {end}": code not in (0, 1, 2),
        f"no single line: {end}": code == 2
        and not re.fullmatch(r"run\.py: [^\n]{8,}\n", err),
        f"recorded runs: {end}": code == 2 and reply["runs"],
        f"no reason: {end}": code == 1 and not re.search(r"FAILED \w", printed),
        f"{reply['nans']} NaN in MLflow": reply["nans"],
        f"NaN: {end}": re.search(rf"(?i)(?<![\w.-])[-+]?({none})(?![\w-])", results),
    }
    return next((text for text, is_so in faults.items() if is_so), "")


def run_all(folder: Path) -> Iterator[tuple[list[str], int | None, str]]:
    """The lines that were run in time, each with its exit code and its fault."""
    files = folder / "files"
    files.mkdir()
    lines, done = queue.SimpleQueue(), queue.SimpleQueue()
    for line in make_lines(files):
        lines.put(line)
    stop_at = time.monotonic() + LIMIT_SEC

    def work(number: int) -> None:
        runner = Runner(folder / str(number))
        try:
            while not lines.empty() and time.monotonic() < stop_at:
                line = lines.get()
                done.put((line, *runner.run(line)))
        finally:
            runner.stop()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(NUM_PROCESSES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while not done.empty():
        yield done.get()


def test_random_command_lines_end_with_a_reason(tmp_path):
    """Exit code 0, or 1 and 2 with what is wrong; no traceback, signal or NaN."""
    started = time.monotonic()
    ends = list(run_all(tmp_path))
    seconds = time.monotonic() - started
    codes = collections.Counter(code for _, code, _ in ends)
    print(f"{len(ends)} of {NUM_LINES} lines in {seconds:.0f} s, by exit code: {codes}")
    faults = [
        f"python run.py {' '.join(map(repr, line))}\n{fault}"
        for line, _, fault in ends
        if fault
    ]
    if faults:
        pytest.fail("\n\n".join(faults), pytrace=False)
    assert len(ends) >= NUM_LINES / 3
