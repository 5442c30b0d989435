"""Samplers draw what they say, again and again the same; enriched faces are people like any other."""

import math
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fit import Cut, Killed
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from course_lib.data import (
    BalancedSampler,
    CurriculumSampler,
    EnrichedFaces,
    FaceDataset,
    all_targets,
    easiest_weights,
    effective_numbers,
    faces_to_draw,
    rarest_weights,
)
from course_lib.training import Checkpoints, ClassBalancedLoss, fit
from course_lib.world import ATTRIBUTES, check_attributes

seeds = st.integers(0, 10_000)
BALD, MUSTACHE, MALE, YOUNG = map(ATTRIBUTES.index, ("Bald", "Mustache", "Male", "Young"))


def drawn_targets(seed: int, images: int = 30) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    targets = (
        torch.rand(images, 4, generator=generator) < torch.tensor([0.05, 0.2, 0.5, 0.9])
    ).float()
    targets[0], targets[1] = 1, 0
    return targets


@given(seeds)
def test_rarest_weights_by_the_letter(seed):
    targets = drawn_targets(seed).tolist()
    frequency = [sum(column) / len(targets) for column in zip(*targets, strict=True)]
    rarest = [
        min([f for f, present in zip(frequency, row, strict=True) if present], default=1)
        for row in targets
    ]
    weights = rarest_weights(drawn_targets(seed))
    assert weights.tolist() == pytest.approx([1 / f / sum(1 / g for g in rarest) for f in rarest])


def test_the_draws_of_an_epoch_follow_the_weights():
    targets = drawn_targets(3, images=4000)
    weights = torch.where(
        targets[:, 0] > 0, 0.4 / targets[:, 0].sum(), 0.6 / (targets[:, 0] == 0).sum()
    )
    sampler = BalancedSampler(weights, seed=1)
    draws = list(sampler)
    assert len(draws) == len(sampler) == 4000
    # five standard deviations
    assert targets[draws, 0].mean().item() == pytest.approx(0.4, abs=0.04)
    assert targets[:, 0].mean() < 0.07
    weights = torch.tensor([0.0, 1.0, 3.0]).repeat(500)
    counts = torch.bincount(torch.tensor(list(BalancedSampler(weights))) % 3, minlength=3)
    assert counts[0] == 0
    assert (counts[2] / counts[1]).item() == pytest.approx(3, rel=0.25)


@pytest.mark.parametrize(
    "make",
    [
        lambda w, seed=0: BalancedSampler(w, seed=seed),
        lambda w, seed=0: CurriculumSampler(w, 4, seed=seed),
    ],
)
def test_the_order_depends_on_seed_and_epoch_alone(make):
    weights = torch.rand(200)
    first = make(weights)
    orders = []
    for epoch in range(3):
        first.set_epoch(epoch)
        orders.append(list(first))
        torch.rand(5)
    assert orders[0] != orders[1] != orders[2] != orders[0]
    resumed = make(weights)
    resumed.set_epoch(2)
    assert list(resumed) == orders[2]
    assert list(make(weights, seed=1)) != orders[0]
    assert list(make(weights)) == orders[0]


def test_a_prepared_loader_moves_the_epoch_on():
    data, sampler = TensorDataset(torch.arange(50)), BalancedSampler(torch.rand(50))
    loader = Accelerator(cpu=True).prepare(DataLoader(data, 8, sampler=sampler))
    seen = [torch.cat([batch for (batch,) in loader]).tolist() for _ in range(3)]
    alone = BalancedSampler(sampler.weights)
    for epoch, order in enumerate(seen):
        alone.set_epoch(epoch)
        assert list(alone) == order


