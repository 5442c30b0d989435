"""What every lesson's exercises share: `check`, `hint`, `reveal`, `progress`, and how one is
declared.

A module `lesson_NN.py` holds `EXERCISES`, a dict from name to `Exercise`. A property is a function
`(student, library) -> None` that calls both and raises a `Mistake` whose sentence the student
reads.
"""

import difflib
import dis
import importlib
import inspect
import io
import linecache
import math
import pkgutil
import random
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from types import FrameType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from ..files import read_json, write_json
from ..runtime import cache_dir

__all__ = [
    "Exercise",
    "Mistake",
    "all_exercises",
    "check",
    "expect",
    "expect_gradient",
    "expect_number",
    "hint",
    "progress",
    "reveal",
]

SECONDS = 10  # a check needs well under two; this is for loops that never end
_rung = Counter()  # hints given in this kernel: a restart begins at the nudge again
_asked = []  # lessons of the exercises asked for in this kernel; the last is the present one


class Mistake(AssertionError):
    """What a property found wrong, as one sentence for the student."""


@dataclass(frozen=True)
class Exercise:
    """An exercise: where the library's own answer is, three hints, and the properties that an
    answer must have.

    `solution` reads `"course_lib.models.static:to_tokens"` and is imported when needed, so that
    declaring an exercise costs nothing. `hints` are a nudge, the shapes, and pseudo-code.
    """

    solution: str
    hints: tuple[str, str, str]
    properties: tuple[Callable[[Callable, Callable], None], ...]

    def load_solution(self) -> Callable:
        """The library's own function."""
        return pkgutil.resolve_name(self.solution)


def _lessons() -> Iterator[tuple[str, dict[str, Exercise]]]:
    """The number and the exercises of each lesson in order, importing one lesson at a time."""
    folder = Path(__file__).parent
    for module in sorted(path.stem for path in folder.glob("lesson_*.py")):
        yield (
            module.removeprefix("lesson_"),
            importlib.import_module(f"{__package__}.{module}").EXERCISES,
        )


def all_exercises() -> dict[str, tuple[str, Exercise]]:
    """Every exercise by name, with the number of its lesson."""
    return {
        name: (lesson, exercise)
        for lesson, exercises in _lessons()
        for name, exercise in exercises.items()
    }


def _find(name: str) -> Exercise:
    for lesson, exercises in _lessons():
        if name in exercises:
            _asked[:] = [lesson]
            return exercises[name]
    nearest = difflib.get_close_matches(str(name), all_exercises(), n=1)
    raise ValueError(
        f"no exercise is called {name!r}; "
        + (f"did you mean {nearest[0]!r}?" if nearest else "`progress(all=True)` lists their names")
    )


def expect(
    came: Any,
    expected: Tensor,
    mistakes: Mapping[str, Tensor] | None = None,
    tolerance: float = 1e-5,
    given: str = "",
) -> None:
    """Raise a `Mistake` unless `came` is `expected` in type, shape, dtype and values.

    `mistakes` maps a sentence to the result of a likely mistake: who returns that result reads that
    sentence. `given` names the input where the student could not guess it: "for a batch of one".
    """
    given = f"{given}, " if given else ""
    if not isinstance(came, Tensor):
        raise Mistake(f"{given}expected a tensor, got a {type(came).__name__}")
    for sentence, wrong in (mistakes or {}).items():
        if came.shape == wrong.shape and torch.allclose(came.to(wrong), wrong, atol=tolerance):
            raise Mistake(sentence)
    if came.shape != expected.shape:
        raise Mistake(f"{given}expected the shape {tuple(expected.shape)}, got {tuple(came.shape)}")
    if came.dtype != expected.dtype:
        raise Mistake(
            f"{given}expected the dtype {expected.dtype}, got {came.dtype}; keep the dtype of the"
            " input"
        )
    wrong = ~torch.isclose(came, expected, rtol=tolerance, atol=tolerance)
    if wrong.any():
        where = tuple(wrong.nonzero()[0].tolist())
        what = f"the shape is right, the numbers are not: at {list(where)}"
        raise Mistake(
            f"{given}{what if where else 'the number is not right:'} expected "
            f"{expected[where].item():.4f}, got {came[where].item():.4f}"
        )


