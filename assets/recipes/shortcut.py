"""`shortcut`, for lesson 11: which measures notice that a model uses a mark in the background?

Every person is drawn without glasses and with them, and a blue stamp near the edge of the image goes
with the glasses in a share of the training images. What a decoder uses is known from interventions:
flip the stamp and keep the face, or put on the glasses and keep the stamp. Then every measure of the
lesson is taken from each model.
"""

import math
import time
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import files, runtime
from course_lib.data import hard_faces, to_image
from course_lib.looking import (
    attention_relevance,
    attention_rollout,
    blurred,
    energy,
    intervention_effect,
    pointing_game,
    randomise_layers,
    rank_correlation,
    score_faithfulness,
    superiority,
)
from course_lib.models import AttributeDecoder, VisualizableCrossAttention
from course_lib.models.inference import in_chunks
from course_lib.recorder import AttentionRecorder
from course_lib.shapes import Bool, Float
from course_lib.tables import Table
from course_lib.training import over_seeds, shipped_decoders
from course_lib.world import ATTRIBUTES, draw_face

from .common import workplace

__all__ = ["SETTINGS", "run_model", "shortcut_table"]

ATTRIBUTE = "Eyeglasses"
STRENGTHS = (0.5, 0.8, 0.95, 1.0)  # in how many of the training images stamp and glasses agree
SEEDS = 6
SETTINGS = tuple(
    {"decoder": decoder, "strength": strength, "seed": seed}
    for decoder in ("separate tokens", "mixed tokens")
    for seed in range(2 * SEEDS)
    for strength in STRENGTHS
    # the second half of the seeds has useless stamps only: models that must look like the first half
    if seed < SEEDS or strength == STRENGTHS[0]
)
PEOPLE = {"train": 800, "test": 200}
STAMP, BLUE = 6, (0.0, 0.0, 1.0)
DIM, BATCH, EPOCHS, LEARNING_RATE, WEIGHT_DECAY = 48, 64, 6, 2e-3, 0.02
HIDDEN = (0, 1, 2, 4, 8, 16, 49)  # tokens, if there are 49
CURVES = 60  # images that deletion and insertion hide


# ---- the world -----------------------------------------------------------------------------------


def pairs(part: str, people: int) -> dict[str, Tensor]:
    """Each person without glasses, then with: `images`, `labels` and the `regions` of the glasses,
    empty where there are none.
    """
    faces, images, regions = hard_faces(part, people), [], []
    for k in range(people):
        seed, tone, labels = faces.person(k)
        for worn in (labels - {ATTRIBUTE}, labels | {ATTRIBUTE}):
            portrait = draw_face(worn, seed, 56, "hard", tone=tone)
            images.append(to_image(portrait.image))
            regions.append(torch.from_numpy(portrait.regions[ATTRIBUTES.index(ATTRIBUTE)]))
    labels = torch.tensor([False, True]).repeat(people)
    return {
        "images": torch.stack(images),
        "labels": labels,
        "regions": torch.stack(regions) & labels[:, None, None],
    }


def stamp(
    images: Float[Tensor, "batch 3 height width"], seed: int
) -> tuple[Tensor, Bool[Tensor, "batch height width"]]:
    """A blue square near one edge of each image, somewhere along it; the images and where it is."""
    random = torch.Generator().manual_seed(seed)
    stamped, where = images.clone(), torch.zeros(images[:, 0].shape, dtype=torch.bool)
    last = images.shape[-1] - STAMP
    for image, mask in zip(stamped, where, strict=True):
        along, near, edge = (
            int(torch.randint(low, high, (), generator=random))
            for low, high in ((2, last - 1), (2, 5), (0, 4))
        )
        row, column = ((near, along), (along, near), (last - near, along), (along, last - near))[
            edge
        ]
        place = slice(row, row + STAMP), slice(column, column + STAMP)
        image[:, *place] = torch.tensor(BLUE)[:, None, None]
        mask[place] = True
    return stamped, where


@cache
def _world() -> tuple[dict[str, dict[str, Tensor]], nn.Module]:
    """Both parts with their stamped copies and the tokens of each, drawn once, and the extractor."""
    extractor = shipped_decoders()["pointing"].backbone.eval().to(runtime.default_device())
    parts = {}
    for number, (part, people) in enumerate(PEOPLE.items()):
        path = workplace("shortcut") / f"{part}.safetensors"
        if not path.exists():
            data = pairs(part, people)
            data["stamped"], data["where"] = stamp(data["images"], number)
            for name in ("images", "stamped"):
                data[f"{name} tokens"] = extractor.tokens(data[name], chunk=250)
            files.save_tensors(path, data)
        parts[part] = files.load_tensors(path)[0]
    return parts, extractor


