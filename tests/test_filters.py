"""What channels look for: ascent finds a known answer, each regulariser does its job, strongest
inputs are found.
"""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from course_lib.looking import effective_receptive_field, maximise_channels, strongest_inputs


@pytest.fixture
def colours():
    """A layer whose channels are red minus the others, and green minus the others; nothing spatial."""
    layer = nn.Conv2d(3, 2, 1, bias=False)
    layer.weight.data = torch.tensor([[2.0, -1, -1], [-1, 2, -1]])[..., None, None]
    return nn.Sequential(layer).eval()


@pytest.fixture
def stripes():
    """A layer of horizontal differences, then a rectifier: any vertical edge drives it."""
    layer = nn.Conv2d(3, 1, (1, 2), bias=False)
    layer.weight.data = torch.tensor([-1.0, 1.0]).expand(1, 3, 1, 2).clone()
    return nn.Sequential(layer, nn.ReLU(inplace=True)).eval()


def high_frequencies(images):
    power = torch.fft.rfft2(images - images.mean((2, 3), keepdim=True)).abs().square()
    frequency = torch.hypot(
        torch.fft.fftfreq(images.shape[2])[:, None], torch.fft.rfftfreq(images.shape[3])
    )
    return ((power * (frequency > 0.125)).sum() / power.sum()).item()


def test_ascent_paints_the_colour_a_channel_wants(colours):
    images = maximise_channels(colours, "0", [0, 1], size=16, steps=60, smoothness=0.0)
    assert images.shape == (2, 3, 16, 16)
    assert 0 <= images.min() < images.max() <= 1
    assert images.mean((2, 3)).argmax(1).tolist() == [0, 1]
    assert colours(images)[0, 0].mean() > 0.8


def test_each_channel_has_its_own_image(colours):
    alone = maximise_channels(colours, "0", [1], size=8, steps=5, jitter=0)
    both = maximise_channels(colours, "0", [1, 0], size=8, steps=5, jitter=0)
    assert not torch.equal(both[0], both[1])
    assert torch.equal(alone, maximise_channels(colours, "0", [1], size=8, steps=5, jitter=0))
    assert not torch.equal(
        alone, maximise_channels(colours, "0", [1], size=8, steps=5, jitter=0, seed=1)
    )


def test_decay_and_smoothness_each_lower_high_frequencies(colours, stripes):
    def share(model, layer, **settings):
        return high_frequencies(
            maximise_channels(model, layer, [0], size=32, steps=20, jitter=0, **settings)
        )

    assert share(colours, "0", decay=1.0, smoothness=0.0) < 0.5 * share(
        colours, "0", decay=0.0, smoothness=0.0
    )
    assert share(stripes, "1", decay=0.0, smoothness=3.0) < 0.8 * share(
        stripes, "1", decay=0.0, smoothness=0.0
    )


def test_jitter_makes_what_counts_survive_a_shift():
    layer = nn.Conv2d(3, 1, 4, stride=4, bias=False)  # sees a shift as another phase
    layer.weight.data = torch.tensor([1.0, -1, 1, -1]).expand(1, 3, 4, 4).clone()
    model = nn.Sequential(layer, nn.Softplus()).eval()

    def kept(jitter):
        image = maximise_channels(
            model, "1", [0], size=16, steps=30, smoothness=0.0, decay=0.0, jitter=jitter
        )
        shifted = torch.stack([model(image.roll(step, 3)).mean() for step in range(4)])
        return (shifted.min() / shifted.max()).item()

    assert kept(8) > 1.5 * kept(0)


def test_the_model_is_left_as_it_was(colours):
    colours.requires_grad_(True)
    maximise_channels(colours, "0", [0], size=8, steps=2)
    strongest_inputs(colours, "0", [0], torch.rand(3, 3, 8, 8))
    effective_receptive_field(colours, "0", torch.rand(3, 3, 8, 8))
    assert colours[0].weight.grad is None
    assert not colours[0]._forward_hooks


def test_strongest_inputs_come_in_order_with_their_maps(colours):
    images = torch.zeros(7, 3, 4, 4)
    images[:, 0] = torch.tensor([0.1, 0.9, 0.3, 0.5, 0.2, 0.7, 0.0])[:, None, None]
    images[5, 0, :2] = 0.8  # 0.75 on average
    best, maps = strongest_inputs(colours, "0", [1, 0], images, count=3, chunk=2)
    assert best.tolist() == [[6, 0, 4], [1, 5, 3]]
    assert maps.shape == (2, 3, 4, 4)
    assert_close(maps[1, 1, :, 0], torch.tensor([1.6, 1.6, 1.4, 1.4]))
    assert_close(maps[0, 1], torch.full((4, 4), -0.1))
    assert strongest_inputs(colours, "0", [0], images, count=50)[0].shape == (1, 7)


def test_a_receptive_field_is_where_the_kernel_reaches():
    model = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)).eval()
    field = effective_receptive_field(model, "1", torch.rand(2, 3, 9, 9))
    assert field.sum().item() == pytest.approx(1)
    inside = torch.zeros(9, 9, dtype=torch.bool)
    inside[2:7, 2:7] = True
    assert (field[inside] > 0).all()
    assert (field[~inside] == 0).all()


def test_channels_that_do_not_exist_get_one_sentence(colours):
    for channels, words in (([2], "from 0 to 1"), ([0, -1], "from 0 to 1"), ([], "no channels")):
        with pytest.raises(ValueError, match=words) as error:
            maximise_channels(colours, "0", channels, size=8, steps=1)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="channels"):
        strongest_inputs(colours, "0", [5], torch.rand(2, 3, 4, 4))
    with pytest.raises(ValueError, match="nearest names"):
        maximise_channels(colours, "7", [0], size=8, steps=1)
