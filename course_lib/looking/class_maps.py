"""Class maps: which places of an image raise one output of a network."""

from typing import Any

import torch
from einops import einsum
from torch import Tensor, nn

from ..models.inference import evaluating, to_cpu, to_model
from ..shapes import Float
from .layers import watch

__all__ = ["class_activation_maps", "grad_cam", "hires_cam"]


def class_activation_maps(
    feature_map: Float[Tensor, "batch channels height width"],
    weights: Float[Tensor, "attributes channels"],
) -> Float[Tensor, "batch attributes height width"]:
    """What each place adds to each output of a linear head on the mean feature.

    The mean over places, plus the head's bias, is the output itself. Signed: negative places speak
    against. Source: Zhou et al., arXiv 1512.04150. Derived in lesson 01.
    """
    return einsum(
        feature_map,
        weights,
        "batch channels height width, attributes channels -> batch attributes height width",
    )


def grad_cam(
    model: nn.Module, layer_name: str, output: int, *inputs: Any
) -> Float[Tensor, "batch ..."]:
    """A class map of any layer: its channels, weighted by the mean gradient of column `output` of
    `model(*inputs)`.

    Signed; the paper keeps the positive part. Where only a mean over places and a linear head
    follow the layer, it is the class activation map divided by the number of places. In evaluation
    mode, because in training mode batch norm mixes the images. Raises `ValueError` for a layer that
    does not exist or has no places (`batch channels height width`, or with time in front), and an
    output that the model does not have or that the layer cannot reach. Source: Selvaraju et al.,
    arXiv 1610.02391. Derived in lesson 01.
    """
    activation, gradient = _activation_and_gradient(model, layer_name, output, inputs)
    places = tuple(range(2, activation.ndim))
    return (activation * gradient.mean(places, keepdim=True)).sum(1)


def hires_cam(
    model: nn.Module, layer_name: str, output: int, *inputs: Any
) -> Float[Tensor, "batch ..."]:
    """Activation × gradient place by place, summed over channels: Grad-CAM without the mean over
    places.

    That mean forgets *where* a channel matters, which loses nothing only just before global average
    pooling. Errors as in `grad_cam`. Source: Draelos and Carin, arXiv 2011.08891. Derived in lesson
    01.
    """
    activation, gradient = _activation_and_gradient(model, layer_name, output, inputs)
    return (activation * gradient).sum(1)


def _activation_and_gradient(
    model: nn.Module, layer_name: str, output: int, inputs: tuple
) -> tuple[Tensor, Tensor]:
    # The inputs ask for a gradient so that frozen layers get one too.
    inputs = tuple(
        (
            value.detach().requires_grad_()
            if isinstance(value, Tensor) and value.is_floating_point()
            else value
        )
        for value in to_model(model, *inputs)
    )
    with evaluating(model), torch.enable_grad(), watch(model, [layer_name]) as activations:
        outputs = model(*inputs)
        if outputs.ndim != 2 or not 0 <= output < outputs.shape[1]:
            raise ValueError(
                f"output {output} does not exist in a model output of shape {tuple(outputs.shape)};"
                " expected batch outputs, and a column counted from 0"
            )
        chosen = outputs[:, output].sum()
    activation = activations.get(layer_name)
    if activation is None or activation.ndim < 4:
        shape = "did not run" if activation is None else f"puts out {tuple(activation.shape)}"
        raise ValueError(
            f"layer {layer_name!r} {shape}, so it has no places; choose a layer with maps, batch"
            " channels height width"
        )
    (gradient,) = torch.autograd.grad(chosen, activation, allow_unused=True)
    if gradient is None:
        raise ValueError(
            f"output {output} does not depend on layer {layer_name!r}; choose a layer on the way"
            " to it"
        )
    return to_cpu(activation.detach()), to_cpu(gradient)
