"""What strangers bring as tables, annotations and archives: read, or refused in one sentence."""

import contextlib
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from course_lib.data import CelebA

MUTATIONS = 300


def mutated(content: bytes, seed: int) -> bytes:
    """One to four bytes changed, a stretch cut out, repeated or moved, or the end missing."""
    rng, changed = random.Random(seed), bytearray(content)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(changed) + 1)
        stretch = changed[start : start + rng.choice([1, 2, 4, 8, 40])]
        kind = rng.choice(["bytes", "cut", "repeat", "move", "end"])
        if kind == "bytes":
            changed[start : start + 1] = rng.randbytes(1)
        elif kind == "cut":
            del changed[start : start + len(stretch)]
        elif kind == "repeat":
            changed[start:start] = stretch * rng.choice([1, 2, 50])
        elif kind == "move":
            del changed[start : start + len(stretch)]
            to = rng.randrange(len(changed) + 1)
            changed[to:to] = stretch
        elif rng.random() < 0.2:  # not too often, for little is left then
            del changed[start:]
    return bytes(changed)


@contextlib.contextmanager
def only_sentences():
    """Any error within is a `ValueError` or `FileNotFoundError` of the course's, in one line."""
    sentence = ""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        sentence = str(error)
    assert "\n" not in sentence
    assert ";" in sentence or not sentence, sentence  # what is wrong; what to do


# ---- CelebA's tables -----------------------------------------------------------------------------

NAMES = ["Bald", "Male", "Young"]
LABELS = {
    "1.jpg": (-1, 1, -1),
    "2.jpg": (-1, -1, 1),
    "3.jpg": (1, 1, -1),
    "4.jpg": (-1, 1, 1),
}
PRESENT = (np.array(list(LABELS.values())) == 1).tolist()


def labels_as(separator=",", absent=-1, index=False, quote="", corner="image_id") -> str:
    """The table of labels as one program or another writes it."""
    rows = [[corner, *NAMES]] + [
        [file, *(str(value if value == 1 else absent) for value in values)]
        for file, values in LABELS.items()
    ]
    rows = [[f"{quote}{cell}{quote}" for cell in row] for row in rows]
    if index:
        rows = [[str(number - 1) if number else "", *row] for number, row in enumerate(rows)]
    return "\n".join(separator.join(row) for row in rows) + "\n"


def copy_of_celeba(folder: Path, labels: str) -> Path:
    images = folder / "img_align_celeba"
    images.mkdir(parents=True)
    for file in LABELS:
        Image.new("RGB", (20, 24), (90, 120, 30)).save(images / file)
    (folder / "list_attr_celeba.csv").write_text(labels)
    partition = "".join(f"{file},0\n" for file in LABELS)
    (folder / "list_eval_partition.csv").write_text("image_id,partition\n" + partition)
    return folder


def targets(folder: Path) -> list:
    faces = CelebA(folder, names=NAMES, size=16)
    assert faces[0]["image"].shape == (3, 16, 16)
    return [faces.target(index).bool().tolist() for index in range(len(faces))]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"absent": 0},
        {"index": True},
        {"quote": '"'},
        {"absent": 0, "index": True, "quote": '"'},
    ],
)
def test_the_table_as_other_programs_write_it(tmp_path, options):
    assert targets(copy_of_celeba(tmp_path, labels_as(**options))) == PRESENT


def test_quotes_and_zeros_in_the_layout_with_spaces(tmp_path):
    copy_of_celeba(tmp_path, "")
    (tmp_path / "list_attr_celeba.csv").unlink()
    header, rows = labels_as(" ", absent=0, quote='"').split("\n", 1)
    (tmp_path / "list_attr_celeba.txt").write_text(f"4\n{header.split(' ', 1)[1]}\n{rows}")
    assert targets(tmp_path) == PRESENT


@pytest.mark.parametrize("place", ["../..", "..", ".", "img_align_celeba"])
def test_one_folder_up_or_down_is_found(tmp_path, place):
    folder = copy_of_celeba(tmp_path / "mine" / "celeba", labels_as())
    if place == "../..":  # two above the tables, which then lie in a folder of their own
        (folder / "Anno").mkdir()
        for table in folder.glob("*.csv"):
            table.rename(folder / "Anno" / table.name)
        place = ".."
    assert targets(folder / place) == PRESENT


def test_a_quota_page_is_called_one(tmp_path):
    copy_of_celeba(tmp_path, "\n<!DOCTYPE html><html><head>\n<title>Quota exceeded</title>")
    with pytest.raises(ValueError, match=r"list_attr_celeba\.csv is a web page .*fetch_celeba"):
        CelebA(tmp_path, names=NAMES)


def test_what_is_listed_twice_or_mixed_is_refused(tmp_path):
    twice = labels_as() + "2.jpg,1,1,1\n"
    with pytest.raises(ValueError, match=r"lists 2\.jpg 2 times; expected once"):
        CelebA(copy_of_celeba(tmp_path / "twice", twice), names=NAMES)
    with pytest.raises(ValueError, match=r"for 1\.jpg; expected 3 values, each -1 or 1 \(or"):
        CelebA(copy_of_celeba(tmp_path / "mixed", labels_as().replace("-1,1", "-1,0")), names=NAMES)
    copy_of_celeba(tmp_path / "two" / "a", labels_as())
    copy_of_celeba(tmp_path / "two" / "b", labels_as())
    with pytest.raises(ValueError, match=r"several copies of CelebA, .*a and .*b; pass"):
        CelebA(tmp_path / "two", names=NAMES)


@pytest.mark.parametrize("table", ["list_attr_celeba", "list_eval_partition", "identity_CelebA"])
def test_mutated_tables_are_read_or_refused_in_one_sentence(tmp_path, table, capsys):
    copy_of_celeba(tmp_path, labels_as())
    (tmp_path / "identity_CelebA.csv").write_text("".join(f"{file},7\n" for file in LABELS))
    path = tmp_path / f"{table}.csv"
    content = path.read_bytes()
    for seed in range(MUTATIONS):
        path.write_bytes(mutated(content, seed))
        with only_sentences():
            faces = CelebA(tmp_path, names=None, size=16, by_person=table == "identity_CelebA")
            for index in range(len(faces)):
                faces[index]
