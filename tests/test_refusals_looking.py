"""What the measures of maps, layers and groups refuse, and that the sentence names the value and a
remedy.
"""

import math

import pytest
import torch
from refusals import each, refused
from torch import nn

from course_lib.looking import (
    attention_relevance,
    attention_rollout,
    attention_statistics,
    deletion_curve,
    diagnose,
    drawn_groups,
    grad_cam,
    intervention_effect,
    linear_probe,
    pair_similarities,
    part_matrix,
    pointing_game,
    randomise_layers,
    rank_correlation,
    record_activations,
    score_faithfulness,
    score_localisation,
    separation_auc,
    step_stability,
    subgroup_scores,
    within_person_consistency,
)
from course_lib.models import StaticFeatureExtractor

MAPS, REGIONS = torch.rand(4, 2, 7, 7), torch.ones(4, 2, 28, 28, dtype=torch.bool)
IMAGES, CHOSEN = torch.rand(4, 3, 28, 28), torch.ones(4, 2, dtype=torch.bool)
ATTENTION = torch.randn(2, 3, 5, 5).softmax(-1)
FEATURES, ITEMS = torch.rand(6, 2), torch.arange(6)
LAYERS = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()).eval()


class Odd(nn.Module):
    """A layer that puts out no tensor, one that never runs, one whose output does not matter."""

    def __init__(self):
        super().__init__()
        self.words, self.idle, self.aside = Words(), nn.Linear(1, 1), nn.Conv2d(3, 2, 1)

    def forward(self, images):
        self.words(images)
        self.aside(images)
        return images.mean((2, 3))


class Words(nn.Module):
    def forward(self, images):
        return "no tensor"


def probed(features=FEATURES, targets=ITEMS, groups=ITEMS):
    return linear_probe(features, targets, groups)


def deleted(**change):
    arguments = {
        "images": IMAGES[:3],
        "attributes": torch.zeros(3, dtype=torch.long),
        "maps": MAPS[:3, 0],
        "hidden": IMAGES[:3] * 0,
    }
    return deletion_curve(nn.Sequential(nn.Flatten(), nn.Linear(2352, 2)), **arguments | change)


def grouped(**change):
    arguments = {
        "probabilities": torch.rand(900, 3),
        "targets": (torch.rand(900, 3) < 0.3).float(),
        "groups": ["a", "b", "b"] * 300,
        "names": ("Hat", "Glasses", "Beard"),
    }
    return subgroup_scores(**arguments | change)


