"""Every notebook once more, with every exercise answered: the lesson goes on with the student's own functions."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
CHECKED = re.compile(r'^(\w+) = check\("\1", \1\)$', re.MULTILINE)
ANSWER = """\
from course_lib.lessons.exercises import all_exercises
{name} = all_exercises()["{name}"][1].load_solution()
"""


def answer(notebook) -> list[tuple[str, str]]:
    """Write an answer before each check; the cell and the name of each exercise."""
    answered = []
    for cell in notebook.cells:
        if cell.cell_type == "code" and (found := CHECKED.search(cell.source)):
            cell.source = CHECKED.sub(lambda check: ANSWER.format(name=check[1]) + check[0], cell.source)
            answered.append((cell.id, found[1]))
    return answered


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_runs_with_every_exercise_answered(path, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))           # nobody's own progress
    notebook = nbformat.read(path, 4)
    answered = answer(notebook)
    NotebookClient(notebook, timeout=120, kernel_name="python3",
                   resources={"metadata": {"path": str(path.parent)}}).execute()
    cells = {cell.id: cell for cell in notebook.cells}
    for cell, name in answered:
        said = "".join(output.get("text", "") for output in cells[cell].outputs)
        assert f"✓ {name}: right" in said, said


def test_each_exercise_gets_its_answer():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(
        'def double(x):\n    ...\n\ndouble = check("double", double)')])
    assert [name for _, name in answer(notebook)] == ["double"]
    assert notebook.cells[0].source.index("load_solution") < notebook.cells[0].source.index("check(")
