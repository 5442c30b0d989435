"""The command line: `python -m course_lib assets …`."""

import sys
from pathlib import Path

from . import runtime


def assets(name: str, all: bool, folder: str | None) -> None:
    """Make shipped weights or the README's pictures again, or print the README's scores; a cut-off run goes on."""
    from .recipes import RECIPES, make, score_table, write_pictures

    if name == "scores":
        return print(score_table(runtime.assets("weights")))
    if name == "pictures":
        return write_pictures(Path(folder) if folder else runtime.assets("pictures"))
    if not name and not all:
        for key, recipe in RECIPES.items():
            print(f"{key:12} about {recipe.minutes} minutes on two cores")
        return
    if all:
        hours = sum(recipe.minutes for recipe in RECIPES.values()) / 60
        print(f"making {', '.join(RECIPES)}: about {hours:.1f} hours on two cores")
    for key in RECIPES if all else (name,):
        entry = make(key, folder)
        print(f"{key}: {entry['bytes'] / 1e6:.1f} MB in {entry['minutes']} minutes; "
              + ", ".join(f"{score} {value}" for score, value in entry["scores"].items()))


def parse(arguments: list[str] | None = None):
    """The command and its options, from flags or from `--config FILE.yaml`."""
    from jsonargparse import ActionConfigFile, ArgumentParser

    parser = ArgumentParser(prog="python -m course_lib", description="Seeing Cross-Attention, from the command line.")
    commands = parser.add_subcommands(dest="command")
    command = ArgumentParser(description=assets.__doc__)
    command.add_argument("--config", action=ActionConfigFile, help="a YAML file with these options")
    command.add_argument("name", nargs="?", default="", help="a recipe, `pictures` or `scores`; else they are listed")
    command.add_argument("--all", action="store_true", help="make every weight, in order")
    command.add_argument("--folder", help="where to write instead of assets/weights")
    commands.add_subcommand("assets", command, help=assets.__doc__)
    return parser.parse_args(arguments)


def main() -> int:
    """Run one subcommand; bad input ends in one sentence and exit code 2."""
    try:
        options = parse()
    except ImportError:
        print("the command line needs jsonargparse; run `pip install jsonargparse[signatures]`", file=sys.stderr)
        return 2
    try:
        assets(options.assets.name, options.assets.all, options.assets.folder)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
