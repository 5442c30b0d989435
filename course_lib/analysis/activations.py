"""What any layer of any model computes: recorded with forward hooks that are always taken off
again.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import Tensor, nn

from ..models.inference import evaluating, to_model
from ..shapes import Float

__all__ = ["activation_correlations", "record_activations", "watch"]


def record_activations(
    model: nn.Module, layer_names: Iterable[str] | str, *inputs: Any
) -> dict[str, Tensor]:
    """Run `model(*inputs)` once, in evaluation mode, and return what the named layers put out, by
    name, on the CPU.

    Names are those of `model.named_modules()`. A layer used several times keeps its last output; of
    several outputs the first tensor is kept. Raises `ValueError` for a layer that does not exist or
    does not run. Derived in lesson 01.
    """
    names = [layer_names] if isinstance(layer_names, str) else list(layer_names)
    with evaluating(model), torch.no_grad(), watch(model, names) as activations:
        model(*to_model(model, *inputs))
    silent = [name for name in names if name not in activations]
    if silent:
        raise ValueError(
            f"layer {silent[0]!r} exists but did not run for this input; choose a layer that the"
            " forward pass calls (a container such as ModuleList never is)"
        )
    return {name: activations[name].cpu() for name in names}


@contextmanager
def watch(model: nn.Module, layer_names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Fill a dict with the named layers' outputs, gradients included, each time the model runs
    inside the block.

    Derived in lesson 01.
    """
    layers = {name: _find(model, name) for name in layer_names}
    activations: dict[str, Tensor] = {}

    def keep_as(name: str):
        def hook(layer: nn.Module, inputs: tuple, output: Any) -> Tensor | None:
            activations[name] = _first_tensor(name, output)
            # The next layer may write in place (torchvision's ReLUs do), so it gets a copy of what is kept.
            return output.clone() if isinstance(output, Tensor) else None

        return hook

    handles = [layer.register_forward_hook(keep_as(name)) for name, layer in layers.items()]
    try:
        yield activations
    finally:
        for handle in handles:
            handle.remove()


def _find(model: nn.Module, name: str) -> nn.Module:
    layers = dict(model.named_modules())
    if name not in layers:
        nearest = sorted(
            filter(None, layers),
            reverse=True,
            key=lambda known: SequenceMatcher(None, name, known).ratio(),
        )[:3]
        raise ValueError(
            f"{type(model).__name__} has no layer {name!r}; the nearest names are "
            f"{', '.join(map(repr, nearest))} (list them all with model.named_modules())"
        )
    return layers[name]


def _first_tensor(name: str, output: Any) -> Tensor:
    parts = (
        output.values()
        if isinstance(output, dict)
        else output
        if isinstance(output, tuple | list)
        else [output]
    )
    for part in parts:
        if isinstance(part, Tensor):
            return part
    raise ValueError(
        f"layer {name!r} puts out {type(output).__name__} without a tensor in it; choose a layer"
        " whose output is a tensor"
    )


def activation_correlations(
    activations: Tensor, predictions: Tensor
) -> Float[Tensor, "channels outputs"]:
    """How each channel goes with each prediction over many items: Pearson's correlation, 0 for a
    constant.

    `activations` are `items channels` (mean over places), `predictions` `items outputs`. Raises
    `ValueError` for other shapes, fewer than two items, or NaN. Derived in lesson 01.
    """
    for name, values in (("activations", activations), ("predictions", predictions)):
        if (
            values.ndim != 2
            or len(values) < 2
            or len(values) != len(activations)
            or not values.isfinite().all()
        ):
            raise ValueError(
                f"{name} of shape {tuple(values.shape)} do not fit; expected finite numbers, items"
                " by columns, for the same two or more items"
            )
    units = [
        nn.functional.normalize(values.double() - values.double().mean(0), dim=0, eps=1e-9)
        for values in (activations, predictions)
    ]
    return (units[0].T @ units[1]).to(activations.dtype)
