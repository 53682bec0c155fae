from collections.abc import Callable
from typing import Any

def scan(
    f: Callable[[Any, Any], tuple[Any, Any]], init: Any, xs: Any, *, unroll: Any = 1
) -> tuple[Any, Any]: ...
def __getattr__(name: str) -> Any: ...
