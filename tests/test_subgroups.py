"""Scores of groups: sklearn's in each group, intervals that cover, gaps that are there and gaps
that are not.
"""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, recall_score

from course_lib.data import FaceDataset
from course_lib.looking import SMALLEST, drawn_groups, recall_gaps, subgroup_scores
from course_lib.world import ATTRIBUTES

NAMES = ("Hat", "Glasses", "Beard")


def drawn(items=900, recalls=((0.9, 0.9), (0.5, 0.8), (0.7, 0.7)), alarms=0.1, seed=0):
    """Two groups, "a" and "b"; of each attribute the share found in a and in b. The third is
    missing in b.
    """
    random = np.random.default_rng(seed)
    groups = np.where(np.arange(items) % 3 < 2, "a", "b")
    targets = (random.random((items, 3)) < 0.3).astype(np.float32)
    targets[groups == "b", 2] = 0
    found = random.random((items, 3))
    share = np.array(recalls).T[(groups == "b").astype(int)]
    positive = np.where(targets == 1, found < share, found < alarms)
    return torch.tensor(np.where(positive, 0.8, 0.2)), torch.tensor(targets), groups.tolist()


def test_each_group_scores_as_it_does_alone():
    probabilities, targets, groups = drawn()
    thresholds = torch.tensor([0.5, 0.1, 0.5])  # the second says yes to everything
    scores = subgroup_scores(probabilities, targets, groups, thresholds, NAMES)
    assert scores.groups == ["a", "b"]
    assert scores.sizes == [600, 300]
    for row, group in enumerate("ab"):
        mine = np.array(groups) == group
        for column in range(3):
            truth = targets[mine, column].numpy()
            positive = (probabilities[mine, column] >= thresholds[column]).numpy()
            assert scores.counts["recall"][row, column] == truth.sum()
            assert scores.counts["false_positive_rate"][row, column] == (truth == 0).sum()
            value = {name: scores.value[name][row, column].item() for name in scores.value}
            assert value["false_positive_rate"] == pytest.approx(positive[truth == 0].mean())
            if truth.sum():
                assert value["f1"] == pytest.approx(f1_score(truth, positive))
                assert value["recall"] == pytest.approx(recall_score(truth, positive))
            else:
                assert math.isnan(value["f1"])
                assert math.isnan(value["recall"])


def test_the_mean_compares_groups_on_the_same_attributes():
    scores = subgroup_scores(*drawn(), names=NAMES)
    assert scores.compared("recall") == ["Hat", "Glasses"]  # the beard is unknown in b
    assert scores.compared("false_positive_rate") == list(NAMES)
    for measure, count in (("recall", 2), ("false_positive_rate", 3)):
        assert torch.allclose(
            scores.value[measure][:, -1], scores.value[measure][:, :count].mean(1)
        )
        assert torch.allclose(
            scores.resampled[measure][..., -1], scores.resampled[measure][..., :count].mean(-1)
        )


def test_intervals_are_those_of_drawing_items():
    probabilities, targets, groups = drawn()
    low, high = subgroup_scores(probabilities, targets, groups, names=NAMES).interval("f1")
    mine = np.flatnonzero(np.array(groups) == "b")
    random = np.random.default_rng(7)
    resampled = [
        f1_score(targets[rows, 1], probabilities[rows, 1] >= 0.5)
        for rows in (random.choice(mine, len(mine)) for _ in range(400))
    ]
    assert (low[1, 1].item(), high[1, 1].item()) == pytest.approx(
        np.quantile(resampled, [0.025, 0.975]), abs=0.02
    )


def test_intervals_cover_the_truth():
    covered = 0
    for seed in range(60):
        scores = subgroup_scores(*drawn(300, seed=seed), names=NAMES, resamples=200)
        low, high = scores.interval("recall")[:, 0, 1].tolist()
        covered += low <= 0.5 <= high
    assert covered >= 52  # 57 expected


