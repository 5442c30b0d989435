"""`parts`: the part transformer, from drawn faces taken apart.

Two photographs go in, and the layers of *one* of the two people come out; which one, only the noise
decides. A seventh layer says who it is: full for the person on the left, else empty. The measures are
of the six parts and were fixed before the first evaluation:

- `lead`, the deciding one: the overlap (IoU of layers, mean over the parts that this person
  shows) with the nearer of the two people, minus the overlap with the other. An average of the two
  overlaps both alike, so blurring does not help. The ceiling is what the true layers have.
- `overlap`: the first of the two numbers alone.
- `undecided`: the share of the pixels that either person covers where the answer is between 0.2 and
  0.8. The true layers have some, at their edges.
- `both_drawn`: the share of pairs of which both people are drawn at least once in eight seeds (a
  fair coin: 0.992); `left` is the share of samples that draw the person on the left.

Steps are worth their time if twenty have a larger lead than one.
"""

import shutil
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from course_lib import runtime
from course_lib.data import PartDataset, gather
from course_lib.looking import person_overlap
from course_lib.models import (
    LAYERS,
    PartPipeline,
    PartTransformer,
    drawn_layers,
    shifted_time,
    with_side,
)
from course_lib.models.backbones import save_weights
from course_lib.shapes import Float
from course_lib.tables import Table
from course_lib.training import part_loss

from .common import train_steps, workplace

__all__ = ["parts_table", "write_parts"]

SEED = 40_000  # of everything drawn here, in the split "assets"


def draw_layers(n: int, seed: int) -> dict[str, Tensor]:
    """`image` and the model's `layers` of drawn faces, 0 to 255."""
    data = gather(
        PartDataset(n, "assets", seed),
        "image",
        "layers",
        small={"image": torch.uint8, "layers": torch.uint8},
    )
    return data | {"layers": drawn_layers(data["layers"].float()).round().byte()}


class EncoderAlone(nn.Module):
    """What the tokens of a photograph know by themselves: `batch parts height width`, as logits."""

    def __init__(self, model: PartTransformer):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Float[Tensor, "batch parts height width"]:
        return self.model.segmentation(self.model.encoder.photograph(image))


class Generator(nn.Module):
    """Clean layers from noisy ones and from the tokens of photographs, two and two."""

    def __init__(self, model: PartTransformer):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        return self.model(noisy, time, self.model.encoder.side_by_side(tokens))


class PartLoss(nn.Module):
    """`part_loss` with the weights of the parts."""

    def __init__(self, weight: Float[Tensor, " parts"]):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, layers: Tensor) -> Float[Tensor, ""]:
        return part_loss(logits, layers, self.weight[: layers.shape[1]])


def write_parts(
    path: Path,
    faces: int = 4_000,
    encoder_steps: int = 600,
    steps: int = 3_000,
    batch: int = 16,
    tested: int = 400,
) -> dict:
    """First the encoder learns to see and is frozen. Then the blocks learn to make layers from noise."""
    torch.manual_seed(SEED)
    model = PartTransformer()
    data = draw_layers(faces, SEED)
    mean = data["layers"].float().mean(0) / 255
    model.base.copy_(with_side(mean[None], torch.full((1,), 0.5))[0].clamp(0.002, 0.998).logit())
    area = mean.mean((1, 2)).clamp(min=1e-3)
    weight = area.rsqrt() / area.rsqrt().mean()
    weight = torch.cat([weight, torch.ones(1)])
    model.to(runtime.default_device(), memory_format=torch.channels_last)
    # each face also in the mirror
    image, layers = (torch.cat([values, values.flip(-1)]) for values in data.values())

    def draw(generator: torch.Generator, step: int) -> tuple[Tensor, Tensor]:
        items = torch.randint(0, len(image), (batch,), generator=generator)
        return image[items].float() / 255, layers[items].float() / 255

    folders = [workplace("parts_encoder"), workplace("parts_flow")]
    loss = PartLoss(weight)
    train_steps(EncoderAlone(model), draw, loss, encoder_steps, 3e-3, folders[0], SEED, "no")
    tokens = encoded(model, image)

    def draw_noisy(generator: torch.Generator, step: int) -> tuple[Tensor, ...]:
        pairs = torch.randint(0, len(image), (batch, 2), generator=generator)
        clean = layers[pairs[:, 0]].float() / 255
        if step < steps // 5:  # learn to read first: the same person twice
            pairs[:, 1] = pairs[:, 0]
        # the person to be drawn is on the left or on the right
        left = torch.rand(batch, generator=generator) < 0.5
        pairs[~left] = pairs[~left].flip(1)
        clean = with_side(clean, left.float())
        time = shifted_time(torch.rand(batch, generator=generator))
        noise = torch.randn(clean.shape, generator=generator)
        noisy = noise + time[:, None, None, None] * (2 * clean - 1 - noise)
        return tokens[pairs.flatten()].float(), noisy, time, clean

    train_steps(
        Generator(model), draw_noisy, loss, steps, 2e-3, folders[1], SEED + encoder_steps, "no"
    )
    save_weights(model.eval(), path, backbone="parts", parts=LAYERS)
    scores = score_layers(model, draw_layers(tested, SEED + 1))
    for folder in folders:
        shutil.rmtree(folder)
    return scores


