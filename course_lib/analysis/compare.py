"""Models side by side: what they hold, what they compute, what they keep in memory, and how long
they take.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..models.inference import evaluating, to_model
from ..shapes import Float
from .profiling import (
    blocks,
    count_flops,
    data_flow,
    layer_milliseconds,
    milliseconds,
    named_shapes,
    peak_memory,
)

__all__ = [
    "Comparison",
    "LayerProfile",
    "ModelProfile",
    "compare_models",
    "count_by_hand",
    "get_model_summary",
    "get_param_count",
    "profile_model",
]


def count_by_hand(static_dim: int, dynamic_dim: int, fusion_dim: int, num_heads: int) -> int:
    """How many values a `CompletePersonalityModel` of these sizes holds, from arithmetic. Derived
    in lesson 05.
    """

    def linear(inputs: int, outputs: int) -> int:
        return inputs * outputs + outputs

    every_head = num_heads * fusion_dim
    projections = linear(static_dim, fusion_dim) + linear(dynamic_dim, fusion_dim)
    attention = 3 * linear(fusion_dim, every_head) + linear(every_head, fusion_dim)
    layer_norm = 2 * fusion_dim  # scale and shift
    batch_norm = 4 * fusion_dim  # scale and shift, running mean and variance
    head = linear(fusion_dim, 64) + linear(64, 5)
    return projections + attention + layer_norm + batch_norm + head


def get_param_count(model: nn.Module) -> int:
    """How many values a model holds: parameters and running statistics, shared ones once. Derived
    in lesson 05.

    Integers, such as a batch norm's count of batches, are no values; nor are constants that no file
    keeps.
    """
    kept = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}
    return sum(tensor.numel() for tensor in kept.values() if tensor.is_floating_point())


def _trainable(model: nn.Module, recurse: bool = True) -> int:
    return sum(
        parameter.numel() for parameter in model.parameters(recurse) if parameter.requires_grad
    )


def get_model_summary(model: nn.Module) -> str:
    """A table of the layers that hold values: kind, shape of the weight, values, and how many of
    them are trained.

    Derived in lesson 05.
    """
    rows = [("layer", "kind", "weight", "values", "trained")]
    for name, layer in model.named_modules():
        own = [
            tensor
            for key, tensor in layer.state_dict(keep_vars=True).items()
            if "." not in key and tensor.is_floating_point()
        ]
        if own:
            rows.append(
                (
                    name or "(itself)",
                    type(layer).__name__,
                    _by(own[0].shape),
                    f"{sum(tensor.numel() for tensor in own):,}",
                    f"{_trainable(layer, recurse=False):,}",
                )
            )
    rows.append(
        ("all", type(model).__name__, "", f"{get_param_count(model):,}", f"{_trainable(model):,}")
    )
    return _table(rows, left=3)


@dataclass(frozen=True)
class LayerProfile:
    """One layer, or a group read as one: what it holds, what one pass through it costs, and who
    feeds it.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    values: int
    flops: int
    milliseconds: float
    sources: tuple[str, ...]


@dataclass(frozen=True)
class ModelProfile:
    """What a model holds, and what one pass over these inputs costs. Memory is what is alive beside
    the model.
    """

    inputs: dict[str, tuple[int, ...]]
    values: int
    trainable: int
    flops: int
    inference_bytes: int
    training_bytes: int
    milliseconds: Float[np.ndarray, " rounds"]
    layers: tuple[LayerProfile, ...]

    @property
    def latency(self) -> tuple[float, float, float]:
        """Milliseconds of a forward pass: the median, the 5th and the 95th percentile."""
        return tuple(np.percentile(self.milliseconds, (50, 5, 95)).tolist())


@dataclass(frozen=True)
class Comparison:
    """The profiles of two models by name; printed, a table of totals and one of layers for each."""

    profiles: dict[str, ModelProfile]

    def __str__(self) -> str:
        (name_a, a), (name_b, b) = self.profiles.items()
        rows = [("", name_a, name_b, f"{name_b} / {name_a}")]
        for what, field, write in (
            ("values", "values", "{:,}".format),
            ("trained", "trainable", "{:,}".format),
            ("FLOPs", "flops", "{:,}".format),
            ("memory, inference", "inference_bytes", _bytes),
            ("memory, training step", "training_bytes", _bytes),
        ):
            first, second = getattr(a, field), getattr(b, field)
            rows.append(
                (what, write(first), write(second), f"{second / first:.2f}" if first else "")
            )
        slower = f"{b.latency[0] / a.latency[0]:.2f}"
        rows.append(("latency, median", f"{a.latency[0]:.2f} ms", f"{b.latency[0]:.2f} ms", slower))
        rows.append(
            (
                "latency, 5 to 95 %",
                *("{:.2f} to {:.2f} ms".format(*p.latency[1:]) for p in (a, b)),
                "",
            )
        )
        return "\n\n".join(
            [_table(rows, left=1), *(_layer_table(*pair) for pair in self.profiles.items())]
        )

    __repr__ = __str__


