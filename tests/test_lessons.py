"""The machinery of exercises, and for each exercise: right answers pass, wrong ones read the right
words.
"""

import errno
import importlib
import io
import json
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from test_lesson_00 import averaged, transposed

from course_lib.lessons import check, exercises, hint, progress, reveal
from course_lib.lessons.exercises import Exercise, Mistake, all_exercises, expect


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(exercises, "SECONDS", 600)  # a busy machine is no endless loop
    exercises._rung.clear()
    exercises._asked.clear()
    return tmp_path


def checked(name, function, capsys):
    """What `check` returns, and the one line it prints."""
    answer = check(name, function)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1, lines
    return answer, lines[0]


def solution(name):
    return all_exercises()[name][1].load_solution()


# Every exercise, those of later lessons too


@pytest.mark.parametrize("name", all_exercises())
def test_the_library_passes_its_own_check(name, capsys):
    answer, line = checked(name, solution(name), capsys)
    assert line.startswith("✓"), line
    assert answer is solution(name)


@pytest.mark.parametrize("name", all_exercises())
def test_an_untouched_stub_is_greeted_kindly(name, capsys):
    def stub(*inputs):
        """What to write."""
        ...

    answer, line = checked(name, stub, capsys)
    assert line.startswith("○")
    assert "not written yet" in line
    assert answer is solution(name)


def test_an_untouched_class_is_greeted_kindly(capsys):
    class Bottleneck(torch.nn.Module):
        def __init__(self, inputs, width, outputs, stride=1, dilation=1):
            super().__init__()
            ...

        def forward(self, x):
            """What to write."""
            ...

    answer, line = checked("Bottleneck", Bottleneck, capsys)
    assert "not written yet" in line
    assert answer is solution("Bottleneck")


@pytest.mark.parametrize("name", all_exercises())
def test_an_exercise_is_well_declared(name):
    _, exercise = all_exercises()[name]
    assert len(exercise.hints) == 3
    assert all(len(text) > 20 for text in exercise.hints)
    assert len(exercise.properties) >= 2
    assert exercise.load_solution().__doc__


def test_the_readme_counts_the_exercises():
    said = re.search(
        r"All (\d+) exercises grade themselves",
        (Path(__file__).parent.parent / "README.md").read_text(),
    )
    there = len(all_exercises())
    assert int(said[1]) == there >= 40, (
        f"the README says {said[1]} exercises, and there are {there}"
    )


def test_every_name_is_used_once():
    names = [name for _, lesson in exercises._lessons() for name in lesson]
    assert len(names) == len(set(names))


# What students answer: `RIGHT` and `WRONG` of each lesson's tests


ANSWERS = [
    importlib.import_module(path.stem)
    for path in sorted(Path(__file__).parent.glob("test_lesson_*.py"))
]
RIGHT = [
    (name, function)
    for lesson in ANSWERS
    for name, functions in getattr(lesson, "RIGHT", {}).items()
    for function in functions
]
WRONG = [
    (name, words, function)
    for lesson in ANSWERS
    for name, mistakes in getattr(lesson, "WRONG", {}).items()
    for words, function in mistakes.items()
]


@pytest.mark.parametrize(("name", "function"), RIGHT)
def test_another_right_answer_passes_and_is_used(name, function, capsys):
    answer, line = checked(name, function, capsys)
    assert line.startswith(f"✓ {name}"), line
    assert answer is function


@pytest.mark.parametrize(("name", "words", "function"), WRONG)
def test_a_wrong_answer_reads_its_mistake_and_the_lesson_goes_on(name, words, function, capsys):
    answer, line = checked(name, function, capsys)
    assert line.startswith(f"✗ {name}: ")
    assert words in line
    # such a line quotes the code, and so this file's words
    assert (", raises " in line) == ("raises" in words)
    assert answer is solution(name)


def test_each_exercise_has_another_right_answer_and_three_wrong_ones():
    right, wrong = (Counter(answer[0] for answer in answers) for answers in (RIGHT, WRONG))
    for name in all_exercises():
        assert right[name] >= 1, name
        assert wrong[name] >= 3, name


# What may happen in any exercise


def divides(prediction, target):
    nothing = 0
    return prediction / nothing + [][1]


def half_written(prediction, target):
    error = (prediction - target).abs()
    error.mean(dim=0)


def chatty(prediction, target):
    for _ in range(1000):
        print("here")
    return 1 - (prediction - target).abs().mean(dim=0)


