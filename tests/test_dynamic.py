"""The dynamic stream: inflation, the still ("boring") video, tokens."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from course_lib.models import (
    I3D,
    DynamicFeatureExtractor,
    boring_video_errors,
    inflate,
    inflate_kernel,
    time_tokens,
)


def settle(network):
    """Give random kernels enough weight that the input reaches the output, and batch norms
    statistics that differ.
    """
    generator = torch.Generator().manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


@pytest.fixture(scope="module")
def googlenet():
    torch.manual_seed(0)
    return settle(torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=False))


@pytest.fixture(scope="module")
def extractor():
    torch.manual_seed(0)
    return DynamicFeatureExtractor(weights=None).eval()


@pytest.fixture
def flow():
    return torch.randn(2, 16, 48, 48, 2, generator=torch.Generator().manual_seed(0))


def still(image, frames):
    return image[:, :, None].expand(-1, -1, frames, -1, -1)


def googlenet_features(network, image):
    for name, layer in network.named_children():
        if name == "avgpool":
            return image
        image = layer(image)


def distance(came, expected):
    """How far apart two tensors are, as a share of the second."""
    return ((came - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("frames", [8, 32])
def test_still_video_equals_the_image_at_every_step(googlenet, frames):
    image, other = torch.rand(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = googlenet_features(googlenet, image)
        volume = I3D(googlenet, channels=3)(still(image, frames))
        zero_padded = I3D(googlenet, channels=3, padding="zeros")(still(image, frames))
        # or equality would say nothing
        assert distance(googlenet_features(googlenet, other), expected) > 0.01
    assert volume.shape[2] == frames // 4
    for step in range(volume.shape[2]):
        assert distance(volume[:, :, step], expected) < 1e-5
        assert distance(zero_padded[:, :, step], expected) > 1e-3


def test_boring_video_errors_are_those_of_a_loop_over_steps(googlenet):
    stem = nn.Sequential(googlenet.conv1, googlenet.maxpool1)
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    for padding, good in (("replicate", True), ("zeros", False)):
        video = inflate(stem, padding)
        with torch.no_grad():
            expected, volume = stem(image), video(still(image, 16))
            errors = boring_video_errors(stem, video, image, frames=16)
        by_hand = [
            (volume[:, :, step] - expected).abs().max() / expected.abs().max() for step in range(4)
        ]
        assert_close(errors, torch.stack(by_hand))
        assert (errors.max() < 1e-5) == good


def test_a_network_that_says_nothing_is_wrong_by_all_there_is():
    class Silent(nn.Module):
        def forward(self, video):
            return torch.zeros(1, 4, video.shape[2], 6, 6)

    # so that every difference is negative
    flat = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    with torch.no_grad():
        errors = boring_video_errors(flat, Silent(), torch.rand(1, 3, 6, 6), frames=5)
    assert_close(errors, torch.ones(5))


def test_an_inflated_kernel_meets_a_still_video_with_the_same_sum():
    kernel, patch = torch.randn(4, 3, 5, 5), torch.rand(3, 5, 5)
    expected = (kernel * patch).sum((1, 2, 3))
    for time in (1, 2, 7):
        inflated = inflate_kernel(kernel, time)
        assert inflated.shape == (4, 3, time, 5, 5)
        assert_close((inflated * patch[:, None]).sum((1, 2, 3, 4)), expected)
        assert (inflated == inflated[:, :, :1]).all()


def test_time_tokens_average_places_only():
    volume = torch.randn(2, 6, 4, 3, 5)
    tokens = time_tokens(volume)
    assert tokens.shape == (2, 4, 6)
    assert_close(tokens[1, 2, 5], volume[1, 5, 2].mean())


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mnasnet0_5"])
def test_inflates_other_networks(name):
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None)
    if name == "densenet121":  # its forward pools with a function of its own
        network = network.features
    network = settle(network)
    if name == "mnasnet0_5":
        network = network.layers
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected, video = network(image), inflate(network)(still(image, 32))
    if video.ndim == 5:
        expected = expected[:, :, None].expand_as(video)
    assert distance(video, expected) < 1e-5


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.sampled_from([1, 2, 3, 5, 7, (1, 7), (7, 1)]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
    frames=st.integers(15, 18),
)
def test_any_convolution_on_a_still_video(kernel, stride, dilation, groups, bias, frames):
    size = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    convolution = nn.Conv2d(
        4, 6, kernel, stride, tuple(side // 2 for side in size), dilation, groups, bias
    )
    image = torch.rand(1, 4, 17, 17)
    with torch.no_grad():
        expected, video = convolution(image), inflate(convolution)(still(image, frames))
    assert_close(video, expected[:, :, None].expand_as(video), atol=1e-5, rtol=1e-5)


def test_inflated_weights_by_hand():
    convolution = nn.Conv2d(2, 3, 3, padding=1)
    inflated = inflate(convolution)
    assert inflated.weight.shape == (3, 2, 3, 3, 3)
    assert_close(inflated.weight.sum(2), convolution.weight)
    assert torch.equal(inflated.bias, convolution.bias)
    assert inflated.bias is not convolution.bias


def test_pools_treat_time_like_space_unless_told():
    network = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.AvgPool2d(3, 1, 1))
    video = torch.rand(1, 2, 16, 16, 16)
    assert inflate(network)(video).shape[2:] == (4, 4, 4)
    assert inflate(network, keep_time=["0"])(video).shape[2:] == (8, 4, 4)
    assert inflate(network, keep_time=["0", "1", "2"])(video).shape[2:] == (16, 4, 4)


def test_inflate_keeps_the_original_mode_and_frozen_weights():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout2d(0.4))
    network[0].requires_grad_(False)
    network[1].eval()
    inflated = inflate(network)
    assert isinstance(network[0], nn.Conv2d)
    assert isinstance(inflated[1], nn.BatchNorm3d)
    assert inflated[2].p == 0.4
    assert not inflated[0].weight.requires_grad
    assert inflated[0].training
    assert not inflated[1].training


def test_parameter_counts():
    assert sum(parameter.numel() for parameter in I3D().parameters()) == 12_265_312
    assert sum(parameter.numel() for parameter in I3D(channels=3).parameters()) == 12_287_264


def test_flow_stem_keeps_the_sum_over_input_channels(googlenet):
    colour, flow = I3D(googlenet, channels=3).conv1.conv.weight, I3D(googlenet).conv1.conv.weight
    assert flow.shape == (64, 2, 7, 7, 7)
    # three channels are colours: kept
    assert_close(colour.sum(2), googlenet.conv1.conv.weight)
    assert_close(flow.sum(1), colour.sum(1))
    assert torch.equal(flow[:, 0], flow[:, 1])


def test_random_kernels_see_time_and_direction():
    stem = I3D().conv1.conv.weight
    assert (stem[:, :, 0] - stem[:, :, 6]).abs().mean() > 0.1 * stem.abs().mean()
    assert (stem[:, 0] - stem[:, 1]).abs().mean() > 0.1 * stem.abs().mean()


def test_small_motion_outweighs_the_stems_epsilon():
    """Half a pixel per frame is .025 after scaling; its variance must survive batch norm's epsilon."""
    stem = I3D().conv1
    response = stem.conv(torch.randn(1, 2, 8, 32, 32) * 0.5 / 20)
    assert response.var() > 10 * stem.bn.eps


