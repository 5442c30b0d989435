"""Class maps: their sums are the predictions, the two ways agree where they must, the score knows
chance.
"""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from course_lib.looking import class_activation_maps, grad_cam, hires_cam


class Pooled(nn.Module):
    """Convolutions, global average pooling, a linear head."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3)
        )
        self.head = nn.Linear(8, 4)

    def forward(self, images):
        return self.head(self.maps(images).mean((2, 3)))


@pytest.fixture
def model():
    return Pooled().eval()


@pytest.fixture
def images():
    return torch.rand(3, 3, 10, 9)


def test_the_mean_of_a_class_activation_map_is_its_logit(model, images):
    with torch.no_grad():
        maps = class_activation_maps(model.maps(images), model.head.weight)
        assert maps.shape == (3, 4, 6, 5)
        assert_close(maps.mean((2, 3)) + model.head.bias, model(images))


def test_grad_cam_is_the_class_activation_map_before_pooling_and_a_linear_head(model, images):
    with torch.no_grad():
        maps = class_activation_maps(model.maps(images), model.head.weight)
    for output in range(4):
        for method in (grad_cam, hires_cam):
            assert_close(30 * method(model, "maps", output, images), maps[:, output])


def test_in_earlier_layers_only_the_place_by_place_map_adds_up(model, images):
    """Without biases the network is piecewise linear, so activation × gradient sums to the output."""
    for layer in model.maps:
        if isinstance(layer, nn.Conv2d):
            layer.bias.data.zero_()
    model.head.bias.data.zero_()
    with torch.no_grad():
        logits = model(images)
    assert_close(hires_cam(model, "maps.2", 1, images).sum((1, 2)), logits[:, 1])
    assert not torch.allclose(
        grad_cam(model, "maps.2", 1, images).sum((1, 2)), logits[:, 1], rtol=0.01
    )


def test_places_keep_their_place(model):
    images = torch.zeros(1, 3, 12, 12)
    images[:, :, 1:4, 8:11] = 1
    background = hires_cam(model, "maps.2", 0, torch.zeros(1, 3, 12, 12))
    difference = (hires_cam(model, "maps.2", 0, images) - background)[0].abs()
    assert difference[5:].sum() == 0
    assert difference[:4, 6:].sum() > 0


def test_frozen_models_and_no_grad_have_maps_and_nothing_is_left_behind(model, images):
    expected = grad_cam(model, "maps.0", 2, images)
    model.requires_grad_(False)
    with torch.no_grad():
        assert_close(grad_cam(model, "maps.0", 2, images), expected)
    assert not images.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(layer._forward_hooks for layer in model.modules())


def test_maps_of_a_video_layer_keep_time():
    model = nn.Sequential(
        nn.Conv3d(2, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2)
    ).eval()
    maps = grad_cam(model, "0", 1, torch.randn(2, 2, 5, 6, 7))
    assert maps.shape == (2, 3, 4, 5)
