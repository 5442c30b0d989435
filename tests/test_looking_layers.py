"""Recorded activations: what the layer really computed, whatever follows it, and nothing left
behind.
"""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from course_lib.looking import (
    effective_receptive_field,
    record_activations,
    watch,
)
from course_lib.models import I3D
from course_lib.pictures import plot_depth, visualize_feature_maps


class Split(nn.Module):
    """A layer with two outputs, one with a dict, one that never runs, and one that is used twice."""

    def __init__(self):
        super().__init__()
        self.two = nn.LSTM(3, 4, batch_first=True)
        self.named = Named()
        self.idle = nn.ModuleList([nn.Linear(1, 1)])
        self.relu = nn.ReLU()
        self.words = Words()

    def forward(self, x):
        heard, _ = self.two(x)
        self.words(x)
        return self.relu(self.relu(self.named(heard)["first"]) - 1)


class Named(nn.Module):
    def forward(self, x):
        return {"label": "x", "first": x + 1, "second": x}


class Words(nn.Module):
    def forward(self, x):
        return "no tensor"


@pytest.fixture
def network():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 1)
    ).eval()


def hooks(model):
    return sum(len(layer._forward_hooks) for layer in model.modules())


def test_records_what_each_layer_puts_out_although_relu_writes_in_place(network):
    x = torch.randn(2, 3, 6, 6)
    activations = record_activations(network, ["0", "1", "2", "3"], x)
    with torch.no_grad():
        for name, layer in network.named_children():
            x = layer(x.clone())
            assert_close(activations[name], x)
    assert activations["1"].min() < 0 <= activations["2"].min()
    assert not any(activation.requires_grad for activation in activations.values())


def test_recording_changes_neither_output_nor_mode_nor_hooks(network):
    x, seen = torch.randn(2, 3, 6, 6), []
    handle = network.register_forward_hook(
        lambda layer, inputs, output: seen.append(output.detach())
    )
    network(x)
    record_activations(network, ["0", "1", "2"], x)
    assert torch.equal(*seen)
    handle.remove()
    for mode in (True, False):
        record_activations(network.train(mode), "0", x)
        assert network.training is mode
    assert hooks(network) == 0


def test_hooks_go_when_the_model_fails(network):
    with pytest.raises(RuntimeError):
        record_activations(network, "0", torch.randn(2, 7, 6, 6))
    with pytest.raises(ValueError, match="no layer 'nine'"):
        record_activations(network, ["0", "nine"], torch.randn(2, 3, 6, 6))
    assert hooks(network) == 0


def test_several_outputs_dicts_and_layers_used_twice():
    model, x = Split(), torch.randn(2, 5, 3)
    activations = record_activations(model, ("two", "named", "relu"), x)
    assert list(activations) == ["two", "named", "relu"]
    assert_close(activations["named"], activations["two"] + 1)
    assert_close(activations["relu"], (activations["named"].relu() - 1).relu())


def test_three_dimensional_layers_and_gradients_inside_watch():
    model = I3D().eval()
    name = next(name for name, layer in model.named_modules() if isinstance(layer, nn.Conv3d))
    flow = torch.randn(1, 2, 8, 32, 32)
    activation = record_activations(model, name, flow)[name]
    assert activation.ndim == 5
    with watch(model, [name]) as activations:
        model(flow)
    assert activations[name].requires_grad
    assert_close(activations[name].detach(), activation)


def test_feature_maps_are_drawn_and_written(network, tmp_path):
    images = torch.rand(3, 3, 8, 8)
    picture = visualize_feature_maps(network, "0", images, tmp_path, 2)
    assert "The 2 channels of 0 that vary most, of 4, each 6 × 6 places" in picture.description
    assert (tmp_path / "feature_maps_0.png").stat().st_size > 1000
    drawn = [axis for axis in picture.figure.axes if axis.images]
    assert [axis.get_title() for axis in drawn][::3] == ["input"] * 3
    assert len(drawn) == 3 * 3


def test_the_most_varied_channels_come_first_and_keep_one_scale():
    layer = nn.Conv2d(3, 3, 1, bias=False)
    layer.weight.data = torch.diag(torch.tensor([1.0, 5.0, 0.0]))[..., None, None]
    images = torch.zeros(2, 3, 4, 4)
    images[0, :, 0, 0], images[1, :, 0, 0] = 1, 0.5
    picture = visualize_feature_maps(nn.Sequential(layer), "0", images, max_maps=2)
    titles = [axis.get_title() for axis in picture.figure.axes]
    assert titles == ["input", "1", "0"] * 2
    first, second = (picture.figure.axes[place].images[0].get_array() for place in (1, 4))
    assert first[0, 0].sum() > second[0, 0].sum() > first[1, 1].sum()
    assert "1 channels say the same everywhere" in picture.description


def test_feature_maps_over_time_and_without_maps():
    model = nn.Sequential(nn.Conv3d(2, 4, 1), nn.Flatten(2), nn.Flatten()).eval()
    picture = visualize_feature_maps(model, "0", torch.rand(2, 2, 3, 5, 5), max_maps=4)
    assert sum(bool(axis.images) for axis in picture.figure.axes) == 3 * 4
    for layer, maps in (("1", 4), ("2", 4), ("0", 0)):
        with pytest.raises(ValueError, match="choose one or more, and a layer with maps"):
            visualize_feature_maps(model, layer, torch.rand(2, 2, 3, 5, 5), max_maps=maps)


def test_other_pictures_say_what_they_show(network):
    image = torch.rand(1, 3, 8, 8)
    picture = plot_depth(record_activations(network, ["0", "2"], image), image[0], 2)
    assert "2 6 × 6 places, " in picture.description
    assert sum(bool(axis.images) for axis in picture.figure.axes) == 1 + 2 * 2


def test_a_receptive_field_is_where_the_kernel_reaches():
    model = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)).eval()
    field = effective_receptive_field(model, "1", torch.rand(2, 3, 9, 9))
    assert field.sum().item() == pytest.approx(1)
    inside = torch.zeros(9, 9, dtype=torch.bool)
    inside[2:7, 2:7] = True
    assert (field[inside] > 0).all()
    assert (field[~inside] == 0).all()
