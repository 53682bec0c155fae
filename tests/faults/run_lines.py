"""Runs command lines in one process, one after the other: a JSON list of arguments a
line of standard input, a JSON object of what came of it a line of standard output."""

import json
import os
import resource
import sqlite3
import sys
import traceback
from contextlib import closing
from pathlib import Path

import run

OUTPUTS = {1: "out", 2: "err"}
COUNTS = {
    "runs": "select count(*) from runs",
    "nans": """select count(*) from metrics join runs using (run_uuid)
               where is_nan and runs.status = 'FINISHED'""",
}


def count(store: Path) -> dict[str, int]:
    """The runs of a store, and the numbers of finished ones that are none."""
    try:
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
            return {k: database.execute(v).fetchone()[0] for k, v in COUNTS.items()}
    except sqlite3.OperationalError:  # there is no store yet
        return dict.fromkeys(COUNTS, 0)


def run_line(arguments: list[str], store: Path) -> dict:
    """What a command line's end is: exit code, what it prints, native code's messages
    included, its traceback and how many more runs and NaN the store then has."""
    before = count(store)
    for descriptor in OUTPUTS:
        os.truncate(descriptor, 0)
    code, trace = None, ""
    try:
        code = run.main(arguments)
    except SystemExit as exit_:  # --help and --print_config
        code = exit_.code
    except BaseException:
        trace = traceback.format_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    if "keras" in sys.modules:
        import keras

        keras.backend.clear_session(free_memory=False)
    after = count(store)
    reply = {name: after[name] - before[name] for name in COUNTS}
    for descriptor, name in OUTPUTS.items():
        size = os.fstat(descriptor).st_size
        reply[name] = os.pread(descriptor, size, 0).decode(errors="replace")
    return {"code": code, "trace": trace, **reply}


def main(store: Path) -> None:
    replies = os.fdopen(os.dup(1), "w")
    for descriptor, name in OUTPUTS.items():
        path = store.with_name(f"{name}_{os.getpid()}.txt")
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
    # A line that asks for too much fails by itself, without the machine.
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    for line in sys.stdin:
        reply = run_line(json.loads(line), store)
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
