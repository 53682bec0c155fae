"""Trains workloads with and without SAM: `python run.py` lists what there is."""

from samkeras.experiment.command import main, run_and_exit

__all__ = ["main"]

if __name__ == "__main__":
    run_and_exit()
