"""Lessons by their numbers, and the command line of what takes them."""

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from course_lib import runtime

__all__ = ["chosen", "run"]


def chosen(numbers: Sequence[str]) -> list[Path]:
    """The notebooks with these two-digit numbers, without any all of them; `ValueError` for one that
    is not there.
    """
    notebooks = sorted((runtime.assets().parent / "notebooks").glob("*.ipynb"))
    there = [path.name[:2] for path in notebooks]
    if missing := sorted(set(numbers) - set(there)):
        raise ValueError(
            f"there is no lesson {missing[0]}; expected two-digit numbers from {there[0]} to"
            f" {there[-1]}, such as 04 08"
        )
    return [path for path in notebooks if not numbers or path.name[:2] in numbers]


def run(command: Callable) -> None:
    """Run `command(output, lessons)` with what the command line says, and exit."""
    parser = argparse.ArgumentParser(
        prog=f"python -m tools.{command.__name__}", description=inspect.getdoc(command)
    )
    parser.add_argument(
        "lessons", nargs="*", metavar="NN", help="lessons by number, such as 04 08; default: all"
    )
    default = inspect.signature(command).parameters["output"].default
    parser.add_argument("--output", default=default, help=f"the folder; default: {default}")
    options = parser.parse_args()
    try:
        command(output=options.output, lessons=options.lessons)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
