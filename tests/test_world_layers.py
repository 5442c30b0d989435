"""Drawn faces taken apart: a layer covers what its part paints, and nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.data import PartDataset
from course_lib.looking import layer_iou
from course_lib.world import CLOSE, draw_face, draw_parts, part_index
from course_lib.world.layers import PARTS

WOMAN, MAN = frozenset({"Young", "Black_Hair"}), frozenset({"Young", "Male", "Black_Hair"})


def layer(portrait, part):
    return portrait.layers[part_index(part)]


@pytest.mark.parametrize(
    ("without", "added", "part"),
    [
        (WOMAN, "Eyeglasses", "glasses"),
        (WOMAN, "Wearing_Hat", "hat"),
        (MAN, "Goatee", "beard"),
        (MAN, "Mustache", "beard"),
        (WOMAN, "Bushy_Eyebrows", "brows"),
        (WOMAN, "Big_Lips", "mouth"),
        (WOMAN, "Narrow_Eyes", "eyes"),
        (WOMAN, "Big_Nose", "nose"),
        (MAN, "Wearing_Necktie", "clothes"),
    ],
)
@pytest.mark.parametrize("seed", [3, 11])
def test_an_attribute_changes_the_picture_only_where_its_layer_lies(without, added, part, seed):
    size = 96
    before, after = (
        draw_parts(attributes, seed, size, "clean") for attributes in (without, without | {added})
    )
    changed = np.abs(before.image.astype(int) - after.image).max(2)
    either = np.maximum(layer(before, part), layer(after, part))
    assert changed[either == 0].max() <= 1  # 8-bit rounding
    if part in ("glasses", "hat", "beard"):
        assert not layer(before, part).any()
        assert layer(after, part).max() == 255
        assert (changed[layer(after, part) > 200] > 2).mean() > 0.9  # and all of it shows


def test_the_layers_are_those_of_the_very_picture():
    face = draw_face(WOMAN, 5, 64, CLOSE, tone=0.3, regions=False)
    np.testing.assert_array_equal(draw_parts(WOMAN, 5, 64, CLOSE, tone=0.3).image, face.image)


@given(st.integers(0, 10_000))
def test_no_pixel_is_covered_twice_but_behind_glasses(index):
    layers = PartDataset(10_001, "test")[index]["layers"]
    others = [PARTS.index(part) for part in PARTS if part != "glasses"]
    assert layers.min() >= 0
    assert layers[others].sum(0).max() <= 1 + 2 * len(PARTS) / 255


def test_eyes_are_there_behind_glasses_and_hair_is_not_under_a_hat():
    bare, glasses, hat = (
        draw_parts(WOMAN | added, 5, 64, "clean")
        for added in (frozenset(), {"Eyeglasses"}, {"Wearing_Hat"})
    )
    both = (layer(glasses, "glasses") > 128) & (layer(glasses, "eyes") > 128)
    assert both.sum() > 0.8 * (layer(bare, "eyes") > 128).sum()
    assert not ((layer(hat, "hat") > 250) & (layer(hat, "hair") > 5)).any()
    assert layer(hat, "hair").sum() < 0.7 * layer(bare, "hair").sum()


def test_an_item_is_what_the_documentation_says():
    item, again = (PartDataset(5, "test", 3)[4] for _ in range(2))
    assert {name: (value.dtype, tuple(value.shape)) for name, value in item.items()} == {
        "image": (torch.float32, (3, 64, 64)),
        "layers": (torch.float32, (10, 64, 64)),
        "present": (torch.bool, (10,)),
    }
    for name, value in item.items():
        assert torch.equal(value, again[name])
    assert not torch.equal(item["image"], PartDataset(5, "test", 4)[4]["image"])
    assert torch.equal(item["present"], (item["layers"] > 0.5).sum((1, 2)) >= 8)
    assert item["present"][[part_index(part) for part in ("skin", "eyes", "nose", "mouth")]].all()


def test_rare_parts_are_common_enough_to_learn_and_often_absent():
    data = PartDataset(150, "train")
    present = torch.stack([data[i]["present"] for i in range(len(data))]).float().mean(0)
    for part, low, high in (
        ("glasses", 0.2, 0.5),
        ("hat", 0.12, 0.35),
        ("beard", 0.08, 0.35),
        ("clothes", 0.4, 1),
    ):
        assert low < present[part_index(part)] < high, part


def test_place_alone_does_not_give_small_parts_away():
    data = PartDataset(150, "train")
    layers = torch.stack([data[i]["layers"] for i in range(len(data))])
    iou = layer_iou(layers.mean(0).expand_as(layers), layers)
    for part in ("brows", "eyes", "nose", "mouth", "glasses"):
        assert iou[:, part_index(part)].nanmean() < 0.3, part


def test_an_empty_room_has_no_parts():
    items = [PartDataset(4, "test", faceless=1.0)[i] for i in range(4)]
    assert not any(item["layers"].any() or item["present"].any() for item in items)
    assert all(item["image"].std() > 0.005 for item in items)
    assert PartDataset(1, "test", faceless=0.0)[0]["layers"].any()
