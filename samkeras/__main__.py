"""`python -m samkeras` does what `python run.py` does, from anywhere."""

from samkeras.experiment.command import run_and_exit

if __name__ == "__main__":
    run_and_exit()
