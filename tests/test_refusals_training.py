"""What losses, scores and remedies refuse, and that the sentence names the value and a remedy."""

import math

import numpy as np
import pytest
import torch
from refusals import each, refused
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from course_lib.models import AttributeModel, PointingDecoder, TokenExtractor, TokenPersonalityModel
from course_lib.training import (
    AggressiveLoss,
    AsymmetricLoss,
    AttributePredictor,
    ClassBalancedLoss,
    ClipGradients,
    EarlyStopping,
    FocalLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    StuckDetector,
    WarmupCosine,
    WeightedBCELoss,
    best_thresholds,
    calculate_aggressive_pos_weights,
    calibrate,
    calibration_error,
    concordance,
    evaluate,
    fit,
    floor_prediction,
    head_diversity_penalty,
    mean_accuracy,
    prediction_diversity_penalty,
    score_attributes,
    score_traits,
    speaker_lookup,
    threshold_scores,
)

FREQUENCIES = [0.02, 0.3, 0.84]
HALF, BOTH, ONE_KIND = torch.full((2, 2), 0.5), torch.eye(2), torch.tensor([[0.0, 0], [1, 0]])
ZEROS, NAN = torch.zeros(2, 3), torch.tensor([[0, 0, 0], [0, math.nan, 0]])
TRAITS = torch.rand(6, 5)
SCORES = {"f1": torch.rand(3), "recall": torch.rand(3)}
LOADER = DataLoader(TensorDataset(torch.rand(2, 3), torch.ones(2, 2)), 2)
tokens = TokenPersonalityModel(12, 6, 8, 2)


def fitted(valid=None, **options):
    return fit(nn.Linear(3, 2), LOADER, valid, epochs=1, **options)


REFUSED = {
    "attribute 'Bald' is 0": lambda: calculate_aggressive_pos_weights(
        [0.0, 0.5], names=["Bald", "Male"]
    ),
    "one for each of the 1 names": lambda: calculate_aggressive_pos_weights(
        [0.1, 0.5], names=["Bald"]
    ),
    "cap is 0.5; expected at least 1": [
        lambda: calculate_aggressive_pos_weights([0.1], cap=0.5),
        lambda: AggressiveLoss([0.1, 0.2], cap=0.5),
    ],
    "gamma is -1": [
        lambda: FocalLoss(-1),
        lambda: AggressiveLoss([0.1, 0.2], gamma=-1)(HALF, BOTH),
    ],
    "pos_weight is [1.0, -2.0]": lambda: FocalLoss(2, [1.0, -2.0]),
    "pos_weight is inf": lambda: WeightedBCELoss(math.inf),
    "shift is 1.0; expected a probability below 1": lambda: AsymmetricLoss(shift=1.0),
    "beta is 1.0 and images 100": lambda: ClassBalancedLoss(FREQUENCIES, 100, 1.0),
    "1 head, and overlap needs two": lambda: head_diversity_penalty(torch.ones(1, 1, 2, 3) / 3),
    "logits have shape (8, 2); expected (batch, 3)": lambda: prediction_diversity_penalty(
        torch.zeros(8, 2), FREQUENCIES
    ),
    "the frequency of attribute 1 is 0": lambda: AggressiveLoss([0.1, 0.0]),
    "epochs is 0; expected at least 1": lambda: fit(nn.Linear(3, 2), LOADER, epochs=0),
    "accumulate is 0; expected at least 1": lambda: fitted(accumulate=0),
    "warmup is 5; expected a share of the steps": lambda: WarmupCosine(5),
    "warmup is -0.1": lambda: WarmupCosine(-0.1),
    "the longest gradient is -1; expected more than 0": lambda: ClipGradients(-1),
    "the longest gradient is nan": lambda: ClipGradients(math.nan),
    "no validation set": lambda: fitted(callbacks=[StuckDetector("ab")]),
    "3 names and the model predicts 2": lambda: fitted(LOADER, callbacks=[StuckDetector("abc")]),
    "no metric 'valid_ccc' … epoch, learning_rate, loss": lambda: fitted(
        callbacks=[EarlyStopping(metric="valid_ccc")]
    ),
    "6 speaker ids, 1 of them different, for 6 items … 2 speakers": lambda: score_traits(
        TRAITS, TRAITS, ["a"] * 6
    ),
    "2 speaker ids, 2 of them different, for 6 items": lambda: score_traits(
        TRAITS, TRAITS, ["a", "b"]
    ),
    "(6, 5) and target (5, 5)": lambda: score_traits(TRAITS, TRAITS[:5]),
    "prediction[0, 0] is nan": lambda: score_traits(TRAITS * math.nan, TRAITS),
    "no batch to evaluate": lambda: evaluate(tokens, []),
    "2 train_speakers for 3 train_targets": lambda: speaker_lookup(TRAITS[:3], ["a", "b"], ["a"]),
    "nan": lambda: speaker_lookup(NAN[1:], ["a"], ["a"]),
    "at least one row": [
        lambda: speaker_lookup(TRAITS[:0], [], ["a"]),
        lambda: floor_prediction(TRAITS[:0], 2),
    ],
    "expected (batch, traits)": lambda: floor_prediction(TRAITS[0], 2),
    "target … nan": lambda: floor_prediction(NAN, 2),
    "count is -1": lambda: floor_prediction(TRAITS, -1),
    "attribute 'Bald' has no positive": lambda: score_attributes(
        HALF, ONE_KIND, names=["Young", "Bald"]
    ),
    "expected the same (batch, attributes)": [
        lambda: calibrate(HALF, torch.ones(2, 3)),
        lambda: calibrate(HALF[0], BOTH[0]),
        lambda: calibrate(HALF[:0], BOTH[:0]),
        lambda: calibrate(HALF * math.nan, BOTH),
    ],
    "no predictor looks at 50 tokens": lambda: AttributePredictor(tokens=50),
    "33 names and 3 attributes": lambda: AttributePredictor.ready(
        AttributeModel(TokenExtractor(8), PointingDecoder(8, 3, 8, 2)),
        [str(number) for number in range(33)],
        torch.randn(40, 3),
        (torch.rand(40, 3) < 0.5).float(),
    ),
}