@torch.no_grad()
def encoded(model: PartTransformer, image: Tensor) -> Float[Tensor, "batch tokens dim"]:
    """The tokens of photographs (0 to 255), in half precision: the encoder no longer changes."""
    model.eval()
    device = next(model.parameters()).device
    return torch.cat(
        [
            model.encoder.photograph(part.to(device).float() / 255).half().cpu()
            for part in image.split(100)
        ]
    )


# ---- how good is it, on people that it never saw? ------------------------------------------------


STEPS = (1, 2, 4, 8, 20, 50)
SEEDS = 8


def pairs_of(data: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Photographs two and two side by side, `batch 3 height 2·height`, and the layers of both
    people, `batch people parts height width`.
    """
    image, layers = data["image"].float() / 255, data["layers"].float() / 255
    pair = rearrange(
        image, "(batch people) rgb rows columns -> batch rgb rows (people columns)", people=2
    )
    return pair, layers.unflatten(0, (-1, 2))


def score_layers(model: PartTransformer, data: dict[str, Tensor]) -> dict[str, Tensor]:
    """The measures above, for several numbers of steps; eight seeds for one and for twenty."""
    pair, people = pairs_of(data)
    scores = {"ceiling_lead": true_lead(people)}
    for steps in STEPS:
        seeds = range(SEEDS if steps in (1, 20) else 2)
        drawn = [PartPipeline(model)(pair, steps, seed=1_000 * seed).layers for seed in seeds]
        overlaps = torch.stack([person_overlap(layers, people) for layers in drawn])
        nearer, other = overlaps.max(-1).values, overlaps.min(-1).values
        left = overlaps[..., 0] > overlaps[..., 1]  # seeds batch
        scores |= {
            f"lead_{steps}": (nearer - other).mean(),
            f"overlap_{steps}": nearer.mean(),
            f"undecided_{steps}": torch.stack(
                [undecided(layers, people) for layers in drawn]
            ).mean(),
            f"left_{steps}": left.float().mean(),
        }
        if len(seeds) == SEEDS:
            scores[f"both_drawn_{steps}"] = (left.any(0) & ~left.all(0)).float().mean()
    true = torch.cat([undecided(people[:, k], people) for k in range(2)])
    mean_layer = model.base.sigmoid().cpu().expand(len(people), -1, -1, -1)
    of_mean = person_overlap(mean_layer, people)
    return scores | {
        "undecided_true": true.mean(),
        "overlap_mean_layer": of_mean.max(-1).values.mean(),
        "lead_mean_layer": (of_mean.max(-1).values - of_mean.min(-1).values).mean(),
    }


def true_lead(people: Float[Tensor, "batch people parts height width"]) -> Float[Tensor, ""]:
    """What perfect layers would have: an overlap of 1 with one person, and that of the two people."""
    return 1 - person_overlap(people[:, 0], people)[:, 1].mean()


def undecided(layers: Tensor, people: Tensor) -> Float[Tensor, " batch"]:
    """The share of the pixels that either person covers where the answer is between 0.2 and 0.8."""
    covered = (people > 0.5).any(1)
    layers = layers[:, : people.shape[2]]
    between = (layers > 0.2) & (layers < 0.8) & covered
    return between.flatten(1).sum(1) / covered.flatten(1).sum(1)


def parts_table(scores: dict[str, float]) -> Table:
    """The measures by the number of steps, on unseen pairs, as the README shows them."""
    rows = [("steps", "lead", "overlap", "undecided pixels", "draws the left")]
    for steps in STEPS:
        values = [scores[f"{name}_{steps}"] for name in ("lead", "overlap", "undecided", "left")]
        rows.append((str(steps), *(f"{value:.2f}" for value in values)))
    rows.append(
        (
            "mean layer",
            f"{scores['lead_mean_layer']:.2f}",
            f"{scores['overlap_mean_layer']:.2f}",
            "",
            "",
        )
    )
    rows.append(
        (
            "true layers",
            f"{scores['ceiling_lead']:.2f}",
            "1.00",
            f"{scores['undecided_true']:.2f}",
            "",
        )
    )
    return Table("", rows)
