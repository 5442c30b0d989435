"""Scores of rare attributes against scikit-learn and against loops that try everything."""

import re

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.training import (
    best_thresholds,
    blind_accuracies,
    calibration_error,
    score_attributes,
    threshold_scores,
)
from course_lib.training.attribute_scores import score_table


def drawn(seed: int, size: int = 40, levels: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities in steps, so that many tie, and targets with both kinds of three attributes."""
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.randint(0, levels + 1, (size, 3), generator=generator) / levels
    targets = (torch.rand(size, 3, generator=generator) < torch.tensor([0.1, 0.4, 0.8])).float()
    targets[0], targets[1] = 0, 1
    return probabilities, targets


seeds, sizes = st.integers(0, 10_000), st.integers(2, 40)


@settings(max_examples=25)
@given(seeds, sizes)
def test_scores_at_a_threshold_are_scikit_learns(seed, size):
    probabilities, targets = drawn(seed, size)
    thresholds = torch.tensor([0.5, 0.25, 0.75])
    scores = threshold_scores(probabilities, targets, thresholds)
    predicted = (probabilities.numpy() >= thresholds.numpy()).astype(int)
    for attribute, (said, true) in enumerate(zip(predicted.T, targets.numpy().T, strict=True)):
        expected = {
            name: getattr(sklearn.metrics, f"{name}_score")(true, said, **options)
            for name, options in (
                ("f1", {"zero_division": 0}),
                ("precision", {"zero_division": 0}),
                ("recall", {}),
                ("balanced_accuracy", {}),
                ("accuracy", {}),
            )
        } | {"positive_rate": said.mean()}
        assert {name: values[attribute].item() for name, values in scores.items()} == pytest.approx(
            expected, abs=1e-6
        )


@given(seeds, sizes)
def test_no_threshold_beats_the_best(seed, size):
    probabilities, targets = drawn(seed, size)
    best = best_thresholds(probabilities, targets)
    reached = threshold_scores(probabilities, targets, best)["f1"]
    tried = torch.stack(
        [threshold_scores(probabilities, targets, level / 8)["f1"] for level in range(9)]
    )
    torch.testing.assert_close(reached, tried.max(0).values)
    strictest = torch.tensor(
        [
            max(level / 8 for level in range(9) if tried[level, a] == tried[:, a].max())
            for a in range(3)
        ]
    )
    observed = torch.stack(
        [probabilities[probabilities[:, a] >= strictest[a], a].min() for a in range(3)]
    )
    assert best.tolist() == observed.tolist()


@given(seeds, sizes, st.integers(1, 20))
def test_calibration_error_bin_by_bin(seed, size, bins):
    probabilities, targets = drawn(seed, size, levels=7)
    expected = []
    for p, y in zip(probabilities.double().numpy().T, targets.numpy().T, strict=True):
        which = np.minimum((p.astype(np.float32) * np.float32(bins)).astype(int), bins - 1)
        expected.append(
            sum(
                (which == b).mean() * abs(p[which == b].mean() - y[which == b].mean())
                for b in range(bins)
                if (which == b).any()
            )
        )
    assert calibration_error(probabilities, targets, bins).tolist() == pytest.approx(
        expected, abs=1e-6
    )


def test_calibration_error_at_its_landmarks():
    targets = (torch.arange(1000) % 10 < 3).float()[:, None]
    assert calibration_error(torch.full((1000, 1), 0.3), targets).item() == pytest.approx(
        0, abs=1e-6
    )
    assert calibration_error(torch.ones(1000, 1), targets).item() == pytest.approx(0.7)
    assert calibration_error(torch.zeros(1000, 1), targets).item() == pytest.approx(0.3)


@settings(max_examples=25)
@given(seeds)
def test_the_ranking_is_scored_by_scikit_learn_attribute_by_attribute(seed):
    probabilities, targets = drawn(seed)
    scores = score_attributes(probabilities, targets)
    for attribute in range(3):
        column = targets[:, attribute].numpy(), probabilities[:, attribute].numpy()
        assert scores["roc_auc"][attribute].item() == pytest.approx(
            sklearn.metrics.roc_auc_score(*column)
        )
        assert scores["average_precision"][attribute].item() == pytest.approx(
            sklearn.metrics.average_precision_score(*column)
        )
    assert scores["f1"].tolist() == threshold_scores(probabilities, targets)["f1"].tolist()
    assert (
        scores["calibration_error"].tolist() == calibration_error(probabilities, targets).tolist()
    )


def test_saying_no_to_everything_is_accurate_and_worthless():
    targets = torch.zeros(100, 1)
    targets[:2] = 1
    scores = score_attributes(torch.full((100, 1), 0.02), targets)
    assert {name: round(values.item(), 3) for name, values in scores.items()} == {
        "f1": 0,
        "precision": 0,
        "recall": 0,
        "balanced_accuracy": 0.5,
        "accuracy": 0.98,
        "positive_rate": 0,
        "average_precision": 0.02,
        "roc_auc": 0.5,
        "calibration_error": 0,
    }


def test_a_single_attribute_and_gradients_are_welcome():
    probabilities = torch.tensor([[0.2], [0.9]], requires_grad=True)
    scores = score_attributes(probabilities, torch.tensor([[0.0], [1.0]]))
    assert all(
        values.shape == (1,) and values[0] == 1
        for name, values in scores.items()
        if name not in ("positive_rate", "calibration_error")
    )


def test_the_table_sorts_by_rarity_and_averages_the_rare():
    scores = {"f1": torch.tensor([0.5, 0.1, 0.3]), "recall": torch.tensor([0.2, 0.4, 0.9])}
    table = score_table(
        scores,
        ["Young", "Bald", "Mustache"],
        torch.tensor([0.77, 0.02, 0.04]),
        columns=("f1", "recall"),
    )
    assert table.rows == [
        ("", "frequency", "f1", "recall"),
        ("Bald", "0.020", "0.100", "0.400"),
        ("Mustache", "0.040", "0.300", "0.900"),
        ("Young", "0.770", "0.500", "0.200"),
        ("mean, under 10%", "0.030", "0.200", "0.650"),
        ("mean, all", "0.277", "0.300", "0.500"),
    ]
    nobody_rare = torch.tensor([0.5, 0.4, 0.3])
    assert "under" not in str(score_table(scores, ["a", "b", "c"], nobody_rare, columns=("f1",)))
    with pytest.raises(ValueError, match="no score 'auc'; choose columns from f1, recall"):
        score_table(scores, ["a", "b", "c"], torch.rand(3), columns=("auc",))


HALF = torch.full((2, 2), 0.5)
BOTH = torch.eye(2)


@pytest.mark.parametrize(
    "score", [threshold_scores, best_thresholds, calibration_error, score_attributes]
)
@pytest.mark.parametrize(
    ("probabilities", "targets", "sentence"),
    [
        (HALF, torch.eye(3), "probabilities have shape (2, 2) and targets (3, 3)"),
        (torch.rand(2), torch.ones(2), "expected the same (batch, attributes)"),
        (torch.rand(0, 2), torch.rand(0, 2), "at least one row"),
        (HALF * 6, BOTH, "probabilities run from 3 to 3; expected 0 to 1: use logits.sigmoid()"),
        (HALF * float("nan"), BOTH, "probabilities run from nan to nan"),
        (HALF, 2 * BOTH - 1, "targets hold other values than 0 and 1"),
        (HALF, HALF, "targets hold other values than 0 and 1"),
    ],
)
def test_bad_input_gets_one_sentence(score, probabilities, targets, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        score(probabilities, targets)


@pytest.mark.parametrize("score", [best_thresholds, score_attributes])
@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        (torch.tensor([[0.0, 0], [1, 0]]), "attribute 1 has no positive among the 2 targets"),
        (torch.tensor([[1.0, 1], [1, 0]]), "attribute 0 has no negative among the 2 targets"),
    ],
)
def test_an_attribute_of_one_kind_cannot_be_judged(score, targets, sentence):
    with pytest.raises(ValueError, match=sentence):
        score(HALF, targets)


def test_the_attribute_is_named_where_names_are_given():
    with pytest.raises(ValueError, match="attribute 'Bald' has no positive"):
        score_attributes(HALF, torch.tensor([[0.0, 0], [1, 0]]), names=["Young", "Bald"])


def test_blind_models_score_what_frequencies_say():
    targets = (
        torch.rand(3_000, 5, generator=torch.Generator().manual_seed(0))
        < torch.linspace(0.02, 0.9, 5)
    ).float()
    no, usual = blind_accuracies(targets.mean(0))
    assert no == pytest.approx(
        float(threshold_scores(torch.zeros_like(targets), targets)["accuracy"].mean()), abs=1e-6
    )
    says = (targets.mean(0) > 0.5).float().expand_as(targets)
    scores = threshold_scores(says, targets)
    assert usual == pytest.approx(float(scores["accuracy"].mean()), abs=1e-6)
    assert float(scores["balanced_accuracy"].mean()) == pytest.approx(0.5)
