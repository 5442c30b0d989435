"""`capstone`, for lesson 14: what do its four challenges gain, at the lesson's own budget?

The baseline and the starter of each challenge, from eight paired seeds: the lesson's decoder and its
loop, which stand in the notebook in the same words. The rows of the baseline are those that a
student's own runs are compared with.
"""

import time
from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.data import RandomSampler, Subset, WeightedRandomSampler

from course_lib import files, runtime
from course_lib.data import (
    EnrichedFaces,
    FaceDataset,
    TokenArrays,
    easiest_weights,
    faces_to_draw,
    load_images,
    rarest_weights,
)
from course_lib.lessons.capstone import is_rare, score_row
from course_lib.lessons.lesson_14 import MyLoss
from course_lib.models.inference import to_model
from course_lib.shapes import Float
from course_lib.tables import Table
from course_lib.training import (
    best_thresholds,
    cosine_factor,
    course_attribute_predictor,
    head_diversity_penalty,
    over_seeds,
    paired_gain,
    prior_logits,
)
from course_lib.world import ATTRIBUTES

from .common import known_regions, workplace

__all__ = ["ARMS", "SEEDS", "capstone_table", "run_arm"]

SEEDS = range(8)
SIZES = {"train": 2_400, "valid": 1_200, "test": 1_600}
WITH_REGIONS = 250  # validation and test faces on which attention is scored
EPOCHS, STEPS, BATCH, RATE = 5, 32, 64, 4e-3
DRAWS = STEPS * BATCH

bce = F.binary_cross_entropy_with_logits


# ---- the faces -----------------------------------------------------------------------------------


def _natural(part: str) -> FaceDataset:
    return FaceDataset(SIZES[part], part, size=56, regions=False)


def _tokens(part: str, draw: Callable) -> TokenArrays:
    """The tokens of some faces, computed once and read from a file after that."""
    path = workplace("capstone") / f"{part}.safetensors"
    if not path.exists():
        arrays = load_images(draw())
        backbone = course_attribute_predictor().model.backbone.to(runtime.default_device())
        with torch.no_grad():
            tokens = [
                backbone(images.to(runtime.default_device())).cpu() for images in arrays.batches()
            ]
        files.save_tensors(path, {"tokens": torch.cat(tokens).half(), "targets": arrays.targets})
    tensors, _ = files.load_tensors(path)
    return TokenArrays(tensors["tokens"], tensors["targets"])


@cache
def faces(part: str) -> TokenArrays:
    """The tokens of a split."""
    return _tokens(part, lambda: _natural(part))


@cache
def richer_faces(share: float) -> TokenArrays:
    """The training faces, and so many drawn ones that each rare attribute is in `share` of all."""
    train, few = faces("train"), is_rare(ATTRIBUTES)
    counts = faces_to_draw(train.targets[:, few].sum(0), len(train), share).tolist()
    names = [name for name, rare in zip(ATTRIBUTES, few, strict=True) if rare]
    wanted = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]

    def draw() -> Subset:
        everything = len(train) + len(wanted)
        enriched = EnrichedFaces(_natural("train"), wanted, len(wanted) / everything)
        return Subset(enriched, range(len(train), len(enriched)))

    drawn = _tokens(f"drawn {share}", draw)
    return TokenArrays(
        torch.cat([train.tokens, drawn.tokens]), torch.cat([train.targets, drawn.targets])
    )


@cache
def _regions(part: str) -> Tensor:
    return known_regions(FaceDataset(WITH_REGIONS, part, size=56))


# ---- the lesson's model and loop -----------------------------------------------------------------


