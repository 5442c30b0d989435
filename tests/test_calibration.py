"""Calibration against scikit-learn's logistic regression, and the predictor that carries it."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.linear_model import LogisticRegression

from course_lib.models import AttributeDecoder, AttributeModel, PointingDecoder, TokenExtractor
from course_lib.training import (
    AttributePredictor,
    ModelSerializer,
    best_thresholds,
    calibrate,
    calibration_error,
)
from course_lib.world import ATTRIBUTES


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


@pytest.mark.parametrize(
    ("logits", "targets"),
    [
        (torch.zeros(4, 2), torch.zeros(4, 3)),
        (torch.zeros(4), torch.zeros(4)),
        (torch.zeros(0, 2), torch.zeros(0, 2)),
        (torch.full((4, 2), float("nan")), torch.zeros(4, 2)),
    ],
)
def test_what_cannot_be_calibrated_is_refused(logits, targets):
    with pytest.raises(ValueError, match=r"expected the same \(batch, attributes\)"):
        calibrate(logits, targets)


def small_model(decoder=PointingDecoder):
    torch.manual_seed(0)
    return AttributeModel(TokenExtractor(16), decoder(16, 3, dim=8)).eval()


@pytest.mark.parametrize("decoder", [PointingDecoder, AttributeDecoder])
def test_a_predictor_is_saved_and_loaded_as_one_thing(decoder, tmp_path):
    logits, targets = answers()
    predictor = AttributePredictor.ready(
        small_model(decoder), ["Bald", "Smiling", "Young"], logits, targets
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


def test_another_number_of_names_is_refused():
    with pytest.raises(ValueError, match="33 names and 3 attributes"):
        AttributePredictor.ready(small_model(), ATTRIBUTES, *answers())
