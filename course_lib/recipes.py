"""How each shipped weight is made: from drawings of its own seeds, resumable, within an hour on two
cores.

`python -m course_lib assets NAME` runs one recipe; the manifest beside the weights says what came
out.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from . import files, parts_recipe, runtime
from .ablation import SEEDS, clip_tokens, predict, train_arm, write_lesson_tokens
from .data.arrays import gather
from .data.drawn import ClipDataset, FaceDataset, to_image
from .models.backbones import save_weights
from .models.dynamic import DynamicFeatureExtractor
from .models.static import StaticFeatureExtractor
from .parts_recipe import write_parts
from .pictures.architecture import plot_pipeline
from .pictures.base import to_picture
from .pictures.images import flow_colours
from .pointing import write_attributes
from .training.checkpoints import Checkpoints
from .training.fit import fit_steps
from .training.trait_scores import concordance, floor_prediction, mean_accuracy
from .world.clips import draw_still, render_clip
from .world.population import ATTRIBUTES
from .world.stories import DIRECTIONS, MOVEMENTS, TRAITS, make_speaker

__all__ = ["RECIPES", "Recipe", "make", "score_table", "write_pictures"]

SEED = 20_000  # of what is drawn here, in the split "assets"


@dataclass(frozen=True)
class Recipe:
    """What `make` runs: `write(path)` trains, saves and returns the scores on unseen drawings."""

    write: Callable[[Path], dict]
    minutes: int  # on two cores
    needs: tuple[str, ...] = ()  # recipes whose weights this one starts from
    seed: int = SEED  # of what it draws, in the split "assets"


def make(name: str, folder: str | Path | None = None) -> dict:
    """Make one shipped weight again and enter it in the manifest; an interrupted run goes on where
    it stopped.

    Raises ValueError for an unknown name, FileNotFoundError if a weight that the recipe starts from
    is missing.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; the recipes are {', '.join(RECIPES)}")
    folder = Path(folder) if folder else runtime.assets("weights")
    for needed in RECIPES[name].needs:
        runtime.assets(f"weights/{needed}.safetensors")
    runtime.setup(RECIPES[name].seed, quiet=True)
    started, path = time.time(), folder / f"{name}.safetensors"
    scores = RECIPES[name].write(path)
    entry = {
        "file": path.name,
        "sha256": files.sha256(path),
        "bytes": path.stat().st_size,
        "recipe": name,
        "seed": RECIPES[name].seed,
        "minutes": round((time.time() - started) / 60, 1),
        "torch": torch.__version__,
        "scores": {key: round(float(value), 4) for key, value in scores.items()},
    }
    manifest = folder / "manifest.json"
    entries = files.read_json(manifest) if manifest.exists() else {}
    files.write_json(manifest, entries | {name: entry})
    return entry


# ---- what the recipes share ----------------------------------------------------------------------


def _checkpoint(name: str) -> Path:
    return runtime.cache_dir("recipes") / f"{name}.pt"


# ---- static: a face image, its attributes and what the face is doing -----------------------------


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
                "known": torch.ones(len(ATTRIBUTES)),
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


def _doing(expression: Tensor, pose: Tensor) -> Tensor:
    """Brows, smile, opening, gaze right and down, tilt and size of the head: seven numbers of order
    one.
    """
    return torch.cat([expression[:5], pose[2:3] / 0.1, (pose[3:4] - 0.3) / 0.05]).float()


EVENLY = torch.ones(7)
GAZE_FIRST = torch.tensor((1.0, 2, 1, 8, 3, 1, 1))  # where the second run puts its weight


