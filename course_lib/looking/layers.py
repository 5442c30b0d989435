"""What any layer of any model computes, and what a channel looks for."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import Tensor, nn

from ..models.inference import evaluating, to_cpu, to_model
from ..shapes import Float, Int

__all__ = [
    "activation_correlations",
    "effective_receptive_field",
    "maximise_channels",
    "record_activations",
    "strongest_inputs",
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


@torch.enable_grad()
def maximise_channels(
    model: nn.Module,
    layer_name: str,
    channels: Sequence[int],
    size: int = 112,
    steps: int = 40,
    jitter: int = 8,
    smoothness: float = 30.0,
    decay: float = 1.0,
    seed: int = 0,
) -> Float[Tensor, "channels 3 size size"]:
    """One image for each channel of a layer, in [0, 1], that drives the channel's mean activation
    up.

    Three regularisers make it readable. `jitter`: it is shifted by up to that many pixels before
    each step, so that what counts must survive a shift. `decay`: the ascent is on the spectrum,
    where a frequency f takes steps proportional to 1 / f**decay, as natural images have it.
    `smoothness`: the price of total variation, in units of activation for a mean difference of 1
    between neighbours. All three at 0 are plain ascent on pixels. Raises `ValueError` for a channel
    that the layer does not have. Source: Olah, Mordvintsev and Schubert, "Feature Visualization"
    (2017); total variation: Mahendran and Vedaldi, arXiv 1412.0035. Derived in lesson 01.
    """
    if not len(channels):
        raise ValueError(
            f"there are no channels to maximise; give some that layer {layer_name!r} has, counted"
            " from 0"
        )
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)).clamp(
        min=1 / size
    )
    share = frequency**-decay
    share /= share.square().mean().sqrt()  # so that steps are as large for every decay
    spectrum = 0.05 * torch.randn(len(channels), 3, *frequency.shape, 2, generator=generator)
    spectrum.requires_grad_()
    optimizer = torch.optim.Adam([spectrum], lr=0.1)

    def image() -> Tensor:
        """On the CPU, because the random numbers are: they are the same wherever the model is."""
        return torch.sigmoid(
            torch.fft.irfft2(torch.view_as_complex(spectrum) * share, (size, size), norm="ortho")
        )

    for _ in range(steps):
        picture = image()
        shift = torch.randint(-jitter, jitter + 1, (2,), generator=generator).tolist()
        with evaluating(model), watch(model, [layer_name]) as activations:
            model(*to_model(model, picture.roll(shift, (2, 3))))
        activation = _mean_over_places(activations[layer_name].cpu(), layer_name, channels)
        variation = picture.diff(dim=2).abs().mean() + picture.diff(dim=3).abs().mean()
        loss = smoothness * len(channels) * variation - activation.diagonal().sum()
        (spectrum.grad,) = torch.autograd.grad(loss, spectrum)
        optimizer.step()
    return image().detach()


def strongest_inputs(
    model: nn.Module,
    layer_name: str,
    channels: Sequence[int],
    images: Float[Tensor, "items 3 height width"],
    count: int = 6,
    chunk: int = 32,
) -> tuple[Int[Tensor, "channels count"], Float[Tensor, "channels count rows columns"]]:
    """For each channel the images that drive its mean activation most, strongest first, and its
    maps of them.

    Raises `ValueError` for a channel that the layer does not have. Source: Zeiler and Fergus, arXiv
    1311.2901. Derived in lesson 01.
    """
    maps, means = [], []
    for part in images.split(chunk):
        activation = record_activations(model, layer_name, part)[layer_name]
        means.append(_mean_over_places(activation, layer_name, channels))
        maps.append(activation[:, list(channels)])
    best = torch.cat(means).topk(min(count, len(images)), dim=0).indices.T
    return best, torch.cat(maps).transpose(0, 1)[torch.arange(len(channels))[:, None], best]


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


def _mean_over_places(
    activation: Tensor, layer_name: str, channels: Sequence[int]
) -> Float[Tensor, "batch channels"]:
    count = activation.shape[1]
    wrong = [channel for channel in channels if not 0 <= channel < count]
    if wrong:
        raise ValueError(
            f"channels {list(channels)} were asked for, but layer {layer_name!r} has {count};"
            f" choose some from 0 to {count - 1}"
        )
    return activation[:, list(channels)].flatten(2).mean(2)
