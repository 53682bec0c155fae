from typing import Any

from keras import Variable

class Metric:
    name: str
    @property
    def variables(self) -> list[Variable]: ...
    def result(self) -> Any: ...

class Mean(Metric):
    count: Variable
    def __init__(self, name: str) -> None: ...
    def update_state(self, values: Any, sample_weight: Any = None) -> None: ...
