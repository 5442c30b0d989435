"""Attributes of photographs: where a model starts, what its training images go through, and for how
long it learns.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .. import runtime
from ..data.arrays import ImageArrays
from ..models.attributes import AttributeModel, NetworkTokens, PointingDecoder, TokenExtractor
from ..models.static import StaticFeatureExtractor
from ..shapes import Float
from .attribute_scores import course_attribute_predictor
from .callbacks import ClipGradients, WarmupCosine, cosine_factor
from .fit import Run, fit
from .losses import TokenLoss, WeightedBCELoss, prior_logits

__all__ = [
    "AugmentedImages",
    "WithinMinutes",
    "augmentation",
    "learn_attributes",
    "learn_photographs",
    "photograph_model",
    "smoothed_prior",
    "start_from",
]

RATE, WEIGHT_DECAY, BATCH = 2e-3, 0.05, 64

# of the decoder: one row an attribute
PER_ATTRIBUTE = (
    "decoder.queries",
    "decoder.head.weight",
    "decoder.head.bias",
    "decoder.token_classifier.weight",
    "decoder.token_classifier.bias",
)


# ---- the images ----------------------------------------------------------------------------------
def augmentation(pixels: int) -> Callable[[Tensor], Tensor]:
    """What a training image goes through, `batch 3 height width` of bytes to floats in [0, 1] of
    `pixels`: part of it, mirrored, in other light, with something in front.
    """
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.RandomResizedCrop(pixels, scale=(0.7, 1.0), ratio=(0.9, 1.1), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomErasing(p=0.25, scale=(0.02, 0.1)),
        ]
    )


class AugmentedImages(ImageArrays):
    """Images in memory, by lists of their numbers, each time changed by `augment`.

    `together` images of a batch share what chance decides, because one call for four images takes
    little longer than one for a single image.
    """

    def __init__(
        self, photographs: ImageArrays, augment: Callable[[Tensor], Tensor], together: int = 4
    ):
        super().__init__(photographs.images, photographs.targets)
        self.augment, self.together = augment, together

    def __getitem__(
        self, index: Sequence[int]
    ) -> tuple[Float[Tensor, "batch 3 height width"], Float[Tensor, "batch attributes"]]:
        parts = self.images[index].split(self.together)
        return torch.cat([self.augment(part) for part in parts]), self.targets[index]

    def __getitems__(self, index: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What a `DataLoader` asks for: a whole batch at once, ready as it is."""
        return self[index]


# ---- the model -----------------------------------------------------------------------------------
def photograph_model(
    names: Sequence[str],
    frequencies: Float[Tensor, " attributes"],
    tokens: str | nn.Module = "learned",
    blocks: int = 4,
) -> AttributeModel:
    """A model of the attributes `names`, of which the training images show these `frequencies`,
    ready to learn from photographs.

    `tokens`: "learned" starts from what the course learned on drawings, with `blocks` more residual
    blocks (each lets a token see 32 pixels further: with 0 attention stays a place, with 4 the
    answers rank better); "imagenet" from torchvision's ResNet-50; or any module with `tokens`,
    `token_dim` and `pixels`, as `NetworkTokens` makes it of a network that you bring. The biases
    begin at the prior. Raises ConnectionError if ImageNet weights are wanted and not to be had,
    ValueError for another word.
    """
    if isinstance(tokens, nn.Module):
        extractor = tokens
    elif tokens == "imagenet":
        extractor = _imagenet_tokens()
    elif tokens == "learned":
        extractor = TokenExtractor(blocks=blocks)
    else:
        raise ValueError(
            f"tokens={tokens!r} is no start for photographs; choose 'learned', 'imagenet' or a"
            " module such as NetworkTokens"
        )
    model = AttributeModel(extractor, PointingDecoder(extractor.token_dim, len(names)))
    if tokens == "learned":
        predictor = course_attribute_predictor()
        start_from(model, names, predictor.model, predictor.names)
    model.decoder.head.bias.data = prior_logits(frequencies)
    return model


def _imagenet_tokens() -> NetworkTokens:
    try:
        network = StaticFeatureExtractor("resnet50", "imagenet", freeze=0, image_size=112)
    except ConnectionError as error:
        raise ConnectionError(
            "ImageNet weights could not be downloaded; try again when the network is there, or"
            " choose tokens='learned', which needs none"
        ) from error
    return NetworkTokens(network.backbone, 112)


