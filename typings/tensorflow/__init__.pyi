# TensorFlow has no types of its own: here most is Any.

from collections.abc import Callable
from typing import Any

def while_loop(
    cond: Callable[[Any], Any] | Callable[[Any, Any, Any], Any],
    body: Callable[[Any], Any] | Callable[[Any, Any, Any], Any],
    loop_vars: Any,
) -> Any: ...
def __getattr__(name: str) -> Any: ...
