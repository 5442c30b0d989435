"""The options of `assets`."""

from dataclasses import dataclass

__all__ = ["Assets"]


@dataclass(frozen=True)
class Assets:
    """Make shipped weights, stored results or the README's pictures again, or print scores."""

    name: str = ""
    all: bool = False
    folder: str = ""
