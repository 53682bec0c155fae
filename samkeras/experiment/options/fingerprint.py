"""What tells runs apart: equal runs are trained once."""

import ast
import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from samkeras.experiment.options.config import NEW_NAMES
from samkeras.experiment.options.groups import Config, PPOOptions
from samkeras.experiment.options.measures import VERSION

# What 0.1 hashed of every run, whether it had the option or not. To go with 0.3.
_OF_ALL = {
    "width_mult": 1.0,
    "sam": False,
    "method": "sam",
    "rho": 0.05,
    "m_sharpness": None,
    "seed": 0,
    "pruner": "none",
    "sparsity": None,
    "match_width": None,
    "allow_empty_layers": False,
    "batch_size": 128,
    "optimizer": "sgd",
    "momentum": 0.0,
    "beta_1": 0.9,
    "beta_2": 0.999,
    "epsilon": 1e-8,
    "clip_norm": None,
    "learning_rate": 0.1,
    "lr_schedule": "step",
    "warmup_steps": 0,
    "lr_milestones": (),
    "lr_decay": 0.1,
    "weight_decay": 0.0,
    "precision": "float32",
    "steps_per_execution": 32,
}
_OF_SUPERVISED = {
    "depth": None,
    "dropout": None,
    "dataset": "",
    "train_examples": None,
    "validation_examples": None,
    "max_length": None,
    "word_dropout": 0.0,
    "image_size": None,
    "augment": False,
    "label_noise": 0.0,
    "holdout": 0.0,
    "epochs": 1,
    "steps": None,
    "eval_every": 1000,
    "epochs_mult": 1.0,
    "alpha": None,
}
_OF_PPO = {
    "game": "breakout",
    "sticky_actions": 0.25,
    "noop_max": 0,
    "fire_reset": False,
    "episodic_life": False,
    "clip_rewards": True,
    "frames": 40_000_000,
    "eval_every": 1_000_000,
    "eval_games": 10,
    "num_actors": 8,
    "rollout_steps": 128,
    "rollout_epochs": 3,
    "discount": 0.99,
    "gae_lambda": 0.95,
    "clip_range": 0.1,
    "value_coefficient": 0.5,
    "entropy_coefficient": 0.01,
}


class Marks(NamedTuple):
    """The fingerprints of a run."""

    now: str
    """what it is recorded under"""
    old: str
    """what version 0.1 recorded it under, where its workload is one of workloads/"""


def find_marks(
    config: Config, version: int, backend: str, content: str | None = None
) -> Marks:
    """The fingerprints of a run, 16 hexadecimal digits each.

    They are of the options that differ from their defaults, so that an option that is
    new changes none; of the workload's module, and of its version, which is raised by a
    change of what it imports; and of the measures' where they are taken along it.

    Args:
        config: the run's options.
        version: its workload's.
        backend: keras' backend.
        content: the digest of its data set's local files; None: it has none.
    """
    values = config.result_fields
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    ours = {
        name: value
        for name, value in values.items()
        if name == "workload" or value != defaults[name]
    }
    for name in config.unused:  # whatever value stands for having none
        ours.pop(name, None)
    about: dict[str, Any] = {"version": version} if version > 1 else {}
    if content is not None:
        about["content"] = content
    if "measure_every" in ours:  # what is measured is a part of the training then
        about["measures"] = VERSION
    apart = [{name: value} for name, value in about.items()]
    module = _digest_module(config.target.path)
    now = _hash([backend, ours, {**about, "module": module}])
    # 0.1 knew nothing of modules: one of the user's own may be another since.
    is_known = config.target.is_house
    of_task = _OF_PPO if isinstance(config, PPOOptions) else _OF_SUPERVISED
    recorded = _recorded(values, defaults, {**_OF_ALL, **of_task})
    old = _hash([backend, recorded, *apart]) if is_known else now
    return Marks(now, old)


def _recorded(
    values: dict[str, Any], defaults: dict[str, Any], of_old: dict[str, Any]
) -> dict[str, Any]:
    """The fields as 0.1 hashed them.

    Args:
        values: the fields.
        defaults: their defaults.
        of_old: those that 0.1 knew, with its defaults.
    """
    known = {"workload": values["workload"], **of_old}
    younger = {n: v for n, v in values.items() if n in known or v != defaults[n]}
    old_names = {new: old for old, new in NEW_NAMES.items()}
    return {old_names.get(n, n): v for n, v in {**known, **younger}.items()}


def _hash(identity: list[Any]) -> str:
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def _digest_module(path: Path) -> str:
    """A digest of what a module does: comments and docstrings do not count."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        if isinstance(node, kinds) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()
