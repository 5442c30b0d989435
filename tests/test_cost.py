"""Counts beside arithmetic, costs beside PyTorch's own instruments, the data flow beside what the
code says.
"""

import math

import numpy as np
import pytest
import torch
from refusals import refused
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from course_lib.looking import (
    attention_flops,
    count_flops,
    get_model_summary,
    get_param_count,
    milliseconds,
    peak_memory,
    profile_model,
)
from course_lib.models import CompletePersonalityModel, TokenPersonalityModel
from course_lib.pictures import (
    compare_models,
    plot_architectures,
    plot_comparison,
    plot_costs,
)


def small():
    return TokenPersonalityModel(static_dim=20, dynamic_dim=12, fusion_dim=16, num_heads=2)


# Counting


def test_the_default_model_holds_what_the_course_says():
    model = CompletePersonalityModel()
    assert get_param_count(model) == 371_717
    assert sum(parameter.numel() for parameter in model.parameters()) == 371_461


def test_floats_that_a_file_stores_are_counted_once():
    tied = nn.Sequential(
        nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3)
    )
    tied[1].weight = tied[0].weight
    assert get_param_count(tied) == 9 + 4 * 3  # the counter of batches is an integer
    assert get_param_count(tied.requires_grad_(False)) == 9 + 4 * 3
    tied.register_buffer("colours", torch.ones(3), persistent=False)
    assert get_param_count(tied) == 9 + 4 * 3


def test_the_summary_has_a_line_for_each_layer_with_parameters():
    model = CompletePersonalityModel()
    model.head.layers[0].requires_grad_(False)
    lines = get_model_summary(model).splitlines()
    assert len(lines) == 12
    assert lines[2].split() == [
        "cross_attention.project_dynamic",
        "Linear",
        "128",
        "×",
        "256",
        "32,896",
        "32,896",
    ]
    assert lines[8].split() == ["fusion.norm", "BatchNorm1d", "128", "512", "256"]
    assert lines[9].split()[-2:] == ["8,256", "0"]
    assert lines[-1].split() == ["all", "CompletePersonalityModel", "371,717", "363,205"]
    assert len({len(line) for line in lines}) == 1  # the columns are aligned


def test_the_summary_finds_parameters_that_stand_outside_layers():
    attention = nn.MultiheadAttention(8, 2)
    lines = get_model_summary(attention).splitlines()
    assert lines[1].split() == ["(itself)", "MultiheadAttention", "24", "×", "8", "216", "216"]
    assert lines[-1].split()[-2:] == ["288", "288"]


# Operations


@pytest.mark.parametrize("mask", [False, True])
def test_attention_costs_what_its_two_products_cost(mask):
    query, key, value = torch.randn(2, 3, 7, 8), torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8)
    with FlopCounterMode(display=False) as counter:
        torch.softmax(query @ key.mT, -1) @ value
    assert attention_flops(query.shape, key.shape, value.shape) == counter.get_total_flops() > 0
    wide = torch.randn(2, 3, 5, 13)
    with FlopCounterMode(display=False) as counter:
        (query @ key.mT) @ wide
    assert attention_flops(query.shape, key.shape, wide.shape) == counter.get_total_flops()


def test_fused_attention_is_counted_although_pytorch_takes_it_for_nothing():
    model, inputs = small().eval(), small().example_inputs(3)
    with torch.no_grad():
        flops = count_flops(model, inputs)
        with FlopCounterMode(display=False) as counter:
            model(*inputs)
    attention = attention_flops((3, 2, 49, 8), (3, 2, 8, 8), (3, 2, 8, 8))
    inside = sum(
        flops[f"cross_attention.attention.{name}"]
        for name in ("to_query", "to_key", "to_value", "to_output")
    )
    assert flops["cross_attention.attention"] == inside + attention
    assert flops[""] - counter.get_total_flops() in (attention, 0)  # 0 once PyTorch counts it too
    assert flops["head"] == 3 * 2 * (16 * 64 + 64 * 5)


# Memory


def profiled_peak(step):
    """What PyTorch's profiler saw the CPU's allocator give out and take back."""
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    events = [
        event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum(changes).max())


@pytest.mark.parametrize(
    "build",
    [
        lambda: CompletePersonalityModel().eval(),
        lambda: TokenPersonalityModel().eval(),
        lambda: nn.Sequential(
            nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(inplace=True)
        ),
    ],
    ids=["vectors", "tokens", "layers"],
)
@pytest.mark.parametrize("training", [False, True])
def test_peak_memory_is_what_the_profiler_sees(build, training):
    model = build()
    inputs = (
        model.example_inputs(16) if hasattr(model, "example_inputs") else (torch.randn(32, 64),)
    )

    def step():
        with torch.set_grad_enabled(training):
            output = model(*inputs)
            if training:
                torch.autograd.grad(output.sum(), list(model.parameters()), allow_unused=True)

    assert peak_memory(model, inputs, training) == pytest.approx(profiled_peak(step), rel=0.03)


