"""Lesson 08 on a folder in CelebA's own format: the same notebook, nothing changed but the choices
in its form.
"""

import re

import cv2
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from test_notebooks import NOTEBOOKS
from test_photographs import CELEBA_ORDER

from course_lib.data import FaceDataset
from course_lib.pictures.base import to_picture
from course_lib.world import ATTRIBUTES

PARTS = {"train": 300, "valid": 160, "test": 160}


def photographs(folder):
    """Drawn faces as CelebA's files: 178 × 218, forty attributes of -1 and 1, an official split."""
    (folder / "img_align_celeba").mkdir(parents=True)
    rows, splits, rng = [], [], np.random.default_rng(0)
    for split, (part, n) in enumerate(PARTS.items()):
        faces = FaceDataset(n, part, 11, size=96, regions=False)
        for k in range(n):
            file, item = f"{len(rows) + 1:06d}.jpg", faces[k]
            face = cv2.resize(to_picture(item["image"]), (178, 178))
            photograph = np.vstack([np.repeat(face[:1], 20, 0), face, np.repeat(face[-1:], 20, 0)])
            cv2.imwrite(str(folder / "img_align_celeba" / file), photograph[..., ::-1])
            labels = dict(zip(ATTRIBUTES, item["target"].tolist(), strict=True))
            if k < 20:  # so that even the rarest occurs in every part
                labels = {name: float(rng.random() < 0.4) for name in ATTRIBUTES}
            rows.append(
                f"{file} "
                + " ".join(
                    "1" if labels.get(name, rng.random() < 0.3) else "-1" for name in CELEBA_ORDER
                )
            )
            splits.append(f"{file} {split}")
    (folder / "list_attr_celeba.txt").write_text(
        "\n".join([str(len(rows)), " ".join(CELEBA_ORDER) + " ", *rows, ""])
    )
    (folder / "list_eval_partition.txt").write_text("\n".join([*splits, ""]))


@pytest.mark.slow
@pytest.mark.parametrize("learn_tokens", [False, True])
def test_the_lesson_runs_on_photographs(learn_tokens, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    photographs(tmp_path / "celeba")
    path = next(path for path in NOTEBOOKS if path.stem.startswith("08"))
    notebook = nbformat.read(path, 4)
    choices = {
        r'^DATA = "synthetic"': 'DATA = "celeba"',
        r'^CELEBA = ""': f'CELEBA = "{tmp_path / "celeba"}"',
        r"^LEARN_TOKENS = False": f"LEARN_TOKENS = {learn_tokens}",
        r"= range\(5\), 6, 40, 64,": "= range(2), 2, 4, 64,",
    }
    for before, after in choices.items():
        changed = 0
        for cell in notebook.cells:
            cell.source, found = re.subn(before, after, cell.source, flags=re.MULTILINE)
            changed += found
        assert changed == 1, before
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    said = {
        cell.id: "".join(
            output.get("text", "") for output in cell.outputs if output.get("name") == "stdout"
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    assert "{'train': 300, 'valid': 160, 'test': 160} photographs" in said["data"]
    assert said["live-table"].startswith("photographs")
    assert "balanced sampler" in said["sampled"]
    assert "new faces" not in said["more-data"]
