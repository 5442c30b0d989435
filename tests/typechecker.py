"""What checks every annotated function while the tests run: beartype, with an int welcome where a
float is asked.
"""

from typing import Self

from beartype import BeartypeConf, beartype


def check_types(function):
    """Functions that return `Self` stay unchecked: beartype understands it only when it decorates
    the whole class.
    """
    if Self in getattr(function, "__annotations__", {}).values():
        return function
    return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)