# ---- the models ----------------------------------------------------------------------------------


class Mixing(nn.Module):
    """A decoder whose tokens attend to each other twice before the query looks at them."""

    def __init__(self, token_dim: int, dim: int = DIM, layers: int = 2, tokens: int = 49):
        super().__init__()
        self.project = nn.Linear(token_dim, dim)
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(layers))
        self.mix = nn.ModuleList(
            VisualizableCrossAttention(dim, dim, dim, heads=4, record=False) for _ in range(layers)
        )
        self.decoder = AttributeDecoder(dim, 1, dim, tokens=tokens)

    def forward(self, tokens: Float[Tensor, "batch tokens token_dim"]) -> Float[Tensor, "batch 1"]:
        tokens = self.project(tokens) + self.positions
        for norm, attention in zip(self.norms, self.mix, strict=True):
            normed = norm(tokens)
            tokens = tokens + attention(normed, normed, normed)
        return self.decoder(tokens)


DECODERS = {
    "separate tokens": lambda token_dim, tokens: AttributeDecoder(token_dim, 1, DIM, tokens=tokens),
    "mixed tokens": lambda token_dim, tokens: Mixing(token_dim, tokens=tokens),
}


class Reader(nn.Module):
    """Images to the logit: the extractor, which does not learn here, and a decoder on its tokens."""

    def __init__(self, extractor: nn.Module, decoder: nn.Module):
        super().__init__()
        self.extractor, self.decoder = extractor, decoder

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1"]:
        return self.decoder(self.extractor(images))


