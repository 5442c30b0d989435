"""Lesson 00 as its readers use it: on a video of their own."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

LESSON = Path(__file__).parent.parent / "notebooks" / "00_start_here.ipynb"


def shown(notebook, cell_id: str) -> str:
    """All text and HTML that the cell of this id put out."""
    cell = next(cell for cell in notebook.cells if cell.id == cell_id)
    return "\n".join(
        str(output.get("text", "") or output.get("data", {})) for output in cell.outputs
    )


@pytest.mark.skipif(
    "COURSE_REAL_CLIPS" not in os.environ, reason="COURSE_REAL_CLIPS names no folder of real clips"
)
def test_the_finished_model_runs_on_a_real_video():
    notebook = nbformat.read(LESSON, as_version=4)
    last = next(index for index, cell in enumerate(notebook.cells) if cell.id == "attention")
    notebook.cells = notebook.cells[: last + 1]
    form = next(cell for cell in notebook.cells if cell.id == "source")
    video = Path(os.environ["COURSE_REAL_CLIPS"]) / "swiz3n.mpg"
    form.source = f'SOURCE, VIDEO, CLIP = "my video", {str(video)!r}, 7'
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    assert "The tracked face in 6 frames of swiz3n.mpg" in shown(notebook, "track")
    assert "Optical flow between two frames" in shown(notebook, "flow")
    assert "Predicted impressions: Openness" in shown(notebook, "traits")
    assert "Attention over the 8 moments" in shown(notebook, "attention")
    assert "deciding moment" not in shown(notebook, "attention")  # nobody knows it