@pytest.mark.parametrize(
    ("function", "mark", "words"),
    [
        (
            divides,
            "✗",
            "`return prediction / nothing + [][1]`, raises IndexError: list index out of range",
        ),
        (half_written, "✗", "returns None; end it with `return`"),
        (lambda: 1, "✗", "takes 0 positional arguments but 2 were given"),
        (lambda p, t: True, "✗", "expected a tensor, got a bool"),
        (
            lambda p, t: (_ for _ in ()).throw(ValueError("a\nb\n" * 1000)),
            "✗",
            "ValueError: a b a b",
        ),
        (torch.rand(3), "✗", "check needs the function itself, without calling it; got tensor"),
        (None, "✗", "got None"),
        (chatty, "✓", "right"),
    ],
)
def test_whatever_happens_one_line_says_it(function, mark, words, capsys):
    _, line = checked("mean_accuracy", function, capsys)
    assert line.startswith(mark)
    assert words in line
    assert len(line) < 450


def test_the_line_of_an_error_is_the_students(capsys):
    _, line = checked("mean_accuracy", divides, capsys)
    assert f"line {divides.__code__.co_firstlineno + 2}," in line


def test_a_function_that_returns_something_constant_is_no_stub(capsys):
    _, line = checked("mean_accuracy", lambda prediction, target: 0, capsys)
    assert line.startswith("✗")


def test_an_endless_loop_is_stopped(monkeypatch, capsys):
    def endless(prediction, target):
        while True:
            pass

    monkeypatch.setattr(exercises, "SECONDS", 0.2)
    _, line = checked("mean_accuracy", endless, capsys)
    assert "still running after 0.2 seconds" in line


SWALLOW = """
import signal, time
from course_lib.lessons import check, exercises

def swallows(prediction, target):
    while True:
        try:
            time.sleep(0.01)
        except:
            pass

def swallows_in_layers(prediction, target):
    while True:
        try:
            while True:
                try:
                    prediction = prediction @ prediction.mT @ prediction
                except:
                    continue
        except BaseException:
            target = None

exercises.SECONDS = 0.1
for answer in (swallows, swallows_in_layers) * 3:
    check("mean_accuracy", answer)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
exercises.SECONDS = 600
check("mean_accuracy", lambda prediction, target: 1 - (prediction - target).abs().mean(dim=0))
"""


def test_an_endless_loop_that_swallows_everything_is_stopped(cache):
    """In a process of its own, because an alarm may also meet pytest's hooks."""
    run = subprocess.run([sys.executable, "-c", SWALLOW], capture_output=True, text=True)
    *stopped, last = run.stdout.splitlines()
    assert run.stderr == ""
    assert len(stopped) == 6
    assert all("still running after 0.1 seconds; is there" in line for line in stopped)
    assert last.startswith("✓")


@pytest.mark.parametrize("leave", [lambda: sys.exit(), lambda: exit(3), lambda: quit()])
def test_an_answer_that_ends_the_program_is_one_sentence(leave, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())  # which plain Python's `exit` closes
    _, line = checked("mean_accuracy", lambda prediction, target: leave(), capsys)
    assert (
        "raises SystemExit, which would end the notebook; end your function with `return`" in line
    )


def test_a_notebooks_exit_does_not_end_the_kernel(capsys, monkeypatch):
    """There `exit()` raises nothing: it asks the shell to end after the cell."""

    class Shell:
        asked = False

        def ask_exit(self):
            self.asked = True

    shell = Shell()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    _, line = checked("mean_accuracy", lambda prediction, target: shell.ask_exit(), capsys)
    assert "raises SystemExit" in line
    assert not shell.asked
    shell.ask_exit()
    assert shell.asked


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_a_check_leaves_the_random_numbers_alone_and_is_itself_seeded():
    seen = []

    def answer(prediction, target):
        seen.append((prediction.sum().item(), draw()))
        return averaged(prediction, target)

    expected = draw()
    np.random.seed(0)
    torch.manual_seed(0)
    check("mean_accuracy", answer)
    assert draw()[1:] == expected[1:]
    once = seen.copy()
    seen.clear()
    check("mean_accuracy", answer)
    assert seen == once
    before = random.getstate()  # apart, because beartype draws from it at each call that it checks
    with exercises._calm():
        random.random()
    assert random.getstate() == before


def test_gradients_are_checked_under_no_grad_too(capsys):
    with torch.no_grad():
        _, line = checked("mean_accuracy", averaged, capsys)
    assert line.startswith("✓")


def test_an_unknown_name_is_answered_with_the_nearest():
    for call in (
        lambda: check("to_token", transposed),
        lambda: hint("to_token"),
        lambda: reveal("to_token"),
    ):
        with pytest.raises(
            ValueError, match="no exercise is called 'to_token'; did you mean 'to_tokens'"
        ):
            call()
    with pytest.raises(ValueError, match="lists their names"):
        hint("xyzzy")


def test_a_check_of_lesson_00_imports_no_later_lesson(monkeypatch):
    asked = []
    real = exercises.importlib.import_module
    monkeypatch.setattr(
        exercises.importlib, "import_module", lambda name: asked.append(name) or real(name)
    )
    exercises._find("to_tokens")
    assert asked == ["course_lib.lessons.lesson_00"]


