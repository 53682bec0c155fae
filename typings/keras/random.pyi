from typing import Any

from keras import Variable

class SeedGenerator:
    state: Variable
    def __init__(self, seed: int) -> None: ...

def normal(shape: Any, *, dtype: Any, seed: SeedGenerator) -> Any: ...
