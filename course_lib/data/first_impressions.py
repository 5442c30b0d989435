"""ChaLearn First Impressions V2: 10,000 clips of people who talk, and what strangers thought of
them.

The labels are impressions after 15 seconds, not personality, and gender, ethnicity, age and
attractiveness bias them (Jacques Junior et al., "Person Perception Biases Exposed", 2021). Nothing
trained on them may decide about a person.
"""

import hashlib
import io
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from functools import cached_property
from pathlib import Path

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from ..world.stories import TRAITS
from .flow import OpticalFlowSequenceLoader

__all__ = ["SPLITS", "FirstImpressions", "read_annotations", "speaker_of", "unpack_archives"]

SPLITS = ("training", "validation", "test")

KEYS = "FIRST_IMPRESSIONS_KEY"  # environment variables that begin so hold the archives' keys

LARGEST_ANNOTATION = 64 * 2**20  # bytes; ten times what a split needs

UNFOLDS_AT_MOST, ALWAYS_ALLOWED = 20, 16 * 2**20  # times an archive's own size; bytes

HOW_TO_GET = (
    "ask for access to First Impressions V2 (CVPR'17) at chalearnlap.cvc.uab.cat (dataset 24), put"
    f" the zip files into one folder, set the keys of the encrypted ones as {KEYS}_1, {KEYS}_2, …,"
    " and call unpack_archives(folder)"
)


def speaker_of(clip: str) -> str:
    """The source video, which stands for the speaker: `J4GQm9j0JZ0.003.mp4` is the third clip of
    J4GQm9j0JZ0.
    """
    return clip.rsplit(".", 2)[0]


class FirstImpressions(Dataset):
    """One split of the registered copy in `folder`, however deep its clips and annotations lie
    there.

    An item is one of `OpticalFlowSequenceLoader` (`face`, `flow`, …) with `traits` (`5`, in [0,
    1]), `speaker` and `clip` (text). Traits come in the order O C E A N; what the file calls
    neuroticism goes up with all the others, because annotators were asked for emotional stability:
    `trait_names` says so, and a high value never means neurotic.

    The official splits cut by clip, so most test speakers are in the training set too. With
    `by_speaker` all clips are dealt out again, about 60/20/20, and each speaker lands in one split,
    the same on every machine.

    `frames`, `size`, `method`, `cache` and `on_missing` are those of `OpticalFlowSequenceLoader`;
    labels need no clip. Raises `FileNotFoundError`, with the way to the data, for annotations or
    clips that are not there, and `ValueError` for an unknown split, an empty one, or annotations
    that are not what they should be. Ponce-López et al., ECCV Workshops 2016.
    """

    trait_names = (*TRAITS[:4], "Emotional stability")

    def __init__(
        self,
        folder: str | Path,
        split: str = "training",
        by_speaker: bool = False,
        frames: int = 32,
        size: int = 112,
        method: str = "dis",
        cache: str | Path | bool = True,
        on_missing: str = "raise",
    ):
        if split not in SPLITS:
            raise ValueError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}")
        self.folder, self.split = Path(folder), split
        self.options = {
            "frames": frames,
            "size": size,
            "method": method,
            "cache": cache,
            "on_missing": on_missing,
        }
        annotations = {}
        for name in SPLITS if by_speaker else (split,):
            annotations |= read_annotations(_annotation_file(self.folder, name))
        self.traits = {
            clip: traits
            for clip, traits in sorted(annotations.items())
            if not by_speaker or _split_of(speaker_of(clip)) == split
        }
        self.clips = list(self.traits)
        if not self.clips:
            raise ValueError(
                f"the {split} split of {folder} has no clip; check its annotations, or choose"
                " another"
            )

    def __len__(self) -> int:
        return len(self.clips)

    def labels(self) -> dict:
        """Of all clips, without opening one: `traits` (`n 5`) and `speaker` (a list of text).

        Their mean over the training split is the floor; `speaker_lookup` makes the second baseline
        of them.
        """
        return {
            "traits": torch.tensor([self.traits[clip] for clip in self.clips]),
            "speaker": [speaker_of(clip) for clip in self.clips],
        }

    @cached_property
    def videos(self) -> OpticalFlowSequenceLoader:
        """The clips' files, found anywhere below the folder."""
        videos = _files_below(self.folder, "*.mp4")
        if missing := [clip for clip in self.clips if clip not in videos]:
            raise FileNotFoundError(
                f"{len(missing)} of the {len(self.clips)} {self.split} clips are not below "
                f"{self.folder}, the first is {missing[0]}; {HOW_TO_GET}"
            )
        return OpticalFlowSequenceLoader([videos[clip] for clip in self.clips], **self.options)

    def __getitem__(self, index: int) -> dict:
        clip = self.clips[index]
        return self.videos[index] | {
            "traits": torch.tensor(self.traits[clip]),
            "speaker": speaker_of(clip),
            "clip": clip,
        }