REFUSED = {
    "expected the same": [
        lambda: rank_correlation(torch.rand(2, 5), torch.rand(2, 4)),
        lambda: grouped(targets=torch.zeros(900, 2)),
    ],
    "at least two": lambda: rank_correlation(torch.rand(2, 1), torch.rand(2, 1)),
    "with one thing changed": lambda: intervention_effect(nn.Flatten(), IMAGES, IMAGES[:1]),
    "no part 'sees'": lambda: randomise_layers(nn.Linear(2, 2), nn.Linear(2, 2), ["sees"]),
    "rows columns": [
        lambda: pointing_game(MAPS, REGIONS[:2]),
        lambda: score_localisation(MAPS, REGIONS, untrained=MAPS[:2]),
    ],
    "expected more than 0": lambda: pointing_game(MAPS, REGIONS, tolerance=0),
    "every mask is empty": lambda: score_localisation(MAPS, REGIONS & False),
    "batch attributes rows columns": lambda: score_localisation(MAPS[:, 0], REGIONS[:, 0]),
    "no attribute of any image is chosen": lambda: score_faithfulness(
        LAYERS, IMAGES, ~CHOSEN, {"map": MAPS}
    ),
    "no replacement 'black'": lambda: score_faithfulness(
        LAYERS, IMAGES, CHOSEN, {"map": MAPS}, "black"
    ),
    "maps of kind 'map'": lambda: score_faithfulness(LAYERS, IMAGES, CHOSEN[:, :1], {"map": MAPS}),
    "maps (2, 7, 7) … do not belong together": lambda: deleted(maps=MAPS[:2, 0]),
    "hidden (3, 3, 14, 14) do not": lambda: deleted(hidden=torch.rand(3, 3, 14, 14)),
    "attributes (2,) … do not": lambda: deleted(attributes=torch.zeros(2, dtype=torch.long)),
    "NaN": lambda: deleted(maps=torch.full((3, 7, 7), math.nan)),
    "[0, 60]; … at most 49": lambda: deleted(removed=[0, 60]),
    "[5, 1]; … rising": lambda: deleted(removed=[5, 1]),
    "[4]; expected at least two": lambda: deleted(removed=[4]),
    "of 1 groups": lambda: grouped(groups=["a"] * 900),
    "2 labels": lambda: grouped(groups=["a", "b"]),
    "1 names": lambda: grouped(names=("Hat",)),
    "from nan to nan … NaN": lambda: grouped(probabilities=torch.full((900, 3), math.nan)),
    "0 to 1": lambda: grouped(probabilities=torch.full((900, 3), 2.0)),
    "a tone for each row": lambda: drawn_groups(torch.rand(5), torch.ones(6, 33)),
    "no layer 'nine'": lambda: record_activations(LAYERS, ["0", "nine"], IMAGES),
    "has no layer … 'backbone.conv1'": lambda: record_activations(
        StaticFeatureExtractor(weights=None).eval(), "conv1", IMAGES
    ),
    "without a tensor": lambda: record_activations(Odd(), "words", IMAGES),
    "did not run": lambda: record_activations(Odd(), "idle", IMAGES),
    "nearest names": lambda: grad_cam(LAYERS, "9", 0, IMAGES),
    "has no places": lambda: grad_cam(LAYERS, "1", 0, IMAGES),
    "output 9999": lambda: grad_cam(LAYERS, "0", 9999, IMAGES),
    "output -1": lambda: grad_cam(LAYERS, "0", -1, IMAGES),
    "does not depend": lambda: grad_cam(Odd().eval(), "aside", 0, IMAGES),
    "targets (5,) … do not fit 6": lambda: probed(targets=ITEMS[:5]),
    "groups (5,) do not fit": lambda: probed(groups=ITEMS[:5]),
    "targets (6, 2) … do not fit": lambda: probed(targets=torch.zeros(6, 2).long()),
    "all the same": lambda: probed(targets=torch.full((6,), 0.5)),
    "not finite": lambda: probed(targets=torch.tensor([1, 2, 3, 4, 5, math.nan])),
    "item 0 are not finite": lambda: probed(features=FEATURES * math.nan),
    "3 groups do not make 5 folds": lambda: probed(groups=ITEMS // 2),
    "grid of 3 × 3": lambda: attention_statistics(torch.eye(7)[None, None], grid=(3, 3)),
    "at least one layer": lambda: attention_rollout([]),
    "equal shapes": lambda: attention_rollout([ATTENTION, ATTENTION[..., :4]]),
    "the gradient has the shape": lambda: attention_relevance(ATTENTION, ATTENTION[:, :1]),
    "5 queries and 5 keys do not divide into 3 equal parts": lambda: part_matrix(ATTENTION, 3),
    "there is 1; record at least two": lambda: step_stability(ATTENTION[:1, 0]),
}


@each(REFUSED)
def test_one_sentence_names_what_is_wrong(words, call):
    refused(words, call)


NO_ATTENTION = {
    "sums to": torch.rand(2, 2, 4, 4),
    "smallest is -1": -torch.ones(1, 1, 2, 2),
    "NaN": torch.full((1, 1, 2, 2), math.nan),
    "batch heads queries keys": torch.rand(5),
    "heads queries keys": torch.zeros(1, 2, 0, 4),
    "columns sum to 1": torch.rand(1, 1, 5, 3).softmax(-1).mT,
    "no distribution": torch.randn(1, 1, 3, 3).half() - 3,
}


@pytest.mark.parametrize(("words", "weights"), NO_ATTENTION.items(), ids=list(NO_ATTENTION))
def test_what_is_no_attention_is_refused_and_diagnosed(words, weights):
    for part in (words, ";"):
        refused(part, attention_statistics, weights)
    [finding] = diagnose(weights)
    assert finding.name == "no distribution"
    assert finding.says.endswith(".")
    assert finding.remedy[0].isupper()


PEOPLE = {
    "all 4 items show one person": (torch.rand(4, 3), [0, 0, 0, 0]),
    "each of the 4 people has one image": (torch.rand(4, 3), [0, 1, 2, 3]),
    "person has shape (3,) and there are 4 feature vectors": (torch.rand(4, 3), [0, 0, 1]),
    "person has shape (1, 4)": (torch.rand(4, 3), [[0, 0, 1, 1]]),
    "features have shape (4,); expected (items, dim)": (torch.rand(4), [0, 0, 1, 1]),
    "at least two items": (torch.rand(1, 3), [0]),
    "shape (4, 0)": (torch.rand(4, 0), [0, 0, 1, 1]),
    "item 1 are not finite": (torch.tensor([[1, 2], [3, math.nan], [1, 1], [2, 1]]), [0, 0, 1, 1]),
    "item 2 are all zero": (torch.tensor([[1.0, 2], [3, 1], [0, 0], [2, 1]]), [0, 0, 1, 1]),
}


@pytest.mark.parametrize(
    "measure",
    [
        within_person_consistency,
        pair_similarities,
        separation_auc,
    ],
)
def test_people_that_cannot_be_told_apart_are_refused(measure):
    for words, (features, person) in PEOPLE.items():
        refused(words, measure, features, torch.tensor(person))
