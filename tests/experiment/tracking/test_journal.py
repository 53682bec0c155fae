"""A run's journal on disk: whole after any damage, and of one owner."""

import json

import pytest

from samkeras.errors import InputError
from samkeras.experiment.tracking.journal import Journal, find_journals
from samkeras.experiment.tracking.tracker import MLflowTracker
from tests.experiment.tracking.making import NOBODY, log

pytestmark = pytest.mark.one_backend


def test_a_record_cut_short_is_dropped(tmp_path):
    """A kill in the middle of a write leaves half a line: it is no record, and the
    next one does not run into it."""
    tracker = MLflowTracker(NOBODY, "e")
    run = tracker.start("name", {}, None, tmp_path / "run")
    log(run, range(2))
    run.journal.close()
    path = run.journal.path
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"metrics": {"loss": 0.1')
    assert len(list(Journal(path).read(0))) == 3
    run = tracker.start("name", {}, None, tmp_path / "run")
    log(run, range(3))
    assert path.read_bytes().startswith(whole)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert records[3]["status"] == "RUNNING"
    steps = [r["step"] for r in records if r.get("metrics")]
    assert steps == [0, 1, 2]
    tracker.close()


def test_a_damaged_journal_is_named(tmp_path):
    """A line that is none of ours is not passed over."""
    tracker = MLflowTracker(NOBODY, "e")
    run = tracker.start("name", {}, None, tmp_path / "run")
    run.end("FINISHED")
    with open(run.journal.path, "ab") as file:
        file.write(b"\0\0\0\n")
    with pytest.raises(InputError, match=r"journal_\w+.jsonl is damaged at byte"):
        tracker.start("name", {}, None, tmp_path / "run")
    tracker.close()


def test_a_run_has_one_owner(tmp_path):
    """Two commands do not train the same run into one folder."""
    first, second = MLflowTracker(NOBODY, "e"), MLflowTracker(NOBODY, "e", patience=0.1)
    run = first.start("name", {}, None, tmp_path / "run")
    with pytest.raises(InputError, match="another command is training the run in"):
        second.start("name", {}, None, tmp_path / "run")
    second.deliver_pending(tmp_path)  # leaves it to the first
    assert second._delivery._journals == []
    run.end("FINISHED")
    second.start("name", {}, None, tmp_path / "run").end("FINISHED")
    first.close()
    second.close()


def test_journals_of_other_stores_are_left_alone(tracker, recorded, tmp_path):
    """A run folder may hold runs of several stores and experiments."""
    elsewhere = MLflowTracker(NOBODY, "e")
    elsewhere.start("name", {}, None, tmp_path / "run").end("FINISHED")
    elsewhere.close()
    session = tracker()
    session.deliver_pending(tmp_path)
    session.start("name", {}, None, tmp_path / "run").end("FINISHED")
    session.close()
    assert recorded()["name"].info.status == "FINISHED"
    journals = {j.head["store"]: j for j in find_journals(tmp_path)}
    assert len(journals) == 2
    assert journals[NOBODY].count_undelivered() == 2