def test_a_gap_that_is_there_is_found_and_one_that_is_not_is_doubted():
    scores = subgroup_scores(*drawn(3000), names=NAMES)
    gap = scores.gap("recall", "Glasses")
    assert (gap.best, gap.worst) == ("b", "a")
    assert gap.difference == pytest.approx(0.3, abs=0.07)
    assert 0 < gap.low < gap.difference < gap.high
    assert "may be none" not in str(gap)
    none = scores.gap("recall", "Hat")
    assert none.low < 0.02
    assert ("so there may be none" in str(none)) == (none.low <= 0)
    assert [found.column for found in scores.gaps("recall")] == ["Glasses", "Hat"]


def test_recall_gaps_are_those_of_the_scores():
    probabilities, targets, groups = drawn()
    gaps = recall_gaps(probabilities >= 0.5, targets.bool(), groups)
    scores = subgroup_scores(probabilities, targets, groups, names=NAMES)
    for index, name in enumerate(NAMES[:2]):
        assert gaps[index].item() == pytest.approx(scores.gap("recall", name).difference, abs=1e-6)
    assert gaps[2].isnan()  # known in one group only


def test_false_alarms_are_better_when_fewer():
    probabilities, targets, groups = drawn()
    silent = torch.tensor([group == "a" for group in groups])
    probabilities[silent & (targets[:, 0] == 0), 0] = 0  # no false alarm in a
    gap = subgroup_scores(probabilities, targets, groups, names=NAMES).gap(
        "false_positive_rate", "Hat"
    )
    assert (gap.best, gap.worst) == ("a", "b")
    assert 0 < gap.low < gap.difference < gap.high


def test_groups_too_small_are_named_with_the_bound():
    probabilities, targets, groups = drawn(900)
    scores = subgroup_scores(probabilities, targets, groups, names=NAMES)
    assert "under 25 positives" in scores.too_small("recall")
    assert scores.too_small("recall").endswith("b: Beard.")
    assert scores.too_small("false_positive_rate").startswith("No group is too small")
    with pytest.raises(ValueError, match="'Beard' is known in 1 of 2 groups"):
        scores.gap("recall", "Beard")
    groups[:20] = ["c"] * 20
    scores = subgroup_scores(probabilities, targets, groups, names=NAMES)
    assert "c: all 3 attributes" in scores.too_small("f1")
    assert scores.value["f1"][2].isnan().all()
    assert scores.compared("f1") == ["Hat", "Glasses"]  # a group that knows nothing blocks none
    assert scores.gap("f1").worst != "c"
    assert "nan" in str(scores)


def test_just_enough_is_enough():
    targets = torch.zeros(100, 1)
    targets[:SMALLEST], targets[50 : 50 + SMALLEST - 1] = 1, 1
    scores = subgroup_scores(
        torch.full((100, 1), 0.9), targets, [0] * 50 + [1] * 50, names=("Hat",)
    )
    assert scores.value["recall"][:, 0].isnan().tolist() == [False, True]
    assert scores.groups == ["0", "1"]


def test_the_drawn_world_knows_its_groups():
    faces = FaceDataset(60, "test", size=32)
    tones = torch.tensor([faces.person(index)[1] for index in range(60)])
    targets = torch.stack([faces.target(index) for index in range(60)])
    groups = drawn_groups(tones, targets)
    assert list(groups) == ["skin tone", "Male", "Young"]
    labels, counts = np.unique(groups["skin tone"], return_counts=True)
    assert counts.tolist() == [20, 20, 20]
    for label, expected in zip(labels, tones.sort().values.view(3, 20), strict=True):
        assert sorted(tones[np.array(groups["skin tone"]) == label].tolist()) == expected.tolist()
    for index in range(60):
        assert (groups["Male"][index] == "Male") == ("Male" in faces.person(index)[2])
        assert (groups["Young"][index] == "Young") == bool(
            targets[index, ATTRIBUTES.index("Young")]
        )
