"""The models of the code that the paper's experiments follow, and their steps of SAM.

Our own renderings, written from the descriptions of the architectures, with nothing of
Keras or samkeras in them; each module names its source. Those that the benchmarks time
are in JAX and give gradients; the others, in NumPy, are forward passes alone. Their
weights are dictionaries by the paths of keras' variables, such as "stem/kernel", or
lists in keras' order. All is computed in the type of the weights.
"""

from typing import Any

Array = Any
Weights = dict[str, Array]
