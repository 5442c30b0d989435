"""Learning attributes from photographs: where a model starts, what the images go through, when it
stops, and the baseline of raw pixels.
"""

import pytest
import torch
from refusals import refused
from torch import nn

from course_lib.data import ImageArrays
from course_lib.looking import (
    pixel_features,
    ridge_probabilities,
    rough_boxes,
    rough_regions,
    score_localisation,
)
from course_lib.models import (
    AttributeModel,
    NetworkTokens,
    PointingDecoder,
    TokenExtractor,
    backbones,
)
from course_lib.training import (
    AugmentedImages,
    WithinMinutes,
    augmentation,
    course_attribute_predictor,
    learn_photographs,
    photograph_model,
    photographs,
    predict,
    smoothed_prior,
)
from course_lib.world import ATTRIBUTES

NAMES = ("Blurry", "Smiling", "Bald")  # the first is not drawn


def striped(n=160, seed=0):
    """Images whose three attributes are a bright upper, lower and left half, each in noise."""
    random = torch.Generator().manual_seed(seed)
    targets = (torch.rand(n, 3, generator=random) < 0.5).float()
    images = torch.randint(0, 90, (n, 3, 64, 64), generator=random, dtype=torch.uint8)
    for image, target in zip(images, targets, strict=True):
        for half, there in zip((image[0, :32], image[1, 32:], image[2]), target, strict=True):
            half += int(100 * there)
    return ImageArrays(images, targets)