def expect_number(
    came: Any,
    expected: float,
    mistakes: Mapping[str, float] | None = None,
    tolerance: float = 1e-5,
    given: str = "",
) -> None:
    """`expect` where the answer is one number, which may come as a float or as a tensor of one
    element.
    """
    if not isinstance(came, float | Tensor) or (isinstance(came, Tensor) and came.numel() != 1):
        shape = f" of shape {tuple(came.shape)}" if isinstance(came, Tensor) else ""
        raise Mistake(f"expected one number, got a {type(came).__name__}{shape}")
    came = float(came)
    for sentence, wrong in (mistakes or {}).items():
        if math.isclose(came, wrong, rel_tol=tolerance, abs_tol=tolerance):
            raise Mistake(sentence)
    if not math.isclose(came, expected, rel_tol=tolerance, abs_tol=tolerance):
        given = f"{given}, " if given else ""
        raise Mistake(f"{given}the number is not right: expected {expected:.4f}, got {came:.4f}")


def expect_gradient(inputs: Tensor, result: Tensor) -> None:
    """Refuse a result through which no gradient flows back to `inputs`."""
    if not result.requires_grad:
        raise Mistake(
            "no gradient reaches the input, so nothing before this function could learn; is there a"
            " `.detach()`, `.item()`, `.numpy()` or `torch.no_grad()` in it?"
        )
    if torch.autograd.grad(result.sum(), inputs, allow_unused=True)[0] is None:
        raise Mistake("the result does not depend on the input")


def _is_stub(function: Callable) -> bool:
    """Whether the body is only a docstring and `...`: its bytecode does nothing but return None.

    Of a module, the body of its `forward`.
    """
    if inspect.isclass(function):
        function = vars(function).get("forward")

    def steps(code: Callable) -> list[tuple]:
        return [(step.opname, step.argval) for step in dis.get_instructions(code)]

    return inspect.isfunction(function) and steps(function) == steps(lambda: None)


def _attempt(function: Callable) -> Callable:
    """The student's function, refusing what is a mistake in every exercise: no result, or a changed
    input.
    """
    if inspect.isclass(function):
        return function

    def attempt(*inputs, **named_inputs):
        tensors = [
            value for value in (*inputs, *named_inputs.values()) if isinstance(value, Tensor)
        ]
        before = [tensor.detach().clone() for tensor in tensors]
        result = function(*inputs, **named_inputs)
        if result is None:
            raise Mistake("your function returns None; end it with `return` and the result")
        if not all(map(_same, tensors, before)):
            raise Mistake(
                "your function changes its input in place; the caller still needs it, so make a new"
                " tensor"
            )
        return result

    return attempt


def _same(tensor: Tensor, before: Tensor) -> bool:
    """Equal everywhere, where NaN equals NaN."""
    return tensor.shape == before.shape and bool(
        ((tensor == before) | (tensor.isnan() & before.isnan())).all()
    )


def _raised(error: BaseException, function: Callable) -> str:
    """Say what the student's code raised, and in which of its lines."""
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, SystemExit):
        said = "SystemExit, which would end the notebook; end your function with `return`"
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if frame.f_globals.get("__name__") == getattr(function, "__module__", None):
            return (
                f"line {line}, `{linecache.getline(frame.f_code.co_filename, line).strip()}`,"
                f" raises {said}"
            )
    return f"calling your function, or using what it returns, raises {said}"


def _hold(properties: tuple[Callable, ...], function: Callable, solution: Callable) -> None:
    """Try one property after another; while this runs, the alarm of `_calm` raises."""
    for holds in properties:
        holds(_attempt(function), solution)


def _within_check(frame: FrameType | None) -> bool:
    here = (__file__, "_hold")
    while frame is not None and (frame.f_code.co_filename, frame.f_code.co_name) != here:
        frame = frame.f_back
    return frame is not None


@contextmanager
def _calm() -> Iterator[None]:
    """Seed everything and put it back after; show no prints; stop after `SECONDS` where the system
    can do it.
    """
    python, numpy = random.getstate(), np.random.get_state()
    gpus = range(torch.cuda.device_count())
    timed = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    pause = 0.1

    def stop(_, frame: FrameType | None) -> None:
        # An `except:` within a loop may catch it. So it comes again, sooner each time, until it
        # meets the loop outside its `try`.
        nonlocal pause
        pause = max(pause / 2, 5e-5)
        signal.setitimer(signal.ITIMER_REAL, pause)
        if _within_check(frame):
            raise Mistake(
                f"still running after {SECONDS} seconds; is there a loop that never ends?"
            )

    if timed:
        previous = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with (
            torch.random.fork_rng(gpus),
            torch.enable_grad(),
            redirect_stdout(io.StringIO()),
            _exit_raises(),
        ):
            random.seed(0)
            np.random.seed(0)
            torch.manual_seed(0)
            yield
    finally:
        if timed:
            signal.signal(signal.SIGALRM, lambda *_: None)  # an alarm on its way is not ignored but
            signal.setitimer(signal.ITIMER_REAL, 0)  # heard, or Python would print an OSError of it
            signal.signal(signal.SIGALRM, previous)
        random.setstate(python)
        np.random.set_state(numpy)


