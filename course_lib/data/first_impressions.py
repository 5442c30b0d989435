"""ChaLearn First Impressions V2: 10,000 clips of people who talk, and what strangers thought of
them.

The labels are impressions after 15 seconds, not personality, and gender, ethnicity, age and
attractiveness bias them (Jacques Junior et al., "Person Perception Biases Exposed", 2021). Nothing
trained on them may decide about a person.
"""

import errno
import hashlib
import io
import os
import pickle
import re
import shutil
import struct
import zipfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from ..world.stories import TRAITS
from .flow import OpticalFlowSequenceLoader

__all__ = [
    "SPLITS",
    "FirstImpressions",
    "read_annotations",
    "speaker_of",
    "speakers_of",
    "unpack_archives",
]

SPLITS = ("training", "validation", "test")

CLIP_NAME = re.compile(r"[\w-]{11}\.\d{3}\.mp4")  # YouTube's name of a video, and which part of it

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


def speakers_of(clips: Sequence[str]) -> list[str]:
    """`speaker_of` each clip; where the names are not First Impressions' own, that they were taken
    for speakers is said.
    """
    speakers = [speaker_of(clip) for clip in clips]
    if odd := next((clip for clip in clips if not CLIP_NAME.fullmatch(clip)), None):
        print(
            f"{len(set(speakers))} speakers are taken from the names of {len(clips)} clips, such as"
            f" {speaker_of(odd)!r} for {odd}; if other people speak, splits by speaker will leak"
        )
    return speakers


class FirstImpressions(Dataset):
    """One split of the registered copy in `folder`, however deep its clips and annotations lie
    there.

    An item is one of `OpticalFlowSequenceLoader` (`face`, `flow`, …) with `traits` (`5`, in [0,
    1]), `speaker` and `clip` (text). Traits come in the order O C E A N; what the file calls
    neuroticism goes up with all the others, because annotators were asked for emotional stability:
    `trait_names` says so, and a high value never means neurotic.

    The official splits cut by clip, so most test speakers are in the training set too. With
    `by_speaker` all clips whose annotations are there (it says if some are not) are dealt out again,
    about 60/20/20, and each speaker lands in one split, the same on every machine.

    Labels need no clip. Items do: with `skip_missing` clips that are not there are left out and
    counted; `skipped` holds their names. `frames`, `stride`, `size`, `method`, `cache`, `on_missing`
    (of a face) and `video_fps` are those of `OpticalFlowSequenceLoader`; with a `stride` an item is
    a window, and a clip has several. Raises `FileNotFoundError`, with the way to the data, for annotations or
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
        stride: int | None = None,
        video_fps: float | None = None,
        skip_missing: bool = False,
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
            "stride": stride,
            "video_fps": video_fps,
        }
        annotations = {}
        for path in _annotation_files(self.folder, SPLITS if by_speaker else (split,)):
            annotations |= read_annotations(path)
        clips = sorted(annotations)
        speakers = dict(zip(clips, speakers_of(clips), strict=True))
        if by_speaker:
            clips = [clip for clip in clips if _split_of(speakers[clip]) == split]
        self.skipped = []
        if skip_missing:
            videos = _files_below(self.folder, "*.mp4")
            self.skipped = [clip for clip in clips if clip not in videos]
            clips = [clip for clip in clips if clip in videos]
            print(f"left out {len(self.skipped)} clips that are not there, kept {len(clips)}")
        self.clips = clips
        self.traits = {clip: annotations[clip] for clip in clips}
        self.speakers = {clip: speakers[clip] for clip in clips}
        if not self.clips:
            raise ValueError(
                f"the {split} split of {folder} has no clip; check its annotations and clips, or"
                " choose another"
            )

    def __len__(self) -> int:
        return len(self.clips) if self.options["stride"] is None else len(self.videos)

    def labels(self) -> dict:
        """Of all clips, without opening one: `traits` (`n 5`) and `speaker` (a list of text).

        Their mean over the training split is the floor; `speaker_lookup` makes the second baseline
        of them.
        """
        return {
            "traits": torch.tensor([self.traits[clip] for clip in self.clips]),
            "speaker": list(self.speakers.values()),
        }

    @cached_property
    def videos(self) -> OpticalFlowSequenceLoader:
        """The clips' files, found anywhere below the folder."""
        videos = _files_below(self.folder, "*.mp4")
        if missing := [clip for clip in self.clips if clip not in videos]:
            raise FileNotFoundError(
                f"{len(missing)} of the {len(self.clips)} {self.split} clips are not below "
                f"{self.folder}, the first is {missing[0]}; leave them out with"
                f" skip_missing=True, or {HOW_TO_GET}"
            )
        return OpticalFlowSequenceLoader([videos[clip] for clip in self.clips], **self.options)

    def __getitem__(self, index: int) -> dict:
        source, _ = self.videos.windows[index]
        clip = self.clips[source]
        return self.videos[index] | {
            "traits": torch.tensor(self.traits[clip]),
            "speaker": self.speakers[clip],
            "clip": clip,
        }


