"""One progress display over all runs, with the time left."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_EVERY_SEC = 10.0


class RunProgress:
    """What a run says of itself while it trains.

    Args:
        tell: takes the name of one of this class's methods and its arguments, to the
            display or to the process that has it.
    """

    def __init__(self, tell: Callable[..., None]):
        self._tell = tell

    def reach(self, work: float) -> None:
        """Says how much of the run's work is done."""
        self._tell("reach", work)

    def end_epoch(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        """Says what came out of an epoch."""
        self._tell("end_epoch", epoch, epochs, metrics)

    def say(self, line: str) -> None:
        self._tell("say", line)


class ProgressDisplay:
    """A bar on a terminal; elsewhere a line every ten seconds.

    Args:
        work: the work of each run, in any unit that its progress counts in too.
        labels: their names.
        verbose: 0 shows nothing, 1 the progress, 2 also a line an epoch.
    """

    def __init__(self, work: dict[int, float], labels: dict[int, str], verbose: int):
        self.console = Console(highlight=False)
        self._verbose = verbose
        self._bar_shown = verbose > 0 and self.console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            console=self.console,
            disable=not self._bar_shown,
            # The whole past counts: runs of a grid differ in speed.
            speed_estimate_period=3600 * 24,
        )
        self._task = self._progress.add_task("", total=sum(work.values()), state="")
        self._work, self._labels = work, labels
        self._done = dict.fromkeys(work, 0.0)
        self._running: dict[int, int] = {}  # runs, and which of all they are
        self._num_started = self._num_ended = 0
        self._best = ""
        self._line_at = time.monotonic()

    def __enter__(self) -> "ProgressDisplay":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start_run(self, run: int) -> RunProgress:
        """Shows that a run starts, perhaps again."""
        if run not in self._running:
            self._num_started += 1
            self._running[run] = self._num_started
        self._reach(run, 0)
        self._show(self._title(run))
        return RunProgress(partial(self.take, run))

    def take(self, run: int, event: str, *values: Any) -> None:
        """Shows what a run says of itself, see RunProgress."""
        match event:
            case "reach":
                self._reach(run, *values)
            case "end_epoch":
                self._end_epoch(run, *values)
            case "say":
                self.say(*values)

    def end_run(self, run: int, best: str) -> None:
        """Shows that a run has ended; `best` says what is the best of all by now."""
        self._num_ended += 1
        self._running.pop(run, None)
        self._reach(run, self._work[run])
        self._best = best
        self._show(self._progress.tasks[0].description)

    def say(self, line: str) -> None:
        if self._verbose > 0:
            self.console.print(_escaped(line), soft_wrap=True)

    def _reach(self, run: int, work: float) -> None:
        # Absolute, because a run that a process took with it starts again.
        self._done[run] = work
        self._progress.update(self._task, completed=sum(self._done.values()))

    def _end_epoch(
        self, run: int, epoch: int, epochs: int, metrics: dict[str, float]
    ) -> None:
        numbers = " ".join(f"{k}={v:.4g}" for k, v in metrics.items())
        line = f"{self._title(run)} epoch {epoch + 1}/{epochs} {numbers}"
        self._show(line)
        now = time.monotonic()
        due = not self._bar_shown and now - self._line_at >= LINE_EVERY_SEC
        if self._verbose == 2 or (self._verbose == 1 and due):
            notes = [self._state()] if self._state() else []
            seconds = self._progress.tasks[0].time_remaining
            if seconds is not None:
                notes.append(f"{_duration(seconds)} left")
            self.say(line + (f" ({', '.join(notes)})" if notes else ""))
            self._line_at = now

    def _show(self, line: str) -> None:
        self._progress.update(
            self._task, description=_escaped(line), state=_escaped(self._state())
        )

    def _title(self, run: int) -> str:
        number = self._running.get(run, self._num_started)
        return f"[{number}/{len(self._work)}] {self._labels[run]}"

    def _state(self) -> str:
        """How far the grid is; nothing for a single run."""
        if len(self._work) == 1:
            return ""
        num_running = len(self._running)
        num_left = len(self._work) - self._num_ended - num_running
        state = f"{self._num_ended} ended, {num_running} running, {num_left} waiting"
        return f"{state}, {self._best}" if self._best else state


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
