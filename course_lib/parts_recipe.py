"""How the shipped part transformer is made: from drawn faces taken apart, resumable, within an hour
on two cores.
"""

import warnings
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from . import runtime
from .data.arrays import gather
from .data.drawn import PartDataset
from .looking.localisation import score_localisation
from .looking.parts import layer_iou, part_looks
from .models.backbones import save_weights
from .models.parts import PartLayers, PartPipeline, PartTransformer
from .recorder.recorder import AttentionRecorder
from .training.fit import fit_steps
from .training.losses import part_loss
from .world.layers import PARTS, SEEN, part_index

__all__ = ["draw_layers", "parts_table", "score_attention", "score_layers", "write_parts"]

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
    model = PartTransformer().to(memory_format=torch.channels_last)
    data = draw_layers(faces, SEED, faceless=0.05)
    mean = data["layers"].float().mean(0) / 255
    model.base.copy_(mean.clamp(0.002, 0.998).logit())
    weight = mean.mean((1, 2)).clamp(min=1e-3).rsqrt()
    weight /= weight.mean()

    def pick() -> tuple[Tensor, Tensor]:
        items, flip = torch.randint(0, faces, (batch,)), torch.rand(batch) < 0.5
        image, layers = data["image"][items].float() / 255, data["layers"][items].float() / 255
        for values in (image, layers):
            values[flip] = values[flip].flip(-1)
        return image, layers

    def encoder_loss(step: int) -> Tensor:
        image, layers = pick()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model.segmentation(model.encoder(image))
        return part_loss(logits.float(), layers, weight)

    def flow_loss(step: int) -> Tensor:
        image, layers = pick()
        # Early times are the hard ones, and every sample begins with pure noise.
        time = (1.2 * torch.rand(batch) - 0.2).clamp(min=0).square()
        clean, noise = 2 * layers - 1, torch.randn_like(layers)
        noisy = noise + time[:, None, None, None] * (clean - noise)
        # the fused backward is slow in bf16
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            tokens = model.encoder(image)
            logits, by_itself = model(noisy, time, tokens), model.segmentation(tokens)
        return part_loss(logits.float(), layers, weight) + 0.5 * part_loss(
            by_itself.float(), layers, weight
        )

    checkpoints = [
        runtime.cache_dir("recipes") / f"parts_{name}.pt" for name in ("encoder", "flow")
    ]
    fit_steps(
        nn.ModuleList([model.encoder, model.segment]),
        encoder_loss,
        encoder_steps,
        2e-3,
        checkpoints[0],
        SEED,
    )
    fit_steps(model, flow_loss, steps, 1.5e-3, checkpoints[1], SEED + encoder_steps)
    save_weights(model.eval(), path, backbone="parts", parts=PARTS)
    unseen = draw_layers(tested, SEED + 1)
    scores = score_layers(model, unseen) | score_attention(model, PartTransformer().eval(), unseen)
    for checkpoint in checkpoints:
        checkpoint.unlink()
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
    image, truth, present = (
        data["image"].float() / 255,
        data["layers"].float() / 255,
        data["present"],
    )
    sampled = [_sample(model, image, seed=seed) for seed in seeds]
    with torch.no_grad():
        by_itself = model.segmentation(model.encoder(image)).sigmoid()
    part = torch.arange(len(PARTS)).expand_as(present)[present]
    scores = {}
    for name, answers in (
        ("generator", [result.layers for result in sampled]),
        ("one_step", [_sample(model, image, 1).layers]),
        ("segmentation", [by_itself]),
        ("mean_layer", [model.base.sigmoid().expand_as(truth)]),
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


def parts_table(scores: dict[str, float]) -> str:
    """IoU of the shipped model on unseen faces, by part, beside its baselines, as the README shows
    it.
    """
    columns = ("all", *PARTS, "glasses invented", "hats invented")
    lines = ["| IoU | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in ("generator", "one_step", "segmentation", "mean_layer"):
        cells = (
            f"{scores['_'.join(('iou', name, *part))]:.2f}"
            for part in ((), *((part,) for part in PARTS))
        )
        invented = (f"{scores[f'invented_{name}_{part}']:.1%}" for part in ("glasses", "hat"))
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join((*cells, *invented)) + " |")
    return "\n".join(lines)


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
