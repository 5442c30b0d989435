"""The drawn faces: the same everywhere, at CelebA's rates, with regions that decide."""

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from course_lib.data import FaceDataset
from course_lib.world import (
    ATTRIBUTES,
    CELEBA_RATES,
    DIFFICULTIES,
    SPLITS,
    check_attributes,
    displacement,
    displacement_fields,
    draw_face,
    item_seed,
    sample_attributes,
    sample_tone,
)

PUBLISHED_RATES = {  # in %, counted from CelebA's own list_attr_celeba.txt
    "5_o_Clock_Shadow": 11.11,
    "Arched_Eyebrows": 26.7,
    "Bags_Under_Eyes": 20.46,
    "Bald": 2.24,
    "Bangs": 15.16,
    "Big_Lips": 24.08,
    "Big_Nose": 23.45,
    "Black_Hair": 23.93,
    "Blond_Hair": 14.8,
    "Brown_Hair": 20.52,
    "Bushy_Eyebrows": 14.22,
    "Chubby": 5.76,
    "Double_Chin": 4.67,
    "Eyeglasses": 6.51,
    "Goatee": 6.28,
    "Gray_Hair": 4.19,
    "Male": 41.68,
    "Mouth_Slightly_Open": 48.34,
    "Mustache": 4.15,
    "Narrow_Eyes": 11.51,
    "No_Beard": 83.49,
    "Pale_Skin": 4.29,
    "Receding_Hairline": 7.98,
    "Rosy_Cheeks": 6.57,
    "Sideburns": 5.65,
    "Smiling": 48.21,
    "Wavy_Hair": 31.96,
    "Wearing_Earrings": 18.89,
    "Wearing_Hat": 4.85,
    "Wearing_Lipstick": 47.24,
    "Wearing_Necklace": 12.3,
    "Wearing_Necktie": 7.27,
    "Young": 77.36,
}
NO_PLACE = {"Male", "Young"}
PAINTED = {  # mean red, green and blue of the first two faces of split "assets"
    "clean": ((106.8, 105.7, 99.8), (173.2, 176.6, 147.8)),
    "easy": ((107.0, 100.9, 110.7), (176.4, 174.6, 152.6)),
    "medium": ((93.2, 99.5, 113.1), (148.5, 149.3, 139.8)),
    "hard": ((84.7, 96.0, 110.5), (130.4, 132.1, 126.9)),
}


def sampled(seed: int) -> frozenset[str]:
    rng = np.random.default_rng(seed)
    return sample_attributes(rng, sample_tone(rng))


def test_rates_are_within_a_point_of_celebas():
    faces = FaceDataset(20_000, "train", 1)
    drawn = torch.stack([faces.target(i) for i in range(len(faces))]).mean(0).numpy()
    assert {*PUBLISHED_RATES} == {*ATTRIBUTES}, "give PUBLISHED_RATES the rate of each, in percent"
    published = np.array([PUBLISHED_RATES[name] for name in ATTRIBUTES]) / 100
    off = np.abs(drawn - published)
    assert off.max() < 0.01, (
        ATTRIBUTES[off.argmax()],
        drawn[off.argmax()],
        published[off.argmax()],
    )
    assert np.allclose(CELEBA_RATES, published, atol=1e-4)


def test_attributes_depend_on_each_other_as_in_life():
    people = [sampled(seed) for seed in range(3000)]
    assert all(check_attributes(person) == person for person in people)
    assert not any(
        {"Goatee", "Mustache", "Sideburns", "5_o_Clock_Shadow"} & person and "Male" not in person
        for person in people
    )
    men, women = ([p for p in people if ("Male" in p) == male] for male in (True, False))
    lipstick = [np.mean(["Wearing_Lipstick" in p for p in group]) for group in (men, women)]
    assert lipstick[0] < 0.03 < 0.7 < lipstick[1]


def test_neighbouring_data_sets_share_no_seed():
    ends = [
        (seed, split, index) for seed in range(6) for split in SPLITS for index in (0, 1, 10**9 - 1)
    ]
    assert len({item_seed(*item) for item in ends}) == len(ends)


def test_items_are_the_same_in_every_process():
    faces = FaceDataset(6, "valid", 3, "hard", images_per_person=2)
    here = [faces[i] for i in range(6)]
    for item, there in zip(here, DataLoader(faces, batch_size=None, num_workers=2), strict=True):
        for key in ("image", "target", "regions", "expression", "pose"):
            assert torch.equal(item[key], there[key]), key


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_faces_are_those_that_the_shipped_weights_know(difficulty):
    """Whoever changes how faces are drawn trains the weights again; OpenCV's versions differ by far
    less.
    """
    faces = FaceDataset(2, "assets", 0, difficulty)
    colours = torch.stack([faces[i]["image"].mean((1, 2)) * 255 for i in range(2)])
    assert torch.allclose(colours, torch.tensor(PAINTED[difficulty]), atol=0.2), (
        "faces are drawn otherwise: train the weights again, then let PAINTED say"
        f" {difficulty!r}: {colours.tolist()}"
    )