def _split_of(speaker: str) -> str:
    """The same for a speaker for ever: from a hash of the name, not from who else is there."""
    share = hashlib.sha256(speaker.encode()).digest()[0] / 256
    return SPLITS[(share >= 0.6) + (share >= 0.8)]


def _files_below(folder: Path, pattern: str) -> dict[str, Path]:
    """By name; hidden folders, where unpacking is under way, do not count."""
    return {
        path.name: path
        for path in sorted(folder.rglob(pattern))
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def _annotation_file(folder: Path, split: str) -> Path:
    name = f"annotation_{split}.pkl"
    videos = _files_below(folder, name)
    if not videos:
        raise FileNotFoundError(f"there is no {name} below {folder}; {HOW_TO_GET}")
    return videos[name]


# ---- annotations ---------------------------------------------------------------------------------
def read_annotations(path: str | Path) -> dict[str, list[float]]:
    """The traits of each clip, O C E A N, from a pickle that holds `trait -> clip -> value` in any
    order of traits.

    A pickle can call anything; this reader knows two names, both of NumPy's floats, and answers
    them itself. Raises `ValueError` for any other pickle, a trait or label that is missing, and a
    value outside [0, 1].
    """
    path = Path(path)
    size = path.stat().st_size
    if size > LARGEST_ANNOTATION:
        raise ValueError(
            f"{path} has {size:,} bytes, more than the {LARGEST_ANNOTATION:,} that annotations can"
            " have; take the file from ChaLearn's archive"
        )
    try:
        content = _FloatUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except Exception as error:  # hostile bytes can fail in any way
        raise ValueError(
            f"{path} is no annotation file of First Impressions ({error}); take the file from"
            " ChaLearn's archive, and never open a pickle from elsewhere"
        ) from error
    try:
        by_trait = [dict(content[trait.lower()]) for trait in TRAITS]
        values = {clip: [float(trait[clip]) for trait in by_trait] for clip in by_trait[0]}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not hold one number for each trait and clip ({error}); take the file from"
            " ChaLearn's archive"
        ) from error
    if different := next((trait for trait in by_trait if trait.keys() != values.keys()), None):
        raise ValueError(
            f"{path} names {len(values)} clips for one trait and {len(different)} for another; take"
            " the file from ChaLearn's archive"
        )
    for clip, traits in values.items():
        if not all(0 <= value <= 1 for value in traits):
            raise ValueError(
                f"{path} has the traits {traits} for {clip}; expected five numbers in [0, 1], so"
                " take the file from ChaLearn's archive"
            )
    return values


class _Float64:
    """Stands in for `numpy.dtype`: remembers only what tells one float from another."""

    def __init__(self, name: str, *_: object):
        self.name = name

    def __setstate__(self, state: tuple) -> None:
        self.byte_order = state[1]


def _scalar(kind: _Float64, content: str | bytes) -> float:
    if (kind.name, kind.byte_order) != ("f8", "<"):
        raise pickle.UnpicklingError(
            f"a number of type {kind.byte_order}{kind.name} instead of <f8"
        )
    return struct.unpack("<d", content if isinstance(content, bytes) else content.encode("latin1"))[
        0
    ]


