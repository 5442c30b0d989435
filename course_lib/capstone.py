"""The capstone of lesson 11: change one thing, train it from several seeds beside a baseline, and
say what it brought.

A challenge changes the loss, what attention is charged for, which images an epoch shows, or which
faces there are. All else, seeds included, is the baseline's, so gains are differences within pairs.
Derived in lesson 11.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, Sampler
from tqdm import tqdm

from . import runtime
from .analysis.localisation import score_localisation
from .analysis.statistics import effective_support
from .data.arrays import TokenArrays
from .evolution import LDAM_SCALE, predict
from .models.attention import attention_weights, split_heads
from .models.attributes import AttributeDecoder
from .models.inference import evaluating, to_model
from .shapes import Float
from .training.attribute_metrics import best_thresholds, score_attributes, threshold_scores
from .training.callbacks import ClipGradients, WarmupCosine
from .training.fit import fit

__all__ = ["DRAWS", "EPOCHS", "FaceSplits", "Run", "attention_maps", "image_losses", "train_runs"]

EPOCHS, STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 5, 32, 64, 4e-3, 0.02
DRAWS = STEPS * BATCH  # images that an epoch shows
WIDTH, HEADS = 32, 2
SEEDS = (0, 1, 2)
Scores = Mapping[str, Tensor]  # each `seeds attributes`


@dataclass(frozen=True)
class FaceSplits:
    """Cached tokens and targets to train, to choose and to test on, and the names of the
    attributes.

    `regions` may hold, for "valid" and "test", where each attribute that is present is decided in
    the first images: `images attributes height width`. Without them nothing is said about where
    attention points.
    """

    train: TokenArrays
    valid: TokenArrays
    test: TokenArrays
    names: Sequence[str]
    regions: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What a setting scored from each of its seeds, on validation and on test faces, and the
    baseline it is held to.

    `faces` are fingerprints of the two splits, `frequencies` those of the natural training faces,
    and `models` the trained decoders, a seed each.
    """

    name: str
    names: tuple[str, ...]
    frequencies: Float[Tensor, " attributes"]
    seeds: tuple[int, ...]
    scores: Mapping[str, Scores]  # of "valid" and "test"
    faces: Mapping[str, str]
    models: Sequence[nn.Module] = ()
    baseline: "Run | None" = None


def train_runs(
    name: str,
    faces: FaceSplits,
    baseline: Run | None = None,
    *,
    seeds: Sequence[int] = SEEDS,
    loss: Callable[[Tensor, Tensor], Tensor] = F.binary_cross_entropy_with_logits,
    penalty: Callable[[Tensor], Tensor] | None = None,
    sampler: Callable[[int], Sampler] | None = None,
    train: TokenArrays | None = None,
    cosine: bool = False,
) -> Run:
    """Train an attribute decoder from every seed, score it on both splits, and remember what to
    compare it with.

    What is not given is as in the baseline: its seeds, plain cross-entropy, all training faces
    equally often, as many steps. `penalty` takes the attention weights, `batch heads attributes
    tokens`, with their gradient, and is added to the loss; `sampler` is made from the seed; `train`
    replaces the training faces; `cosine` is what `LDAMLoss` needs. Derived in lesson 11.
    """
    seeds = tuple(seeds) if baseline is None else baseline.seeds
    models, found = [], {"valid": [], "test": []}
    for seed in tqdm(seeds, name, mininterval=5):
        model = _train(train or faces.train, seed, loss, penalty, sampler, cosine)
        scores = _score(model, faces, cosine)
        models.append(model)
        for split, kept in found.items():
            kept.append(scores[split])
    stacked = {
        split: {key: torch.stack([one[key] for one in kept]) for key in kept[0]}
        for split, kept in found.items()
    }
    fingerprints = {split: _fingerprint(getattr(faces, split)) for split in found}
    return Run(
        name,
        tuple(faces.names),
        faces.train.targets.mean(0),
        seeds,
        stacked,
        fingerprints,
        models,
        baseline,
    )


