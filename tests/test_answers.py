"""Answered notebooks: each answer is the library's own source and passes its check alone; nothing
else changes.
"""

import ast
import inspect
import re
import subprocess
import sys

import nbformat
import pytest

from course_lib import assets
from course_lib.lessons.exercises import all_exercises
from tools.answers import CHECKED, answer, answers

LESSONS = sorted((assets().parent / "notebooks").glob("*.ipynb"))
CELLS = {
    CHECKED.search(cell.source)[1]: cell.source
    for path in LESSONS
    for cell in nbformat.read(path, 4).cells
    if cell.cell_type == "code" and CHECKED.search(cell.source)
}


@pytest.mark.parametrize("name", CELLS)
def test_an_answered_cell_passes_its_check_alone(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr("course_lib.lessons.exercises.SECONDS", 600)  # a busy machine's
    names = (
        {"__name__": "__main__"}
        if "import check" in CELLS[name]
        else {
            "__name__": "__main__",
            "check": __import__("course_lib.lessons", fromlist=["check"]).check,
        }
    )
    exec(answer(CELLS[name]), names)
    assert capsys.readouterr().out.startswith(f"✓ {name}: right"), name
    # check gives back the answer, not the library's function
    assert names[name].__module__ == "__main__"


@pytest.mark.parametrize("name", CELLS)
def test_an_answer_reads_as_the_librarys_source_in_place_of_the_stub(name):
    stub, answered = CELLS[name], answer(CELLS[name])
    assert inspect.getsource(all_exercises()[name][1].load_solution()).rstrip() in answered
    defined = [
        node.name
        for node in ast.parse(answered).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    assert defined.count(name) == 1
    assert answered.endswith(f'\n\n{name} = check("{name}", {name})')
    before = re.split(rf"(?:def|class) {name}\(", stub)[0]  # the cell's own imports stay
    assert before.strip() in answered
    imports = [line for line in answered.splitlines() if line.startswith(("import ", "from "))]
    assert len(imports) == len(set(imports))


def test_every_exercise_of_a_written_lesson_stands_in_its_notebook():
    numbers = {path.name[:2] for path in LESSONS}
    assert {name for name, (lesson, _) in all_exercises().items() if lesson in numbers} == set(
        CELLS
    )


def test_only_the_exercises_differ(tmp_path, capsys):
    answers(str(tmp_path / "answered"))
    assert sum(
        int(line.split(": ")[1].split()[0]) for line in capsys.readouterr().out.splitlines()
    ) == len(CELLS)
    for path in LESSONS:
        asked, answered = (
            nbformat.read(path, 4),
            nbformat.read(tmp_path / "answered" / path.name, 4),
        )
        nbformat.validate(answered)
        assert asked.metadata == answered.metadata
        assert [cell.id for cell in asked.cells] == [cell.id for cell in answered.cells]
        for before, after in zip(asked.cells, answered.cells, strict=True):
            if before.source in CELLS.values():
                after.source = before.source
            assert before == after


def test_the_students_notebooks_are_never_overwritten():
    before = [path.read_bytes() for path in LESSONS]
    run = subprocess.run(
        [sys.executable, "-m", "tools.answers", "--output", str(LESSONS[0].parent)],
        capture_output=True,
        text=True,
        cwd=LESSONS[0].parent.parent,
    )
    assert run.returncode == 2
    assert run.stderr.startswith("error: ")
    assert "name another folder" in run.stderr
    assert [path.read_bytes() for path in LESSONS] == before