def test_tokens_and_features_agree(extractor):
    flow = torch.randn(1, 32, 112, 112, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        volume = extractor.feature_map(flow)
        time = extractor.tokens(flow)
        places = extractor.space_time_tokens(flow)
        feature = extractor(flow)
    assert volume.shape == (1, 1024, 8, 4, 4)
    assert time.shape == (1, 8, 1024)
    assert places.shape == (1, 128, 1024)
    assert_close(places[0, 3 * 16 + 2 * 4 + 1], volume[0, :, 3, 2, 1])
    assert_close(places.unflatten(1, (8, 16)).mean(2), time)
    assert_close(time.mean(1), feature)


def test_clips_at_twenty_pixels_and_sees_direction(extractor, flow):
    with torch.no_grad():
        assert torch.equal(extractor(flow * 100), extractor((flow * 100).clamp(-20, 20)))
        assert not torch.allclose(extractor(flow), extractor(flow.flip(-1)))
        assert_close(extractor.backbone(flow.movedim(-1, 1) / 20).mean((2, 3, 4)), extractor(flow))


def test_smallest_clip_is_the_smallest(extractor):
    frames, height, width = extractor.smallest_clip
    with torch.no_grad():
        assert extractor.tokens(torch.zeros(1, frames, height, width, 2)).shape == (1, 1, 1024)
    for axis in range(3):
        smaller = [side - (axis == k) for k, side in enumerate(extractor.smallest_clip)]
        with pytest.raises(ValueError, match=f"at least {frames} frames of {height}×{width}"):
            extractor(torch.zeros(1, *smaller, 2))
        with pytest.raises(RuntimeError):
            extractor.backbone(torch.zeros(1, 2, *smaller))


def test_dropout_acts_in_training_only(flow):
    extractor = DynamicFeatureExtractor(weights=None, dropout=0.9)
    assert (extractor(flow) == 0).float().mean() > 0.7
    assert torch.equal(extractor.eval()(flow), extractor(flow))


def test_chunks_change_nothing_but_memory(flow):
    extractor = DynamicFeatureExtractor(weights=None)
    batch = torch.cat([flow, flow.flip(1)])[:3]
    chunked = extractor.space_time_tokens(batch, chunk=2)
    assert extractor.training
    assert not chunked.requires_grad
    expected = extractor.eval().space_time_tokens(batch)
    assert ((chunked - expected).norm() / expected.norm()).item() < 1e-5
