"""The static stream: tokens, freezing, projections, the shipped head."""

import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close

from course_lib import files, runtime
from course_lib.data import FaceDataset
from course_lib.models import (
    StaticFeatureExtractor,
    attribute_head,
    freeze_first,
    global_average,
    to_tokens,
)
from course_lib.world import ATTRIBUTES

FIRST_FOUR = {"conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.0.conv3"}


def relative_error(value, reference):
    return ((value - reference).norm() / reference.norm()).item()


@pytest.fixture
def images():
    return torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def random_extractor():
    torch.manual_seed(0)
    return StaticFeatureExtractor(weights=None).eval()


@pytest.fixture
def course_file(random_extractor, tmp_path, monkeypatch):
    """A stand-in for the shipped weights."""
    path = tmp_path / "weights" / "static.safetensors"
    random_extractor.save(path, recipe="test")
    monkeypatch.setattr(runtime, "assets", lambda name: tmp_path / name)
    return path


def test_tokens_are_row_major():
    feature_map = torch.arange(2 * 3 * 4 * 5).float().view(2, 3, 4, 5)
    tokens = to_tokens(feature_map)
    assert tokens.shape == (2, 20, 3)
    assert torch.equal(tokens[1, 2 * 5 + 3], feature_map[1, :, 2, 3])


@pytest.mark.parametrize("image_size", [112, 224])
def test_shapes_at_both_sizes_and_for_any_input(image_size, random_extractor):
    extractor = StaticFeatureExtractor(weights=None, image_size=image_size).eval()
    extractor.load_state_dict(random_extractor.state_dict())  # one set of weights serves both
    with torch.no_grad():
        assert extractor.tokens(torch.rand(1, 3, 90, 131)).shape == (1, 49, 2048)
        assert extractor(torch.rand(1, 3, 90, 131)).shape == (1, 2048)


def test_course_architecture_is_a_slim_resnet50(random_extractor):
    parameters = sum(parameter.numel() for parameter in random_extractor.parameters())
    assert 5.8e6 < parameters < 6.0e6
    assert sum(isinstance(layer, nn.Conv2d) for layer in random_extractor.modules()) == 53


def test_equals_torchvision_on_normalised_images(random_extractor, images):
    reference = torchvision.models.resnet50(
        width_per_group=16, replace_stride_with_dilation=[False, False, True]
    )
    reference.fc = nn.Identity()
    reference.load_state_dict(
        {
            name.removeprefix("backbone."): tensor
            for name, tensor in random_extractor.state_dict().items()
        }
    )
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        assert_close(random_extractor(images), reference.eval()(normalise(images)))
        assert_close(random_extractor.tokens(images).mean(1), random_extractor(images))


def test_resizing_antialiases(random_extractor):
    stripes = torch.zeros(1, 3, 448, 448)
    stripes[..., ::4] = 1  # finer than 112 px can show: antialiased they become grey
    grey = torch.full((1, 3, 112, 112), 0.25)
    with torch.no_grad():
        seen, flat = random_extractor.feature_map(stripes), random_extractor.feature_map(grey)
        naive = random_extractor.feature_map(stripes[..., ::4, ::4])
    assert (seen - flat).abs().mean() < 0.2 * (naive - flat).abs().mean()


