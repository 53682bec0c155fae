from typing import Any

class Constraint:
    def __call__(self, w: Any) -> Any: ...