def test_item_form():
    item = FaceDataset(1)[0]
    assert item["image"].shape == (3, 112, 112)
    assert item["image"].dtype == torch.float32
    assert 0 <= item["image"].min() < item["image"].max() <= 1
    assert item["target"].shape == (len(ATTRIBUTES),)
    assert set(item["target"].unique().tolist()) <= {0.0, 1.0}
    assert item["regions"].shape == (len(ATTRIBUTES), 112, 112)
    assert item["regions"].dtype == torch.bool


def test_one_person_has_one_look_and_many_moods():
    faces = FaceDataset(8, images_per_person=4, seed=2)
    fixed = [
        i for i, name in enumerate(ATTRIBUTES) if name not in ("Smiling", "Mouth_Slightly_Open")
    ]
    targets = torch.stack([faces.target(i)[fixed] for i in range(8)])
    assert (targets[:4] == targets[0]).all()
    assert (targets[4:] == targets[4]).all()
    assert not torch.equal(faces[0]["image"], faces[1]["image"])
    assert [faces[i]["person"] for i in range(8)] == [0] * 4 + [1] * 4


def test_label_noise_flips_its_share_and_leaves_the_picture():
    clean, noisy = FaceDataset(300, seed=4), FaceDataset(300, seed=4, label_noise=0.1)
    flipped = torch.stack([clean.target(i) != noisy.target(i) for i in range(300)]).float().mean()
    assert 0.07 < flipped < 0.13
    assert torch.equal(clean[5]["image"], noisy[5]["image"])


@pytest.mark.parametrize(
    "name",
    [
        "Eyeglasses",
        "Wearing_Hat",
        "Mustache",
        "Goatee",
        "Wearing_Necklace",
        "Bangs",
        "Wearing_Earrings",
        "Bags_Under_Eyes",
        "Big_Nose",
        "Wearing_Lipstick",
        "Sideburns",
        "Bushy_Eyebrows",
        "Rosy_Cheeks",
        "Mouth_Slightly_Open",
        "Bald",
        "Wearing_Necktie",
    ],
)
def test_the_region_decides(name):
    """Switch one attribute on: nearly all that changes lies in its region, give or take the soft
    edges.
    """
    inside = []
    for seed in range(6):
        base = (
            {"Young"}
            if name in ("Wearing_Necklace", "Wearing_Lipstick", "Rosy_Cheeks")
            else {"Male"}
        )
        without = draw_face(base, seed, difficulty="clean")
        given_it = draw_face(base | {name}, seed, difficulty="clean", expression=None)
        changed = np.abs(without.image.astype(float) - given_it.image).sum(-1)
        region = (without.regions | given_it.regions)[ATTRIBUTES.index(name)].astype(np.uint8)
        if name == "Bald":  # the hair that is gone
            region |= without.regions[ATTRIBUTES.index("Black_Hair")]
        if name == "Wearing_Necktie":  # a suit comes with it
            changed *= np.abs(np.arange(112) - 56) < 10
        inside.append(changed[cv2.dilate(region, np.ones((9, 9))) > 0].sum() / changed.sum())
    jaw_drops_too = name == "Mouth_Slightly_Open"
    assert np.mean(inside) > (0.6 if jaw_drops_too else 0.85), inside


def test_every_placed_attribute_has_a_region_and_the_others_none():
    for seed in range(25):
        regions = draw_face(sampled(seed), seed, difficulty="clean").regions
        for name, region in zip(ATTRIBUTES, regions, strict=True):
            assert region.any() == (name not in NO_PLACE), name
            assert region.mean() < 0.6, name


def test_a_smile_is_symmetric_and_a_turn_is_not():
    points = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    mirrored = points * (-1, 1)
    for movement in ("pitch", "brow", "smile", "jaw"):
        assert np.allclose(
            displacement(mirrored, **{movement: 1}), displacement(points, **{movement: 1}) * (-1, 1)
        )
    corner = displacement(np.array([(0.3, 0.5)]), smile=1)[0]
    assert corner[0] > 0.1  # outwards
    assert corner[1] < -0.1  # and up
    assert (displacement(points, yaw=1)[:, 0] > 0).all()
    together = np.tensordot((1, 2, 3, 4, 5), displacement_fields(points), 1)
    assert np.allclose(together, displacement(points, 1, 2, 3, 4, 5))


@pytest.mark.parametrize("size", [32, 57, 112, 224])
def test_any_size_can_be_drawn(size):
    portrait = draw_face({"Smiling", "Young"}, 0, size, "hard")
    assert portrait.image.shape == (size, size, 3)
    assert portrait.image.dtype == np.uint8
    assert portrait.regions.shape == (len(ATTRIBUTES), size, size)
