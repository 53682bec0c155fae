from typing import Any

from keras import Variable

class SeedGenerator:
    state: Variable
    def __init__(self, seed: int | None) -> None: ...

def normal(shape: Any, *, dtype: Any, seed: SeedGenerator) -> Any: ...
def uniform(
    shape: Any, minval: float = 0.0, maxval: float = 1.0, *, seed: SeedGenerator
) -> Any: ...
