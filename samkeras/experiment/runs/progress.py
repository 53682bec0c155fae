"""One progress display over all runs, with the time left."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment

LINE_EVERY_SEC = 10.0
GAP = "  "  # between the pieces of a line
BAR_WIDTHS = (10, 40)  # the least and the most
LABEL_WIDTH = 16  # of a shortened label, at least


class RunProgress:
    """What a run says of itself while it trains.

    Args:
        tell: takes the name of one of this class's methods and its arguments, to the
            display or to the process that has it.
    """

    def __init__(self, tell: Callable[..., None]):
        self._tell = tell

    def resume(self, work: float) -> None:
        """Says how much of the run's work an earlier command has done."""
        self._tell("resume", work)

    def reach(self, work: float) -> None:
        """Says how much of the run's work is done."""
        self._tell("reach", work)

    def end_epoch(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        """Says what came out of an epoch: the reported metric, the best of it, and what
        matters less."""
        self._tell("end_epoch", epoch, epochs, metrics)

    def say(self, line: str) -> None:
        self._tell("say", line)

    def note(self, line: str) -> None:
        """Says what is to be said once, whichever of the runs says it."""
        self._tell("note", line)


class ProgressDisplay:
    """Two lines at the end of a terminal; elsewhere a line every ten seconds.

    Args:
        work: the work of each run, in any unit that its progress counts in too.
        labels: their names.
        verbose: 0 shows nothing, 1 the progress, 2 also a line an epoch.
    """

    def __init__(self, work: dict[int, float], labels: dict[int, str], verbose: int):
        self.console = Console(highlight=False)
        self._verbose = verbose
        is_live = self.console.is_terminal and not self.console.is_dumb_terminal
        self._is_live = verbose > 0 and is_live
        self._live = Live(self, console=self.console, refresh_per_second=8)
        self._work, self._labels = work, labels
        self._done = dict.fromkeys(work, 0.0)
        self._resumed = dict.fromkeys(work, 0.0)  # of it, by earlier commands
        self._running: dict[int, int] = {}  # runs, and which of all they are
        self._num_started = self._num_ended = 0
        self._run: int | None = None  # the last that said something
        self._news: list[str] = []  # that it said
        self._notes: set[str] = set()  # that were said
        self._best: float | None = None  # of all runs that have ended
        # When, and after how much work, the first steps were done: the past that tells
        # of the time left begins then, as they are compiled, which takes long.
        self._begin: tuple[float, float] | None = None
        self._line_at = time.monotonic()

    def __enter__(self) -> "ProgressDisplay":
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def start_run(self, run: int) -> RunProgress:
        """Shows that a run starts, perhaps again."""
        if run not in self._running:
            self._num_started += 1
            self._running[run] = self._num_started
        self._done[run] = self._resumed[run] = 0.0
        self._run, self._news = run, []
        if self._verbose == 2 and self._is_live and len(self._work) > 1:
            # Its epochs' lines may have no room for it.
            self.say(f"{self._place(run)}  {self._labels[run]}")
        return RunProgress(partial(self.take, run))

    def take(self, run: int, event: str, *values: Any) -> None:
        """Shows what a run says of itself, see RunProgress."""
        match event:
            case "resume":
                self._done[run] = self._resumed[run] = values[0]
            case "reach":
                # Absolute, because a run that a process took with it starts again.
                self._done[run] = values[0]
                self._begin = self._begin or (time.monotonic(), self._done_here)
            case "end_epoch":
                self._end_epoch(run, *values)
            case "say":
                self.say(" ".join((*self._name(run), *values)))
            case "note":
                if values[0] not in self._notes:
                    self._notes.add(values[0])
                    self.say(values[0])

    def fail_run(self, run: int, reason: str) -> None:
        """Says why a run failed."""
        self.say(" ".join((*self._name(run), "FAILED", reason)))

    def end_run(self, run: int, best: float | None) -> None:
        """Shows that a run has ended; `best` is the best of all by now, if there is
        one."""
        self._num_ended += 1
        self._running.pop(run, None)
        self._done[run] = self._work[run]
        self._best = best

    def say(self, line: str) -> None:
        if self._verbose > 0:
            self.console.print(line, soft_wrap=True, markup=False, emoji=False)

    def _end_epoch(
        self, run: int, epoch: int, epochs: int, metrics: dict[str, float]
    ) -> None:
        self._run = run
        self._done[run] = self._work[run] * (epoch + 1) / epochs
        self._news = [f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}"]
        self._news += [f"{name} {_number(value)}" for name, value in metrics.items()]
        now = time.monotonic()
        due = not self._is_live and now - self._line_at >= LINE_EVERY_SEC
        if self._verbose == 2 or (self._verbose == 1 and due):
            self._say_epoch(self._labels[run])
            self._line_at = now

    def _say_epoch(self, label: str) -> None:
        """Says what is shown now: in one line, unless a terminal is too narrow for the
        most important."""
        first, rest = self._pieces()
        width = self.console.width if self._is_live else None
        is_narrow = width is not None and cell_len(GAP.join(first)) > width
        self.say("\n".join(_fit([*first, *rest], label, width, 2 if is_narrow else 1)))

    def _pieces(self) -> tuple[list[str], list[str]]:
        """What is to be said, the most important first, and the rest."""
        is_grid = len(self._work) > 1
        place = [self._place(self._run)] if is_grid and self._run is not None else []
        first = [*place, *self._news[:3], *self._left()]
        rest = [f"{self._share:.0%}", *self._news[3:]]
        if is_grid:
            rest += [f"{self._num_ended} ended, {len(self._running)} running"]
            if self._best is not None:
                rest += [f"best of all {_number(self._best)}"]
        return first, rest

    def _name(self, run: int) -> list[str]:
        """What a run is called in its own lines; nothing where it is the only one."""
        return [self._place(run), self._labels[run]] if len(self._work) > 1 else []

    def _place(self, run: int) -> str:
        count = len(self._work)
        number = self._running.get(run, self._num_started)
        return f"[{number:>{len(str(count))}}/{count}]"

    @property
    def _share(self) -> float:
        """How much of all the work is done."""
        return min(1.0, sum(self._done.values()) / (sum(self._work.values()) or 1.0))

    @property
    def _done_here(self) -> float:
        return sum(self._done.values()) - sum(self._resumed.values())

    def _left(self) -> list[str]:
        """The time left, once there is a past; all of it, as the runs of a grid differ
        in speed."""
        begun_at, before = self._begin or (0.0, math.inf)
        if self._done_here <= before:
            return []
        left = sum(self._work.values()) - sum(self._done.values())
        elapsed = time.monotonic() - begun_at
        return [f"{_duration(elapsed / (self._done_here - before) * left)} left"]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        """What a terminal shows, as wide as it is now."""
        width = options.max_width
        label = "" if self._run is None else self._labels[self._run]
        first, rest = self._pieces()
        lines = _fit([*first, *rest], label, width, 2)
        yield Segment(lines[0])
        for line in lines[1:]:
            yield Segment.line()
            yield Segment(line)
        least, most = BAR_WIDTHS
        space = width - cell_len(lines[-1] + GAP)
        if space >= least:
            yield Segment(GAP)
            yield ProgressBar(1.0, self._share, width=min(space, most))


def _fit(pieces: list[str], label: str, width: int | None, num_lines: int) -> list[str]:
    """Lines of what there is to say, and of a label, which may be shortened: each piece
    in the first line that has room for it, as long as there is one.

    Args:
        width: of the lines; None: without end.
    """
    lines = [""] * num_lines

    def room(line: str) -> float:
        used = cell_len(line + GAP) if line else 0
        return math.inf if width is None else width - used

    def put(piece: str) -> bool:
        for i, line in enumerate(lines):
            if cell_len(piece) <= room(line):
                lines[i] = f"{line}{GAP}{piece}" if line else piece
                return True
        return False

    for piece in pieces:
        put(piece)
    if label and not put(label) and (most := max(map(room, lines))) >= LABEL_WIDTH:
        put(set_cell_size(label, int(most) - 3) + "...")
    return [line for line in lines if line] or [""]


def _number(value: float) -> str:
    """A number of four digits, none of them left out, so that its width stays."""
    return f"{value:#.4g}".removesuffix(".")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
