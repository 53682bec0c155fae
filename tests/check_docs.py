"""Runs the commands of README.md and docs/*.md as they are written: `make check-docs`.

A page's commands run one after the other in a copy of the project, with the files that
its blocks name. Some need what a machine may lack, or hours: they are listed here, with
why, and any other command that does not end well is a failure.

    python tests/check_docs.py               # all pages; an hour on two cores
    python tests/check_docs.py run.md        # one
    python tests/check_docs.py --list        # what would run, and what would not
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Commands that are not run, by what they match.
NOT_RUN = {
    r"^make demo|^source |^pip |^export ": "sets up what the others run in",
    r"^make ui|^mlflow |^docker ": "a server, which does not end",
    r"KERAS_DISTRIBUTION_": "two hosts; tests/experiment/runs/test_devices.py has them",
    r"--dataset spektral:": "downloads a data set",
    r"--dataset my_photos": "needs pictures of one's own, and downloads weights",
    r"--ray|^ray |^salloc|^srun|^HEAD=|^kubectl": "a cluster",
}
# Of these --dry_run alone is run, which checks their options and counts their steps.
DRY_RUN = {
    r"configs/figures/\w+\.yaml$": "the paper's scale: hours",
    r"fashion_mnist": "downloads a data set",
    r"workloads/cifar_wrn --sam true,false --seed": "days on a GPU",
}
# A page of what came out, whose commands take from minutes to hours each.
RECORDS = "results.md"
# How a command begins; other indented lines are text.
COMMAND = r"(?:[A-Z_]+=\S+ )*(?:python|make|pip|source|export|mlflow|docker|\.venv"
COMMAND += r"|ray|salloc|srun|kubectl|HEAD=)"


def find_commands(page: Path) -> list[str]:
    """The commands of a page, in order: of its indented blocks and ```bash ones."""
    text = re.sub(r"(?ms)^ *```+ ?(?!bash).*?^ *```+ *$", "", page.read_text())
    text = re.sub(r"(?ms)^```bash\n(.*?)^```$", _indent, text)
    found = re.findall(rf"(?m)^    ({COMMAND}.*)$", text)
    return [re.sub(r"\s+#.*$", "", command) for command in found]


def _indent(match: re.Match[str]) -> str:
    return re.sub(r"(?m)^", "    ", match[1])


def find_files(page: Path) -> dict[str, str]:
    """The files that a page's blocks are, by the names in their first lines."""
    block = r"(?ms)^```(?:python|yaml)\n(# (\w+\.(?:py|yaml))\b.*?)^```$"
    return {name: text for text, name in re.findall(block, page.read_text())}


def find_reason(command: str, reasons: dict[str, str]) -> str | None:
    """Why a command is one of those that match, or None."""
    return next(
        (why for what, why in reasons.items() if re.search(what, command)), None
    )


def plan(page: Path) -> list[tuple[str | None, str]]:
    """What is run of a page's commands: each as it is written, with --dry_run, or None;
    and what is printed of it."""
    planned = []
    for command in find_commands(page):
        dry = find_reason(command, DRY_RUN)
        if page.name == RECORDS:
            dry = dry or "a kept result"
        if why := find_reason(command, NOT_RUN):
            planned.append((None, f"not run ({why}): {command}"))
        elif dry and "run.py" in command:
            planned.append((f"{command} --dry_run", f"--dry_run ({dry}): {command}"))
        else:
            planned.append((command, command))
    return planned


def copy_project(folder: Path) -> None:
    """The files that git knows or would."""
    names = subprocess.check_output(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True
    )
    for name in names.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def run(command: str, folder: Path) -> tuple[int, str]:
    """A command's exit code, and the end of what it printed."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}
    try:
        ended = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=3600,
        )
    except subprocess.TimeoutExpired:
        return 124, "did not end within an hour"
    return ended.returncode, (ended.stdout + ended.stderr)[-3000:]


def check(page: Path) -> int:
    """Runs a page's commands. Returns how many failed."""
    failures = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        copy_project(folder)
        for name, text in find_files(page).items():
            (folder / name).write_text(text)
        for command, shown in plan(page):
            if command is None:
                print(f"  {shown}", flush=True)
                continue
            start = time.monotonic()
            code, said = run(command, folder)
            print(f"  {time.monotonic() - start:.0f} s: {shown}", flush=True)
            if code:
                failures += 1
                print(f"  FAILED with exit code {code}:\n{said}", flush=True)
    return failures


def main(arguments: list[str]) -> int:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    names = [argument for argument in arguments if argument != "--list"]
    if unknown := {*names} - {page.name for page in pages}:
        print(f"no such page: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    failures = 0
    for page in pages:
        if names and page.name not in names:
            continue
        print(page.name, flush=True)
        if "--list" in arguments:
            for _, shown in plan(page):
                print(f"  {shown}")
        else:
            failures += check(page)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
