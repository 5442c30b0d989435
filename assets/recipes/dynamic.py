"""`dynamic`: optical flow, which dart and how large each movement, moment by moment."""

import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from course_lib import runtime
from course_lib.data import ClipDataset, gather
from course_lib.models import DynamicFeatureExtractor
from course_lib.shapes import Float
from course_lib.world.stories import DIRECTIONS, MOVEMENTS

from .common import train_steps, workplace

__all__ = ["write_dynamic"]

SEED = 20_000  # of what is drawn here, in the split "assets"
SIZE_VARIANCE = 1 / 12  # of the movements, uniform in [0, 1]
CROP = 80  # px; the middle of a 112 px clip still holds the face
MIRRORED = torch.tensor((1, 0, 2, 3))  # darts to the right and left change sides


class Moments(Dataset):
    """Estimated flow of clips (half precision), and what happens in each moment."""

    def __init__(self, n: int, seed: int):
        self.clips = ClipDataset(n, "assets", seed)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict:
        story = self.clips.story(index)
        return {
            "flow": torch.from_numpy(self.clips.estimate(self.clips.clip(index).frames)).half(),
            "dart": torch.from_numpy(story.darts),
            "size": torch.tensor(story.sizes, dtype=torch.float32),
        }


class FlowReader(nn.Module):
    """What one linear layer reads from each time token: logits of the dart, sizes of movements."""

    def __init__(self):
        super().__init__()
        self.extractor = DynamicFeatureExtractor(weights=None)
        self.head = nn.Linear(1024, len(DIRECTIONS) + 5)

    def forward(self, flow: Tensor) -> Float[Tensor, "batch steps outputs"]:
        return self.head(self.extractor.tokens(flow))


def moment_loss(
    output: Float[Tensor, "batch steps outputs"], target: Float[Tensor, "batch steps targets"]
) -> Float[Tensor, ""]:
    """Cross-entropy of the dart, and the squared error of the sizes over their variance."""
    logits, size = output.split((len(DIRECTIONS), 5), -1)
    dart, true_size = target.split((1, 5), -1)
    return (
        F.cross_entropy(logits.flatten(0, 1), dart.flatten().long())
        + F.mse_loss(size, true_size) / SIZE_VARIANCE
    )


def write_dynamic(
    path: Path, clips: int = 1_600, steps: int = 800, batch: int = 8, tested: int = 200
) -> dict:
    """The flow I3D, trained to tell from each time token where the eyes dart and how large the
    movements are.

    The first 70 % of the steps see the middle of the clips only, at half the cost.
    """
    model = FlowReader()
    model.to(runtime.default_device(), memory_format=torch.channels_last_3d)
    data = gather(Moments(clips, SEED), "flow", "dart", "size")

    def draw(generator: torch.Generator, step: int) -> tuple[Tensor, Tensor]:
        pick = torch.randint(0, clips, (batch,), generator=generator)
        flow, dart = data["flow"][pick].float(), data["dart"][pick].clone()
        flip = torch.rand(batch, generator=generator) < 0.5
        flow[flip] = flow[flip].flip(-2) * torch.tensor((-1.0, 1.0))
        dart[flip] = MIRRORED[dart[flip]]
        if step < 0.7 * steps:
            top, left = torch.randint(8, 25, (2,), generator=generator).tolist()
            flow = flow[:, :, top : top + CROP, left : left + CROP]
        return flow, torch.cat([dart[..., None].float(), data["size"][pick]], -1)

    train_steps(model, draw, moment_loss, steps, 2e-3, workplace("dynamic"), SEED)
    model.eval()
    model.extractor.save(path)
    scores = _score(model, tested)
    shutil.rmtree(workplace("dynamic"))
    return scores


@torch.no_grad()
def _score(model: FlowReader, tested: int) -> dict:
    unseen = gather(Moments(tested, SEED + 1), "flow", "dart", "size")
    tokens = model.extractor.tokens(unseen["flow"].float(), chunk=8)
    logits, size = model.head.cpu()(tokens).split((len(DIRECTIONS), 5), -1)
    explained = 1 - (size - unseen["size"]).square().mean((0, 1)) / unseen["size"].var((0, 1))
    return {
        "dart_accuracy": (logits.argmax(-1) == unseen["dart"]).float().mean(),
        **{
            f"r2_{name.replace(' ', '_')}": value
            for name, value in zip(MOVEMENTS, explained, strict=True)
        },
    }
