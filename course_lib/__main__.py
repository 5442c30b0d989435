"""The command line: `python -m course_lib assets …`."""

import sys
from pathlib import Path

from . import runtime


def assets(name: str, all: bool, folder: str | None) -> None:
    """Make shipped weights, stored results or the README's pictures again, or print scores; a cut-off run goes on."""
    from .recipes import RECIPES, make, score_table, write_pictures
    from .studies import STUDIES, run_study

    jobs = RECIPES | STUDIES
    if name == "scores":
        return print(score_table(runtime.assets("weights")))
    if name == "pictures":
        return write_pictures(Path(folder) if folder else runtime.assets("pictures"))
    if not name and not all:
        for key, job in jobs.items():
            print(f"{key:12} about {job.minutes} minutes on two cores")
        return
    if all:
        hours = sum(job.minutes for job in jobs.values()) / 60
        print(f"making {', '.join(jobs)}: about {hours:.1f} hours on two cores")
    if name and name not in jobs:
        raise ValueError(f"no recipe {name!r}; choose one of {', '.join(jobs)}, pictures or scores")
    for key in jobs if all else (name,):
        if key in STUDIES:
            result = run_study(key, folder)
            print(f"{key}: {len(result['rows'])} rows in {result['minutes']} minutes")
        else:
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
    command.add_argument("name", nargs="?", default="", help="a recipe, a study, `pictures` or `scores`; else listed")
    command.add_argument("--all", action="store_true", help="make every weight and result, in order")
    command.add_argument("--folder", help="where to write instead of assets/")
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