def compare_models(
    model_a: nn.Module,
    model_b: nn.Module,
    name_a: str = "A",
    name_b: str = "B",
    save_path: str | Path | None = None,
    inputs_a: Tensor | Sequence[Tensor] | None = None,
    inputs_b: Tensor | Sequence[Tensor] | None = None,
    rounds: int = 30,
) -> Comparison:
    """Measure two models in turns, in evaluation mode; with `save_path`, write a picture (PNG, SVG
    or PDF) there.

    Each model is measured on `inputs_a` or `inputs_b`, the tensors of one forward pass, or else on
    its own `example_inputs()`. Raises `ValueError` if it has none, or if both have one name.
    Derived in lesson 05.
    """
    if name_a == name_b:
        raise ValueError(
            f"both models are called {name_a!r}; give name_a and name_b that tell them apart"
        )
    inputs = [_inputs(model_a, inputs_a, "inputs_a"), _inputs(model_b, inputs_b, "inputs_b")]
    comparison = Comparison(
        dict(zip((name_a, name_b), _profiles([model_a, model_b], inputs, rounds), strict=True))
    )
    if save_path is not None:
        from .compare_pictures import plot_comparison  # it draws what this module measures

        plot_comparison(comparison).save(save_path)
    return comparison


def profile_model(
    model: nn.Module, inputs: Tensor | Sequence[Tensor] | None = None, rounds: int = 30
) -> ModelProfile:
    """Measure one model in evaluation mode, on `inputs` or its own `example_inputs()`. Derived in
    lesson 05.
    """
    return _profiles([model], [_inputs(model, inputs, "inputs")], rounds)[0]


def _inputs(
    model: nn.Module, inputs: Tensor | Sequence[Tensor] | None, argument: str
) -> tuple[Tensor, ...]:
    if inputs is None and not hasattr(model, "example_inputs"):
        raise ValueError(
            f"nobody knows what a {type(model).__name__} takes; give {argument}=(tensor, …), the"
            " tensors of one forward pass, or give the model a method example_inputs()"
        )
    inputs = model.example_inputs() if inputs is None else inputs
    return to_model(model, *((inputs,) if isinstance(inputs, Tensor) else inputs))


def _profiles(
    models: Sequence[nn.Module], inputs: Sequence[tuple[Tensor, ...]], rounds: int
) -> list[ModelProfile]:
    pairs = list(zip(models, inputs, strict=True))
    with evaluating(*models), torch.no_grad():
        latencies = milliseconds(
            [lambda model=model, given=given: model(*given) for model, given in pairs], rounds
        )
        return [
            _profile(*pair, latency, rounds) for pair, latency in zip(pairs, latencies, strict=True)
        ]


def _profile(
    model: nn.Module, inputs: tuple[Tensor, ...], latency: np.ndarray, rounds: int
) -> ModelProfile:
    flops, layers = count_flops(model, inputs), dict(blocks(model)) or {"": model}
    times, flow = (
        layer_milliseconds(model, layers, inputs, rounds),
        data_flow(model, layers, inputs),
    )
    profiles = [
        LayerProfile(
            name or "(itself)",
            type(layers[name]).__name__,
            shape,
            get_param_count(layers[name]),
            flops.get(name, 0),
            times[name],
            sources,
        )
        for name, (shape, sources) in flow.items()
    ]
    rest = LayerProfile(
        "(elsewhere)",
        type(model).__name__,
        (),
        get_param_count(model) - sum(layer.values for layer in profiles),
        flops[""] - sum(layer.flops for layer in profiles),
        math.nan,
        (),
    )
    if rest.values > 0 or rest.flops > 0:
        profiles.append(rest)
    return ModelProfile(
        named_shapes(model, inputs),
        get_param_count(model),
        _trainable(model),
        flops[""],
        peak_memory(model, inputs, training=False),
        peak_memory(model, inputs, training=True),
        latency,
        tuple(profiles),
    )


def _layer_table(name: str, profile: ModelProfile) -> str:
    rows = [(name, "puts out", "values", "FLOPs", "ms")]
    return _table(
        rows
        + [
            (
                layer.name,
                _by(layer.shape),
                f"{layer.values:,}",
                f"{layer.flops:,}",
                f"{layer.milliseconds:.3f}",
            )
            for layer in profile.layers
        ],
        left=1,
    )


def _by(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _bytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _table(rows: Sequence[Sequence[str]], left: int) -> str:
    """Rows as aligned text: the first `left` columns begin at the left, the others end at the
    right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
