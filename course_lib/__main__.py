"""Seeing Cross-Attention, from the command line.

    python -m course_lib preprocess FOLDER    videos into faces, flow, tokens and features
    python -m course_lib train                a personality model on features, into a run's folder
    python -m course_lib evaluate RUN         scores of a run, with intervals and baselines beside
    python -m course_lib visualize RUN        curves of a run, and its attention

`--help` after a command explains its options. A YAML file given with `--config` holds the same
options; flags after it win. `--print_config` writes one. Exit codes: 0 done, 2 bad input (one
sentence on stderr), 130 stopped with Ctrl-C.
"""

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

__all__ = ["COMMANDS", "main", "parse"]

COMMANDS = ("preprocess", "train", "evaluate", "visualize")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without × and ² shows ? instead
    if arguments in (["-h"], ["--help"]):
        print(__doc__.strip())
        return 0
    try:
        command, options = parse(arguments)
        command(**options)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        sentence = str(error)
        if sentence.startswith("DataLoader worker"):  # PyTorch's words for one that was killed
            sentence = (
                "a process that reads items was killed, most often because memory ran out; run the"
                " same command again, with fewer --workers where it has them"
            )
        elif not sentence.startswith("memory is too short"):
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 2
    finally:
        _leave_processes()
    return 0


def _leave_processes() -> None:
    """End what joins the processes of `accelerate launch`: left to Python's exit, it can abort one
    of them after its work is done.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def parse(arguments: Sequence[str]) -> tuple[Callable, dict[str, Any]]:
    """The function of a command and its arguments: its signature and docstring are the options.

    Raises `ValueError` in one sentence for what does not fit.
    """
    try:
        from jsonargparse import ArgumentError, ArgumentParser, set_loader
        from yaml import YAMLError
    except ImportError as error:
        raise ValueError(
            "the command line needs jsonargparse; run `pip install jsonargparse[signatures]`"
        ) from error
    name, *flags = arguments or [""]
    if name not in COMMANDS:
        raise ValueError(
            f"there is no command {name!r}{_nearest(name, COMMANDS)}; name one of"
            f" {', '.join(COMMANDS)}"
        )
    # only this one: importing torch takes seconds
    command = getattr(importlib.import_module(f".commands.{name}", __package__), name)
    set_loader("as written", _load, exceptions=(YAMLError, RecursionError, UnicodeDecodeError))
    parser = ArgumentParser(
        parser_mode="as written",
        prog=f"python -m course_lib {name}",
        description=inspect.getdoc(command).split("\n\nArgs:")[0],
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=_help_formatter(),
    )
    parser.add_argument("--config", action="config", metavar="FILE", help="YAML of these options")
    parser.add_function_arguments(command, as_group=False, as_positional=True)
    parameters = inspect.signature(command).parameters.values()
    switches = {f"--{parameter.name}" for parameter in parameters if parameter.annotation is bool}
    if switches:
        parser.epilog = f"Without a value after it, {' or '.join(sorted(switches))} means true."
    try:
        options = parser.parse_args([f"{x}=true" if x in switches else x for x in flags]).as_dict()
    except ArgumentError as error:
        message = " ".join(str(error).split())[:400]
        unknown = re.search(r"(?:unrecognized arguments: --|Option ')([\w.]+)", message)
        names = parser.get_defaults().keys()
        near = _nearest(unknown[1].split(".")[-1], names) if unknown else ""
        raise ValueError(
            f"{message}{near}; `python -m course_lib {name} --help` lists all options"
        ) from error
    del options["config"]
    return command, options


def _help_formatter() -> type:
    """How `--help` is written: what an option is for, and its default where that says something."""
    from argparse import SUPPRESS

    from jsonargparse import DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        def _get_help_string(self, action):
            says_something = action.default not in ("", None, SUPPRESS)
            return (action.help or "") + " (default: %(default)s)" * says_something

    return Formatter


def _load(text: str, **options: Any) -> Any:
    """A file of options with all values as they are written, which their types then read; or one
    such value. YAML itself reads no as False, 007 as 7 and 010 as 8.
    """
    import yaml
    from jsonargparse import get_loader

    tree = yaml.BaseLoader(text).get_single_data()  # text, lists and dicts, nothing else
    return tree if isinstance(tree, dict) else get_loader("yaml")(text)


def _nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), 1)
    return f", did you mean {near[0]}?" if near else ""


if __name__ == "__main__":
    sys.exit(main())
