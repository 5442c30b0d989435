"""The rows of lesson 08: decoders on cached tokens and end to end, photographs in workers, what a
loss costs.
"""

import contextlib
import io
from pathlib import Path

import cv2
import numpy as np
import torch
from bench_tools import row, seconds
from torch import nn
from torch.utils.data import DataLoader

from course_lib.data import CelebA, FaceDataset, ImageArrays, TokenArrays
from course_lib.models import AttributeDecoder, AttributeModel, PointingDecoder, TokenExtractor
from course_lib.training import (
    AggressiveLoss,
    AsymmetricLoss,
    ClassBalancedLoss,
    FocalLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    TokenLoss,
    WeightedBCELoss,
)
from course_lib.world import ATTRIBUTES, CELEBA_RATES

BATCH = 64


def step(model: nn.Module, loss: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> None:
    """A training step without its optimizer."""
    model.zero_grad()
    loss(model(inputs), targets).backward()


def bench_attributes(folder: str) -> None:
    """Steps/s of both decoders, the token cache, and images/s of a folder in CelebA's format."""
    images, targets = (
        torch.randint(0, 256, (1_000, 3, 56, 56), dtype=torch.uint8),
        torch.zeros(1_000, len(ATTRIBUTES)),
    )
    arrays, extractor = ImageArrays(images, targets), TokenExtractor().eval()

    def compute() -> TokenArrays:
        with torch.no_grad():
            return TokenArrays(torch.cat([extractor(part) for part in arrays.batches()]), targets)

    tokens, loss = compute(), TokenLoss(WeightedBCELoss())
    decoder, pointing = AttributeDecoder(96).train(), PointingDecoder().train()
    whole = AttributeModel(TokenExtractor(), PointingDecoder()).train()
    batch = (
        torch.stack([tokens[k][0] for k in range(BATCH)]),
        images[:BATCH].float() / 255,
        targets[:BATCH],
    )
    cached, pointed, end_to_end = seconds(
        lambda: step(decoder, loss, batch[0], batch[2]),
        lambda: step(pointing, loss, batch[0], batch[2]),
        lambda: step(whole, loss, batch[1], batch[2]),
        rounds=9,
    )
    row(
        "AttributeDecoder on cached tokens",
        f"{1 / cached:.1f} steps/s",
        f"{1 / end_to_end:.1f} end to end, pointing",
        end_to_end / cached,
    )
    row(
        "PointingDecoder on cached tokens",
        f"{1 / pointed:.1f} steps/s",
        f"{1 / end_to_end:.1f} end to end",
        end_to_end / pointed,
    )
    (computing,) = seconds(compute, rounds=3)
    (reading,) = seconds(lambda: list(DataLoader(tokens, BATCH)), rounds=3)
    size = tokens.tokens.nbytes / len(tokens)
    row(
        "token cache, an image",
        f"{size / 1e3:.1f} kB",
        f"{images[0].nbytes / 1e3:.1f} kB, the image in 8 bits",
        size / images[0].nbytes,
    )
    row(
        "token cache, read in batches",
        f"{1_000 / reading:.0f} images/s",
        f"{1_000 / computing:.0f} computed",
        computing / reading,
    )
    bench_photographs(Path(folder) / "celeba")


def bench_photographs(folder: Path, n: int = 600) -> None:
    """A CelebA loader with one and two workers, beside decoding the same JPEG files and nothing
    else.
    """
    (folder / "img_align_celeba").mkdir(parents=True)
    faces, names = FaceDataset(40, size=178, regions=False), [f"{k + 1:06d}.jpg" for k in range(n)]
    pictures = [
        np.vstack(
            [
                np.full((40, 178, 3), 90, np.uint8),
                (faces[k]["image"].permute(1, 2, 0).numpy()[..., ::-1] * 255).astype(np.uint8),
            ]
        )
        for k in range(40)
    ]
    for k, name in enumerate(names):
        cv2.imwrite(str(folder / "img_align_celeba" / name), pictures[k % 40])
    labels = " ".join("-1" for _ in ATTRIBUTES)
    (folder / "list_attr_celeba.txt").write_text(
        "\n".join([str(n), " ".join(ATTRIBUTES), *(f"{name} {labels}" for name in names)])
    )
    (folder / "list_eval_partition.txt").write_text("\n".join(f"{name} 0" for name in names))
    photographs = CelebA(folder, size=56)

    def decode() -> None:
        for name in names:
            cv2.imread(str(folder / "img_align_celeba" / name))

    spent = seconds(
        decode,
        *(
            (lambda workers=workers: list(DataLoader(photographs, BATCH, num_workers=workers)))
            for workers in (0, 1, 2)
        ),
        rounds=3,
    )
    for what, taken in zip(
        ("in the process itself", "one worker", "two workers"), spent[1:], strict=True
    ):
        row(
            f"CelebA at 56 px, {what}",
            f"{n / taken:.0f} images/s",
            f"{n / spent[0]:.0f} JPEGs decoded only",
            spent[0] / taken,
        )


def bench_losses() -> None:
    """Forward and backward of every loss, beside weighted BCE, on the logits of a batch; and within
    a training step.
    """
    rates = torch.tensor(CELEBA_RATES, dtype=torch.float32)
    inverse = ((1 - rates) / rates).clamp(1, 10)
    losses = {
        "focal": FocalLoss(2.0, inverse),
        "class-balanced": ClassBalancedLoss(rates, 12_000),
        "LDAM": LDAMLoss(rates, inverse),
        "asymmetric": AsymmetricLoss(),
        "logit-adjusted": LogitAdjustedLoss(rates),
    }
    decoder, weighted = AttributeDecoder(96).train(), WeightedBCELoss(inverse)
    tokens, targets = (
        torch.randn(BATCH, 49, 96),
        (torch.rand(BATCH, len(ATTRIBUTES)) < rates).float(),
    )
    with contextlib.redirect_stdout(io.StringIO()):  # it names what is critical
        losses["aggressive focal"] = AggressiveLoss(rates)
    for name, loss in losses.items():
        ours, peer = seconds(
            lambda loss=loss: step(decoder, loss, tokens, targets),
            lambda: step(decoder, weighted, tokens, targets),
            rounds=25,
        )
        row(
            f"a step of the decoder with {name}",
            f"{1e3 * ours:.1f} ms",
            f"{1e3 * peer:.1f} ms with weighted BCE",
            ours / peer,
            "≤ 1.3",
        )
