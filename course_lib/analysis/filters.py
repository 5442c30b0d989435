"""What a channel looks for: the input that drives it most, found by ascent or among real images,
and what it sees.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..models.inference import evaluating, to_model
from ..shapes import Float, Int
from .activations import record_activations, watch

__all__ = ["effective_receptive_field", "maximise_channels", "strongest_inputs"]


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
