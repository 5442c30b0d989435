"""The training-evolution study: every remedy is trained alike, its row is complete, and its tables
add up.
"""

import numpy as np
import pytest
import torch
from scipy import stats

from assets.recipes import evolution
from course_lib import files, runtime
from course_lib.data import FaceDataset, TokenArrays, load_images
from course_lib.models import AttributeDecoder
from course_lib.training import (
    RARE,
    chosen_remedy,
    evolution_table,
    over_seeds,
    paired_gain,
    predict,
    remedies,
    train_remedy,
)
from course_lib.training.remedies import REMEDIES
from course_lib.world import ATTRIBUTES


@pytest.fixture(scope="module")
def faces():
    """A few drawn faces; every attribute occurs and is missing in each part."""
    parts = []
    for part, n in (("train", 150), ("valid", 120)):
        arrays = load_images(FaceDataset(n, part, size=56, regions=False), workers=0)
        arrays.targets[0], arrays.targets[1] = 1, 0
        parts.append(arrays)
    return parts


class Counted:
    """A callback that counts steps and keeps which images were shown."""

    def __init__(self):
        self.steps = 0

    def after_step(self, run):
        self.steps += 1


@pytest.mark.parametrize("name", REMEDIES)
def test_every_remedy_takes_the_same_steps_and_learns(name, faces):
    counted = Counted()
    model, detector = train_remedy(name, *faces, seed=1, epochs=2, steps=3, callbacks=[counted])
    assert counted.steps == 6
    assert len(detector.history) == 2
    assert not model.training
    logits = predict(model, faces[1], name)
    assert logits.shape == (120, len(ATTRIBUTES))
    assert logits.isfinite().all()
    again, _ = train_remedy(name, *faces, seed=1, epochs=2, steps=3)
    assert torch.equal(predict(again, faces[1], name), logits)


def test_samplers_draw_differently_from_seed_to_seed(faces):
    targets = faces[0].targets
    for name in ("balanced sampler", "curriculum"):
        first, second = (list(REMEDIES[name].sampler(targets, 2, 64, seed)) for seed in (0, 1))
        assert len(first) == 64
        assert first != second


def test_a_row_holds_every_score_and_leaves_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(remedies, "FACES", 60)
    for name, size in (("VALID", 700), ("TEST", 700), ("WITH_REGIONS", 40)):
        monkeypatch.setattr(evolution, name, size)
    monkeypatch.setattr(
        evolution,
        "train_remedy",
        lambda *given, **more: train_remedy(*given, **more, epochs=1, steps=2),
    )
    for kept in (evolution._faces, evolution._regions):
        kept.cache_clear()
    (row,) = evolution.run_remedy("synthetic balancing", 0)
    for kept in (evolution._faces, evolution._regions):
        kept.cache_clear()
    assert {path.suffix for path in (tmp_path / "recipes" / "evolution").iterdir()} == {
        ".safetensors"
    }
    stored = files.read_json(runtime.assets("results/evolution.json"))["rows"][0]
    assert row.keys() == stored.keys() - {"remedy", "seed"}
    for name in ("f1", "f1_tuned", "average_precision", "positive_rate"):
        each = np.array(row[f"{name}_each"].split(), float)
        assert len(each) == len(ATTRIBUTES)
        assert row[f"{name}_all"] == pytest.approx(each.mean(), abs=1e-3)
        assert row[f"{name}_rare"] == pytest.approx(each[RARE].mean(), abs=1e-3)


def rows_of(scores):
    return [
        {"remedy": name, "seed": seed, "f1_rare": value, "valid_average_precision_rare": value / 2}
        for name in REMEDIES
        for seed, value in enumerate(scores.get(name, (0.5, 0.6, 0.4)))
    ]


def test_gains_are_paired_by_seed_with_a_t_interval():
    rows = rows_of({"focal": (0.61, 0.69, 0.52)})
    gain, half = paired_gain(rows[::-1], "focal", "f1_rare")  # in any order
    low, high = stats.ttest_rel([0.61, 0.69, 0.52], [0.5, 0.6, 0.4]).confidence_interval()
    assert (gain - half, gain + half) == (pytest.approx(low), pytest.approx(high))
    assert over_seeds([1.0, 1.0, 1.0]) == (1.0, 0.0)


def test_the_choice_is_made_on_validation_and_the_table_names_every_remedy():
    rows = rows_of({"focal": (0.7, 0.7, 0.7)})
    assert chosen_remedy(rows) == "focal"
    lines = evolution_table(rows, {"F1 rare": "f1_rare"}).rows
    assert [remedy for remedy, _ in lines[1:]] == list(REMEDIES)
    assert ("focal", "0.700 ± 0.000") in lines


def test_rare_means_under_five_per_cent_and_the_test_split_has_two_hundred_of_each():
    targets = torch.stack(
        [
            FaceDataset(evolution.TEST, "test", size=56, regions=False).target(k)
            for k in range(evolution.TEST)
        ]
    )
    assert (targets.sum(0) >= 200).all()
    assert RARE.sum() == 6


def test_a_decoder_on_cached_tokens_is_trained_the_same_way():
    targets = (torch.rand(80, 33, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    tokens = TokenArrays(torch.randn(80, 49, 12), targets)
    model, _ = train_remedy(
        "LDAM",
        tokens,
        tokens,
        epochs=1,
        steps=2,
        build=lambda attributes, cosine: AttributeDecoder(12, attributes, dim=8, cosine=cosine),
    )
    assert predict(model, tokens, "LDAM").abs().max() <= remedies.LDAM_SCALE