def _split_of(speaker: str) -> str:
    """The same for a speaker for ever: from a hash of the name, not from who else is there."""
    share = hashlib.sha256(speaker.encode()).digest()[0] / 256
    return SPLITS[(share >= 0.6) + (share >= 0.8)]


def _files_below(folder: Path, pattern: str) -> dict[str, Path]:
    """By name; what is hidden (folders where unpacking is under way, a Mac's `._` files) does not
    count. Raises `ValueError` for two files of one name that differ.
    """
    by_name: dict[str, Path] = {}
    for path in sorted(folder.rglob(pattern)):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file():
            continue
        other = by_name.setdefault(path.name, path)
        if other is not path and other.stat().st_size != path.stat().st_size:
            raise ValueError(f"{other} and {path} have one name and differ; leave one of them")
    return by_name


def _annotation_files(folder: Path, splits: Sequence[str]) -> list[Path]:
    """The annotations of these splits that are there, at least one; says if some are not."""
    names = [f"annotation_{split}.pkl" for split in splits]
    paths = _files_below(folder, "annotation_*.pkl")
    missing = [name for name in names if name not in paths]
    if len(missing) == len(names):
        raise FileNotFoundError(f"there is no {' or '.join(names)} below {folder}; {HOW_TO_GET}")
    if missing:
        print(f"going on without {' and '.join(missing)}, which {folder} does not hold")
    return [paths[name] for name in names if name in paths]


