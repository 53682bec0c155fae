"""YAML of names and values, read so that they mean what they look like."""

import re
from pathlib import Path
from typing import Any

import yaml

from samkeras.errors import InputError


class _Loader(yaml.SafeLoader):
    """Reads no dates, octal or sexagesimal numbers, aliases, tags of other types, nor a
    second value for a name."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            line = self.peek_event().start_mark.line + 1
            raise InputError(f"line {line} has an alias; write out what it stands for")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        lines = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.tag != _tag("str"):
                name = key.value if isinstance(key, yaml.ScalarNode) else "[...]"
                raise InputError(
                    f"unknown field {name} in line {line}: names are words"
                )
            if key.value in lines:
                where = f"in lines {lines[key.value]} and {line}"
                raise InputError(f"{key.value} is given twice, {where}")
            lines[key.value] = line
        return super().construct_mapping(node, deep)


def _tag(kind: str) -> str:
    return f"tag:yaml.org,2002:{kind}"


# None is any other tag.
_Loader.yaml_implicit_resolvers = {}
_Loader.yaml_constructors = {None: yaml.SafeLoader.construct_undefined}
for _kind in ("null", "bool", "int", "float", "str", "seq", "map"):
    _Loader.add_constructor(_tag(_kind), yaml.SafeLoader.yaml_constructors[_tag(_kind)])

# What plain text is, with the characters that it begins with; else it is text. Integers
# end where Python refuses to read them.
for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9]\d{0,999})", list("-+0123456789")),
    ("float", r"[-+]?(\d+\.\d*|\.\d+)([eE][-+]?\d+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(
        _tag(_kind), re.compile(rf"({_pattern})\Z", re.ASCII), _first
    )


def read_yaml(path: Path, may_be_empty: bool = False) -> dict[str, Any]:
    """The fields and values of a file of one document.

    Raises:
        InputError: it cannot be read or holds something else.
    """
    documents = read_documents(path, may_be_empty)
    if len(documents) > 1:
        raise InputError(f"{path} must be one document. Received: {len(documents)}")
    return documents[0] if documents else {}


def read_documents(path: Path, may_be_empty: bool = False) -> list[dict[str, Any]]:
    """The fields and values of each document of a file, of those that have any.

    Raises:
        InputError: it cannot be read or holds something else.
    """
    try:
        documents = [*yaml.load_all(path.read_text("utf-8-sig"), _Loader)]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not YAML: {reason}") from None
    except RecursionError:
        raise InputError(f"{path} holds lists within lists without end") from None
    found = [values for values in documents if values is not None]
    are_fields = all(isinstance(values, dict) for values in found)
    if not are_fields or not (found or may_be_empty):
        raise InputError(f"{path} must hold fields and values, such as `rho: 0.1`")
    return found
