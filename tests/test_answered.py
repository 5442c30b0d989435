"""Every notebook once more, with every exercise answered: the lesson goes on with the student's own
functions.
"""

import nbformat
import pytest
from nbclient import NotebookClient

from course_lib import assets
from tools.answers import CHECKED, answers

NAMES = sorted(path.name for path in (assets().parent / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_with_every_exercise_answered(name, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))  # nobody's own progress
    answers(str(tmp_path))
    notebook = nbformat.read(tmp_path / name, 4)
    patient = "from course_lib.lessons import exercises\nexercises.SECONDS = 600"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(patient))
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    exercises = [
        cell for cell in notebook.cells if cell.cell_type == "code" and CHECKED.search(cell.source)
    ]
    assert exercises
    for cell in exercises:
        said = "".join(output.get("text", "") for output in cell.outputs)
        assert f"✓ {CHECKED.search(cell.source)[1]}: right" in said, said