def test_training_keeps_activations_and_frozen_layers_do_not():
    model = nn.Sequential(*[nn.Sequential(nn.Linear(32, 32), nn.Tanh()) for _ in range(8)])
    inputs = (torch.randn(1000, 32),)
    inference, training = (peak_memory(model, inputs, mode) for mode in (False, True))
    one = 1000 * 32 * 4
    assert 2 * one <= inference < 3.1 * one
    assert training > 8 * one
    assert peak_memory(model.requires_grad_(False), inputs, True) == inference


# Time


def test_latency_is_measured_in_turns_without_the_warming_up():
    called = []
    first, second = milliseconds([lambda: called.append("a"), lambda: called.append("b")], rounds=4)
    assert called == ["a", "b"] * 7
    assert first.shape == second.shape == (4,)
    assert (first > 0).all()


def test_the_slower_model_is_the_slower_one(monkeypatch):
    now = [0]
    monkeypatch.setattr("course_lib.looking.cost.time.perf_counter", lambda: now[0])

    class Taking(nn.Linear):
        """A layer that moves the clock on by so many seconds."""

        def __init__(self, seconds):
            super().__init__(8, 8)
            self.seconds = seconds

        def forward(self, x):
            now[0] += self.seconds
            return super().forward(x)

    inputs = torch.randn(4, 8)
    found = compare_models(Taking(1), Taking(3), "fast", "slow", inputs_a=inputs, inputs_b=inputs)
    assert found.profiles["fast"].latency == (1000, 1000, 1000)
    assert found.profiles["slow"].latency == (3000, 3000, 3000)


# Profiles


def test_a_profile_leaves_the_model_as_it_was():
    model = CompletePersonalityModel()
    model.fusion.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    profile_model(model, rounds=2)
    assert model.training
    assert not model.fusion.training
    assert model.head.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(random, torch.get_rng_state())


def test_layers_add_up_and_say_who_feeds_them():
    profile = profile_model(small(), rounds=2)
    assert (
        sum(layer.parameters for layer in profile.layers)
        == profile.parameters
        == get_param_count(small())
    )
    assert sum(layer.flops for layer in profile.layers) == profile.flops
    assert profile.inputs == {"face_tokens": (8, 49, 20), "motion_tokens": (8, 8, 12)}
    sources = {
        layer.name.removeprefix("cross_attention."): {
            source.removeprefix("cross_attention.") for source in layer.sources
        }
        for layer in profile.layers
    }
    assert sources == {
        "project_face": {"face_tokens"},
        "project_motion": {"motion_tokens"},
        "query_norm": {"project_face"},
        "key_norm": {"project_motion"},
        "attention": {"query_norm", "key_norm", "project_motion"},
        "norm": {"project_face", "attention"},
        "importance": {"norm"},
        "fusion.norm": {"norm", "importance"},
        "fusion.dropout": {"fusion.norm"},
        "head.layers": {"fusion.dropout"},
    }
    shapes = {layer.name: layer.shape for layer in profile.layers}
    assert shapes["cross_attention.attention"] == (8, 49, 16)
    assert shapes["head.layers"] == (8, 5)


