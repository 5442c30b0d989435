"""Scores of rare attributes against scikit-learn and against loops that try everything."""

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.linear_model import LogisticRegression
from torch.testing import assert_close

from course_lib.models import (
    AttributeDecoder,
    AttributeModel,
    FinePointingDecoder,
    FineTokenExtractor,
    PointingDecoder,
    TokenExtractor,
)
from course_lib.training import (
    AttributePredictor,
    ModelSerializer,
    best_thresholds,
    blind_accuracies,
    calibrate,
    calibration_error,
    score_attributes,
    threshold_scores,
)


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
    assert_close(reached, tried.max(0).values)
    strictest = (tried == tried.amax(0)).float().mul(torch.arange(9)[:, None] / 8).amax(0)
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


def answers(n=4_000, attributes=3, seed=0):
    """Logits that are too sure and shifted by known amounts, and targets drawn from the honest
    ones.
    """
    generator = torch.Generator().manual_seed(seed)
    honest = 1.5 * torch.randn(n, attributes, generator=generator) + torch.tensor([-2.0, 0.0, 1.0])
    targets = (torch.rand(n, attributes, generator=generator) < honest.sigmoid()).float()
    return (honest - torch.tensor([1.0, -0.5, 2.0])) / torch.tensor([0.5, 2.0, 0.25]), targets


def test_slope_and_shift_are_those_of_a_logistic_regression():
    logits, targets = answers()
    found = calibrate(logits, targets)
    for k, (z, y) in enumerate(zip(logits.T.numpy(), targets.T.numpy(), strict=True)):
        reference = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1_000).fit(z[:, None], y)
        # it smooths the targets
        assert float(found.slope[k]) == pytest.approx(reference.coef_[0, 0], rel=0.02)
        assert float(found.shift[k]) == pytest.approx(reference.intercept_[0], rel=0.02, abs=0.02)
    assert_allclose(found.slope, [0.5, 2, 0.25], rtol=0.1)
    assert_allclose(found.shift, [1, -0.5, 2], rtol=0.1, atol=0.1)


def test_calibration_mends_other_images_and_keeps_the_order():
    logits, targets = answers(seed=1)
    found = calibrate(*answers(seed=2))
    after, before = (
        calibration_error(values.sigmoid(), targets) for values in (found(logits), logits)
    )
    assert (after < 0.5 * before).all()
    assert torch.equal(found(logits).argsort(0), logits.argsort(0))


def test_logits_that_separate_the_classes_leave_finite_numbers():
    targets = torch.tensor([[1.0], [1], [0], [0]])
    found = calibrate(targets * 20 - 10, targets)
    assert found(targets * 20 - 10).isfinite().all()
    # (2 + 1) / (2 + 2)
    assert float(found(torch.tensor([[10.0]])).sigmoid()) == pytest.approx(3 / 4, abs=0.01)
    assert calibrate(torch.zeros(4, 1), targets)(torch.zeros(1, 1)).item() == pytest.approx(
        0, abs=1e-6
    )


def small_model(decoder=PointingDecoder):
    torch.manual_seed(0)
    return AttributeModel(TokenExtractor(16), decoder(16, 3, dim=8)).eval()


SMALL = {
    "pointing": lambda: small_model(),
    "plain": lambda: small_model(AttributeDecoder),
    "fine": lambda: AttributeModel(FineTokenExtractor(16), FinePointingDecoder(16, 3, dim=8)),
}


@pytest.mark.parametrize("kind", SMALL)
def test_a_predictor_is_saved_and_loaded_as_one_thing(kind, tmp_path):
    logits, targets = answers()
    predictor = AttributePredictor.ready(
        SMALL[kind]().eval(), ["Bald", "Smiling", "Young"], logits, targets
    )
    images = torch.rand(5, 3, 56, 56)
    answer = calibrate(logits, targets)(predictor.model(images))
    assert torch.equal(predictor(images), answer)
    assert torch.equal(
        predictor.decide(images),
        answer.sigmoid() >= best_thresholds(calibrate(logits, targets)(logits).sigmoid(), targets),
    )
    shelf = ModelSerializer(tmp_path)
    shelf.save(predictor, "attributes", config=predictor.config)
    loaded, _ = shelf.load(AttributePredictor, "attributes")
    assert loaded.names == ("Bald", "Smiling", "Young")
    assert torch.equal(loaded(images), answer)
    assert torch.equal(loaded.decide(images), predictor.decide(images))
