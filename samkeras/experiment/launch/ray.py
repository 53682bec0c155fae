"""Trains the runs of a grid on a Ray cluster, each as a task of its own."""

import contextlib
import dataclasses
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samkeras.errors import InputError
from samkeras.experiment.launch.workers import (
    ATTEMPTS,
    Job,
    complete,
    give_up,
    train_apart,
)
from samkeras.experiment.options.session import Session
from samkeras.experiment.options.targets import Target
from samkeras.experiment.place import CODE, is_checkout
from samkeras.experiment.runs.data import Memory
from samkeras.experiment.runs.failure import Failure
from samkeras.experiment.runs.progress import ProgressDisplay
from samkeras.experiment.runs.recall import Recall
from samkeras.experiment.runs.result import Result
from samkeras.experiment.runs.run import Run
from samkeras.experiment.tracking.record import Tracker
from samkeras.experiment.tracking.tracker import resolve_uri

CONNECT_TIMEOUT_SEC = 10
LISTEN_EVERY_SEC = 0.5
# Of the project, and sent to the nodes; run.py and configs say there that it is one.
PACKED = ("run.py", "samkeras", "workloads", "configs")


def connect(session: Session, target: Target) -> None:
    """Joins the cluster at session.ray, once a process; a workload that is not one of
    workloads/ goes to its nodes with its folder.

    Raises:
        InputError: Ray is not installed, nothing answers at the address, or the nodes
            cannot reach the MLflow store.
    """
    try:
        import ray
    except ImportError:
        raise InputError("--ray needs Ray: pip install '.[ray]'") from None
    if session.ray is None or ray.is_initialized():
        return
    _knock(session.ray)
    variables = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("KERAS_", "MLFLOW_", "TF_", "XLA_", "JAX_"))
    }
    environment: dict[str, Any] = {"env_vars": variables}
    if is_checkout(CODE):  # else the nodes have samkeras among their packages
        left_out = [f"/{p.name}" for p in CODE.iterdir() if p.name not in PACKED]
        environment |= {"working_dir": str(CODE), "excludes": left_out}
    if not target.is_house:
        environment["py_modules"] = [str(target.path.parent)]
    try:
        ray.init(
            session.ray,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=environment,
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"--ray {session.ray}: no Ray cluster answers ({reason})"
        ) from None
    uri = resolve_uri(session.tracking_uri)
    hosts = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if uri.startswith("sqlite:") and len(hosts) > 1:
        ray.shutdown()
        raise InputError(
            f"--ray {session.ray} has {len(hosts)} machines, and they cannot all write "
            f"to {uri}: give --tracking_uri of a server, see mlflow/README.md"
        )


def _knock(address: str) -> None:
    """Checks that something listens at an address, for which Ray would wait minutes.

    Raises:
        InputError: nothing does, or it is none.
    """
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"--ray must be HOST:PORT or auto. Received: {address}")
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_SEC).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--ray {address} does not answer: {error}") from None


def train_on_ray(
    jobs: list[Job], session: Session, tracker: Tracker, progress: ProgressDisplay
) -> Iterator[tuple[Job, Result]]:
    """Trains runs as Ray tasks, each with the CPUs, GPUs and TPU chips of the session.

    A run that a lost node took with it is trained again on another one, from its
    checkpoint where that one sees the same run_dir.

    Raises:
        KeyboardInterrupt: this process was interrupted; the runs in training are saved.
    """
    import ray
    from ray.exceptions import RayError

    # On the head node, which is not lost without the whole cluster.
    place = {"node:__internal_head__": 0.001}
    relay: Any = ray.remote(num_cpus=0, resources=place)(_Relay).remote()
    task: Any = ray.remote(
        num_cpus=session.cpus_per_run,
        num_gpus=session.gpus_per_run,
        resources={"TPU": session.tpus_per_run} if session.tpus_per_run else {},
        max_retries=ATTEMPTS - 1,
    )(_train)
    uri = resolve_uri(session.tracking_uri)
    tasks = {
        task.remote(
            job.number,
            job.run,
            dataclasses.replace(session, tracking_uri=uri),
            None if job.parent is None else job.parent.folder.absolute(),
            job.parent_id,
            Path.cwd(),
            relay,
        ): job
        for job in jobs
    }
    try:
        while tasks:
            done, _ = ray.wait(list(tasks), timeout=LISTEN_EVERY_SEC)
            running = {job.number for job in tasks.values()}
            for number, event, values in ray.get(relay.take.remote()):
                if number in running and event == "start":
                    progress.start_run(number)
                elif number in running:
                    progress.take(number, event, *values)
            for reference in done:
                job = tasks.pop(reference)
                try:
                    yield job, complete(job, tracker, ray.get(reference))
                except RayError as error:
                    reason = " ".join(str(error).split())[:300]
                    yield job, give_up(job, tracker, Failure(reason))
    finally:
        _cancel(tasks)


def _cancel(tasks: dict[Any, Job]) -> None:
    """Interrupts tasks, and waits until the runs are saved."""
    import ray
    from ray.exceptions import RayError

    for reference in tasks:
        ray.cancel(reference)
    for reference in tasks:
        with contextlib.suppress(RayError):
            ray.get(reference)


class _Relay:
    """Passes on what runs say of themselves, as a Ray actor."""

    def __init__(self):
        self._events = []

    def tell(self, number: int, event: str, values: tuple) -> None:
        self._events.append((number, event, values))

    def take(self) -> list[tuple]:
        events, self._events = self._events, []
        return events


_memory: Memory = Recall()  # of the data that this process has read


def _train(
    number: int,
    run: Run,
    session: Session,
    parent: Path | None,
    parent_id: str | None,
    folder: Path,
    relay: Any,
) -> Result | Failure:
    """A Ray task: trains a run on the node that it is on.

    Args:
        folder: where the grid was started, which relative paths are meant from; on a
            node that has no such folder, they are meant from one of its own.
    """
    if folder.is_dir():
        os.chdir(folder)

    def tell(number: int, event: str, *values: Any) -> None:
        relay.tell.remote(number, event, values)

    tell(number, "start")
    runs = {number: run}
    ((_, outcome),) = train_apart(runs, session, parent, parent_id, _memory, tell)
    return outcome