class Odd(nn.Module):
    """Values of its own, a shelf, a layer that runs twice, one that never does, and two outputs."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.shelf = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.twice, self.never = nn.Linear(6, 6), nn.Linear(6, 9)

    def forward(self, *inputs):
        x = inputs[0] * self.scale
        for layer in self.shelf:
            x = layer(x)
        return {"once": self.twice(x), "again": self.twice(self.twice(x) @ torch.ones(6, 6))}


def test_what_no_layer_holds_or_computes_is_a_line_of_its_own():
    profile = profile_model(Odd(), torch.randn(4, 6), rounds=2)
    layers = {layer.name: layer for layer in profile.layers}
    assert list(layers) == ["shelf.0", "shelf.1", "twice", "(elsewhere)"]
    assert layers["shelf.0"].sources == ("inputs",)
    assert layers["twice"].sources == ("shelf.1", "twice")
    assert layers["twice"].flops == 3 * 2 * 4 * 6 * 6
    assert layers["(elsewhere)"].parameters == 6 + 6 * 9 + 9
    assert layers["(elsewhere)"].flops == 2 * 4 * 6 * 6
    assert math.isnan(layers["(elsewhere)"].milliseconds)


def test_a_model_in_one_piece_can_be_compared():
    found = compare_models(
        nn.ReLU(), nn.Linear(3, 3), inputs_a=torch.randn(2, 3), inputs_b=torch.randn(2, 3), rounds=2
    )
    assert found.profiles["A"].flops == found.profiles["A"].trainable == 0
    assert found.profiles["A"].training_bytes == found.profiles["A"].inference_bytes
    assert [layer.name for profile in found.profiles.values() for layer in profile.layers] == [
        "(itself)"
    ] * 2
    assert found.profiles["B"].layers[0].flops == 2 * 2 * 3 * 3
    assert "(itself)" in words(plot_comparison(found).figure)


# Comparing


def test_a_comparison_reads_like_a_table():
    text = repr(
        compare_models(
            CompletePersonalityModel(), TokenPersonalityModel(), "vectors", "tokens", rounds=2
        )
    )
    first, *layers = text.split("\n\n")
    assert len(layers) == 2
    rows = {line[:22].strip(): line[22:].split() for line in first.splitlines()}
    assert rows["parameters"] == ["371,717", "491,654", "1.32"]
    assert rows["FLOPs"] == ["5,919,744", "266,869,760", "45.08"]
    assert layers[0].splitlines()[0].split() == [
        "vectors",
        "puts",
        "out",
        "parameters",
        "FLOPs",
        "ms",
    ]
    assert len(layers[1].splitlines()) == 11


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_picture_is_saved_where_it_is_asked_for(tmp_path, suffix):
    path = tmp_path / "new" / f"both.{suffix}"
    compare_models(small(), CompletePersonalityModel(), "a", "b", path, rounds=2)
    assert path.read_bytes().startswith(
        {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    )
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["cmp.html", "cmp", "cmp.gif"])
def test_a_picture_of_another_kind_is_refused_before_the_measuring(name, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "course_lib.pictures.architecture._profiles", lambda *_: pytest.fail("late")
    )
    with pytest.raises(ValueError, match=rf"{name} is no name for this .*; end it in \.png or"):
        compare_models(small(), small(), save_path=tmp_path / name)


def test_bad_input_is_met_with_a_sentence():
    model = CompletePersonalityModel()
    with pytest.raises(ValueError, match="both models are called 'A'; give name_a and name_b"):
        compare_models(model, model, "A", "A")
    with pytest.raises(
        ValueError, match=r"nobody knows what a Linear takes; give inputs_b=\(tensor, …\)"
    ):
        compare_models(model, nn.Linear(2, 2), "a", "b")
    refused(
        "static is 2048 wide", profile_model, model, (torch.zeros(4, 2048), torch.zeros(4, 256))
    )
    assert model.training  # put back although it failed
    with pytest.raises(ValueError, match=r"both\.xyz is no name for this kind of file"):
        compare_models(model, small(), "a", "b", "both.xyz", rounds=1)


# Pictures


@pytest.fixture(scope="module")
def comparison():
    return compare_models(
        CompletePersonalityModel(), TokenPersonalityModel(), "vectors", "tokens", rounds=2
    )


def words(figure):
    figure.canvas.draw()
    found = [text.get_text() for axis in figure.axes for text in (*axis.texts, axis.title)]
    return "\n".join(
        found
        + [text.get_text() for sub in figure.subfigs for axis in sub.axes for text in axis.texts]
    )


def test_the_diagram_names_every_layer_and_draws_every_arrow(comparison):
    picture = plot_architectures(comparison)
    for axis, found in zip(picture.figure.axes, comparison.profiles.values(), strict=True):
        said = "\n".join(text.get_text() for text in axis.texts)
        assert all(layer.name in said for layer in found.layers)
        assert all(name in said for name in found.inputs)
        arrows = [text for text in axis.texts if getattr(text, "arrow_patch", None)]
        assert len(arrows) == sum(len(layer.sources) for layer in found.layers)
        boxes = [(patch.get_x(), patch.get_y()) for patch in axis.patches]
        assert len(set(boxes)) == len(boxes) == len(found.layers)  # none lies on another
    assert (
        "vectors has 7 layers and spends 71% of its operations in cross_attention.attention"
        in picture.description
    )
    assert (
        "tokens has 10 layers and spends 77% of its operations in cross_attention.project_face"
        in repr(picture)
    )


def test_pictures_say_the_numbers_they_show(comparison):
    assert "parameters 372k and 492k; FLOPs 5.92M and 267M" in plot_costs(comparison).description
    whole = plot_comparison(comparison)
    assert "cross_attention.project_face" in words(whole.figure)
    assert "372k" in words(whole.figure)
