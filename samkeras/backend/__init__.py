"""The backend that keras runs on: its train step and its devices, under one name."""

import keras

if keras.backend.backend() == "jax":
    from samkeras.backend.jax import (
        Trainer,
        broadcast,
        cache_programs,
        compile_function,
        find_process,
        isolate,
        make_input,
        split_batches,
        use_cpu_only,
    )
elif keras.backend.backend() == "tensorflow":
    from samkeras.backend.tensorflow import (
        Trainer,
        broadcast,
        cache_programs,
        compile_function,
        find_process,
        isolate,
        make_input,
        split_batches,
        use_cpu_only,
    )
else:
    raise ImportError(
        "samkeras runs on the keras backends jax and tensorflow. "
        f"Received: KERAS_BACKEND={keras.backend.backend()}"
    )

__all__ = [
    "Trainer",
    "broadcast",
    "cache_programs",
    "compile_function",
    "find_process",
    "isolate",
    "make_input",
    "split_batches",
    "use_cpu_only",
]