def write_static(
    path: Path,
    faces: int = 16_000,
    stills: int = 8_000,
    steps: int = 1_600,
    polish: int = 550,
    batch: int = 64,
) -> dict:
    """A ResNet-50 of 5.9 M parameters, trained to tell attributes and expression from its pooled
    feature.

    Where the eyes look is three pixels wide and learned last, so a second run weighs it and sees
    more stills.
    """
    extractor = StaticFeatureExtractor(weights=None, width_per_group=16)
    head = nn.Linear(2048, len(ATTRIBUTES) + 7)
    model = nn.ModuleList([extractor, head]).to(memory_format=torch.channels_last)
    data = gather(
        Stills(faces, stills, SEED),
        "image",
        "target",
        "known",
        "doing",
        small={"image": torch.uint8},
    )

    def loss_at(step: int, weights: Tensor = EVENLY, first: int = 0) -> Tensor:
        model.train()
        pick = torch.randint(first, faces + stills, (batch,))
        image, doing = data["image"][pick].float() / 255, data["doing"][pick].clone()
        flip = torch.rand(batch) < 0.5
        image[flip] = image[flip].flip(-1)
        doing[flip] *= torch.tensor((1, 1, 1, -1, 1, -1, 1))  # gaze and tilt change sides
        with torch.autocast("cpu", torch.bfloat16):
            output = head(extractor(image.contiguous(memory_format=torch.channels_last)))
        logits, guess = output.float().split((len(ATTRIBUTES), 7), 1)
        attributes = F.binary_cross_entropy_with_logits(
            logits, data["target"][pick], data["known"][pick]
        )
        return 4 * attributes + (weights * (guess - doing).square()).mean()

    fit_steps(model, loss_at, steps, 2e-3, _checkpoint("static"), SEED)
    fit_steps(
        model,
        lambda step: loss_at(step, GAZE_FIRST, first=faces // 2),
        polish,
        1e-3,
        _checkpoint("static_polish"),
        SEED + steps,
    )
    model.eval()
    unseen = gather(Stills(2_000, 1_000, SEED + 1), "image", "target", "known", "doing")
    with torch.no_grad():
        logits, guess = head(extractor(unseen["image"], chunk=64)).split((len(ATTRIBUTES), 7), 1)
    extractor.save(path)
    head_path = path.with_name("static_head.safetensors")
    files.save_tensors(
        head_path,
        {name: value[: len(ATTRIBUTES)].half() for name, value in head.state_dict().items()},
        {"attributes": ATTRIBUTES, "backbone": files.sha256(path)},
    )
    for name in ("static", "static_polish"):
        _checkpoint(name).unlink()
    seen = unseen["target"][:2_000].bool()
    right = (logits[:2_000] > 0) == seen
    recall = torch.stack(
        [
            right[:, i][seen[:, i] == side].float().mean()
            for i in range(len(ATTRIBUTES))
            for side in (0, 1)
        ]
    )
    spread = 1 - (guess - unseen["doing"]).square().mean(0) / unseen["doing"].var(0)
    return {
        "attribute_accuracy": right.float().mean(),
        "attribute_balanced_accuracy": recall.nanmean(),
        "majority_accuracy": torch.maximum(seen.float().mean(0), 1 - seen.float().mean(0)).mean(),
        **{
            f"r2_{name}": value
            for name, value in zip(
                ("brow", "smile", "open", "gaze_x", "gaze_y", "tilt", "size"), spread, strict=True
            )
        },
    }


# ---- dynamic: optical flow, which dart and how large each movement, moment by moment -------------


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


SIZE_VARIANCE = 1 / 12  # of the movements, uniform in [0, 1]
CROP = 80  # px; the middle of a 112 px clip still holds the face


def write_dynamic(path: Path, clips: int = 1_600, steps: int = 800, batch: int = 8) -> dict:
    """The flow I3D, trained to tell from each time token where the eyes dart and how large the
    movements are.

    The first 70 % of the steps see the middle of the clips only, at half the cost.
    """
    extractor = DynamicFeatureExtractor(weights=None)
    head = nn.Linear(1024, len(DIRECTIONS) + 5)
    model = nn.ModuleList([extractor, head]).to(memory_format=torch.channels_last_3d)
    data = gather(Moments(clips, SEED), "flow", "dart", "size")

    def loss_at(step: int) -> Tensor:
        model.train()
        pick = torch.randint(0, clips, (batch,))
        flow, dart = data["flow"][pick].float(), data["dart"][pick].clone()
        flip = torch.rand(batch) < 0.5
        flow[flip] = flow[flip].flip(-2) * torch.tensor((-1.0, 1.0))
        dart[flip] = torch.tensor((1, 0, 2, 3))[dart[flip]]  # right and left change sides
        if step < 0.7 * steps:
            top, left = torch.randint(8, 25, (2,)).tolist()
            flow = flow[:, :, top : top + CROP, left : left + CROP]
        with torch.autocast("cpu", torch.bfloat16):
            output = head(extractor.tokens(flow))
        logits, size = output.float().split((len(DIRECTIONS), 5), -1)
        return (
            F.cross_entropy(logits.flatten(0, 1), dart.flatten())
            + F.mse_loss(size, data["size"][pick]) / SIZE_VARIANCE
        )

    fit_steps(model, loss_at, steps, 2e-3, _checkpoint("dynamic"), SEED)
    model.eval()
    unseen = gather(Moments(200, SEED + 1), "flow", "dart", "size")
    with torch.no_grad():
        logits, size = head(extractor.tokens(unseen["flow"].float(), chunk=8)).split(
            (len(DIRECTIONS), 5), -1
        )
    extractor.save(path)
    _checkpoint("dynamic").unlink()
    spread = 1 - (size - unseen["size"]).square().mean((0, 1)) / unseen["size"].var((0, 1))
    return {
        "dart_accuracy": (logits.argmax(-1) == unseen["dart"]).float().mean(),
        **{
            f"r2_{name.replace(' ', '_')}": value
            for name, value in zip(MOVEMENTS, spread, strict=True)
        },
    }


# ---- personality: two streams of frozen tokens, cross-attention, five traits ---------------------


def write_personality(path: Path) -> dict:
    """A `TokenPersonalityModel` on the tokens of both shipped extractors: the ablation's first run
    with attention.
    """
    train, valid, test = (clip_tokens(part) for part in ("train", "valid", "test"))
    checkpoints = runtime.cache_dir("recipes") / "personality"
    model, _ = train_arm(
        "token attention", SEEDS[0], train, valid, callbacks=(Checkpoints(checkpoints),)
    )
    answer = predict("token attention", model, test)
    floor = floor_prediction(train["traits"], len(test["traits"]))
    save_weights(
        model,
        path,
        backbone="personality",
        static=StaticFeatureExtractor().hash,
        dynamic=DynamicFeatureExtractor().hash,
    )
    shutil.rmtree(checkpoints)
    scores = {
        "top_moment_decides": (answer["moments"].argmax(1) == test["moment"]).float().mean(),
        "top_moment_chance": 1 / answer["moments"].shape[1],
    }
    for name, said in (
        ("floor", floor),
        ("model", answer["prediction"]),
        ("ceiling", test["expected"]),
    ):
        for score, values in (
            ("accuracy", mean_accuracy(said, test["traits"])),
            ("ccc", concordance(said, test["traits"])),
        ):
            scores[f"{score}_{name}"] = values.mean()
            scores |= {
                f"{score}_{name}_{trait}": value
                for trait, value in zip(TRAITS, values, strict=True)
            }
    return scores


def score_table(folder: Path) -> str:
    """The shipped personality model on the ablation's test clips, of unseen speakers, as the README
    shows it.
    """
    scores = files.read_json(folder / "manifest.json")["personality"]["scores"]
    lines = [
        "| mean accuracy / CCC | " + " | ".join(("mean", *TRAITS)) + " |",
        "|---" * (len(TRAITS) + 2) + "|",
    ]
    for name in ("floor", "model", "ceiling"):
        cells = (
            f"{scores[f'accuracy_{name}{end}']:.3f} / {scores[f'ccc_{name}{end}']:.2f}"
            for end in ("", *(f"_{trait}" for trait in TRAITS))
        )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        (
            f"Attention is strongest on the deciding moment in {scores['top_moment_decides']:.0%}"
            f" of the clips (chance {scores['top_moment_chance']:.1%})."
        ),
    ]
    return "\n".join(lines)


# ---- pictures of the README ----------------------------------------------------------------------


def write_pictures(folder: Path) -> None:
    """The pipeline, and the world: two rows of people, a clip and its flow."""
    plot_pipeline().save(folder / "pipeline.png", dpi=100)
    faces, clip = FaceDataset(16, "train", 5, "easy", 160, regions=False), render_clip(11, 160)
    shown = range(1, 32, 4)
    rows = [
        [to_picture(faces[i]["image"]) for i in range(8)],
        [to_picture(faces[i]["image"]) for i in range(8, 16)],
        [clip.frames[t] for t in shown],
        [flow_colours(clip.flow[t], 5) for t in shown],
    ]
    sheet = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    with files.atomic(folder / "world.jpg") as temporary:
        Image.fromarray(sheet).save(temporary, quality=88)


RECIPES = {
    "static": Recipe(write_static, 50),
    "dynamic": Recipe(write_dynamic, 45),
    "personality": Recipe(write_personality, 20, needs=("static", "dynamic")),
    "lesson_tokens": Recipe(write_lesson_tokens, 20, needs=("static", "dynamic")),
    "attributes": Recipe(write_attributes, 12),
    "parts": Recipe(write_parts, 55, seed=parts_recipe.SEED),
}
