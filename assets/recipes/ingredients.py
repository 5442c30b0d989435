"""`ingredients`, for lesson 09: what makes the attention of a decoder point, and what do queries buy?

The pointing decoder with one of its four ingredients left out at a time, and a linear head on
pooled tokens in its place: the same hard faces, the same steps, the same seeds.
"""

import shutil
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from course_lib import runtime
from course_lib.data import ImageArrays
from course_lib.models import (
    AttributeModel,
    MixedTokenExtractor,
    PointingDecoder,
    TokenExtractor,
)
from course_lib.shapes import Float
from course_lib.tables import Table
from course_lib.training import (
    Checkpoints,
    ClipGradients,
    TokenLoss,
    WarmupCosine,
    WeightedBCELoss,
    fit,
    over_seeds,
)
from course_lib.world import ATTRIBUTES

from .common import workplace
from .decoders import answers_of, faces_of, scores_of

__all__ = ["ARMS", "SEEDS", "ingredients_table", "run_arm"]

SEEDS = range(5)
FACES, BATCH, EPOCHS, LEARNING_RATE, WEIGHT_DECAY = 4_000, 64, 10, 2e-3, 0.02


class ContextValues(PointingDecoder):
    """Values that know their surroundings, as the keys do."""

    def forward(self, tokens: Tensor, record: bool | None = None):
        keys = self.keys_of(self.project(tokens))
        logits = self.decode(keys, keys, record)
        return (logits, self.pooled_logits(keys)) if self.training else logits


class PlainKeys(PointingDecoder):
    """Keys that know their own place only."""

    def keys_of(
        self, values: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        return self.key_norm(values) + self.positions


class PooledHead(nn.Module):
    """No queries: the tokens, which know their surroundings here, are averaged, and one linear layer
    gives all logits.
    """

    def __init__(self):
        super().__init__()
        self.backbone = TokenExtractor(blocks=2)
        self.head = nn.Linear(self.backbone.token_dim, len(ATTRIBUTES))

    def forward(self, images: Tensor) -> Float[Tensor, "batch attributes"]:
        return self.head(self.backbone(images).mean(1))


def first_loss(outputs: Tensor | tuple[Tensor, Tensor], targets: Tensor) -> Float[Tensor, ""]:
    """Cross-entropy of the decoder's logits alone."""
    return WeightedBCELoss()(outputs if isinstance(outputs, Tensor) else outputs[0], targets)


ARMS: dict[str, Callable[[], nn.Module]] = {
    "all four": lambda: AttributeModel(TokenExtractor(), PointingDecoder()),
    "values see the surroundings": lambda: AttributeModel(TokenExtractor(), ContextValues()),
    "keys see one place": lambda: AttributeModel(TokenExtractor(), PlainKeys()),
    "no loss on the tokens": lambda: AttributeModel(TokenExtractor(), PointingDecoder()),
    "tokens attend to each other": lambda: AttributeModel(MixedTokenExtractor(), PointingDecoder()),
    "pooled, without queries": PooledHead,
}


def run_arm(arm: str, seed: int) -> list[dict]:
    """One row: an arm and a seed, on the test faces."""
    started, everything = time.time(), faces_of("train")
    train = ImageArrays(everything.images[:FACES], everything.targets[:FACES], flip=True)
    torch.manual_seed(seed)
    model = ARMS[arm]()
    pooled = isinstance(model, PooledHead)
    head = model.head if pooled else model.decoder.head
    head.bias.data = torch.logit(train.targets.mean(0))
    folder = workplace("ingredients") / f"{arm} {seed}"
    with_tokens = not pooled and arm != "no loss on the tokens"
    fit(
        model.to(runtime.default_device()),
        DataLoader(train, BATCH, shuffle=True, drop_last=True),
        epochs=EPOCHS,
        seed=seed,
        loss_function=TokenLoss(WeightedBCELoss()) if with_tokens else first_loss,
        metrics={},
        optimizer=torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        callbacks=[WarmupCosine(0.15), ClipGradients(1.0), Checkpoints(folder, minutes=2)],
    )
    shutil.rmtree(folder)
    seconds = round(time.time() - started)
    torch.manual_seed(100 + seed)
    if pooled:
        parameters = sum(p.numel() for p in model.parameters())
        return [{"seconds": seconds, "parameters": parameters, **answers_of(model.eval())}]
    return [{"seconds": seconds, **scores_of(model, ARMS[arm]())}]


COLUMNS = {  # of the table, and what the rows call them
    "pointing": "pointing map",
    "mean map": "pointing mean map",
    "where the best place misses": "pointing where it misses",
    "follows": "follows map",
    "AP": "average_precision",
}


def ingredients_table(rows: Sequence[dict]) -> Table:
    """Each arm: means over seeds with their 95 % intervals; a dash where there is no map."""
    lines = [("arm", *COLUMNS)]
    for arm in ARMS:
        runs = [row for row in rows if row["arm"] == arm]
        cells = []
        for score in COLUMNS.values():
            mean, half = over_seeds([run.get(score, float("nan")) for run in runs])
            cells.append("–" if mean != mean else f"{mean:.3f} ± {half:.3f}")
        lines.append((arm, *cells))
    return Table("", lines)