def _train(
    train: TokenArrays,
    seed: int,
    loss: Callable,
    penalty: Callable | None,
    sampler: Callable | None,
    cosine: bool,
) -> nn.Module:
    torch.manual_seed(seed)
    count, frequencies = train.targets.shape[1], train.targets.mean(0)
    decoder = AttributeDecoder(train.tokens.shape[-1], count, WIDTH, HEADS, cosine=cosine)
    if not cosine:
        decoder.head.bias.data = torch.logit(frequencies, eps=1e-3)  # begin at the prior
    decoder.to(runtime.default_device())
    drawn = sampler(seed) if sampler else RandomSampler(train, num_samples=DRAWS)
    model, charged = (
        (_WithAttention(decoder), _WithPenalty(loss, penalty)) if penalty else (decoder, loss)
    )
    fit(
        model,
        DataLoader(train, BATCH, sampler=drawn),
        epochs=EPOCHS,
        loss_function=charged,
        seed=seed,
        optimizer=torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        callbacks=[WarmupCosine(0.15), ClipGradients(1.0)],
    )
    return decoder.eval()


class _WithAttention(nn.Module):
    """A decoder that also returns how its queries attend, with the gradient that recorded weights
    do not have.
    """

    def __init__(self, decoder: AttributeDecoder):
        super().__init__()
        self.decoder = decoder

    def forward(
        self, tokens: Tensor
    ) -> tuple[Tensor, Float[Tensor, "batch heads attributes tokens"]]:
        weights, attention = [], self.decoder.layers[-1].attention

        def compute(_, inputs: tuple) -> None:
            weights.append(
                attention_weights(
                    *(
                        split_heads(project(x), HEADS)
                        for project, x in zip(
                            (attention.to_query, attention.to_key), inputs, strict=False
                        )
                    )
                )
            )

        hook = attention.register_forward_pre_hook(compute)
        try:
            return self.decoder(tokens), weights[-1]
        finally:
            hook.remove()


class _WithPenalty(nn.Module):
    """The loss of the logits, and what the attention is charged."""

    def __init__(self, loss: Callable, penalty: Callable):
        super().__init__()
        self.loss, self.penalty = loss, penalty

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins to a loss that wants to know."""
        if hasattr(self.loss, "set_epoch"):
            self.loss.set_epoch(epoch)

    def forward(self, outputs: tuple[Tensor, Tensor], targets: Tensor) -> Float[Tensor, ""]:
        logits, weights = outputs
        return self.loss(logits, targets) + self.penalty(weights)


@torch.no_grad()
def _score(model: nn.Module, faces: FaceSplits, cosine: bool) -> dict[str, Scores]:
    """Everything that is known of a trained model on each split; thresholds come from validation
    and serve the test.
    """
    scale = LDAM_SCALE if cosine else 1
    said = {
        split: (predict(model, getattr(faces, split)) * scale).sigmoid()
        for split in ("valid", "test")
    }
    found = {
        split: score_attributes(said[split], getattr(faces, split).targets, names=faces.names)
        for split in said
    }
    chosen = best_thresholds(said["valid"], faces.valid.targets)
    found["test"]["f1_tuned"] = threshold_scores(said["test"], faces.test.targets, chosen)["f1"]
    for split, regions in faces.regions.items():
        maps = attention_maps(model, getattr(faces, split), len(regions))
        looked = score_localisation(maps, regions).table["pointing"]
        present = getattr(faces, split).targets[: len(maps)] > 0
        found[split] |= {
            "pointing": looked["map"],
            "pointing of the mean map": looked["mean map"],
            "pointing by chance": looked["chance"],
            "tokens": (
                torch.where(present, effective_support(maps.flatten(2)), torch.nan).nanmean(0)
            ),
        }
    return {
        split: {key: values.float() for key, values in scores.items()}
        for split, scores in found.items()
    }


@torch.no_grad()
def attention_maps(
    model: nn.Module, arrays: TokenArrays, first: int
) -> Float[Tensor, "n attributes rows columns"]:
    """Where each attribute's query looks in the first images, the mean over heads."""
    with evaluating(model):
        model(*to_model(model, arrays.tokens[:first]), record=True)
    maps = model.last_attn_weights.cpu()
    side = math.isqrt(maps.shape[-1])
    return maps.unflatten(-1, (side, side))


def _fingerprint(arrays: TokenArrays) -> str:
    """Tells apart the faces of two runs."""
    content = (
        arrays.targets.numpy().tobytes() + arrays.tokens.float().mean((1, 2)).numpy().tobytes()
    )
    return hashlib.sha256(content).hexdigest()[:12]


@torch.no_grad()
def image_losses(model: nn.Module, arrays: TokenArrays) -> Float[Tensor, " images"]:
    """How hard each image is for a trained model: its cross-entropy, the mean over attributes.
    Derived in lesson 11.
    """
    return F.binary_cross_entropy_with_logits(
        predict(model, arrays), arrays.targets.double(), reduction="none"
    ).mean(1)