def test_first_four_convolutions_are_frozen_with_their_batch_norms(course_file, images):
    extractor = StaticFeatureExtractor()
    frozen = {
        name.removesuffix(".weight")
        for name, parameter in extractor.backbone.named_parameters()
        if not parameter.requires_grad and parameter.ndim == 4
    }
    assert frozen == FIRST_FOUR
    before = {name: tensor.clone() for name, tensor in extractor.state_dict().items()}
    extractor.train()
    extractor(images).square().mean().backward()
    torch.optim.SGD((p for p in extractor.parameters() if p.requires_grad), lr=0.1).step()
    changed = {
        name
        for name, tensor in extractor.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert not [
        name
        for name in changed
        if name.startswith(
            ("backbone.conv1.", "backbone.bn1.", "backbone.layer1.0.conv", "backbone.layer1.0.bn")
        )
    ]
    assert "backbone.layer1.1.conv1.weight" in changed
    assert "backbone.layer1.1.bn1.running_mean" in changed
    assert extractor.backbone.layer1[1].bn1.training
    assert not extractor.backbone.layer1[0].bn3.training


def test_freeze_counts_and_random_weights_freeze_nothing(random_extractor):
    assert all(parameter.requires_grad for parameter in random_extractor.parameters())
    everything = StaticFeatureExtractor(weights=None, freeze=53)
    assert not any(parameter.requires_grad for parameter in everything.parameters())


def test_save_keeps_a_projection(tmp_path, images):
    extractor = StaticFeatureExtractor(weights=None, feature_dim=16).eval()
    extractor.save(tmp_path / "mine.safetensors")
    again = StaticFeatureExtractor(weights=tmp_path / "mine.safetensors").eval()
    with torch.no_grad():
        assert again(images).shape == (2, 16)
        assert relative_error(again(images), extractor(images)) < 1e-2


def test_course_weights_with_a_new_projection(course_file, images):
    assert StaticFeatureExtractor(feature_dim=7)(images).shape == (2, 7)


def test_chunks_change_nothing_but_memory(images):
    extractor = StaticFeatureExtractor(weights=None)
    batch = images.repeat(3, 1, 1, 1)[:5]
    chunked = extractor.tokens(batch, chunk=2)
    assert extractor.training
    assert not chunked.requires_grad
    assert relative_error(chunked, extractor.eval().tokens(batch)) < 1e-5


def test_pooling_is_the_mean_of_the_tokens(random_extractor, images):
    with torch.no_grad():
        feature_map = random_extractor.feature_map(images)
    assert feature_map.shape == (2, 2048, 7, 7)
    assert_close(global_average(feature_map), to_tokens(feature_map).mean(1))


def test_freezing_returns_convolutions_with_their_batch_norms():
    network = torchvision.models.resnet18().train()
    frozen = freeze_first(network, 3)
    assert frozen == [
        network.conv1,
        network.bn1,
        network.layer1[0].conv1,
        network.layer1[0].bn1,
        network.layer1[0].conv2,
        network.layer1[0].bn2,
    ]
    assert not any(parameter.requires_grad for layer in frozen for parameter in layer.parameters())
    assert [layer.training for layer in frozen[1::2]] == [False] * 3
    assert network.layer1[1].bn1.training


def test_training_mode_keeps_frozen_batch_norms_in_evaluation_mode(course_file):
    extractor = StaticFeatureExtractor().eval().train()
    assert extractor.training
    assert not any(layer.training for layer in extractor.frozen)
    assert len(extractor.frozen) == 8
    assert not nn.Sequential(extractor).train()[0].backbone.bn1.training


@pytest.mark.parametrize(
    ("backbone", "size", "channels"),
    [("resnet18", 224, 512), ("resnet34", 224, 512), ("resnext50_32x4d", 112, 2048)],
)
def test_other_resnets_by_name(backbone, size, channels, tmp_path):
    extractor = StaticFeatureExtractor(backbone=backbone, weights=None, image_size=size).eval()
    with torch.no_grad():
        assert extractor.tokens(torch.rand(1, 3, size, size)).shape == (1, 49, channels)
    extractor.save(tmp_path / "mine.safetensors")
    again = StaticFeatureExtractor(
        backbone=backbone, weights=tmp_path / "mine.safetensors", image_size=size
    )
    assert again.hash == files.sha256(tmp_path / "mine.safetensors")


def test_the_shipped_head_is_refused_where_the_attributes_have_changed(monkeypatch):
    monkeypatch.setattr("course_lib.models.static.ATTRIBUTES", (*ATTRIBUTES, "Freckles"))
    with pytest.raises(ValueError, match="train it again: python -m"):
        attribute_head(StaticFeatureExtractor())


def test_the_shipped_head_reads_the_attributes_of_unseen_faces():
    static = StaticFeatureExtractor().eval()
    head = attribute_head(static)
    assert head.weight.shape == (len(ATTRIBUTES), 2048)
    assert not head.training
    kept = files.load_tensors(runtime.assets("weights/static_head.safetensors"))[1]
    assert kept["attributes"] == list(ATTRIBUTES)
    faces = FaceDataset(32, "test", 5, "easy", regions=False)
    items = [faces[i] for i in range(32)]
    with torch.no_grad():
        logits = head(static(torch.stack([item["image"] for item in items]), chunk=16))
    target = torch.stack([item["target"] for item in items]).bool()
    majority = torch.maximum(target.float().mean(0), 1 - target.float().mean(0)).mean()
    # half of what the majority gets wrong
    assert ((logits > 0) == target).float().mean() > 0.5 * (1 + majority)
