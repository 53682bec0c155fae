"""Trains a small network by methods of other packages, in PyTorch and a process of its
own: in one with TensorFlow it ends with a fault of segmentation.

    python -m tests.oracles start.npz ends.npz

start.npz has `weights_0` to `weights_3`, as keras has them, and `x` and `y` of batches,
[batch, example, ...]; ends.npz gets what they become by each of METHODS whose package
is installed.
"""

import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

RATE, RHO = 0.1, 0.2
Step = Callable[..., None]  # of a batch


class Method(NamedTuple):
    """A method of a package.

    Attributes:
        package: what has it.
        build: (package, torch, network, loss, options of SGD) -> a step.
        momentum: of SGD.
    """

    package: str
    build: Callable[..., Step]
    momentum: float = 0.9


def build_by_closure(package, torch, network, loss, sgd, name, **options) -> Step:
    """Of a class of pytorch_optimizer whose step takes a closure."""
    is_wsam = name == "WSAM"  # which makes the first pass itself
    optimizer = getattr(package, name)(
        *([network] if is_wsam else []),
        network.parameters(),
        base_optimizer=torch.optim.SGD,
        rho=RHO,
        **sgd,
        **options,
    )

    def step(x, y):
        def closure():
            optimizer.zero_grad()
            value = loss(network(x), y)
            value.backward()
            return value

        if not is_wsam:
            closure()
        optimizer.step(closure)

    return step


def build_gsam(package, torch, network, loss, sgd) -> Step:
    class Constant:
        def step(self):
            return RHO

    base = torch.optim.SGD(network.parameters(), **sgd)
    optimizer = package.GSAM(network.parameters(), base, network, Constant(), alpha=0.3)

    def step(x, y):
        optimizer.set_closure(loss, x, y)
        optimizer.step()

    return step


def build_unified(package, torch, network, loss, sgd) -> Step:
    optimizer = package.unifiedSAM(
        network.parameters(), torch.optim.SGD, RHO, 0.3, **sgd
    )

    def step(x, y):
        for move in (optimizer.first_step, optimizer.second_step):
            loss(network(x), y).backward()
            move(zero_grad=True)

    return step


def _of(name: str, momentum: float = 0.9, **options) -> Method:
    build = partial(build_by_closure, name=name, **options)
    return Method("pytorch_optimizer", build, momentum)


METHODS = {
    "sam": _of("SAM"),
    "asam": _of("SAM", momentum=0.0, adaptive=True),
    "gsam": Method("pytorch_optimizer", build_gsam),
    "wsam": _of("WSAM", momentum=0.0, gamma=0.7),
    "wsam_momentum": _of("WSAM", gamma=0.7),
    "wsam_coupled": _of("WSAM", gamma=0.7, decouple=False),
    "fsam": _of("FriendlySAM", sigma=0.8, lmbda=0.6),
    "unified": Method("unifiedsam", build_unified),
}


def train(method: Method, start: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The weights after a step on each batch."""
    import torch

    weights = [start[f"weights_{i}"] for i in range(4)]
    (size_in, hidden), size_out = weights[0].shape, weights[2].shape[1]
    network = torch.nn.Sequential(
        torch.nn.Linear(size_in, hidden),
        torch.nn.Tanh(),
        torch.nn.Linear(hidden, size_out),
    )
    for parameter, weight in zip(network.parameters(), weights, strict=True):
        parameter.data = torch.from_numpy(weight.T.copy())
    package = importlib.import_module(method.package)
    loss = torch.nn.CrossEntropyLoss()
    sgd = {"lr": RATE, "momentum": method.momentum}
    step = method.build(package, torch, network, loss, sgd)
    for x, y in zip(start["x"], start["y"], strict=True):
        step(torch.from_numpy(x), torch.from_numpy(y).long())
    return [parameter.detach().numpy().T for parameter in network.parameters()]


def main(path: str, to: str) -> None:
    start, ends = dict(np.load(path)), {}
    for name, method in METHODS.items():
        if importlib.util.find_spec(method.package) is not None:
            for i, weight in enumerate(train(method, start)):
                ends[f"{name}_{i}"] = weight
    np.savez(to, **ends)


if __name__ == "__main__":
    main(*sys.argv[1:])