def train(decoder: str, strength: float, seed: int) -> nn.Module:
    """A decoder that learned from images whose stamp agrees with the label in a share `strength`."""
    parts, extractor = _world()
    data = parts["train"]
    count, tokens, token_dim = data["images tokens"].shape
    torch.manual_seed(seed)
    model = DECODERS[decoder](token_dim, tokens)
    stamped = data["labels"] == (torch.rand(count) < strength)
    inputs = torch.where(stamped[:, None, None], data["stamped tokens"], data["images tokens"])
    targets, device = data["labels"].float(), runtime.default_device()
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for _ in range(EPOCHS):
        for batch in torch.randperm(count).split(BATCH):
            optimizer.zero_grad()
            logits = model(inputs[batch].to(device))[:, 0]
            F.binary_cross_entropy_with_logits(logits, targets[batch].to(device)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return Reader(extractor, model).eval()


# ---- the maps ------------------------------------------------------------------------------------


def maps_of(model: Reader, tokens: Tensor) -> dict[str, Float[Tensor, "batch rows columns"]]:
    """Five maps of the one logit, from the tokens of the images."""
    tokens = tokens.to(next(model.parameters()).device).detach().requires_grad_()
    with torch.enable_grad(), AttentionRecorder(model.decoder, gradients=True) as recording:
        (gradient,) = torch.autograd.grad(model.decoder(tokens).sum(), tokens)
    *mixing, last = recording.records
    tokens = tokens.detach()
    flow = attention_rollout([record.weights for record in mixing]) if mixing else None
    attention = last.weights.mean(1)
    maps = {
        "attention": attention[:, 0],
        "attention × gradient": attention_relevance(last.weights, last.gradient)[:, 0],
        "rollout": (attention if flow is None else attention @ flow)[:, 0],
        "Grad-CAM": (tokens * gradient.mean(1, keepdim=True)).sum(-1).clamp(min=0).cpu(),
        "HiResCAM": (tokens * gradient).sum(-1).clamp(min=0).cpu(),
    }
    side = math.isqrt(tokens.shape[1])
    return {name: values.unflatten(-1, (side, side)) for name, values in maps.items()}


# ---- the measures --------------------------------------------------------------------------------


def run_model(decoder: str, strength: float, seed: int) -> list[dict]:
    """One row: what one trained model uses, and what every measure says of it."""
    started = time.time()
    parts, extractor = _world()
    model = train(decoder, strength, seed)
    seconds = round(time.time() - started)
    torch.manual_seed(100 + seed)
    fresh = Reader(extractor, DECODERS[decoder](*_shape(parts))).to(runtime.default_device()).eval()
    row = {"seconds": seconds, **uses(model, parts["test"]), **says(model, fresh, parts["test"])}
    return [{name: round(float(value), 4) for name, value in row.items()}]


def _shape(parts: dict) -> tuple[int, int]:
    """The width of a token and their number."""
    _, tokens, token_dim = parts["train"]["images tokens"].shape
    return token_dim, tokens


def uses(model: Reader, test: dict[str, Tensor]) -> dict[str, Float[Tensor, ""]]:
    """What moves the probability: the stamp, on the same face, and the glasses, under the same stamp;
    and how often the answer is right.
    """
    labels, decoder = test["labels"], model.decoder
    plain, stamped = test["images tokens"], test["stamped tokens"]
    by_stamp = intervention_effect(decoder, plain, stamped)
    by_glasses = torch.cat(
        [intervention_effect(decoder, some[~labels], some[labels]) for some in (plain, stamped)]
    )
    agreeing = torch.where(labels[:, None, None], stamped, plain)
    opposed = torch.where(labels[:, None, None], plain, stamped)
    right = {
        name: (in_chunks(decoder, decoder, tokens, 250)[:, 0] > 0).eq(labels).float().mean()
        for name, tokens in (("agrees", agreeing), ("disagrees", opposed), ("is absent", plain))
    }
    return {
        "effect of the stamp": by_stamp.mean(),
        "effect of the glasses": by_glasses.mean(),
        **{f"accuracy where the stamp {name}": share for name, share in right.items()},
    }


def says(
    model: Reader, fresh: Reader, test: dict[str, Tensor]
) -> dict[str, Float[Tensor, ""] | float]:
    """What each measure says, on stamped faces with glasses."""
    some = test["labels"]
    images, tokens = test["stamped"][some], test["stamped tokens"][some]
    glasses, where = test["regions"][some], test["where"][some]
    maps = maps_of(model, tokens)
    scores = {
        "attention points at the glasses": pointing_game(maps["attention"], glasses).nanmean(),
        "attention's energy on the glasses": energy(maps["attention"], glasses).nanmean(),
    }
    for kind, values in maps.items():
        scores[f"energy on the stamp, {kind}"] = energy(values, where).mean()
    faithful = score_faithfulness(
        model,
        images[:CURVES],
        torch.ones(CURVES, 1),
        {kind: maps[kind][:CURVES, None] for kind in ("attention", "attention × gradient")},
        removed=[count * tokens.shape[1] // 49 for count in HIDDEN],
    )
    for kind in ("attention", "attention × gradient"):
        for measure in ("deletion", "insertion"):
            gain, _, _ = faithful.gain(measure, kind, "mean map")
            scores[f"{measure} by {kind}, over the mean map"] = gain
    hidden = torch.where(glasses[:, None], blurred(images), images)
    scores["blur the glasses"] = -intervention_effect(model, images, hidden).mean()
    random = maps_of(randomise_layers(model, fresh, [_head(model)]), tokens)
    for kind in ("attention", "attention × gradient"):
        before, after = maps[kind].flatten(1), random[kind].flatten(1)
        scores[f"same map with a random head, {kind}"] = rank_correlation(before, after).nanmean()
    pair = maps["attention"].flatten(1), maps["attention × gradient"].flatten(1)
    scores["attention agrees with attention × gradient"] = rank_correlation(*pair).nanmean()
    return scores


def _head(model: Reader) -> str:
    """The classifier's name, by which it is untrained."""
    return next(name for name, _ in model.named_modules() if name.endswith("head"))


# ---- the table -----------------------------------------------------------------------------------

MEASURES = (
    "attention points at the glasses",
    "attention's energy on the glasses",
    "energy on the stamp, attention",
    "energy on the stamp, attention × gradient",
    "energy on the stamp, rollout",
    "energy on the stamp, Grad-CAM",
    "energy on the stamp, HiResCAM",
    "deletion by attention, over the mean map",
    "insertion by attention, over the mean map",
    "deletion by attention × gradient, over the mean map",
    "insertion by attention × gradient, over the mean map",
    "blur the glasses",
    "same map with a random head, attention",
    "same map with a random head, attention × gradient",
    "attention agrees with attention × gradient",
)


def shortcut_table(rows: Sequence[dict]) -> Table:
    """The effect of the stamp, and of each measure the share of pairs in which the model that met an
    informative stamp has the larger value than one that met a useless stamp.
    """

    def values(decoder: str, strength: float, name: str) -> Tensor:
        chosen = [
            row[name]
            for row in rows
            if row["decoder"] == decoder and row["strength"] == strength and row["seed"] < SEEDS
        ]
        return torch.tensor(chosen, dtype=torch.float64)

    columns = [(decoder, strength) for decoder in DECODERS for strength in STRENGTHS[1:]]
    lines = [("", *(f"{decoder}, {strength:.0%}" for decoder, strength in columns))]
    effects = [over_seeds(values(*column, "effect of the stamp").tolist()) for column in columns]
    lines.append(("effect of the stamp", *(f"{mean:.2f} ± {half:.2f}" for mean, half in effects)))
    for measure in MEASURES:
        shares = [
            superiority(values(*column, measure), values(column[0], STRENGTHS[0], measure))
            for column in columns
        ]
        lines.append((measure, *(f"{share:.2f}" for share in shares)))
    return Table("", lines)
