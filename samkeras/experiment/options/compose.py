"""The class of a workload's runs: the groups of options that its file names, its own
ones checked."""

import dataclasses
import functools
import typing
from typing import Any

from samkeras.errors import InputError, nearest
from samkeras.experiment.options.fields import allowed_values
from samkeras.experiment.options.groups import GROUPS, Config, Options
from samkeras.experiment.options.session import Session
from samkeras.experiment.options.targets import Target

# What else stands on a command line or in a YAML file.
RESERVED = {"options", "data", "target", "config", "preset", "help", "print_config"}


@functools.cache
def compose(target: Target) -> type[Config]:
    """The class of a workload's runs, of the groups that its YAML file names.

    Raises:
        InputError: the file cannot be read, or names a group that there is not.
    """
    groups = [group for name in target.groups for group in _find_groups(target, name)]
    # Fields come in the order of the last base first.
    bases = (*reversed(dict.fromkeys(groups)), Config)
    return dataclasses.make_dataclass(
        "Config",
        [("workload", str, target.name)],
        bases=bases,
        namespace={"target": target, "__reduce__": _reduce},
        frozen=True,
        kw_only=True,
    )


def _reduce(config: Config) -> tuple[Any, ...]:
    # Its class is made for its workload, here and in other processes.
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return _restore, (config.target, values)


def _restore(target: Target, values: dict[str, Any]) -> Config:
    return compose(target)(**values)


def _find_groups(target: Target, name: str) -> tuple[type[Options], ...]:
    """The groups of a name: one of GROUPS, or a class of the workload's module."""
    if name in GROUPS:
        return GROUPS[name]
    group = getattr(target.import_module(), name, None)
    if not (isinstance(group, type) and issubclass(group, Options)):
        raise InputError(
            f"{target.defaults}: options must be of {', '.join(GROUPS)} or classes of "
            f"{target.path}. Received: {name}{nearest(name, GROUPS)}"
        )
    _check_own(target, group)
    return (group,)


def _check_own(target: Target, group: type[Options]) -> None:
    """Checks a workload's own group of options.

    Raises:
        InputError: it is no such group, or one of its options is another's.
    """
    where = f"{target.path}: {group.__name__}"
    if "__dataclass_params__" not in vars(group):
        raise InputError(f"{where} needs @dataclass(frozen=True, kw_only=True)")
    houses = [Config, Session, *(kind for kinds in GROUPS.values() for kind in kinds)]
    taken = {f.name for kind in houses for f in dataclasses.fields(kind)} | RESERVED
    hints = typing.get_type_hints(group)
    for field in dataclasses.fields(group):
        name = field.name
        if name not in group.__annotations__:
            continue  # it is inherited
        if name in taken:
            raise InputError(f"{where} cannot have an option {name}: the name is taken")
        if field.default is dataclasses.MISSING:
            raise InputError(f"{where} must give its option {name} a default")
        try:
            allowed_values(hints[name])
        except (KeyError, TypeError, IndexError):
            raise InputError(
                f"{where}: the type of its option {name} must be one of "
                "samkeras.experiment.options, bool, int, float, str or a Literal"
            ) from None
