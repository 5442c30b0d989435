"""`photographs`, for lessons 08 to 12: is the course's way with photographs any good?

The same minutes of computing for two models of the same images: the course's (tokens that learn
on from drawings, four more residual blocks, a pointing decoder, augmentation) and a plain
torchvision ResNet-18 from scratch. Beside them two baselines that take seconds: ridge regression on
16×16 pixels, and the floor, which gives every image the frequencies.

The course has no photographs to ship. The stored study stands in for them with hard drawn faces
without their regions, and starts from a model that has seen *clean* faces only: what is shipped
learned from hard ones. `--celeba FOLDER` does the same on a copy of CelebA, from what is shipped.
"""

import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from course_lib import files, runtime
from course_lib.data import CelebA, FaceDataset, ImageArrays, load_images
from course_lib.lessons.studies import photographs_table
from course_lib.looking import pixel_features, ridge_probabilities
from course_lib.models import AttributeModel, PointingDecoder, TokenExtractor
from course_lib.shapes import Float
from course_lib.training import (
    RARE,
    AugmentedImages,
    WithinMinutes,
    augmentation,
    learn_photographs,
    photograph_model,
    predict,
    prior_logits,
    score_attributes,
    smoothed_prior,
    start_from,
)
from course_lib.world import ATTRIBUTES

from .common import cached_images, workplace

__all__ = ["ARMS", "MINUTES", "SEEDS", "learn_celeba", "run_arm"]

ARMS = ("floor", "16×16 pixels, ridge", "ResNet-18 from scratch", "the course's path")
BASELINES = ARMS[:2]  # nothing in them depends on the seed
SEEDS, MINUTES = (0, 1, 2, 3, 4), 4.0
SIZES = {"train": 8_000, "test": 4_000}
PIXELS, BLOCKS = 64, 4
NEW_PEOPLE = 3  # the seed of the faces, hard and clean, which no shipped model has met
START_FACES, START_EPOCHS = 8_000, 4  # clean ones
FOREVER = 10_000  # epochs: the minutes end the run

RARE_NAMES = [name for name, rare in zip(ATTRIBUTES, RARE, strict=True) if rare]


# ---- the images ----------------------------------------------------------------------------------


@cache
def _faces(part: str, n: int, difficulty: str = "hard") -> ImageArrays:
    """Drawn faces in memory, drawn once."""
    path = workplace("photographs faces") / f"{difficulty}_{part}_{n}.safetensors"
    faces = FaceDataset(n, part, NEW_PEOPLE, difficulty, PIXELS, regions=False)
    return cached_images(path, lambda: faces, flip=False)


@cache
def _clean_start() -> AttributeModel:
    """The course's shallow model, taught clean faces for a few epochs."""
    path = workplace("photographs faces") / "start.safetensors"
    model = AttributeModel(TokenExtractor(), PointingDecoder())
    if not path.exists():
        torch.manual_seed(0)
        faces = _faces("train", START_FACES, "clean")
        model.decoder.head.bias.data = prior_logits(smoothed_prior(faces))
        learn_photographs(model, AugmentedImages(faces, augmentation(56)), epochs=START_EPOCHS)
        files.save_tensors(path, model.state_dict())
    model.load_state_dict(files.load_tensors(path)[0])
    return model


# ---- the models ----------------------------------------------------------------------------------


class PlainResNet(nn.Module):
    """torchvision's ResNet-18 for images in [0, 1]."""

    def __init__(self, frequencies: Float[Tensor, " attributes"]):
        from torchvision.models import resnet18

        super().__init__()
        self.network = resnet18(weights=None, num_classes=len(frequencies))
        self.network.fc.bias.data = prior_logits(frequencies)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch attributes"]:
        return self.network((2 * images - 1).contiguous(memory_format=torch.channels_last))


def _mirrored():
    from torchvision.transforms import v2

    return v2.Compose([v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])


def _course_model(train: ImageArrays, names: Sequence[str], drawn: bool) -> AttributeModel:
    frequencies = smoothed_prior(train)
    if not drawn:
        return photograph_model(names, frequencies, blocks=BLOCKS)
    # what is shipped has learned from hard faces, so here it begins with a model that has not
    model = photograph_model(names, frequencies, TokenExtractor(blocks=BLOCKS))
    start_from(model, names, _clean_start(), ATTRIBUTES)
    model.decoder.head.bias.data = prior_logits(frequencies)
    return model