@pytest.mark.parametrize("kind", [BalancedSampler, partial(CurriculumSampler, epochs=3)])
def test_fit_tells_the_sampler_its_epochs_and_a_run_that_is_cut_off_goes_on(tmp_path, kind):
    data, weights = TensorDataset(torch.randn(40, 4), torch.randn(40, 2)), torch.rand(40)

    def train(folder, cut):
        torch.manual_seed(1)
        model, sampler = nn.Linear(4, 2), kind(weights)
        loader = DataLoader(data, 8, sampler=sampler)
        fit(model, loader, epochs=3, callbacks=[Checkpoints(folder, minutes=0), Cut(cut)])
        return model.weight, sampler.epoch

    whole, last = train(tmp_path / "whole", cut=99)
    assert last == 2
    with pytest.raises(Killed):
        train(tmp_path / "cut", cut=8)  # in the second of three epochs
    assert torch.equal(train(tmp_path / "cut", cut=99)[0], whole)


def test_workers_show_the_same_images_in_the_same_order():
    faces = EnrichedFaces(NATURAL, ["Bald"], 0.1)
    sampler = BalancedSampler(1 + 20 * all_targets(faces)[:, BALD], seed=4)
    sampler.weights = sampler.weights[:40] / sampler.weights[:40].sum()  # forty draws are enough
    seen = []
    for workers in (0, 2):
        for epoch in (1, 2):
            sampler.set_epoch(epoch)
            batches = DataLoader(faces, 8, sampler=sampler, num_workers=workers)
            seen.append(torch.cat([batch["image"] for batch in batches]))
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[1])


def test_the_curriculum_ends_with_nature():
    weights = torch.tensor([0.7, 0.2, 0.1, 0.0])
    sampler, steps = CurriculumSampler(weights, epochs=5), []
    for epoch in (0, 2, 4, 9):
        sampler.set_epoch(epoch)
        steps.append(sampler.weights_now())
    assert_close(steps[0], weights.double(), atol=1e-7, rtol=1e-6)
    assert_close(steps[1], (weights.double() + 0.25) / 2, atol=1e-7, rtol=1e-6)
    assert (steps[2] == 0.25).all()
    assert (steps[3] == 0.25).all()
    large = CurriculumSampler(torch.arange(1000.0), epochs=3)
    large.set_epoch(2)
    assert np.mean(list(large)) == pytest.approx(499.5, abs=46)  # five standard deviations
    large.set_epoch(0)
    assert np.mean(list(large)) > 600


NATURAL = FaceDataset(300, "train", 7, size=32, regions=False)


def test_enriched_faces_begin_with_the_natural_ones():
    faces = EnrichedFaces(NATURAL, ["Bald"], 0.25)
    assert len(faces) == 400
    assert [faces.person(i) for i in range(300)] == [NATURAL.person(i) for i in range(300)]
    targets = all_targets(faces)
    assert targets[300:, BALD].all()
    assert torch.equal(targets[:300], all_targets(NATURAL))
    assert len(EnrichedFaces(NATURAL, ["Bald"], 0.0)) == 300
    item = faces[350]
    assert torch.equal(item["target"], targets[350])
    assert item["image"].shape == (3, 32, 32)
    assert "regions" not in item
    for index in (-1, 400):
        with pytest.raises(IndexError, match=f"item {index} of a data set of 400"):
            faces.person(index)


def test_several_names_take_turns_and_nobody_comes_twice():
    faces = EnrichedFaces(NATURAL, ["Bald", "Mustache"], 0.2)
    targets = all_targets(faces)[300:]
    assert len(targets) == 75
    assert targets[::2, BALD].all()
    assert targets[1::2, MUSTACHE].all()
    people = [faces.person(i) for i in range(len(faces))]
    assert max(Counter(seed for seed, _, _ in people).values()) == 1
    assert len({person[1] for person in people}) == len(people)
    assert all(check_attributes(attributes) == attributes for _, _, attributes in people)


