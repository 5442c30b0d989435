"""The command line: `python -m course_lib preprocess | train | evaluate | visualize | answers |
site`.

Exit codes: 0 done, 2 bad input (one sentence on stderr), 130 stopped with Ctrl-C.
"""

import difflib
import importlib
import re
import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from .commands.settings import (
    Answers,
    Evaluate,
    Preprocess,
    Site,
    Train,
    Visualize,
    is_positional,
)

__all__ = ["main", "parse"]

COMMANDS = {
    "preprocess": Preprocess,
    "train": Train,
    "evaluate": Evaluate,
    "visualize": Visualize,
    "answers": Answers,
    "site": Site,
}
METAVARS = {str: "TEXT", int: "N", float: "X"}
LARGEST_CONFIG, DEEPEST_CONFIG = 2**14, 4  # bytes, levels
EPILOG = (
    "A YAML file given with --config holds the same options; flags after it win. --print_config"
    " writes one."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        name, settings = parse(sys.argv[1:] if arguments is None else arguments)
        # not before: torch takes seconds
        command = importlib.import_module(f".commands.{name}", __package__)
        getattr(command, name)(settings)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if not str(error).startswith("memory is too short"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse(arguments: Sequence[str]) -> tuple[str, Any]:
    """The command and its settings. Raises `ValueError` in one sentence for what does not fit."""
    try:
        from jsonargparse import ArgumentError, ArgumentParser
    except ImportError as error:
        raise ValueError(
            "the command line needs jsonargparse; run `pip install jsonargparse[signatures]`"
        ) from error

    parser = ArgumentParser(
        prog="python -m course_lib",
        description="Seeing Cross-Attention, from the command line.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    subcommands = parser.add_subcommands(dest="command")
    for name, settings in COMMANDS.items():
        subcommands.add_subcommand(name, _parser_of(name, settings), help=_first_sentence(settings))
    try:
        chosen = parser.parse_args(list(arguments))
    except ArgumentError as error:
        raise ValueError(_one_sentence(str(error), arguments)) from error
    return chosen.command, _filled(COMMANDS[chosen.command], chosen[chosen.command])


def _parser_of(command: str, settings: type):
    """A parser with a flag for every setting; those of a section are a group and a section in YAML."""
    from jsonargparse import ActionConfigFile, ArgumentParser

    class Config(ActionConfigFile):
        """A YAML file of plain values, looked at before it is parsed."""

        def __call__(self, parser, namespace, value, option_string=None):
            _check_config(value)
            super().__call__(parser, namespace, value, option_string)

    named = "".join(f" [{setting.name}]" for setting in fields(settings) if is_positional(setting))
    parser = ArgumentParser(
        usage=f"python -m course_lib {command}{named} [--option value …]",
        epilog=EPILOG,
        description=settings.__doc__,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", action=Config, metavar="FILE", help="a YAML file with these options"
    )
    for setting in fields(settings):
        if is_dataclass(setting.type):
            group = parser.add_argument_group(setting.name, setting.type.__doc__)
            for inner in fields(setting.type):
                _add(group, inner, f"{setting.name}.{inner.name}")
        else:
            _add(parser, setting, setting.name)
    return parser


def _add(group, setting, key: str) -> None:
    options = {"default": setting.default, "help": setting.metadata["help"]}
    if is_positional(setting):
        group.add_argument(key, nargs="?", type=setting.type, **options)
    elif setting.type is bool:
        group.add_argument(f"--{setting.name}", dest=key, action="store_true", **options)
    else:
        group.add_argument(
            f"--{setting.name}",
            dest=key,
            type=setting.type,
            metavar=METAVARS.get(setting.type),
            **options,
        )


def _filled(settings: type, values: Any) -> Any:
    """The dataclass with these values, section by section."""
    if not hasattr(values, "__dict__"):  # YAML may put anything where a section belongs
        raise ValueError(
            f"the section {settings.__name__.lower()} is {values}; write `name: value` lines"
            " below it"
        )
    return settings(
        **{
            setting.name: (
                _filled(setting.type, values[setting.name])
                if is_dataclass(setting.type)
                else values[setting.name]
            )
            for setting in fields(settings)
        }
    )


def _check_config(value: str) -> None:
    """Refuse YAML that is not small, shallow and plain: a few lines of it can unfold to gigabytes
    or take minutes.
    """
    import yaml

    path = Path(value)
    if not path.is_file():
        raise ValueError(
            f"no configuration file {value}; those to start from are in assets/configs"
        )
    if path.stat().st_size > LARGEST_CONFIG:
        raise ValueError(
            f"{value} has {path.stat().st_size:,} bytes, more than the {LARGEST_CONFIG:,} of any "
            "configuration; give a YAML file of options"
        )
    try:
        content, depth = path.read_text(encoding="utf-8"), 0
        for event in yaml.parse(content, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(
                event, yaml.CollectionEndEvent
            )
            if isinstance(event, yaml.AliasEvent) or depth > DEEPEST_CONFIG:
                raise ValueError(
                    f"{value} uses an alias (*name) or nests more than {DEEPEST_CONFIG} levels,"
                    " which no option needs; write the values out"
                )
        if not isinstance(yaml.safe_load(content), dict):
            raise ValueError(f"{value} is no list of options; write `name: value` lines")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{value} is no plain YAML ({' '.join(str(error).split())}); write `name: value` lines"
        ) from error


def _one_sentence(message: str, arguments: Sequence[str]) -> str:
    """jsonargparse's message on one line, with the nearest name for one that is unknown."""
    message = " ".join(message.split())[:400]
    command = COMMANDS.get(arguments[0] if arguments else "")
    if command is None:
        near = difflib.get_close_matches(arguments[0] if arguments else "", COMMANDS, 1)
        return (
            f"usage: python -m course_lib {{{','.join(COMMANDS)}}} …; "
            + (f"there is no {arguments[0]!r}" if arguments else "name a command")
            + (f", did you mean {near[0]}?" if near else "")
        )
    unknown = re.search(r"(?:unrecognized arguments: --|option '|[Kk]ey \"?)([\w.]+)", message)
    names = {name: key for key in _keys(command) for name in (key, key.split(".")[-1])}
    if (
        unknown
        and unknown[1] not in names
        and (near := difflib.get_close_matches(unknown[1], names, 1))
    ):
        return f"there is no option {unknown[1]}; did you mean {near[0]}? (--help lists all)"
    return f"{message}; `python -m course_lib {arguments[0]} --help` lists all options"


def _keys(settings: type) -> list[str]:
    """Every option as YAML names it, such as training.epochs."""
    return [
        key
        for setting in fields(settings)
        for key in (
            [f"{setting.name}.{inner}" for inner in _keys(setting.type)]
            if is_dataclass(setting.type)
            else [setting.name]
        )
    ]


def _first_sentence(settings: type) -> str:
    return " ".join((settings.__doc__ or "").split()).split(". ")[0].rstrip(".") + "."


if __name__ == "__main__":
    sys.exit(main())