def _train(
    arm: str, train: ImageArrays, names: Sequence[str], drawn: bool, minutes: float, seed: int
) -> nn.Module:
    torch.manual_seed(seed)
    if arm == "ResNet-18 from scratch":
        model, augment, rate = PlainResNet(smoothed_prior(train)), _mirrored(), 1e-3
    else:
        model, augment, rate = _course_model(train, names, drawn), augmentation(56), 2e-3
    images, schedule = AugmentedImages(train, augment), WithinMinutes(minutes)
    model.to(runtime.default_device())
    return learn_photographs(model, images, schedule, FOREVER, rate, seed=seed)


# ---- one row -------------------------------------------------------------------------------------


def _row(
    arm: str,
    train: ImageArrays,
    test: ImageArrays,
    names: Sequence[str],
    drawn: bool,
    minutes: float,
    seed: int,
) -> dict:
    """What one arm and seed scores on the test images."""
    started = time.process_time()
    if arm == "floor":
        answers = smoothed_prior(train).expand_as(test.targets)
    elif arm == "16×16 pixels, ridge":
        small = [
            torch.cat([pixel_features(part) for part in each.batches()]) for each in (train, test)
        ]
        answers = ridge_probabilities(small[0], train.targets, small[1])
    else:
        model = _train(arm, train, names, drawn, minutes, seed)
    used = (time.process_time() - started) / 60
    if arm not in BASELINES:
        answers = predict(model, test).sigmoid()
    return {"CPU minutes": round(used, 2), **_scores(answers.double(), test.targets, names)}


def _scores(answers: Tensor, targets: Tensor, names: Sequence[str]) -> dict[str, float]:
    scores = score_attributes(answers, targets, names=names)
    rare = torch.tensor([name in RARE_NAMES for name in names])
    ranked, f1 = scores["average_precision"], scores["f1"]
    values = {"mAP": ranked.mean(), "AP rare": ranked[rare].mean(), "F1 rare": f1[rare].mean()}
    return {name: round(float(value), 4) for name, value in values.items()}


def run_arm(arm: str, seed: int) -> list[dict]:
    """One row of the stored study, on hard drawn faces."""
    train, test = (_faces(part, SIZES[part]) for part in ("train", "test"))
    torch.set_num_threads(1)
    if arm == ARMS[-1]:
        _clean_start()  # before the clock starts
    return [_row(arm, train, test, ATTRIBUTES, True, MINUTES, seed)]


# ---- on a copy of CelebA -------------------------------------------------------------------------


def learn_celeba(
    folder: str | Path, output: str | Path, minutes: float = 10.0, seeds: int = 1
) -> list[dict]:
    """The same on photographs, all forty attributes, by person where the copy knows people: a table,
    and the rows in `output`, written after each, so that a run that is cut off goes on.

    Raises what `CelebA` raises.
    """
    output = Path(output)
    about = {"folder": str(Path(folder).resolve()), "minutes": minutes, "images": SIZES}
    stored = files.read_json(output) if output.exists() else about | {"rows": []}
    if {name: stored.get(name) for name in about} != about:
        raise ValueError(
            f"{output} holds the rows of another comparison, {stored.get('minutes')} minutes on"
            f" {stored.get('folder')}; move it away, or give another --output"
        )
    train, test, names = _photographs(folder)
    torch.set_num_threads(1)
    done = {(row["arm"], row["seed"]) for row in stored["rows"]}
    for seed in range(seeds):
        for arm in ARMS if seed == 0 else ARMS[2:]:
            if (arm, seed) not in done:
                row = _row(arm, train, test, names, False, minutes, seed)
                stored["rows"].append({"arm": arm, "seed": seed, **row})
                files.write_json(output, stored)
                print(stored["rows"][-1], flush=True)
    print(
        f"{len(train):,} photographs, {len(test):,} unseen, {len(names)} attributes, {PIXELS} pixels"
    )
    print(photographs_table(stored["rows"]).markdown())
    return stored["rows"]


def _photographs(folder: str | Path) -> tuple[ImageArrays, ImageArrays, tuple[str, ...]]:
    try:
        parts = [_celeba(folder, part, by_person=True) for part in ("train", "test")]
    except FileNotFoundError as error:
        if "identity_CelebA" not in str(error):
            raise
        parts = [_celeba(folder, part, by_person=False) for part in ("train", "test")]
    return *(load_images(part) for part in parts), parts[0].names


def _celeba(folder: str | Path, part: str, by_person: bool) -> CelebA:
    return CelebA(folder, part, SIZES[part], size=PIXELS, names=None, by_person=by_person)
