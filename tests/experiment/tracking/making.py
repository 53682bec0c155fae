"""What tests of records write into them."""

from samkeras.experiment.tracking.record import View

NOBODY = "http://127.0.0.1:9"
VIEW = View("w", "grid_1", ["sam", "seed"], ["num_params"], "val_loss", "min")


def log(run, steps, file=None):
    for step in steps:
        run.log_metrics({"loss": 1 / (step + 1)}, step)
    if file is not None:
        run.log_file(file)


def losses(steps):
    return [(step, 1 / (step + 1)) for step in steps]