class Decoder(nn.Module):
    """One learned query for each attribute; gives the logits, and where each head of each query
    looks.
    """

    def __init__(
        self,
        token_dim: int = 96,
        attributes: int = len(ATTRIBUTES),
        dim: int = 32,
        heads: int = 2,
    ):
        super().__init__()
        self.heads = heads
        self.project = nn.Sequential(
            nn.LayerNorm(token_dim), nn.Linear(token_dim, dim), nn.LayerNorm(dim)
        )
        self.positions = nn.Parameter(0.02 * torch.randn(49, dim))
        self.queries = nn.Parameter(0.3 * torch.randn(attributes, dim))
        self.to_query, self.to_key, self.to_value, self.out = (
            nn.Linear(dim, dim) for _ in range(4)
        )
        self.norm = nn.LayerNorm(dim)
        self.weight = nn.Parameter(torch.randn(attributes, dim) / dim**0.5)
        self.bias = nn.Parameter(torch.zeros(attributes))

    def forward(
        self, tokens: Float[Tensor, "batch tokens token_dim"]
    ) -> tuple[Float[Tensor, "batch attributes"], Float[Tensor, "batch heads attributes tokens"]]:
        values = self.project(tokens)
        q = self.split(self.to_query(self.queries))
        k = self.split(self.to_key(values + self.positions))
        v = self.split(self.to_value(values))
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        got = rearrange(weights @ v, "batch heads attributes dim -> batch attributes (heads dim)")
        answers = self.norm(self.queries + self.out(got))
        return (answers * self.weight).sum(-1) + self.bias, weights

    def split(self, x: Tensor) -> Tensor:
        return rearrange(x, "... n (heads dim) -> ... heads n dim", heads=self.heads)


def shuffled(data: TokenArrays, epoch: int, seed: int) -> list[int]:
    """The numbers of the faces that one epoch shows, in a random order."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    return list(RandomSampler(data, num_samples=DRAWS, generator=generator))


def drawn_by(shares: Float[Tensor, " images"], epoch: int, seed: int) -> list[int]:
    """The same, with replacement, each face as often as its share says."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    return list(WeightedRandomSampler(shares, DRAWS, generator=generator))


def train(
    loss: Callable = bce,
    penalty: Callable | None = None,
    sampler: Callable = shuffled,
    data: TokenArrays | None = None,
    seed: int = 0,
) -> Decoder:
    """Train a new decoder; biases begin at the prior of the natural faces."""
    data, device, step = data or faces("train"), runtime.default_device(), 0
    torch.manual_seed(seed)
    model = Decoder(attributes=data.targets.shape[1])
    model.bias.data = prior_logits(faces("train").targets.mean(0))
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.02)
    for epoch in range(EPOCHS):
        for batch in torch.tensor(sampler(data, epoch, seed)).split(BATCH):
            optimizer.param_groups[0]["lr"] = RATE * cosine_factor(step, EPOCHS * STEPS, 0.15)
            tokens, targets = data[batch]
            logits, weights = model(tokens.to(device))
            value = loss(logits, targets.to(device))
            if penalty:
                value = value + penalty(weights)
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    return model.eval()


@torch.no_grad()
def answers(
    model: Decoder, data: TokenArrays
) -> tuple[Float[Tensor, "n attributes"], Float[Tensor, "n heads attributes tokens"]]:
    """Probabilities of all faces, and where the queries look in the first of them."""
    logits = [model(*to_model(model, tokens))[0].cpu() for tokens in data.batches()]
    first = data[torch.arange(min(WITH_REGIONS, len(data)))][0]
    weights = model(*to_model(model, first))[1].cpu()
    return torch.cat(logits).double().sigmoid(), weights


# ---- what is tried -------------------------------------------------------------------------------


def ranking_loss(
    logits: Float[Tensor, "batch attributes"], targets: Float[Tensor, "batch attributes"]
) -> Float[Tensor, ""]:
    """Cross-entropy, and a charge for every face without an attribute that is ahead of one with it."""
    ahead = logits[None] - logits[:, None]  # faces with it, faces without it, attributes
    pairs = targets[:, None] * (1 - targets[None])
    charges = (pairs * F.softplus(ahead)).sum((0, 1)) / pairs.sum((0, 1)).clamp(min=1)
    return bce(logits, targets) + charges.mean()


