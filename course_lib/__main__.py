"""The command line: `python -m course_lib assets …`."""

import sys

from .runtime import setup


def assets(name: str = "", all: bool = False, folder: str | None = None) -> None:
    """Make shipped weights again from their seeds; an interrupted run goes on where it stopped.

    Args:
        name: one of the recipes; without a name they are listed.
        all: make every one, in order.
        folder: where to write instead of assets/weights.
    """
    from .recipes import RECIPES, make

    hours = sum(recipe.minutes for recipe in RECIPES.values()) / 60
    if not name and not all:
        for key, recipe in RECIPES.items():
            print(f"{key:12} about {recipe.minutes} minutes on two cores")
        return
    if all:
        print(f"making {', '.join(RECIPES)}: about {hours:.1f} hours on two cores")
    setup()
    for key in RECIPES if all else (name,):
        entry = make(key, folder)
        print(f"{key}: {entry['bytes'] / 1e6:.1f} MB in {entry['minutes']} minutes; "
              + ", ".join(f"{score} {value}" for score, value in entry["scores"].items()))


def main() -> int:
    """Run one subcommand; bad input ends in one sentence and exit code 2."""
    try:
        from jsonargparse import auto_cli
    except ImportError:
        print("the command line needs jsonargparse; run `pip install jsonargparse[signatures]`", file=sys.stderr)
        return 2
    try:
        auto_cli({"assets": assets}, as_positional=True, prog="python -m course_lib",
                 description="Seeing Cross-Attention, from the command line.")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