# hint, reveal, progress


def test_hints_come_one_at_a_time_and_say_what_is_left(capsys):
    texts = all_exercises()["to_tokens"][1].hints
    for text, left in zip(
        (*texts, texts[-1]), ("(2 more)", "(1 more)", "reveal(", "reveal("), strict=True
    ):
        hint("to_tokens")
        said = capsys.readouterr().out
        assert text in said
        assert left in said


def test_reveal_shows_the_librarys_source(capsys):
    reveal("floor_prediction")
    said = capsys.readouterr().out
    assert said.startswith("def floor_prediction(")
    assert "repeat(" in said


def test_progress_outlives_the_kernel_and_is_exported(cache, tmp_path, capsys):
    check("mean_accuracy", lambda p, t: p)
    check("mean_accuracy", averaged)
    hint("to_tokens")
    reveal("to_tokens")
    check("mean_accuracy", lambda p, t: p)  # playing on does not take a solved exercise away
    exercises._rung.clear()
    capsys.readouterr()
    progress(tmp_path / "mine.json")
    said = capsys.readouterr().out
    saved = json.loads((tmp_path / "mine.json").read_text())
    assert saved["mean_accuracy"] == {
        "lesson": "00",
        "solved": True,
        "tries": 3,
        "hints": 0,
        "revealed": False,
    }
    assert saved["to_tokens"] == {
        "lesson": "00",
        "solved": False,
        "tries": 0,
        "hints": 1,
        "revealed": True,
    }
    assert saved["floor_prediction"]["solved"] is False
    assert "1 of 4 solved, progress(all=True) shows all lessons; saved in " in said
    assert str(tmp_path / "mine.json") in said
    assert len(said.splitlines()) == 6
    progress()
    assert json.loads((cache / "progress" / "progress.json").read_text())["mean_accuracy"]["solved"]


def test_progress_shows_the_lesson_or_all(capsys):
    def names(**options):
        progress(**options)
        rows = capsys.readouterr().out.splitlines()[1:-1]
        return {row.split()[0] for row in rows}, len(rows)

    lessons = {lesson for lesson, _ in all_exercises().values()}
    everything = (lessons, len(all_exercises()))
    assert names() == everything  # no exercise was asked for yet
    hint("mean_accuracy")
    reveal("attend")
    capsys.readouterr()
    assert names()[0] == {all_exercises()["attend"][0]}
    assert names(all=True) == everything


def test_a_full_disk_is_said_and_the_lesson_goes_on(monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert check("mean_accuracy", averaged) is averaged
    said, line = capsys.readouterr().out.splitlines()
    assert re.search("could not be saved: cannot write .*No space left", said)
    assert line.startswith("✓")
    for call in (lambda: hint("to_tokens"), lambda: reveal("to_tokens"), progress):
        capsys.readouterr()
        call()
        printed = capsys.readouterr().out
        assert "your progress could not be saved: " in printed
        assert len(printed.splitlines()) > 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        "{",
        "[" * 10**5,
        '{"mean_accuracy": 3}',
        '{"mean_accuracy": {"tries": "many", "solved": 1, "hints": null}}',
    ],
)
def test_a_spoilt_progress_file_begins_anew(content, cache, capsys):
    (cache / "progress").mkdir()
    (cache / "progress" / "progress.json").write_text(content)
    _, line = checked("mean_accuracy", averaged, capsys)
    assert line.startswith("✓")
    assert json.loads((cache / "progress" / "progress.json").read_text())["mean_accuracy"]["solved"]


# expect, which every property uses


@pytest.mark.parametrize(
    ("came", "words"),
    [
        (torch.ones(2), r"expected the shape \(3,\), got \(2,\)"),
        (torch.ones(3).double(), "dtype"),
        (torch.tensor([1, 1, float("nan")]), r"at \[2\] expected 1.0000, got nan"),
        (1.0, "got a float"),
        (torch.full((3,), 7.0), "^seven$"),
    ],
)
def test_expect_names_the_first_difference(came, words):
    with pytest.raises(Mistake, match=words):
        expect(came, torch.ones(3), {"seven": torch.full((3,), 7.0)})


def test_expect_is_quiet_when_all_is_right():
    expect(torch.ones(3) + 1e-7, torch.ones(3), {"seven": torch.full((3,), 7.0)})
    expect(torch.tensor([True]), torch.tensor([True]))
    expect(torch.tensor([3]), torch.tensor([3]), {"four": torch.tensor([4])})


def test_an_exercise_that_is_declared_wrongly_says_so():
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        Exercise("course_lib.training.trait_scores:missing", ("", "", ""), ()).load_solution()
