from typing import Any

from keras import Variable
from keras.optimizers import schedules as schedules

class Optimizer:
    variables: list[Variable]
    iterations: Variable
    built: bool
    def build(self, variables: list[Variable]) -> None: ...
    def assign(self, variable: Any, value: Any) -> None: ...
    def assign_sub(self, variable: Any, value: Any) -> None: ...
    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None: ...

class SGD(Optimizer):
    momentum: float
    nesterov: bool
    momentums: list[Variable]

class LossScaleOptimizer(Optimizer): ...
