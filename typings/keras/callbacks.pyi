from typing import Any

from keras import Model

class Callback:
    params: dict[str, Any]
    @property
    def model(self) -> Any: ...
    def set_model(self, model: Model) -> None: ...
    def __init__(self) -> None: ...
