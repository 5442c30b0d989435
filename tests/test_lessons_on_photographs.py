"""Lessons on a folder in CelebA's own format, in both of its layouts: the same notebooks, nothing
changed but the choices in their forms.
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

PARTS = {
    "train": 300,
    "valid": 160,
    "test": 400,
}  # groups of the test part have 25 of some attributes

SMALL_08 = {r"= range\(5\), 6, 40, 64,": "= range(2), 2, 4, 64,"}

# a lesson; what makes it small, a pattern and its replacement; what its cells, by id, must print ("" for
# nothing at all); and what they must not print
LESSONS = [
    (
        "08",
        SMALL_08,
        {
            "data": "40 attributes",
            "tuned": "16×16 pixels, ridge",
            "sampled": "sampler",
            "live-verdicts": "photographs",
        },
        {},
    ),
    (
        "08",
        SMALL_08 | {'^TOKENS = "drawn"': 'TOKENS = "learned"'},
        {"data": "40 attributes"},
        {},
    ),
    (
        "09",
        {},
        {"data": "40 attributes", "score": "coarse pointing", "buy": "queries", "pixels": "ridge"},
        {},
    ),
    (
        "09",
        {'^TOKENS = "drawn"': 'TOKENS = "learned"', "^BLOCKS = 0": "BLOCKS = 1"},
        {"load": "equal logits: True", "score": "coarse pointing"},
        {},
    ),
    (
        "10",
        {},
        {
            "predictor": "400 faces to look at",
            "stop2": "missed",
            "elsewhere": "photographs have no known regions",
            "scored": "unknown",
            "draw": "with glasses",
        },
        {"stop2": "while looking elsewhere"},
    ),
    (
        "11",
        {r"epochs=6\)": "epochs=1)"},
        {
            "images": "photographs",
            "effects": "photographs: ",
            "pointing": "photographs: coarse pointing",
            "energy": "stamp 50%",
            "deletion": "gains over the mean map",
        },
        {
            "effects": "the glasses  trained with",
            "energy": "glasses 50%",
            "rollout": "pointing at the glasses",
        },
    ),
    (
        "12",
        {},
        {
            "data": "'test': 400} photographs",
            "groups": "skin tone: photographs do not come with one",
            "tones": "photographs come with no skin tone",
            "pairs": "nobody can draw a photograph again",
            "shortcut-maps": "no known regions",
            "pairs-interval": "",
            "visible-pixels": "",
            "yes": "",
            "effects": "",
        },
        {},
    ),
    (
        "14",
        {"= 5, 32, 64, 4e-3": "= 2, 4, 64, 4e-3", "^SEEDS = 3": "SEEDS = 2"},
        {
            "data": "photographs, 40 attributes each, 6 of them rare",
            "baseline": "baseline, photographs, seeds: 0 1",
            "overlap": "validation photographs",
            "synthetic-run": "",
            "choose": "chosen on validation: ",
            "reach": "stored, drawn faces: drawn faces",
        },
        {"reach": "photographs", "baseline": "stored"},
    ),
]

DRAWN_ONLY = re.compile(r"new faces|drawn face")  # not of what a run on photographs did


def write_original(folder, rows, splits):
    """Text tables with -1 and 1, as CelebA's authors give them; returns the folder of images."""
    for part in ("Anno", "Eval"):
        (folder / part).mkdir(parents=True)
    lines = [
        f"{file} " + " ".join(f"{1 if value else -1:2d}" for value in values)
        for file, values in rows.items()
    ]
    (folder / "Anno" / "list_attr_celeba.txt").write_text(
        "\n".join([str(len(rows)), " ".join(CELEBA_ORDER) + " ", *lines, ""])
    )
    (folder / "Eval" / "list_eval_partition.txt").write_text(
        "".join(f"{file} {split}\n" for file, split in splits.items())
    )
    return folder / "Img" / "img_align_celeba"


def write_kaggle(folder, rows, splits):
    """Kaggle's copy: CSV tables, and images nested twice."""
    folder.mkdir()
    lines = [
        ",".join([file, *("1" if value else "-1" for value in values)])
        for file, values in rows.items()
    ]
    (folder / "list_attr_celeba.csv").write_text(
        "\n".join([",".join(["image_id", *CELEBA_ORDER]), *lines, ""])
    )
    (folder / "list_eval_partition.csv").write_text(
        "image_id,partition\n" + "".join(f"{file},{split}\n" for file, split in splits.items())
    )
    return folder / "img_align_celeba" / "img_align_celeba"


LAYOUTS = {"original": write_original, "kaggle": write_kaggle}


@pytest.fixture(scope="module")
def photographs():
    """Drawn faces without their regions, as CelebA's photographs: files of 178 × 218, forty
    attributes, an official split.
    """
    pictures, rows, splits, rng = {}, {}, {}, np.random.default_rng(0)
    for split, (part, n) in enumerate(PARTS.items()):
        faces = FaceDataset(n, part, 11, size=96, regions=False)
        for k in range(n):
            file, item = f"{len(rows) + 1:06d}.jpg", faces[k]
            face = cv2.resize(to_picture(item["image"]), (178, 178))
            pictures[file] = np.vstack(
                [np.repeat(face[:1], 20, 0), face, np.repeat(face[-1:], 20, 0)]
            )
            labels = dict(zip(ATTRIBUTES, item["target"].tolist(), strict=True))
            if k < 20:  # so that even the rarest occurs in every part
                labels = {name: rng.random() < 0.4 for name in ATTRIBUTES}
            rows[file] = [labels.get(name, rng.random() < 0.3) for name in CELEBA_ORDER]
            splits[file] = split
    return pictures, rows, splits


@pytest.fixture(params=LAYOUTS)
def celeba(request, photographs, tmp_path):
    """A folder in one of CelebA's layouts."""
    pictures, rows, splits = photographs
    images = LAYOUTS[request.param](tmp_path / "celeba", rows, splits)
    images.mkdir(parents=True)
    for file, picture in pictures.items():
        cv2.imwrite(str(images / file), picture[..., ::-1])
    return tmp_path / "celeba"


def changed(notebook, changes):
    """The notebook with each pattern replaced, which must occur once."""
    for before, after in changes.items():
        count = 0
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.source, here = re.subn(before, after, cell.source, flags=re.MULTILINE)
                count += here
        assert count == 1, f"{before} occurs {count} times"
    return notebook


@pytest.mark.slow
@pytest.mark.parametrize(("lesson", "changes", "prints", "silent"), LESSONS)
def test_the_lesson_runs_on_photographs(
    lesson, changes, prints, silent, celeba, tmp_path, monkeypatch
):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    path = next(path for path in NOTEBOOKS if path.stem.startswith(lesson))
    choices = {
        r'^DATA = "synthetic"': 'DATA = "celeba"',
        r'^CELEBA = ""': f'CELEBA = "{celeba}"',
    }
    notebook = changed(nbformat.read(path, 4), choices | changes)
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    printed = {
        cell.id: "".join(
            output.get("text", "") for output in cell.outputs if output.get("name") == "stdout"
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    for cell, words in prints.items():
        said = words in printed[cell] if words else not printed[cell]
        assert said, f"{cell} prints {printed[cell]!r}"
    for cell, words in silent.items():
        assert words not in printed[cell], f"{cell} prints {printed[cell]!r}"
    for cell, text in printed.items():
        for line in filter(DRAWN_ONLY.search, text.splitlines()):
            assert "stored" in line or "trained on" in line, f"{cell} prints {line!r}"
