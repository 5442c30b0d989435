"""`static`: a face image, its attributes and what the face is doing."""

import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from course_lib import files, runtime
from course_lib.data import ClipDataset, FaceDataset, gather, to_image
from course_lib.models import StaticFeatureExtractor
from course_lib.shapes import Float
from course_lib.world import ATTRIBUTES, draw_still, make_speaker

from .common import train_steps, workplace

__all__ = ["write_static"]

SEED = 20_000  # of what is drawn here, in the split "assets"
COUNT = len(ATTRIBUTES)


class Stills(Dataset):
    """Faces of medium difficulty and the stills of clips, with the targets both have."""

    def __init__(self, faces: int, stills: int, seed: int):
        self.faces = FaceDataset(
            faces, "assets", seed, "medium", images_per_person=2, regions=False
        )
        self.stills = ClipDataset(stills, "assets", seed)

    def __len__(self) -> int:
        return len(self.faces) + len(self.stills)

    def __getitem__(self, index: int) -> dict:
        if index < len(self.faces):
            item = self.faces[index]
            return {
                "image": item["image"],
                "target": item["target"],
                "known": torch.ones(COUNT),
                "doing": _doing(item["expression"], item["pose"]),
            }
        index -= len(self.faces)
        seed, speaker_seed = self.stills.seeds(index)
        speaker = make_speaker(speaker_seed)
        still = draw_still(speaker, self.stills.story(index), seed, self.stills.size)
        mood = ("Smiling", "Mouth_Slightly_Open")  # held for the story, not a trait of the speaker
        return {
            "image": to_image(still.image),
            "target": torch.tensor([float(name in speaker.attributes) for name in ATTRIBUTES]),
            "known": torch.tensor([float(name not in mood) for name in ATTRIBUTES]),
            "doing": _doing(torch.tensor(still.expression), torch.tensor(still.pose)),
        }


DOING = ("brow", "smile", "open", "gaze_x", "gaze_y", "tilt", "size")
MIRRORED = torch.tensor((1, 1, 1, -1, 1, -1, 1))  # gaze and tilt change sides
EVENLY = torch.ones(7)
GAZE_FIRST = torch.tensor((1.0, 2, 1, 8, 3, 1, 1))  # where the second run puts its weight


def _doing(expression: Tensor, pose: Tensor) -> Float[Tensor, " doing"]:
    """The numbers named in `DOING`, gaze to the right and down, all of order one."""
    return torch.cat([expression[:5], pose[2:3] / 0.1, (pose[3:4] - 0.3) / 0.05]).float()


class FaceLoss(nn.Module):
    """Cross-entropy of the attributes that are known, and squared errors of what the face does."""

    def __init__(self, weights: Float[Tensor, " doing"]):
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(
        self, output: Float[Tensor, "batch outputs"], target: Float[Tensor, "batch targets"]
    ) -> Float[Tensor, ""]:
        logits, guess = output.split((COUNT, 7), 1)
        truth, known, doing = target.split((COUNT, COUNT, 7), 1)
        attributes = F.binary_cross_entropy_with_logits(logits, truth, known)
        return 4 * attributes + (self.weights * (guess - doing).square()).mean()


def write_static(
    path: Path,
    faces: int = 16_000,
    stills: int = 8_000,
    steps: int = 1_600,
    polish: int = 550,
    batch: int = 64,
    tested: int = 1_000,
) -> dict:
    """A ResNet-50 of 5.9 M parameters, trained to tell attributes and expression from its pooled
    feature.

    Where the eyes look is three pixels wide and learned last, so a second run weighs it and sees
    more stills.
    """
    extractor = StaticFeatureExtractor(weights=None, width_per_group=16)
    head = nn.Linear(2048, COUNT + 7)
    model = nn.Sequential(extractor, head)
    model.to(runtime.default_device(), memory_format=torch.channels_last)
    data = gather(
        Stills(faces, stills, SEED),
        "image",
        "target",
        "known",
        "doing",
        small={"image": torch.uint8},
    )

    def draw(generator: torch.Generator, first: int) -> tuple[Tensor, Tensor]:
        pick = torch.randint(first, faces + stills, (batch,), generator=generator)
        image, doing = data["image"][pick].float() / 255, data["doing"][pick].clone()
        flip = torch.rand(batch, generator=generator) < 0.5
        image[flip] = image[flip].flip(-1)
        doing[flip] *= MIRRORED
        target = torch.cat([data["target"][pick], data["known"][pick], doing], 1)
        return image.contiguous(memory_format=torch.channels_last), target

    folders = [workplace("static"), workplace("static_polish")]
    train_steps(
        model,
        lambda generator, step: draw(generator, first=0),
        FaceLoss(EVENLY),
        steps,
        2e-3,
        folders[0],
        SEED,
    )
    train_steps(
        model,
        lambda generator, step: draw(generator, first=faces // 2),
        FaceLoss(GAZE_FIRST),
        polish,
        1e-3,
        folders[1],
        SEED + steps,
    )
    model.eval()
    extractor.save(path)
    weights = {name: value[:COUNT].half() for name, value in head.state_dict().items()}
    files.save_tensors(
        path.with_name("static_head.safetensors"),
        weights,
        {"attributes": ATTRIBUTES, "backbone": files.sha256(path)},
    )
    scores = _score(extractor, head, tested)
    for folder in folders:
        shutil.rmtree(folder)
    return scores


@torch.no_grad()
def _score(extractor: StaticFeatureExtractor, head: nn.Linear, tested: int) -> dict:
    """On twice `tested` unseen faces, and of what they do on as many unseen stills too."""
    unseen = gather(Stills(2 * tested, tested, SEED + 1), "image", "target", "known", "doing")
    output = head.cpu()(extractor(unseen["image"], chunk=64))
    logits, guess = output.split((COUNT, 7), 1)
    truth = unseen["target"][: 2 * tested].bool()
    right = (logits[: 2 * tested] > 0) == truth
    recalls = []
    for attribute in range(COUNT):
        for side in (0, 1):
            recalls.append(right[:, attribute][truth[:, attribute] == side].float().mean())
    frequency = truth.float().mean(0)
    explained = 1 - (guess - unseen["doing"]).square().mean(0) / unseen["doing"].var(0)
    return {
        "attribute_accuracy": right.float().mean(),
        "attribute_balanced_accuracy": torch.stack(recalls).nanmean(),
        "majority_accuracy": torch.maximum(frequency, 1 - frequency).mean(),
        **{f"r2_{name}": value for name, value in zip(DOING, explained, strict=True)},
    }