# ---- annotations ---------------------------------------------------------------------------------
def read_annotations(path: str | Path) -> dict[str, list[float]]:
    """The traits of each clip, O C E A N, from a pickle that holds `trait -> clip -> value` in any
    order of traits.

    A pickle can call anything; this reader knows three names, those that NumPy's floats need, and
    answers them itself. Raises `FileNotFoundError` for a missing file, `ValueError` for any other
    pickle, a trait or label that is missing, and a value outside [0, 1].
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no annotation file {path}; {HOW_TO_GET}")
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
            f"{path} is no annotation file of First Impressions ({error!s:.200}); take the file from"
            " ChaLearn's archive, and never open a pickle from elsewhere"
        ) from error
    try:
        by_trait = [dict(content[trait.lower()]) for trait in TRAITS]
        for clip in by_trait[0]:
            if not isinstance(clip, str) or not clip.isprintable():
                raise TypeError(f"a clip's name is of type {type(clip).__name__}, or not printable")
        values = {clip: [float(trait[clip]) for trait in by_trait] for clip in by_trait[0]}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
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

    def __init__(self, name: object, *_: object):
        self.name = name

    def __setstate__(self, state: list) -> None:
        self.byte_order = state[1]


def _scalar(kind: object, content: object) -> float:  # whatever hostile bytes say
    if (kind.name, kind.byte_order) != ("f8", "<"):
        raise pickle.UnpicklingError("a number of another type than little-endian float64")
    eight = content if isinstance(content, bytes) else content.encode("latin1")
    return struct.unpack("<d", eight)[0]


def _encode(text: object, encoding: object) -> bytes:
    """How NumPy in Python 3 writes the eight bytes of a float in pickles of protocols 0 to 2."""
    if len(text) != 8 or encoding != "latin1":
        raise pickle.UnpicklingError("encoded text that is not the eight bytes of a float")
    return text.encode("latin1")


def _as_list(load_tuple: Callable) -> Callable:
    """Tuples become lists, which cannot be keys: the hash of tuples in tuples takes for ever."""

    def load(unpickler: pickle._Unpickler) -> None:
        load_tuple(unpickler)
        unpickler.stack[-1] = list(unpickler.stack[-1])

    return load


TUPLES = (pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)

NAMES = {
    ("numpy", "dtype"): _Float64,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _encode,
}


class _FloatUnpickler(pickle._Unpickler):
    """Dicts, text and floats, nothing else.

    In Python, since the C version lets ten hostile bytes allocate gigabytes (its memo is an array);
    and without NumPy, whose own types trust the flags and fields that a pickle gives them.
    """

    dispatch = pickle._Unpickler.dispatch | {
        code[0]: _as_list(pickle._Unpickler.dispatch[code[0]]) for code in TUPLES
    }

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in NAMES:
            raise pickle.UnpicklingError(f"it wants to call {module!r}, {name!r}")
        return NAMES[module, name]


# ---- archives ------------------------------------------------------------------------------------
def unpack_archives(folder: str | Path) -> None:
    """Unpack each zip file of `folder` into a folder of its name, the archives inside it too; done
    ones are skipped.

    The Mac's `._` files are no archives. Encrypted members open with any of the keys in the environment variables
    `FIRST_IMPRESSIONS_KEY…`. (Python decrypts about a megabyte a second: for the test clips, `unzip
    -P` is quicker, and an unpacked folder is as good.) Raises `FileNotFoundError` if there is no
    archive, and `ValueError` for a missing key, a damaged archive, a member that leads out of the
    folder, and an archive that unfolds to more than 20 times its size (plus 16 MiB).
    """
    folder = Path(folder)
    archives = [path for path in sorted(folder.glob("*")) if _is_archive(path)]
    if not archives:
        raise FileNotFoundError(f"there is no zip file in {folder}; {HOW_TO_GET}")
    for archive in tqdm(archives, "unpacking", mininterval=5):
        target, part = archive.with_suffix(""), archive.with_name(f".{archive.stem}.part")
        if target.exists():
            continue
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            _unpack(archive, part, UNFOLDS_AT_MOST * archive.stat().st_size + ALWAYS_ALLOWED)
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _is_archive(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and not path.name.startswith(".") and path.is_file()


def _unpack(archive: Path, folder: Path, budget: int) -> int:
    """Unpack into `folder`, which is there, level by level; what is left of `budget`, the bytes that may still be
    written.
    """
    with _opened(archive) as content:
        members = [member for member in content.infolist() if not member.filename.endswith("/")]
        # zipfile reads no more than it announces
        budget -= sum(member.file_size for member in members)
        if budget < 0:
            raise ValueError(
                f"{archive.name} unfolds to more than {UNFOLDS_AT_MOST} times the size of the"
                " file it came in, like a zip bomb; take the file from ChaLearn again"
            )
        for member in members:
            path = folder / member.filename
            if folder.resolve() not in path.resolve().parents:
                raise ValueError(
                    f"{archive.name} holds {member.filename!r}, which leads out of the folder;"
                    " take the file from ChaLearn again"
                )
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                _extract(content, member, path)
                inner = path.with_suffix("")
                if _is_archive(path):
                    inner.mkdir()
            except OSError as error:
                raise OSError(
                    f"{member.filename!r} of {archive.name} cannot be written ({error.strerror});"
                    " make room, or take the file from ChaLearn again"
                ) from error
            if _is_archive(path):
                budget = _unpack(path, inner, budget)
                path.unlink()
    return budget


def _opened(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except NotImplementedError as error:
        raise ValueError(
            f"Python cannot read {archive.name} ({error}); {_otherwise(archive)}"
        ) from error
    except Exception as error:  # hostile bytes can fail in any way
        raise ValueError(f"{archive.name} is damaged ({error}); download it again") from error


def _otherwise(archive: Path) -> str:
    return f"unpack {archive} with 7-Zip into a folder of its name"


def _extract(content: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    archive = Path(content.filename)
    encrypted = bool(member.flag_bits & 1)
    keys = [value.encode() for name, value in sorted(os.environ.items()) if name.startswith(KEYS)]
    for key in keys if encrypted else [None]:
        with open(path, "wb") as target:
            try:
                with content.open(member, pwd=key) as source:
                    shutil.copyfileobj(source, target, 2**20)
                return
            except NotImplementedError as error:
                raise ValueError(
                    f"Python cannot read {member.filename!r} ({error}); {_otherwise(archive)}"
                ) from error
            except Exception as error:  # a wrong key, or hostile bytes
                if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                    raise  # the disk's fault; EINVAL is a place that the file does not have
                if not encrypted:
                    raise ValueError(
                        f"{archive.name} is damaged ({error}); download it again"
                    ) from error
    raise ValueError(
        f"{member.filename!r} in {archive.name} is encrypted and none of the"
        f" {len(keys)} keys set opens it; set {KEYS}_1, {KEYS}_2, … to the keys that came with your"
        " access to the data"
    )
