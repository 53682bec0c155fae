"""What a data set's name alone says of it, wherever it is read."""

import re

from samkeras.files import TABLES

# Sets that are known by their names, which come before folders that are called so.
TWEETS, SST2 = "crowdflower", "glue/sst2"
MOLPCBA, SOLUBILITY, FREESOLV = "ogbg_molpcba", "solubility", "freesolv"
KNOWN = (TWEETS, SST2, MOLPCBA, SOLUBILITY, FREESOLV)

# Of keras, of spektral, and of TFDS, which has names of these kinds, too.
OTHERS = "keras|spektral|huggingface|kubric|robotics"
PREFIXED = re.compile(rf"(?:{OTHERS}):.*", re.DOTALL)
FUNCTION = re.compile(
    rf"(.+\.py|(?!(?:{OTHERS}):)[^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)"
)


def is_function(dataset: str) -> bool:
    """Whether a data set's name is module:function, with packages before it or not, or
    path.py:function."""
    return FUNCTION.fullmatch(dataset) is not None


def is_table(path: str) -> bool:
    """Whether a file is called as a table is."""
    return path.lower().endswith(TABLES)


def has_no_columns(dataset: str) -> bool:
    """Whether a data set can be neither a table nor a folder of such, whatever stands
    on this machine."""
    is_prefixed = PREFIXED.fullmatch(dataset) is not None
    return dataset in KNOWN or is_prefixed or is_function(dataset)