def start_from(
    model: AttributeModel, names: Sequence[str], trained: AttributeModel, known: Sequence[str]
) -> None:
    """Copy into `model` what `trained` has under the same name, and, of what has a row an
    attribute, the rows of the attributes that both know.

    What `trained` lacks stays as it is: more blocks begin as the identity, new attributes at
    random.
    """
    own, shared = model.state_dict(), [name for name in names if name in known]
    to, of = ([list(order).index(name) for name in shared] for order in (names, known))
    for name, values in trained.state_dict().items():
        if name in PER_ATTRIBUTE:
            own[name][to] = values[of]
        else:
            own[name].copy_(values)


def smoothed_prior(photographs: ImageArrays) -> Float[Tensor, " attributes"]:
    """The frequencies of the attributes, as if one image more had half of each: never 0 or 1."""
    return (photographs.targets.sum(0) + 0.5) / (len(photographs) + 1)


# ---- the training --------------------------------------------------------------------------------
def learn_photographs(
    model: nn.Module,
    photographs: AugmentedImages,
    schedule: Any = None,
    epochs: int = 12,
    rate: float = RATE,
    callbacks: Iterable[Any] = (),
    seed: int = 0,
) -> nn.Module:
    """Train `model` end to end, where it is, on batches of 64: AdamW, a learning rate with warm-up
    and cosine, gradients clipped at 1.

    What came with ImageNet's weights learns at a tenth of the `rate`. `schedule` is by default
    `WarmupCosine`, over `epochs`; `WithinMinutes` ends the training by itself. Returns the model in
    evaluation mode.
    """
    pretrained = getattr(getattr(model, "backbone", None), "network", nn.Identity())
    slow = list(pretrained.parameters())
    known = {id(parameter) for parameter in slow}
    quick = [parameter for parameter in model.parameters() if id(parameter) not in known]
    groups = [{"params": quick, "lr": rate}] + ([{"params": slow, "lr": rate / 10}] if slow else [])
    device = next(model.parameters()).device
    fit(
        model,
        DataLoader(photographs, BATCH, shuffle=True, drop_last=True, collate_fn=_as_it_is),
        epochs=epochs,
        loss_function=TokenLoss(WeightedBCELoss()),
        optimizer=torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY),
        callbacks=[schedule or WarmupCosine(0.1), ClipGradients(1.0), *callbacks],
        precision=None
        if device.type == "cpu"
        else runtime.precision_of(device).replace("fp32", "no"),
        seed=seed,
    )
    return model.eval()


def learn_attributes(
    photographs: ImageArrays,
    names: Sequence[str],
    tokens: str | nn.Module = "learned",
    blocks: int = 4,
    epochs: int | None = None,
) -> AttributeModel:
    """The whole way in one call, on the course's device: `photograph_model`, `augmentation`,
    `learn_photographs`. Used in lessons 08, 09 and 12.

    `epochs` are eight on a CPU, thirty on a GPU. Eight of eight thousand photographs of 64 pixels
    are a thousand steps, about four minutes of one core with "learned" tokens, three times that
    where the core is shared. "imagenet" is for a GPU, on photographs of 112 pixels.
    """
    model = photograph_model(names, smoothed_prior(photographs), tokens, blocks)
    images = AugmentedImages(photographs, augmentation(model.backbone.pixels))
    epochs = epochs or runtime.scale(cpu=8, gpu=30)
    return learn_photographs(model.to(runtime.default_device()), images, epochs=epochs)


def _as_it_is(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch


class WithinMinutes:
    """Warm up and cool down over so many minutes of this process's computing, then end the run.

    For models of different cost that are to get the same time; on a GPU take epochs instead,
    because the process only waits for it.
    """

    def __init__(self, minutes: float, warmup: float = 0.1):
        if not minutes > 0:
            raise ValueError(f"minutes is {minutes}; expected more than 0, such as 5")
        self.minutes, self.warmup = minutes, warmup

    def start(self, run: Run) -> None:
        self.started = time.process_time()

    def share(self) -> float:
        """The share of the time that is over."""
        return (time.process_time() - self.started) / (60 * self.minutes)

    def batch_ready(self, run: Run) -> None:
        factor = cosine_factor(min(999, int(1000 * self.share())), 1000, self.warmup)
        for group in run.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor

    def after_step(self, run: Run) -> None:
        if self.share() >= 1:
            run.stop = f"{self.minutes:g} CPU minutes are over"
