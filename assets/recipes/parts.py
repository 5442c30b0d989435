"""`parts`: the part transformer, from drawn faces taken apart."""

import shutil
import warnings
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from course_lib import runtime
from course_lib.data import PartDataset, gather
from course_lib.looking import layer_iou, part_looks, score_localisation
from course_lib.models import PartLayers, PartPipeline, PartTransformer
from course_lib.models.backbones import save_weights
from course_lib.models.inference import evaluating, to_model
from course_lib.recorder import AttentionRecorder
from course_lib.shapes import Float
from course_lib.tables import Table
from course_lib.training import part_loss
from course_lib.world.layers import PARTS, SEEN, part_index

from .common import train_steps, workplace

__all__ = ["parts_table", "write_parts"]

SEED = 40_000  # of everything drawn here, in the split "assets"


def draw_layers(n: int, seed: int, faceless: float = 0.0) -> dict[str, Tensor]:
    """`image`, `layers` (both 0 to 255) and `present` of drawn faces, one tensor each."""
    return gather(
        PartDataset(n, "assets", seed, faceless=faceless),
        "image",
        "layers",
        "present",
        small={"image": torch.uint8, "layers": torch.uint8},
    )


class EncoderAlone(nn.Module):
    """What the tokens of the image know by themselves: `batch parts height width`, as logits."""

    def __init__(self, model: PartTransformer):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Float[Tensor, "batch parts height width"]:
        return self.model.segmentation(self.model.encoder(image))


class WholeModel(EncoderAlone):
    """The clean layers, predicted from noisy ones and from the image's tokens alone."""

    def forward(self, image: Tensor, noisy: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        with sdpa_kernel(SDPBackend.MATH):  # the fused backward is slow in bf16
            tokens = self.model.encoder(image)
            return self.model(noisy, time, tokens), self.model.segmentation(tokens)


class LayerLoss(nn.Module):
    """`part_loss`; of two predictions the second counts half."""

    def __init__(self, weight: Float[Tensor, " parts"]):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor | tuple[Tensor, Tensor], layers: Tensor) -> Float[Tensor, ""]:
        if isinstance(logits, Tensor):
            return part_loss(logits, layers, self.weight)
        whole, by_itself = logits
        return self(whole, layers) + 0.5 * self(by_itself, layers)


def write_parts(
    path: Path,
    faces: int = 8_000,
    encoder_steps: int = 2_000,
    steps: int = 7_000,
    batch: int = 16,
    tested: int = 400,
) -> dict:
    """The encoder learns by itself what its tokens must tell, then the whole model to make layers
    from noise.
    """
    torch.manual_seed(SEED)
    model = PartTransformer()
    data = draw_layers(faces, SEED, faceless=0.05)
    mean = data["layers"].float().mean(0) / 255
    model.base.copy_(mean.clamp(0.002, 0.998).logit())
    weight = mean.mean((1, 2)).clamp(min=1e-3).rsqrt()
    weight /= weight.mean()
    model.to(runtime.default_device(), memory_format=torch.channels_last)

    def draw(generator: torch.Generator, step: int) -> tuple[Tensor, Tensor]:
        items = torch.randint(0, faces, (batch,), generator=generator)
        flip = torch.rand(batch, generator=generator) < 0.5
        image, layers = data["image"][items].float() / 255, data["layers"][items].float() / 255
        for values in (image, layers):
            values[flip] = values[flip].flip(-1)
        return image, layers

    def draw_noisy(generator: torch.Generator, step: int) -> tuple[Tensor, ...]:
        image, layers = draw(generator, step)
        # Early times are the hard ones, and every sample begins with pure noise.
        time = (1.2 * torch.rand(batch, generator=generator) - 0.2).clamp(min=0).square()
        clean, noise = 2 * layers - 1, torch.randn(layers.shape, generator=generator)
        noisy = noise + time[:, None, None, None] * (clean - noise)
        return image, noisy, time, layers

    folders = [workplace("parts_encoder"), workplace("parts_flow")]
    loss = LayerLoss(weight)
    train_steps(EncoderAlone(model), draw, loss, encoder_steps, 2e-3, folders[0], SEED)
    train_steps(
        WholeModel(model), draw_noisy, loss, steps, 1.5e-3, folders[1], SEED + encoder_steps
    )
    save_weights(model.eval(), path, backbone="parts", parts=PARTS)
    unseen = draw_layers(tested, SEED + 1)
    scores = score_layers(model, unseen) | score_attention(model, PartTransformer().eval(), unseen)
    for folder in folders:
        shutil.rmtree(folder)
    return scores