def network(rows=7):
    return nn.Sequential(nn.Conv2d(3, 8, 16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(rows))


def test_the_start_is_what_the_course_learned():
    trained = course_attribute_predictor().model.eval()
    model = photograph_model(ATTRIBUTES, torch.full((33,), 0.3), blocks=3).eval()
    images = torch.rand(4, 3, 56, 56)
    with torch.no_grad():
        tokens, logits = model.backbone(images), model(images)
        assert torch.allclose(tokens, trained.backbone(images), atol=1e-5)
        change = logits - trained(images)
    assert torch.allclose(change, change[:1].expand_as(change), atol=1e-4)  # the biases alone


def test_attributes_take_their_own_rows_in_any_order():
    trained = course_attribute_predictor().model.decoder
    model = photograph_model(NAMES, torch.tensor([0.05, 0.5, 0.02]))
    for row, name in enumerate(NAMES[1:], start=1):
        theirs = ATTRIBUTES.index(name)
        assert torch.equal(model.decoder.queries[row], trained.queries[theirs])
        assert torch.equal(model.decoder.head.weight[row], trained.head.weight[theirs])
    assert not (model.decoder.queries[0] == trained.queries).all(1).any()
    assert torch.allclose(model.decoder.head.bias.sigmoid(), torch.tensor([0.05, 0.5, 0.02]))


def test_depth_lets_tokens_see_more():
    seen = []
    for blocks in (0, 1):
        extractor = TokenExtractor(blocks=blocks).eval()
        for parameter in extractor.parameters():
            nn.init.uniform_(parameter, 0.1, 0.2)
        pixels = torch.rand(1, 3, 56, 56, requires_grad=True)
        extractor(pixels)[0, 24].sum().backward()
        seen.append(int((pixels.grad[0].abs().sum(0) > 0).any(1).sum()))
    assert seen == [18, 50]


def test_images_are_changed_and_labels_are_not():
    arrays = striped(64)
    images = AugmentedImages(arrays, augmentation(56), together=4)
    torch.manual_seed(0)
    batch, targets = images[list(range(64))]
    assert batch.shape == (64, 3, 56, 56)
    assert batch.dtype == torch.float32
    assert 0 <= batch.min() < batch.max() <= 1
    assert torch.equal(targets, arrays.targets)
    again, _ = images[list(range(64))]
    different = (again - batch).abs().flatten(1).amax(1) > 0.05
    assert different.all()
    torch.manual_seed(0)
    assert torch.equal(images[list(range(64))][0], batch)


@pytest.mark.parametrize("blocks", [0, 2])
def test_it_learns_what_is_to_be_seen(blocks):
    train, test = striped(192), striped(64, seed=1)
    model = photograph_model(NAMES, smoothed_prior(train), blocks=blocks)
    before = [parameter.clone() for parameter in model.backbone.parameters()]
    floor = nn.functional.binary_cross_entropy(
        smoothed_prior(train).expand_as(test.targets), test.targets
    )
    learn_photographs(model, AugmentedImages(train, augmentation(56)), epochs=8)
    assert not model.training
    loss = nn.functional.binary_cross_entropy_with_logits(
        predict(model, test).float(), test.targets
    )
    assert loss < 0.8 * floor
    pairs = zip(before, model.backbone.parameters(), strict=True)
    assert all(not torch.equal(old, new) for old, new in pairs)  # end to end


def test_it_ends_when_the_minutes_are_over(monkeypatch):
    clock = iter(range(0, 10_000, 3))  # seconds: every look takes three
    monkeypatch.setattr(photographs.time, "process_time", lambda: next(clock))
    rates = []

    class Rates:
        def after_step(self, run):
            rates.append(run.optimizer.param_groups[0]["lr"])

    train = striped(64)
    model = photograph_model(NAMES, smoothed_prior(train), blocks=0)
    images = AugmentedImages(train, augmentation(56))
    learn_photographs(model, images, WithinMinutes(1), epochs=1_000, callbacks=[Rates()])
    assert len(rates) == 10  # 60 seconds, two looks a step
    assert max(rates) == pytest.approx(photographs.RATE, rel=0.1)
    assert rates[-1] < 0.1 * photographs.RATE
    refused("minutes is 0; expected more than 0", WithinMinutes, 0)


def test_any_network_that_makes_a_map_gives_tokens():
    torch.manual_seed(0)
    train = striped(64)
    tokens = NetworkTokens(network(), 112)
    assert tokens(torch.rand(2, 3, 64, 64)).shape == (2, 49, 96)
    model = photograph_model(NAMES, smoothed_prior(train), tokens)
    rates = {}

    class Rates:
        def start(self, run):
            for group in run.optimizer.param_groups:
                rates.update({id(parameter): group["lr"] for parameter in group["params"]})

    learn_photographs(
        model, AugmentedImages(train, augmentation(112)), epochs=1, callbacks=[Rates()]
    )
    slow = {rates[id(parameter)] for parameter in tokens.network.parameters()}
    quick = {rates[id(parameter)] for parameter in model.decoder.parameters()}
    assert max(slow) == pytest.approx(max(quick) / 10)
    assert len(rates) == len(list(model.parameters()))
    refused(
        "turns images of 112 pixels into (1, 8, 5, 5); … (1, channels, 7, 7)",
        NetworkTokens,
        network(5),
        112,
    )


def test_imagenet_without_a_network_is_one_sentence(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(backbones.torch.hub, "load_state_dict_from_url", offline)
    refused(
        "could not be downloaded; … choose tokens='learned'",
        photograph_model,
        NAMES,
        torch.full((3,), 0.5),
        "imagenet",
        error=ConnectionError,
    )
    refused(
        "tokens='drawings' is no start", photograph_model, NAMES, torch.full((3,), 0.5), "drawings"
    )


def test_imagenet_tokens_are_of_a_whole_resnet(monkeypatch):
    build = photographs.StaticFeatureExtractor
    monkeypatch.setattr(
        photographs,
        "StaticFeatureExtractor",
        lambda name, weights, **options: build("resnet50", None, **options, width_per_group=8),
    )
    model = photograph_model(NAMES, torch.full((3,), 0.5), "imagenet").eval()
    assert isinstance(model, AttributeModel)
    assert isinstance(model.decoder, PointingDecoder)
    maps = model.attention_maps(torch.rand(2, 3, 112, 112))
    assert maps.shape == (2, 3, 7, 7)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_pixels_are_a_baseline():
    train, test = striped(300), striped(100, seed=1)
    small = [pixel_features(arrays.images.float() / 255) for arrays in (train, test)]
    assert small[0].shape == (300, 768)
    answers = ridge_probabilities(small[0], train.targets, small[1])
    assert answers.shape == (100, 3)
    assert 0 <= answers.min() <= answers.max() <= 1
    assert ((answers > 0.5) == test.targets.bool()).float().mean() > 0.95


def test_boxes_are_where_the_aligned_frame_has_its_landmarks():
    names = ("Eyeglasses", "Smiling", "Mustache", "Male", "Black_Hair", "Wearing_Earrings")
    glasses, smile, mustache, male, hair, ears = rough_boxes(names, 178)
    landmarks = {
        "eyes": [(91, 69), (91, 108)],
        "mouth": [(132, 73), (132, 105)],
        "nose": [(115, 88)],
    }
    assert all(glasses[place] for place in landmarks["eyes"])
    assert all(smile[place] for place in landmarks["mouth"])
    for inside, outside in (
        (glasses, "mouth"),
        (smile, "eyes"),
        (hair, "eyes"),
        (mustache, "eyes"),
    ):
        assert not any(inside[place] for place in landmarks[outside])
    assert not male.any()
    for mask in (glasses, mustache, hair, ears):
        assert torch.equal(mask, mask.flip(1))


def test_a_map_on_the_box_scores_and_one_elsewhere_does_not():
    names = ("Eyeglasses", "Male")
    targets = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    regions = rough_regions(targets, names, 28)
    assert regions.flatten(2).any(-1).tolist() == [[True, False], [False, False], [True, False]]
    maps = torch.zeros(3, 2, 7, 7)
    maps[0, 0, 3, 3] = maps[2, 0, 6, 6] = 1
    pointing = score_localisation(maps, regions).table["pointing"]
    assert pointing["map"][0] == 0.5
    assert pointing["map"][1].isnan()
    assert 0.1 < pointing["chance"][0] < 0.6