class _FloatUnpickler(pickle._Unpickler):
    """Dicts, text and floats, nothing else.

    In Python, since the C version lets ten hostile bytes allocate gigabytes (its memo is an array);
    and without NumPy, whose own types trust the flags and fields that a pickle gives them.
    """

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("numpy", "dtype"):
            return _Float64
        if (module, name) in (
            ("numpy.core.multiarray", "scalar"),
            ("numpy._core.multiarray", "scalar"),
        ):
            return _scalar
        raise pickle.UnpicklingError(f"it wants to call {module}.{name}")


# ---- archives ------------------------------------------------------------------------------------
def unpack_archives(folder: str | Path) -> None:
    """Unpack each zip file of `folder` into a folder of its name, the archives inside it too; done
    ones are skipped.

    Encrypted members open with any of the keys in the environment variables
    `FIRST_IMPRESSIONS_KEY…`. (Python decrypts about a megabyte a second: for the test clips, `unzip
    -P` is quicker, and an unpacked folder is as good.) Raises `FileNotFoundError` if there is no
    archive, and `ValueError` for a missing key, a damaged archive, a member that leads out of the
    folder, and an archive that unfolds to more than 20 times its size (plus 16 MiB).
    """
    folder = Path(folder)
    archives = sorted(folder.glob("*.zip"))
    if not archives:
        raise FileNotFoundError(f"there is no zip file in {folder}; {HOW_TO_GET}")
    for archive in tqdm(archives, "unpacking", mininterval=5):
        target, part = archive.with_suffix(""), archive.with_name(f".{archive.stem}.part")
        if target.exists():
            continue
        try:
            shutil.rmtree(part, ignore_errors=True)
            _unpack(archive, part, UNFOLDS_AT_MOST * archive.stat().st_size + ALWAYS_ALLOWED)
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _unpack(archive: Path, folder: Path, budget: int) -> int:
    """Unpack into `folder`, level by level; what is left of `budget`, the bytes that may still be
    written.
    """
    folder.mkdir(parents=True)
    try:
        with zipfile.ZipFile(archive) as content:
            members = [member for member in content.infolist() if not member.is_dir()]
            # zipfile reads no more than it announces
            budget -= sum(member.file_size for member in members)
            if budget < 0:
                raise ValueError(
                    f"{archive.name} unfolds to more than {UNFOLDS_AT_MOST} times the size of the"
                    " file it came in, like a zip bomb; take the file from ChaLearn again"
                )
            for member in members:
                path = folder / member.filename
                if not path.resolve().is_relative_to(folder.resolve()):
                    raise ValueError(
                        f"{archive.name} holds {member.filename!r}, which leads out of the folder;"
                        " take the file from ChaLearn again"
                    )
                path.parent.mkdir(parents=True, exist_ok=True)
                _extract(content, member, path)
                if path.suffix == ".zip":
                    budget = _unpack(path, path.with_suffix(""), budget)
                    path.unlink()
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{archive.name} is damaged ({error}); download it again") from error
    return budget


def _extract(content: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    encrypted = bool(member.flag_bits & 1)
    keys = [value.encode() for name, value in sorted(os.environ.items()) if name.startswith(KEYS)]
    for key in keys if encrypted else [None]:
        try:
            with content.open(member, pwd=key) as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target, 2**20)
            return
        except NotImplementedError as error:
            raise ValueError(
                f"Python cannot read {member.filename!r} ({error}); unpack {content.filename} with"
                " 7-Zip into a folder of its name"
            ) from error
        except (RuntimeError, zipfile.BadZipFile, zlib.error):  # what a wrong key looks like
            if not encrypted:
                raise
    raise ValueError(
        f"{member.filename!r} in {Path(content.filename).name} is encrypted and none of the"
        f" {len(keys)} keys set opens it; set {KEYS}_1, {KEYS}_2, … to the keys that came with your"
        " access to the data"
    )
