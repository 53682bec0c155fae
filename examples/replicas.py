"""Train several runs in one program: --replicas, on JAX.

Six runs of LeNet-300-100, an eighth as wide, on 5,000 digits: three seeds, without
and with SAM. Those of one method differ in numbers alone and train together, each
recorded as any other run is. It pays on a GPU, which one small run leaves idle. Prints
the table of the six; options that follow replace its own:

    python examples/replicas.py
    python examples/replicas.py --epochs 20 --seed 0,1,2,3,4,5,6,7
"""

import os
import sys

os.environ["KERAS_BACKEND"] = "jax"

from samkeras.experiment.command import main

DEFAULTS = {
    "--dataset": "mnist_5k",
    "--width_mult": "0.125",
    "--epochs": "2",
    "--seed": "0,1,2",
    "--sam": "true,false",
    "--replicas": "3",
}

if __name__ == "__main__":
    options = sys.argv[1:]
    given = {option.partition("=")[0] for option in options}
    for option, value in DEFAULTS.items():
        if option not in given:
            options += [option, value]
    sys.exit(main(["workloads/mnist_mlp", *options]))
