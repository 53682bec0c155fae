# JAX's own types leave much unknown, such as what jax.jit takes: here most is Any.

from collections.abc import Callable
from typing import Any

from jax import lax as lax
from jax import tree as tree

def jit(fun: Callable[..., Any], **kwargs: Any) -> Any: ...
def __getattr__(name: str) -> Any: ...