# ---- how good is it, on faces that it never saw? -------------------------------------------------


def _sample(model: PartTransformer, image: Tensor, steps: int = 20, seed: int = 0) -> PartLayers:
    with warnings.catch_warnings():  # a model that knows no face is scored here, not warned of
        warnings.simplefilter("ignore")
        return PartPipeline(model)(image, steps, seed=seed)


def score_layers(
    model: PartTransformer, data: dict[str, Tensor], seeds: tuple[int, ...] = (0, 1000, 2000)
) -> dict:
    """IoU with the true layers over the parts present, and how often parts are invented or missed.

    Means over the sampling seeds; beside them one step instead of twenty, the segmentation that the
    encoder's tokens give without the generator, and the mean layer.
    """
    image, truth = data["image"].float() / 255, data["layers"].float() / 255
    present = data["present"]
    sampled = [_sample(model, image, seed=seed) for seed in seeds]
    with evaluating(model), torch.no_grad():
        (images,) = to_model(model, image)
        by_itself = model.segmentation(model.encoder(images)).sigmoid().cpu()
        mean_layer = model.base.sigmoid().expand_as(truth).cpu()
    part = torch.arange(len(PARTS)).expand_as(present)[present]
    scores = {}
    for name, answers in (
        ("generator", [result.layers for result in sampled]),
        ("one_step", [_sample(model, image, 1).layers]),
        ("segmentation", [by_itself]),
        ("mean_layer", [mean_layer]),
    ):
        iou = torch.stack([layer_iou(answer, truth) for answer in answers])[:, present]
        shown = torch.stack([(answer > 0.5).flatten(2).sum(2) >= SEEN for answer in answers])
        scores |= {f"iou_{name}": iou.mean()} | {
            f"iou_{name}_{PARTS[k]}": iou[:, part == k].mean() for k in range(len(PARTS))
        }
        for k in map(part_index, ("glasses", "beard", "hat")):
            scores |= {
                f"invented_{name}_{PARTS[k]}": shown[:, ~present[:, k], k].float().mean(),
                f"missed_{name}_{PARTS[k]}": 1 - shown[:, present[:, k], k].float().mean(),
            }
    rooms = draw_layers(min(100, len(image)), SEED + 2, faceless=1.0)["image"].float() / 255
    skin = part_index("skin")
    return scores | {
        "iou_between_seeds": layer_iou(sampled[0].layers, sampled[1].layers)[present].nanmean(),
        "sure_of_skin_in_faces": sampled[0].confidence[:, skin].mean(),
        "sure_of_skin_in_rooms": _sample(model, rooms).confidence[:, skin].mean(),
    }


def parts_table(scores: dict[str, float]) -> Table:
    """IoU of the shipped model on unseen faces, by part, beside its baselines, as the README shows
    it.
    """
    rows = [("IoU", "all", *PARTS, "glasses invented", "hats invented")]
    for name in ("generator", "one_step", "segmentation", "mean_layer"):
        overlaps = [scores[f"iou_{name}"], *(scores[f"iou_{name}_{part}"] for part in PARTS)]
        invented = [scores[f"invented_{name}_{part}"] for part in ("glasses", "hat")]
        cells = [*(f"{value:.2f}" for value in overlaps), *(f"{share:.1%}" for share in invented)]
        rows.append((name.replace("_", " "), *cells))
    return Table("", rows)


def score_attention(
    model: PartTransformer,
    untrained: PartTransformer,
    data: dict[str, Tensor],
    faces: int = 48,
    steps: int = 20,
) -> dict:
    """Does a part's attention lie on its true region? Each block and some steps, beside mean map,
    untrained, chance.
    """
    image, truth = data["image"][:faces].float() / 255, data["layers"][:faces].float() / 255
    regions = (truth > 0.5) & data["present"][:faces, :, None, None]
    maps = [_looks(network, image, truth, steps) for network in (model, untrained)]
    scores = {}
    for step, block in product((0, steps // 4, steps - 1), range(len(model.blocks))):
        found = score_localisation(maps[0][step, block], regions, maps[1][step, block])
        scores |= {
            f"{measure}_block{block}_step{step}_{column.replace(' ', '_')}": found.mean(
                measure, column
            )
            for measure in ("pointing", "energy")
            for column in ("map", "mean map", "untrained", "chance")
        }
    return scores


def _looks(model: PartTransformer, image: Tensor, truth: Tensor, steps: int) -> Tensor:
    """`steps blocks batch parts rows columns`: where the tokens that hold a part look in the image."""
    with AttentionRecorder(model, keep="heads") as recording:
        _sample(model, image, steps)
    return part_looks(recording, truth)
