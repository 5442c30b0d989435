"""The comparison on photographs: what is scored, that it goes on where it was cut off, and what its
table says.
"""

import cv2
import numpy as np
import pytest
import torch
from test_lessons_on_photographs import write_original
from test_photographs import CELEBA_ORDER

from assets.recipes import photographs
from assets.recipes.run import main
from course_lib import files
from course_lib.lessons.studies import photographs_table

SPLITS = {"train": 70, "valid": 2, "test": 30}


@pytest.fixture
def celeba(tmp_path):
    """A copy without identities whose images are noise, one bright where `Smiling` is."""
    random, rows, splits = np.random.default_rng(0), {}, {}
    for split, n in enumerate(SPLITS.values()):
        for k in range(n):
            file = f"{len(rows):06d}.jpg"
            rows[file], splits[file] = random.random(40) < 0.5, split
            if k < 2:  # each attribute is there and is missing in each part
                rows[file][:] = bool(k)
    images = write_original(tmp_path / "celeba", rows, splits)
    images.mkdir(parents=True)
    for file, labels in rows.items():
        bright = 90 * int(labels[CELEBA_ORDER.index("Smiling")])
        picture = random.integers(0, 60, (218, 178, 3)) + bright
        cv2.imwrite(str(images / file), picture.astype(np.uint8))
    return tmp_path / "celeba"


def test_every_arm_has_a_row_and_a_second_call_goes_on(celeba, tmp_path, capsys, monkeypatch):
    trained = []

    def train(arm, train, names, drawn, minutes, seed):
        trained.append((arm, seed, minutes, drawn, len(names)))
        if len(trained) == 2:
            raise KeyboardInterrupt
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 40)).eval()

    monkeypatch.setattr(photographs, "_train", train)
    output = tmp_path / "rows.json"
    command = ["photographs", "--celeba", str(celeba), "--minutes", "3", "--output", str(output)]
    assert main(command) == 130
    arms = [row["arm"] for row in files.read_json(output)["rows"]]
    assert arms == list(photographs.ARMS[:3])
    assert main(command) == 0
    rows = files.read_json(output)["rows"]
    assert [row["arm"] for row in rows] == list(photographs.ARMS)
    assert trained == [
        (photographs.ARMS[2], 0, 3, False, 40),
        (photographs.ARMS[3], 0, 3, False, 40),
        (photographs.ARMS[3], 0, 3, False, 40),
    ]
    printed = capsys.readouterr().out
    assert "70 photographs, 30 unseen, 40 attributes, 64 pixels" in printed
    for row in rows:
        assert f"| {row['arm']} | {row['mAP']:.3f} |" in printed
    floor = rows[0]
    assert floor["AP rare"] == pytest.approx(0.5, abs=0.2)  # half of the images have each attribute
    command[4] = "4"
    assert main(command) == 2
    assert "another comparison, 3.0 minutes" in capsys.readouterr().err


def test_the_option_belongs_to_one_recipe(celeba, capsys):
    assert main(["pointing", "--celeba", str(celeba)]) == 2
    assert "--celeba was given with ['pointing']" in capsys.readouterr().err


@pytest.mark.parametrize("arm", photographs.ARMS[2:])
def test_both_models_train_on_photographs(arm, celeba):
    train, _, names = photographs._photographs(celeba)
    model = photographs._train(arm, train, names, drawn=False, minutes=1e-4, seed=0)
    assert model(train.images[:2].float() / 255).shape == (2, 40)
    assert not model.training


def test_scores_are_of_the_rare_of_celeba():
    names = ("Bald", "Smiling", "Blurry")
    truth = torch.tensor([[1.0, 1, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1]])
    answers = torch.tensor([[0.9, 0.1, 0.2], [0.1, 0.9, 0.1], [0.2, 0.2, 0.3], [0.3, 0.9, 0.2]])
    scores = photographs._scores(answers, truth, names)
    assert scores["AP rare"] == scores["F1 rare"] == 1
    assert scores["mAP"] < 0.8


def test_the_table_compares_seed_by_seed():
    path, plain = photographs.ARMS[3], photographs.ARMS[2]
    rows = [
        {"arm": arm, "seed": seed, "CPU minutes": 4.0, "mAP": value, "AP rare": 0.2, "F1 rare": 0.1}
        for arm, values in ((plain, (0.3, 0.5)), (path, (0.4, 0.6)))
        for seed, value in enumerate(values)
    ]
    lines = photographs_table(rows).rows
    assert lines[-1][:2] == (f"{path} minus {plain}", "+0.100 ± 0.000")
    assert lines[1][-1] == "4.0"
    assert len(photographs_table(rows[:2]).rows) == 2  # nothing to compare with