@cache
def _frequencies() -> Float[Tensor, " attributes"]:
    return faces("train").targets.mean(0)


def class_balanced(beta: float = 0.999) -> Float[Tensor, " attributes"]:
    """The weight of a yes: what the images without an attribute are worth, over those with it."""
    have = len(faces("train")) * _frequencies()
    worth, worth_without = (1 - beta**have), (1 - beta ** (len(faces("train")) - have))
    return (worth_without / worth).to(runtime.default_device())


@cache
def _losses() -> Float[Tensor, " images"]:
    """How hard each training face is for the baseline of seed 0."""
    probabilities, _ = answers(train(), faces("train"))
    return F.binary_cross_entropy(
        probabilities, faces("train").targets.double(), reduction="none"
    ).mean(1)


def easy_first(data: TokenArrays, epoch: int, seed: int) -> list[int]:
    """The easiest 30 % in the first epoch, in equal steps all in the last."""
    return drawn_by(easiest_weights(_losses(), 0.3 + 0.7 * epoch / (EPOCHS - 1)), epoch, seed)


def balanced(data: TokenArrays, epoch: int, seed: int) -> list[int]:
    """Faces with rare attributes more often."""
    return drawn_by(rarest_weights(data.targets), epoch, seed)


def balanced_first(data: TokenArrays, epoch: int, seed: int) -> list[int]:
    """From the balanced sampler to all faces alike, in equal steps."""
    natural = epoch / (EPOCHS - 1)
    shares = (1 - natural) * rarest_weights(data.targets) + natural / len(data)
    return drawn_by(shares, epoch, seed)


ARMS: dict[str, Callable[[], dict]] = {  # what of `train` differs from the baseline
    "baseline": dict,
    "margins": lambda: {"loss": MyLoss(_frequencies()).to(runtime.default_device())},
    "class-balanced weights": lambda: {"loss": partial(bce, pos_weight=class_balanced())},
    "ranking loss": lambda: {"loss": ranking_loss},
    "overlap penalty × 1": lambda: {"penalty": head_diversity_penalty},
    "easy first": lambda: {"sampler": easy_first},
    "balanced first": lambda: {"sampler": balanced_first},
    "balanced sampler": lambda: {"sampler": balanced},
    "drawn faces": lambda: {"data": richer_faces(0.07)},
}


def run_arm(arm: str, seed: int) -> list[dict]:
    """Two rows: an arm and a seed, on validation and on test faces."""
    started = time.time()
    model = train(**ARMS[arm](), seed=seed)
    seconds = round(time.time() - started, 1)
    thresholds = best_thresholds(answers(model, faces("valid"))[0], faces("valid").targets)
    rows = []
    for split in ("valid", "test"):
        probabilities, weights = answers(model, faces(split))
        scores = score_row(
            probabilities,
            faces(split).targets,
            ATTRIBUTES,
            weights=weights,
            regions=_regions(split),
            thresholds=thresholds if split == "test" else None,
        )
        rows.append({"split": split, "seconds": seconds, **scores})
    return rows


COLUMNS = {"AP rare": 1, "AP common": 1, "F1 rare, tuned": 1, "calibration error": -1}


def capstone_table(rows: list[dict]) -> Table:
    """The baseline, and what each arm gains on the test faces: means over seeds with 95 %
    intervals.
    """
    test = [row | {"remedy": row["arm"]} for row in rows if row["split"] == "test"]
    lines = [("arm", *COLUMNS)]
    for arm in ARMS:
        cells = []
        for score, sign in COLUMNS.items():
            if arm == "baseline":
                mean, half = over_seeds([row[score] for row in test if row["arm"] == arm])
                cells.append(f"{mean:.3f} ± {half:.3f}")
            else:
                mean, half = paired_gain(test, arm, score, "baseline")
                cells.append(f"{sign * mean:+.3f} ± {half:.3f}")
        lines.append((arm, *cells))
    return Table("", lines)
