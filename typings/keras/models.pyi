from typing import Any

from keras import Model

def clone_model(model: Model, **kwargs: Any) -> Model: ...