def _exit_raises():
    """In a notebook `exit()` raises nothing and ends the kernel later; here it raises SystemExit."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return patch.object(shell, "ask_exit", sys.exit) if shell else nullcontext()


def check(name: str, function: Any) -> Callable:
    """Check your answer, print one line, and return your function if it is right, else the
    library's own.

    So the lesson goes on either way: `attend = check("attend", attend)`. What your function prints
    is not shown meanwhile. Raises `ValueError` if no exercise has that name.
    """
    exercise = _find(name)
    solution = exercise.load_solution()
    if not callable(function):
        print(
            f"✗ {name}: check needs the function itself, without calling it; got"
            f" {shorten(repr(function), 60)}"
        )
        return solution
    if _is_stub(function):
        print(
            f'○ {name}: not written yet, so the library\'s own is used; hint("{name}") gives a'
            " nudge"
        )
        return solution
    try:
        with _calm():
            _hold(exercise.properties, function, solution)
    except (Exception, SystemExit) as error:
        mistake = str(error) if isinstance(error, Mistake) else _raised(error, function)
        _remember(name, tries=_record(name)["tries"] + 1)
        print(shorten(f"✗ {name}: {mistake}", 400, placeholder=" …"))
        return solution
    _remember(name, tries=_record(name)["tries"] + 1, solved=True)
    print(
        f"✓ {name}: right, all {len(exercise.properties)} checks hold; the lesson goes on with"
        " your own"
    )
    return function


def hint(name: str) -> None:
    """Print the next hint: a nudge, then the shapes, then pseudo-code."""
    hints = _find(name).hints
    rung = min(_rung[name], len(hints) - 1)
    _rung[name] = rung + 1
    _remember(name, hints=max(rung + 1, _record(name)["hints"]))
    left = len(hints) - rung - 1
    print(f"{name}, hint {rung + 1} of {len(hints)}: {hints[rung]}")
    print(f"({left} more)" if left else f'(no more; reveal("{name}") shows a solution)')


def reveal(name: str) -> None:
    """Print the solution: the library's own source."""
    solution = _find(name).load_solution()
    _remember(name, revealed=True)
    print(inspect.getsource(solution))


def progress(path: str | Path | None = None, *, all: bool = False) -> None:
    """Print what is solved in this lesson, or in `all`; write all as JSON to `path`.

    The lesson is that of the exercise last checked, hinted at or revealed in this kernel; before
    there is one, all are printed. The default path is in the cache folder.
    """
    records = {
        name: {"lesson": lesson, **_record(name)} for name, (lesson, _) in all_exercises().items()
    }
    shown = records
    if _asked and not all:
        shown = {name: row for name, row in records.items() if row["lesson"] in _asked}
    print("lesson  exercise                 solved  tries  hints  revealed")
    for name, record in shown.items():
        print(
            f"{record['lesson']:<7} {name:<24} {'✓' if record['solved'] else '○':^6}"
            f" {record['tries']:>6} {record['hints']:>6}  {'yes' if record['revealed'] else ''}".rstrip()
        )
    place = _save(records, path)
    saved = f"; saved in {place}" if place else ""
    print(
        f"{sum(record['solved'] for record in shown.values())} of {len(shown)} solved"
        f"{'' if shown is records else ', progress(all=True) shows all lessons'}{saved}"
    )


def _progress_file() -> Path:
    return cache_dir("progress") / "progress.json"


def _records() -> dict[str, Any]:
    try:
        return read_json(_progress_file())
    except (OSError, ValueError):
        return {}


def _record(name: str) -> dict[str, Any]:
    """What is saved of an exercise; a value of another type than it should have counts as none."""
    record = {"solved": False, "tries": 0, "hints": 0, "revealed": False}
    saved = _records().get(name)
    if isinstance(saved, dict):
        for key, default in record.items():
            if type(saved.get(key)) is type(default):
                record[key] = saved[key]
    return record


def _remember(name: str, **changes: Any) -> None:
    _save({**_records(), name: {**_record(name), **changes}})


def _save(records: Mapping[str, Any], path: str | Path | None = None) -> Path | None:
    """Where they were written; that they could not be is said, and stops no lesson."""
    try:
        path = Path(path or _progress_file())
        write_json(path, records)
    except OSError as error:
        print(f"your progress could not be saved: {error}")
        return None
    return path
