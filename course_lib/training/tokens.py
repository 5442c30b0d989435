"""Tokens of frozen extractors, computed once for a whole data set, so that what follows trains in
seconds.
"""

import hashlib
import json
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from .. import files, runtime
from ..data.drawn import ClipDataset
from ..models.dynamic import DynamicFeatureExtractor
from ..models.static import StaticFeatureExtractor

__all__ = ["TokenDataset", "cache_tokens", "lesson_tokens", "stored_tokens"]


def cache_tokens(
    clips: Dataset,
    static: StaticFeatureExtractor,
    dynamic: DynamicFeatureExtractor,
    batch_size: int = 8,
    workers: int = 2,
    also: tuple[str, ...] = (),
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """`face_tokens` (`n 49 2048`), `motion_tokens` (`n steps 1024`) and `traits` (`n 5`) of every
    clip, in order.

    Tokens are kept in half precision; `also` names tensors of the items to keep beside them. Clips
    are read by `workers` processes while the extractors, in evaluation mode, compute in `dtype`.
    Used in lesson 06.
    """
    keys = ("face", "flow", "traits", *also)
    parts: dict[str, list[Tensor]] = {
        name: [] for name in ("face_tokens", "motion_tokens", "traits", *also)
    }
    loader = DataLoader(
        clips,
        batch_size,
        num_workers=workers,
        collate_fn=lambda items: [torch.stack([item[key] for item in items]) for key in keys],
    )
    device = next(static.parameters()).device.type
    for face, flow, *others in tqdm(loader, f"tokens of {len(clips)} clips", mininterval=5):
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            face_tokens = static.tokens(face, chunk=batch_size)
            motion_tokens = dynamic.tokens(flow, chunk=batch_size)
        for part, values in zip(
            parts.values(), (face_tokens.half(), motion_tokens.half(), *others), strict=True
        ):
            part.append(values)
    return {name: torch.cat(part) for name, part in parts.items()}


def stored_tokens(
    clips: ClipDataset,
    static: StaticFeatureExtractor,
    dynamic: DynamicFeatureExtractor,
    also: tuple[str, ...] = (),
    part: int = 200,
) -> dict[str, Tensor]:
    """What `cache_tokens` gives, kept in the cache folder `part` clips at a time, so that a run cut
    off goes on.

    A clip takes 0.2 MB. Other clips, drawn by other code or with other settings, and other
    extractors have other parts; a damaged part is said and made again. Computed in half precision
    (bf16, or fp16 on GPUs that only emulate that), at half the time on CPUs that have it; the error
    is 1 % of the tokens' spread.
    """
    device = next(static.parameters()).device
    half = torch.float16 if runtime.precision_of(device) == "fp16" else torch.bfloat16
    made_by = _made_by(clips) | {
        "static": static.hash,
        "dynamic": dynamic.hash,
        "precision": str(half),
    }
    digest = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:16]
    parts, folder = [], runtime.cache_dir("tokens")
    for start in range(0, len(clips), part):
        indices = range(start, min(start + part, len(clips)))
        name = f"{clips.split}_{clips.seed}_{digest}_{start}_{len(indices)}.safetensors"
        path = folder / name
        tensors = _read_part(path, made_by)
        if not {"traits", *also} <= {*tensors}:
            tensors = cache_tokens(Subset(clips, indices), static, dynamic, also=also, dtype=half)
            files.save_tensors(path, tensors, made_by)
        parts.append(tensors)
    return {name: torch.cat([tensors[name] for tensors in parts]) for name in parts[0]}


def _made_by(clips: ClipDataset) -> dict[str, object]:
    """All that decides what clip `i` looks like."""
    return {
        "split": clips.split,
        "seed": clips.seed,
        "size": clips.size,
        "moments": clips.moments,
        "clips_per_speaker": clips.clips_per_speaker,
        "flow": repr(clips.estimate),
        "drawing": _drawing_code(),
    }


@cache
def _drawing_code() -> str:
    """A hash of the modules that draw clips and estimate their flow."""
    package = Path(__file__).parents[1]
    modules = sorted((package / "world").glob("*.py"))
    modules += [package / "data" / name for name in ("drawn.py", "flow.py")]
    return hashlib.sha256("".join(map(files.sha256, modules)).encode()).hexdigest()


def _read_part(path: Path, made_by: dict) -> dict[str, Tensor]:
    """The tensors of a part; none if it is not there, or damaged."""
    if not path.exists():
        return {}
    try:
        tensors, metadata = files.load_tensors(path)
    except ValueError:
        tensors, metadata = {}, {}
    if metadata != made_by:
        print(f"the cached tokens {path} are damaged; they are computed again")
        return {}
    return tensors


def lesson_tokens(part: str) -> dict[str, Tensor]:
    """Shipped tokens of the "train", "valid" or "test" clips, small enough to train on in seconds.

    `face_tokens` (`n 1 64`, the mean over places) and `motion_tokens` (`n 8 64`) on their first
    principal components, `traits`, `expected` (`n 5`), `speaker` and `moment` (`n`). Derived in
    lesson 07.
    """
    if part not in ("train", "valid", "test"):
        raise ValueError(
            f"there is no part {part!r} of the lesson's clips; choose train, valid or test"
        )
    tensors, _ = files.load_tensors(runtime.assets("weights/lesson_tokens.safetensors"))
    chosen = {
        name.removeprefix(f"{part}."): values
        for name, values in tensors.items()
        if name.startswith(part)
    }
    return {
        name: values.float() if values.is_floating_point() else values
        for name, values in chosen.items()
    }


class TokenDataset(Dataset):
    """Cached features of clips by index: `(*features, traits)`, in single precision, as `fit` takes
    them.

    Moments are interchangeable: with `shuffle`, the last feature, if it is `steps dim` a clip,
    comes with its steps in a new order each time. Derived in lesson 07.
    """

    def __init__(self, *features: Tensor, traits: Tensor, shuffle: bool = False):
        self.features, self.traits, self.shuffle = features, traits, shuffle

    def __len__(self) -> int:
        return len(self.traits)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        *others, last = (feature[index].float() for feature in self.features)
        if self.shuffle and last.ndim == 2:
            last = last[torch.randperm(len(last))]
        return *others, last, self.traits[index]