def test_what_goes_with_baldness_in_nature_goes_with_it_here():
    """Against the bald among many natural faces: sex, age and all the rest."""
    nature = all_targets(FaceDataset(6_000, "train", 3))
    bald = nature[nature[:, BALD] == 1].mean(0)
    drawn = all_targets(EnrichedFaces(NATURAL, ["Bald"], 0.25))[300:]
    off = (drawn.mean(0) - bald).abs()
    spread = (bald * (1 - bald) * (1 / len(drawn) + 1 / nature[:, BALD].sum())).sqrt()
    assert (off <= 4.5 * spread + 0.01).all(), ATTRIBUTES[(off - 4.5 * spread).argmax()]
    assert drawn[:, MALE].all()
    assert drawn[:, YOUNG].mean() < nature[:, YOUNG].mean() - 0.2


def test_skin_tone_follows_too():
    """Blond is rare on dark skin, so the tone must be drawn with the attributes."""
    faces = EnrichedFaces(NATURAL, ["Blond_Hair"], 0.5)
    dark = np.mean([faces.person(i)[1] > 0.6 for i in range(300, 600)])
    assert dark < 0.12  # 0.32 in the population


def test_enriched_faces_are_the_same_everywhere():
    one, other = (EnrichedFaces(NATURAL, ["Bald"], 0.1) for _ in range(2))
    assert [one.person(i) for i in range(300, 333)] == [
        other.person(i) for i in reversed(range(300, 333))
    ][::-1]
    assert torch.equal(
        next(iter(DataLoader(one, 4, sampler=[320, 1], num_workers=1)))["image"][0],
        other[320]["image"],
    )


def test_an_epoch_has_as_many_draws_as_asked():
    for sampler in (
        BalancedSampler(torch.rand(10), draws=25),
        CurriculumSampler(torch.rand(10), 3, draws=25),
    ):
        drawn = list(sampler)
        assert len(sampler) == len(drawn) == 25
        assert set(drawn) <= set(range(10))
    assert len(BalancedSampler(torch.rand(10))) == 10


@given(st.integers(0, 300), st.floats(0, 0.9999))
def test_effective_numbers_are_the_sum_of_a_series(count, beta):
    worth = effective_numbers(torch.tensor([count]), beta)
    assert worth.item() == pytest.approx(sum(beta**k for k in range(count)), rel=1e-6, abs=1e-9)
    assert worth.item() <= min(count, 1 / (1 - beta)) * (1 + 1e-6)


def test_effective_numbers_weigh_like_the_class_balanced_loss():
    frequencies, images = torch.tensor([0.02, 0.2, 0.7]), 1000
    loss = ClassBalancedLoss(frequencies, images, beta=0.99)
    ratio = effective_numbers(images * (1 - frequencies), 0.99) / effective_numbers(
        images * frequencies, 0.99
    )
    assert_close(ratio.float(), loss.positive_weight / loss.negative_weight)


@given(st.lists(st.floats(0, 5), min_size=1, max_size=30, unique=True), st.floats(0.001, 1))
def test_the_easiest_come_and_all_of_them_equally_often(losses, share):
    weights = easiest_weights(torch.tensor(losses, dtype=torch.float64), share)
    shown = weights > 0
    assert weights.sum().item() == pytest.approx(1)
    assert weights[shown].unique().numel() == 1
    assert shown.sum() == max(1, round(share * len(losses)))
    assert max(loss for loss, come in zip(losses, shown, strict=True) if come) <= min(
        [loss for loss, come in zip(losses, shown, strict=True) if not come] or [math.inf]
    )


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=4), st.integers(60, 120), st.floats(0, 0.2)
)
def test_as_many_faces_are_drawn_as_needed_and_no_more(positives, images, share):
    drawn = faces_to_draw(torch.tensor(positives), images, share)
    total = images + int(drawn.sum())
    assert (drawn >= 0).all()
    assert ((torch.tensor(positives) + drawn) >= share * total - 1e-6).all()
    # no smaller whole would do: each holds fewer faces than its attributes ask for
    for smaller in range(images, total):
        asked = sum(max(0, math.ceil(share * smaller - count - 1e-9)) for count in positives)
        assert images + asked > smaller
