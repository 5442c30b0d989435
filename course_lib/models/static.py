"""The static stream: what a face looks like, from a ResNet."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..shapes import Float
from ..world.population import ATTRIBUTES
from .backbones import fill, imagenet_weights, read_weights, save_weights
from .inference import in_chunks

__all__ = [
    "StaticFeatureExtractor",
    "attribute_head",
    "check_images",
    "freeze_first",
    "global_average",
    "to_tokens",
]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def to_tokens(
    feature_map: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch tokens channels"]:
    """One token per place, row by row: token `row * width + column`. Used in lesson 00."""
    return rearrange(feature_map, "batch channels height width -> batch (height width) channels")


def global_average(
    feature_map: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels"]:
    """One vector per image: the mean over places. Source: Lin et al., arXiv 1312.4400."""
    return feature_map.mean(dim=(2, 3))


def freeze_first(network: nn.Module, count: int) -> list[nn.Module]:
    """Freeze the first `count` convolutions and the batch norm after each, and return these layers
    in order.

    Frozen weights ask for no gradient; frozen batch norms are in evaluation mode, because in
    training mode a forward pass alone moves their statistics. For networks like a ResNet, where a
    batch norm follows every convolution. Raises `ValueError` if there are not so many. Derived in
    lesson 01.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)]
    if not 0 <= count <= len(layers) // 2:
        raise ValueError(
            f"freeze={count} convolutions cannot be frozen; this network has {len(layers) // 2}, so"
            f" choose a number from 0 to {len(layers) // 2}"
        )
    for layer in layers[: 2 * count]:
        layer.requires_grad_(False).eval()
    return layers[: 2 * count]


def resize(
    images: Float[Tensor, "batch 3 height width"], side: int
) -> Float[Tensor, "batch 3 side side"]:
    """Square images of another size, smoothed before they shrink.

    Half precision is computed in full, because not every device smooths in half.
    """
    half = images.dtype in (torch.float16, torch.bfloat16)
    values = images.float() if half else images
    return F.interpolate(values, (side, side), mode="bilinear", antialias=True).to(images.dtype)


class StaticFeatureExtractor(nn.Module):
    """Turn face images in [0, 1] into 7×7 tokens or one feature vector each. Built in lesson 01.

    `backbone`: any torchvision ResNet by name. `weights`: "course" (shipped), "imagenet"
    (torchvision's), None (random), or the path of a file written by `save`; `hash` is the SHA-256
    of the file. `freeze`: how many of the first convolutions keep their weights, and their batch
    norms their statistics, during training; 4 by default (conv1 and layer1.0.conv1–3), 0 for random
    weights. `feature_dim`: width of the feature vector through a linear layer; the backbone's own
    if None. `image_size`: 112 or 224, to which images are resized; at 112 the last stage is dilated
    instead of strided. `width_per_group`: 64 in torchvision's ResNet-50; 16 in the course's, and so
    by default for random weights. Source: He et al., arXiv 1512.03385; dilation: Yu et al., arXiv
    1705.09914.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        weights: str | Path | None = "course",
        freeze: int | None = None,
        feature_dim: int | None = None,
        image_size: int = 112,
        width_per_group: int | None = None,
    ):
        super().__init__()
        stored = None
        if weights == "imagenet":
            stored = imagenet_weights(_known(backbone))
            stored = stored._replace(
                tensors={
                    f"backbone.{name}": tensor
                    for name, tensor in stored.tensors.items()
                    if not name.startswith("fc.")
                }
            )
        elif weights is not None:
            stored = read_weights(weights, "weights/static.safetensors")
            if stored.metadata["backbone"] != backbone:
                raise ValueError(
                    f"weights={str(weights)!r} hold a {stored.metadata['backbone']} but backbone="
                    f"{backbone!r} was asked for; give the backbone they hold, or weights=None"
                )
            width_per_group = stored.metadata.get("width_per_group")
            feature_dim = feature_dim or stored.metadata.get("feature_dim")
        elif width_per_group is None and backbone == "resnet50":
            width_per_group = 16

        network = _resnet(backbone, image_size, width_per_group)
        channels = network.fc.in_features
        self.backbone = nn.Sequential(
            OrderedDict(
                (name, layer)
                for name, layer in network.named_children()
                if name not in ("avgpool", "fc")
            )
        )
        self.projection = nn.Linear(channels, feature_dim) if feature_dim else nn.Identity()
        self.feature_dim, self.image_size = feature_dim or channels, image_size
        self.metadata = {
            "backbone": backbone,
            "width_per_group": width_per_group,
            "feature_dim": feature_dim,
        }
        self.hash = stored.hash if stored else None
        if stored:
            fresh = {
                f"projection.{name}": tensor
                for name, tensor in self.projection.state_dict().items()
            }
            fill(self, fresh | stored.tensors, repr(str(weights)))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

        freeze = (0 if weights is None else 4) if freeze is None else freeze
        self.frozen = freeze_first(self.backbone, freeze)

    def train(self, mode: bool = True) -> "StaticFeatureExtractor":
        """Switch to training (or evaluation) mode; frozen batch norms stay in evaluation mode."""
        super().train(mode)
        for layer in self.frozen:
            layer.eval()
        return self

    def feature_map(self, images: Tensor) -> Float[Tensor, "batch channels 7 7"]:
        """The last stage's activations for images `batch 3 height width` in [0, 1] of any size."""
        check_images(images)
        if images.shape[-2:] != (self.image_size, self.image_size):
            images = resize(images, self.image_size)
        return self.backbone((images - self.mean) / self.std)

    def tokens(
        self, images: Tensor, chunk: int | None = None
    ) -> Float[Tensor, "batch 49 channels"]:
        """One token per place, row by row.

        With `chunk` so many images at a time, in evaluation mode and without gradients; the result
        is on the CPU.
        """
        return in_chunks(self, lambda part: to_tokens(self.feature_map(part)), images, chunk)

    def forward(
        self, images: Tensor, chunk: int | None = None
    ) -> Float[Tensor, "batch feature_dim"]:
        """One vector per image, the mean over places; `chunk` as in `tokens`."""
        return in_chunks(
            self,
            lambda part: self.projection(global_average(self.feature_map(part))),
            images,
            chunk,
        )

    def save(self, path: str | Path, **metadata: Any) -> None:
        """Write the weights for `StaticFeatureExtractor(weights=path)`, with any further metadata."""
        save_weights(self, path, **metadata, **self.metadata)


