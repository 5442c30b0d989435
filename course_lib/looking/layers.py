"""What any layer of any model computes, and how far it sees."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import Tensor, nn

from ..models.inference import evaluating, to_cpu, to_model
from ..shapes import Float

__all__ = [
    "effective_receptive_field",
    "record_activations",
    "watch",
]


def record_activations(
    model: nn.Module, layer_names: Iterable[str] | str, *inputs: Any
) -> dict[str, Tensor]:
    """Run `model(*inputs)` once, in evaluation mode, and return what the named layers put out, by
    name, on the CPU.

    Names are those of `model.named_modules()`. A layer used several times keeps its last output; of
    several outputs the first tensor is kept. Raises `ValueError` for a layer that does not exist or
    does not run.
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
    return {name: to_cpu(activations[name]) for name in names}


@contextmanager
def watch(model: nn.Module, layer_names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Fill a dict with the named layers' outputs, gradients included, each time the model runs
    inside the block.
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
            key=lambda candidate: SequenceMatcher(None, name, candidate).ratio(),
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


def effective_receptive_field(
    model: nn.Module,
    layer_name: str,
    images: Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, "height width"]:
    """How much each pixel moves what a layer says at its middle place: mean |gradient|, summing to
    1.

    Source: Luo et al., arXiv 1701.04128. Derived in lesson 01.
    """
    (images,) = to_model(model, images.detach())
    images = images.requires_grad_()
    with evaluating(model), torch.enable_grad(), watch(model, [layer_name]) as activations:
        model(images)
        activation = activations[layer_name]
        row, column = (side // 2 for side in activation.shape[-2:])
        (gradient,) = torch.autograd.grad(activation[..., row, column].sum(), images)
    influence = gradient.abs().sum((0, 1)).cpu()
    return influence / influence.sum()