@each(REFUSED)
def test_one_sentence_names_what_is_wrong(words, call):
    refused(words, call)


LOSSES = {
    "bce": WeightedBCELoss([43.0, 2.0, 0.5]),
    "focal": FocalLoss(2, [43.0, 2.0, 0.5]),
    "class-balanced": ClassBalancedLoss(FREQUENCIES, 5000),
    "ldam": LDAMLoss(FREQUENCIES),
    "asymmetric": AsymmetricLoss(),
    "logit-adjusted": LogitAdjustedLoss(np.array(FREQUENCIES)),
}
BATCH_FAULTS = {
    "logits have shape (2, 3) and targets (2, 2)": (ZEROS, torch.zeros(2, 2)),
    "broadcasting would compare the wrong labels": (ZEROS, torch.zeros(1, 3)),
    "expected the same (batch, attributes)": (ZEROS[0], ZEROS[0]),
    "at least one row": (ZEROS[:0], ZEROS[:0]),
    "targets are torch.int64; expected floats": (ZEROS, ZEROS.long()),
    "use targets.float()": (ZEROS, ZEROS.bool()),
    "a target is -1.0; expected 0 or 1: turn CelebA's -1 and 1": (ZEROS, ZEROS - 1),
    "a target is nan": (ZEROS, NAN),
    "logits[1, 1] is nan": (NAN, ZEROS),
    "logits[1, 1] is -inf": (NAN.nan_to_num(-math.inf), ZEROS + 1),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_refuses_bad_batches(loss):
    for words, batch in BATCH_FAULTS.items():
        refused(words, LOSSES[loss], *batch)
    if loss != "asymmetric":  # which is built for no number of attributes
        refused("5 attributes … built for 3", LOSSES[loss], torch.zeros(2, 5), torch.zeros(2, 5))


@pytest.mark.parametrize(
    "make",
    [
        calculate_aggressive_pos_weights,
        LDAMLoss,
        LogitAdjustedLoss,
        lambda f: ClassBalancedLoss(f, 100),
        lambda f: prediction_diversity_penalty(HALF, f),
    ],
)
def test_frequencies_that_teach_nothing_are_refused(make):
    for words, frequencies in {
        "attribute 1 is 0 … there is no positive to learn": [0.5, 0.0],
        "attribute 0 is 1 … there is no negative to learn": [1.0, 0.5],
        "divide percentages by 100": [0.5, 22.4],
        "look for NaN in the labels": [math.nan, 0.5],
        "shape (2, 2); expected one an attribute: use targets.mean(0)": HALF,
    }.items():
        refused(words, make, frequencies)


@pytest.mark.parametrize("metric", [mean_accuracy, concordance])
def test_scores_of_traits_refuse_what_does_not_pair(metric):
    for words, pair in {
        "prediction has shape (3, 5) and target (3, 4)": (TRAITS[:3], TRAITS[:3, :4]),
        "broadcasting would compare the wrong items": (TRAITS[:1], TRAITS),
        "prediction has shape (5,); expected (batch, traits)": (TRAITS[0], TRAITS[0]),
        "at least one row": (TRAITS[:0], TRAITS[:0]),
        "prediction[1, 1] is nan": (NAN, ZEROS),
        "target[1, 1] is nan": (ZEROS, NAN),
    }.items():
        refused(words, metric, *pair)


@pytest.mark.parametrize(
    "score", [threshold_scores, best_thresholds, calibration_error, score_attributes]
)
def test_scores_of_attributes_refuse_what_is_no_probability_or_label(score):
    for words, pair in {
        "probabilities have shape (2, 2) and targets (3, 3)": (HALF, torch.eye(3)),
        "expected the same (batch, attributes)": (HALF[0], HALF[0]),
        "at least one row": (HALF[:0], HALF[:0]),
        "run from 3 to 3; expected 0 to 1: use logits.sigmoid()": (HALF * 6, BOTH),
        "probabilities run from nan to nan": (HALF * math.nan, BOTH),
        "other values than 0 and 1": (HALF, 2 * BOTH - 1),
        "targets hold other values than 0 and 1": (HALF, HALF),
    }.items():
        refused(words, score, *pair)
    if score in (best_thresholds, score_attributes):
        refused("attribute 1 has no positive among the 2", score, HALF, ONE_KIND)
        refused("attribute 0 has no negative among the 2", score, HALF, 1 - ONE_KIND.flip(1))
