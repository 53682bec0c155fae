"""What a terminal shows while runs train, at its width, and what a log has of it."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.text import Text

from samkeras.experiment.runs import progress
from samkeras.experiment.runs.progress import ProgressDisplay

pytestmark = pytest.mark.one_backend

METRICS = {"val_accuracy": 0.9712, "best": 0.98, "loss": 0.04321}
LABELS = {
    i: f"width_mult={width} sam=true method={method} rho=0.05 learning_rate=0.1"
    for i, (width, method) in enumerate(
        (width, method) for width in (0.25, 1, 4) for method in ("sam", "asam")
    )
}


@pytest.fixture
def clock(monkeypatch):
    """The display's clock, which stands still."""
    clock = SimpleNamespace(now=100.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def display(clock, monkeypatch):
    """A function: (width, labels, verbose) -> a display on a terminal of that width,
    not started; None as the width: on none."""

    def make(width: int | None, labels: dict[int, str], verbose: int = 1):
        console = Console(
            width=width,
            file=io.StringIO(),
            force_terminal=width is not None,
            color_system="standard",
            highlight=False,
            _environ={"TERM": "xterm"},
        )
        monkeypatch.setattr(progress, "Console", lambda **_: console)
        return ProgressDisplay(dict.fromkeys(labels, 100.0), labels, verbose)

    return make


def frame(shown: ProgressDisplay) -> list[str]:
    """What the terminal shows at the moment, without colours."""
    with shown.console.capture() as capture:
        shown.console.print(shown)
    return Text.from_ansi(capture.get()).plain.splitlines()


def train(shown: ProgressDisplay, clock, run: int, epochs: int = 12) -> None:
    """Has a run train for a minute, to the end of one of its 100 epochs."""
    told = shown.start_run(run)
    told.reach(1.0)
    clock.now += 60
    told.end_epoch(epochs - 1, 100, METRICS)


SINGLE = {
    40: [
        "epoch  12/100  val_accuracy 0.9712  12%",
        "best 0.9800  0:08:00 left  loss 0.04321",
    ],
    80: [
        "epoch  12/100  val_accuracy 0.9712  best 0.9800  0:08:00 left  12%  "
        "loss 0.04321",
        "mnist_mlp_w1_sam0.05_s0  ━━━━╸━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━",
    ],
    120: [
        "epoch  12/100  val_accuracy 0.9712  best 0.9800  0:08:00 left  12%  "
        "loss 0.04321  mnist_mlp_w1_sam0.05_s0  ━╸━━━━━━━━━━━",
    ],
    200: [
        "epoch  12/100  val_accuracy 0.9712  best 0.9800  0:08:00 left  12%  "
        "loss 0.04321  mnist_mlp_w1_sam0.05_s0  "
        "━━━━╸━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━",
    ],
}


@pytest.mark.parametrize("width", SINGLE)
def test_a_single_run_fits_the_terminal(display, clock, width):
    """The epoch, the metric, the best and the time left are in each frame."""
    shown = display(width, {0: "mnist_mlp_w1_sam0.05_s0"})
    train(shown, clock, 0)
    assert frame(shown) == SINGLE[width]


GRID = {
    40: [
        "[3/6]  epoch   7/100  best 0.9800  18%",
        "val_accuracy 0.9712  0:09:18 left",
    ],
    80: [
        "[3/6]  epoch   7/100  val_accuracy 0.9712  best 0.9800  0:09:18 left  18%",
        "loss 0.04321  1 ended, 2 running  best of all 0.9812  "
        "width_mult=1 sam=true m...",
    ],
    120: [
        "[3/6]  epoch   7/100  val_accuracy 0.9712  best 0.9800  0:09:18 left  18%  "
        "loss 0.04321  1 ended, 2 running",
        "best of all 0.9812  "
        "width_mult=1 sam=true method=sam rho=0.05 learning_rate=0.1  "
        "━━━━━━╸━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━",
    ],
    200: [
        "[3/6]  epoch   7/100  val_accuracy 0.9712  best 0.9800  0:09:18 left  18%  "
        "loss 0.04321  1 ended, 2 running  best of all 0.9812  "
        "width_mult=1 sam=true method=sam rho=0.05 learning_rate=0.1  ━╸━━━━━━━━",
    ],
}


@pytest.mark.parametrize("width", GRID)
def test_a_grid_in_workers_fits_the_terminal(display, clock, width):
    """One of six runs has ended, two train, of which the last to say something is
    shown; its label is shortened to the room that is left."""
    shown = display(width, LABELS)
    train(shown, clock, 0)
    shown.end_run(0, 0.9812)
    shown.start_run(1)
    train(shown, clock, 2, 7)
    assert frame(shown) == GRID[width]


def test_the_frame_follows_the_terminal(display, clock):
    """One that is made narrower or wider, before anything is known and after; of what
    cannot be shown at all, the most important is left."""
    shown = display(80, LABELS)
    assert frame(shown) == ["0%  0 ended, 0 running  " + "━" * 40]
    shown.start_run(0)
    label = "width_mult=0.25 sam=true method=sam rho=0.05 learning_rate=0.1"
    assert frame(shown) == [
        "[1/6]  0%  0 ended, 1 running",
        f"{label}  {'━' * (80 - 2 - len(label))}",
    ]
    train(shown, clock, 0)
    for width in range(1, 200):
        shown.console.width = width
        lines = frame(shown)
        assert len(lines) <= 2
        assert max(map(len, lines), default=0) <= width
    shown.console.width = 20
    assert frame(shown) == ["[1/6]  epoch  12/100", "val_accuracy 0.9712"]


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (
            80,
            [
                f"[1/6]  {LABELS[0]}",
                "[1/6]  epoch  12/100  val_accuracy 0.9712  best 0.9800  "
                "0:53:27 left  2%",
            ],
        ),
        (
            50,
            [
                f"[1/6]  {LABELS[0]}",
                "[1/6]  epoch  12/100  val_accuracy 0.9712  2%",
                "best 0.9800  0:53:27 left  loss 0.04321",
            ],
        ),
        (
            None,
            [
                "[1/6]  epoch  12/100  val_accuracy 0.9712  best 0.9800  "
                f"0:53:27 left  2%  loss 0.04321  0 ended, 1 running  {LABELS[0]}",
            ],
        ),
    ],
)
def test_each_epoch_has_a_line(display, clock, width, lines):
    """With --verbose 2: as wide as the terminal, of two where the most important needs
    them, and in a log with all there is."""
    shown = display(width, LABELS, 2)
    with shown.console.capture() as capture:
        train(shown, clock, 0)
    assert capture.get().splitlines() == lines


def test_a_log_has_a_line_every_ten_seconds(display, clock):
    shown = display(None, {0: "run"})
    told = shown.start_run(0)
    with shown.console.capture() as capture:
        for epoch in range(24):
            clock.now += 2.5
            told.end_epoch(epoch, 24, METRICS)
    epochs = [line.split("/")[0] for line in capture.get().splitlines()]
    assert epochs == [f"epoch {epoch:2}" for epoch in range(4, 25, 4)]


def test_the_time_left_is_of_what_this_command_does(display, clock):
    """Neither what an earlier one has done nor the time to compile counts."""
    shown = display(80, {0: "run"})
    told = shown.start_run(0)
    told.resume(80.0)
    clock.now += 1000
    told.reach(81.0)
    clock.now += 5
    told.reach(86.0)
    assert frame(shown)[0].startswith("0:00:14 left  86%  run")


def test_a_failure_says_of_which_run_it_is(display):
    shown = display(None, LABELS)
    shown.start_run(0)
    with shown.console.capture() as capture:
        shown.fail_run(0, "NameError: [x]")
    assert capture.get() == f"[1/6] {LABELS[0]} FAILED NameError: [x]\n"
