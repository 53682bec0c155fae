"""A run's training, recorded."""

import contextlib

from samkeras.calls import Training
from samkeras.data.splits import DataInfo, Splits
from samkeras.errors import InputError
from samkeras.experiment.options.groups import LabelNoise, Recipe
from samkeras.experiment.options.session import Session
from samkeras.experiment.runs import data
from samkeras.experiment.runs.alike import Alike
from samkeras.experiment.runs.bootstrap import relabel
from samkeras.experiment.runs.build import (
    ModelSize,
    build_model,
    check_memory,
    compile_model,
    measure_size,
    prune_model,
)
from samkeras.experiment.runs.checkpoint import Checkpoints, Moment
from samkeras.experiment.runs.describe import (
    describe_model,
    describe_noise,
    describe_run,
    start_record,
)
from samkeras.experiment.runs.failure import Failure, explain, record_failure
from samkeras.experiment.runs.interrupt import StopRequest
from samkeras.experiment.runs.loop import Loop
from samkeras.experiment.runs.measuring import Meter
from samkeras.experiment.runs.member import Clock, Member
from samkeras.experiment.runs.progress import RunProgress
from samkeras.experiment.runs.result import Result
from samkeras.experiment.runs.run import Run
from samkeras.experiment.tracking.record import Record, Tracker
from samkeras.model import SAMModel


def train(
    run: Run,
    session: Session,
    splits: Splits,
    tracker: Tracker,
    parent: str | None,
    progress: RunProgress,
    stop: StopRequest,
    newest: Moment | None = None,
    share: float = 1.0,
) -> Training[Result]:
    """Trains one run and records it, in the scope of its devices. A failure is recorded
    and returned.

    Args:
        parent: id of the record of the run that this one is nested in, if it is.
        stop: whether a stop is requested.
        newest: see Checkpoints.
        share: see Clock.
    """
    config = run.config
    try:
        logger, mark = start_record(run, session, splits, tracker, parent)
    except (InputError, OSError) as error:
        return without_metrics(run, splits.info, Failure(str(error)))
    checkpoints = Checkpoints(logger.folder, mark, progress.say, newest)
    clock = Clock(share)
    try:
        if session.rerun:
            checkpoints.clear()
        if parent is None:
            checkpoints.mention_others(run.name, config.plain_values)
        describe_run(logger, run, session, splits)
        size = measure_size(run, splits.info)
        check_memory(run.task.devices(), size.num_params)
        model = build_model(run, splits.info)
        describe_model(logger, size, model)
        yield from _train(
            run,
            session,
            model,
            size,
            splits,
            logger,
            checkpoints,
            progress,
            stop,
            clock,
        )
        logger.end("FINISHED")
    except KeyboardInterrupt:
        try:
            checkpoints.wait()
        finally:  # interrupted once more
            with contextlib.suppress(OSError):  # such as a full disk
                logger.end("KILLED", "interrupted")
        raise
    except Exception as error:
        checkpoints.wait()
        failure = explain(error, config)
        record_failure(logger, failure)
        return without_metrics(run, splits.info, failure)
    with contextlib.suppress(OSError):  # they are of no use any more
        checkpoints.clear()
    return Result(config, size.num_params, size.num_nonzero, {**logger.metrics})


def _train(
    run: Run,
    session: Session,
    model: SAMModel,
    size: ModelSize,
    splits: Splits,
    logger: Record,
    checkpoints: Checkpoints,
    progress: RunProgress,
    stop: StopRequest,
    clock: Clock,
) -> Training[None]:
    """Trains a run's new model to the end, and records what comes out."""
    config, task = run.config, run.task
    examples = splits.train
    if LabelNoise.of(config).label_noise:
        examples, record, share = data.add_noise(config, splits)
        describe_noise(logger, record, share)
    if Recipe.of(config).bootstrap:
        examples, share = relabel(run, splits, examples, session.run_dir, logger.folder)
        logger.log_params({"labels_changed": share})
    examples, validated = data.find_resident(
        [examples, splits.validation], session.resident_data, progress.note
    )
    batches = task.batches(config, examples, "order", model)
    rate = compile_model(run, model, batches.total)
    alike = Alike(run, splits.info)
    new, model = model, alike.take(model, batches)
    if model is not new:
        batches = task.batches(config, examples, "order", model)
    validation = task.validation(config, validated, model)
    if config.is_pruned:
        prune_model(run, model, size.sparsity, examples)
    meter = Meter(run, splits.info, examples, logger, progress.note)
    member = Member(run, rate, logger, checkpoints, progress, meter, clock)
    with stop:
        loop = Loop(model, batches, validation, member, config.total_epochs, stop)
        yield from loop.train()
    member.finish(model, validation)
    alike.keep(model)


def without_metrics(run: Run, info: DataInfo, failure: Failure) -> Result:
    """The result of a run that failed, or is missing; of no size if none can be
    built."""
    size = ModelSize(0, 0, 0.0)
    with contextlib.suppress(Exception):
        size = measure_size(run, info)
    return Result(run.config, size.num_params, size.num_nonzero, {}, *failure)