def attribute_head(static: StaticFeatureExtractor) -> nn.Linear:
    """The shipped linear head on the pooled feature: a logit for each of `ATTRIBUTES`, in order.

    Raises `ValueError` if the extractor is not the one whose features it was trained on, or if
    `ATTRIBUTES` have changed since. Derived in lesson 01.
    """
    stored = read_weights("course", "weights/static_head.safetensors")
    channels = stored.tensors["weight"].shape[1]
    if static.hash != stored.metadata["backbone"] or static.feature_dim != channels:
        raise ValueError(
            "the shipped attribute head knows the features of another extractor; build it with "
            "StaticFeatureExtractor(weights='course') and no feature_dim, or train a head on these "
            "features"
        )
    if tuple(stored.metadata["attributes"]) != ATTRIBUTES:
        raise ValueError(
            "the shipped attribute head was trained on other attributes than ATTRIBUTES; train it"
            " again: python -m assets.recipes static"
        )
    head = nn.Linear(channels, len(ATTRIBUTES))
    fill(head, stored.tensors, "the course's attribute head")
    return head.eval()


def _known(backbone: str) -> str:
    """`backbone`, if torchvision has a ResNet of that name."""
    import torchvision

    names = torchvision.models.list_models(include=["resnet*", "resnext*", "wide_resnet*"])
    if backbone not in names:
        raise ValueError(
            f"torchvision has no ResNet called {backbone!r}; choose one of {', '.join(names)}"
        )
    return backbone


def _resnet(backbone: str, image_size: int, width_per_group: int | None) -> nn.Module:
    """A random ResNet whose last stage is 7×7 for images of that size."""
    import torchvision

    if image_size not in (112, 224):
        raise ValueError(f"image_size={image_size} does not give 7×7 tokens; choose 112 or 224")
    options = {} if width_per_group is None else {"width_per_group": width_per_group}
    try:
        return torchvision.models.get_model(
            _known(backbone),
            replace_stride_with_dilation=[False, False, image_size == 112],
            **options,
        )
    except NotImplementedError as error:
        raise ValueError(
            f"the last stage of {backbone} cannot be dilated for image_size=112; choose"
            " image_size=224 or a ResNet with bottlenecks such as resnet50"
        ) from error


def check_images(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images have shape {tuple(images.shape)}; expected batch 3 height width, so add the"
            " batch axis, or move the three colours to the second axis"
        )
    if not images.is_floating_point():
        raise ValueError(
            f"images are {images.dtype}; expected floats in [0, 1], so use images.float() / 255"
        )
    if not images.numel():
        raise ValueError(
            f"the batch of images is empty (shape {tuple(images.shape)}); give at least one image"
        )
    low, high = (bound.item() for bound in images.detach().aminmax())
    # written so that NaN fails too; the margin forgives rounding
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(
            f"image values run from {low:.3g} to {high:.3g}; expected numbers in [0, 1] without"
            " NaN, so divide 8-bit images by 255 and leave the normalisation to the extractor"
        )
