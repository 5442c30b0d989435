"""Features, labels and speakers from files: opened without reading them whole, checked row by row,
split by speaker.
"""

import csv
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import files
from ..data.drawn import ClipDataset
from ..models.dynamic import DynamicFeatureExtractor
from ..models.static import StaticFeatureExtractor
from ..shapes import Float, Int
from ..training.tokens import stored_tokens
from ..world.stories import TRAITS
from .runs import processes

__all__ = ["Arrays", "open_arrays", "read_columns", "read_traits", "split_rows"]

# what `preprocess` calls static and dynamic features of rank 3
TOKENS = ("face_tokens", "motion_tokens")
ABOUT = "dataset.json"  # what `preprocess` says about the arrays beside it
MISSING = ("", "nan", "none", "null")


class Arrays(NamedTuple):
    """What a model learns from, a row for each clip; `sources` says for each where it came from and
    its hash.
    """

    static: Tensor  # n dim, or n tokens dim
    dynamic: Tensor
    traits: Float[Tensor, "n 5"]
    speakers: np.ndarray | None
    sources: dict[str, dict]


def open_arrays(
    *,
    dataset: str = "",
    static_features: str = "",
    dynamic_features: str = "",
    labels: str = "",
    speakers: str = "",
    traits: str = "",
    clips: int = 400,
    split: str = "train",
) -> Arrays:
    """Features, labels and speakers whose rows belong together.

    Raises `FileNotFoundError` and `ValueError` for what is missing or does not fit, with the row
    where there is one.

    Args:
        dataset: 'synthetic' for drawn clips, or a folder that `preprocess` wrote; or name the
            files:
        static_features: .npy, `n dim`, or tokens `n tokens dim`
        dynamic_features: .npy, of the same rank
        labels: .npy `n 5` in [0, 1], or CSV whose header names the traits
        speakers: .npy of `n` numbers or names, or CSV with a column speaker; without, the split
            leaks
        traits: what the label columns are, in their order; default:
            openness,conscientiousness,extraversion,agreeableness,neuroticism
        clips: how many clips to draw for 'synthetic'; 1600 or more teach enough
        split: of the drawn clips
    """
    if dataset == "synthetic":
        return _checked(_drawn(clips, split))
    paths = {
        "static_features": static_features,
        "dynamic_features": dynamic_features,
        "labels": labels,
        "speakers": speakers,
    }
    if dataset:
        paths = _in_folder(Path(dataset)) | {name: path for name, path in paths.items() if path}
    for name in ("static_features", "dynamic_features", "labels"):
        if not paths[name]:
            raise ValueError(
                f"there are no {name}; give --{name} FILE, or --dataset with 'synthetic'"
                " or a folder that `preprocess` wrote"
            )
    arrays = Arrays(
        static=_open(paths["static_features"]),
        dynamic=_open(paths["dynamic_features"]),
        traits=_read_labels(paths["labels"], traits),
        speakers=_read_speakers(paths["speakers"]) if paths["speakers"] else None,
        sources={
            name: {"path": str(Path(path).resolve()), "sha256": files.sha256(path)}
            for name, path in paths.items()
            if path
        },
    )
    return _checked(arrays)


def _in_folder(folder: Path) -> dict[str, str | Path]:
    """Where `preprocess` put what it made."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder}; --dataset is 'synthetic' or a folder that `preprocess` wrote"
        )
    static, dynamic = TOKENS
    speakers = folder / "speakers.npy"
    return {
        "static_features": folder / f"{static}.npy",
        "dynamic_features": folder / f"{dynamic}.npy",
        "labels": folder / "labels.npy",
        "speakers": speakers if speakers.exists() else "",
    }


def _checked(arrays: Arrays) -> Arrays:
    """The same arrays, if they fit each other and hold finite numbers."""
    features = {"static_features": arrays.static, "dynamic_features": arrays.dynamic}
    named = features | {"labels": arrays.traits, "speakers": arrays.speakers}
    lengths = {name: len(array) for name, array in named.items() if array is not None}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(
            f"the files differ in length: {listed}; give files whose rows are the same clips"
        )
    static, dynamic = features.values()
    if static.ndim != dynamic.ndim or static.ndim not in (2, 3):
        raise ValueError(
            f"static features {tuple(static.shape)} and dynamic features {tuple(dynamic.shape)} do"
            " not pair; both are vectors (`n dim`) or both tokens (`n tokens dim`)"
        )
    for name, array in features.items():
        for first in range(0, len(array), 256):  # memory for these rows only
            finite = array[first : first + 256].isfinite().flatten(1).all(1)
            if not finite.all():
                row = first + int((~finite).nonzero()[0])
                path = arrays.sources.get(name, {}).get("path", "drawn")
                raise ValueError(
                    f"row {row} of {name} ({path}) holds NaN or infinity; leave that clip out of"
                    " all files, or make its features again"
                )
    return arrays


def _open(path: str | Path) -> Tensor:
    """An .npy file of floats, mapped into memory; a pickle inside is never opened."""
    array = _load(path)
    if array.dtype.kind != "f":
        raise ValueError(
            f"{path} holds {array.dtype}; expected floats, so save it with array.astype('float32')"
        )
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def _load(path: str | Path) -> np.ndarray:
    """The array of an .npy file: copy on write, so nothing is read yet, nothing written ever."""
    try:
        array = np.load(path, allow_pickle=False, mmap_mode="c")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no file {path}; check the path, or make it with `python -m course_lib preprocess`"
        ) from error
    except OSError as error:
        raise OSError(f"{path} cannot be read ({error.strerror}); check the path") from error
    except Exception as error:  # a damaged header can fail in any way
        raise ValueError(
            f"{path} is no plain .npy file ({' '.join(str(error).split())}); save numbers or text"
            " with np.save, never objects"
        ) from error
    if not isinstance(array, np.ndarray) or array.ndim == 0 or not array.size:
        raise ValueError(
            f"{path} holds no rows; save one array with a row for each clip with np.save"
        )
    return array


# ---- labels and speakers -------------------------------------------------------------------------


def read_columns(path: str | Path) -> dict[str, list[str]]:
    """The columns of a CSV file by their names in lower case."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header, *rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no file {path}; check the path") from error
    except OSError as error:
        raise OSError(f"{path} cannot be read ({error.strerror}); check the path") from error
    except (ValueError, csv.Error) as error:  # no row at all, or no text
        raise ValueError(
            f"{path} is no CSV file with a header ({error}); save it as comma-separated UTF-8"
        ) from error
    if header[0].startswith("<"):
        raise ValueError(
            f"{path} is a web page, which sites save instead of a file when a limit is reached; get"
            " the table again"
        )
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ValueError(
                f"line {number} of {path} has {len(row)} cells and the header {len(header)}; mend"
                " that line"
            )
    return {name.lower(): [row[column] for row in rows] for column, name in enumerate(header)}


def read_traits(columns: dict[str, list[str]], path: str | Path) -> Float[Tensor, "n 5"]:
    """The five columns that carry the traits' names, whatever their order, as O C E A N."""
    if missing := [trait for trait in TRAITS if trait.lower() not in columns]:
        raise ValueError(
            f"{path} has no column {missing[0].lower()}, only {', '.join(columns)}; name the five"
            " traits in its header"
        )
    try:
        values = [[float(value) for value in columns[trait.lower()]] for trait in TRAITS]
    except ValueError as error:
        raise ValueError(f"{path} holds a label that is no number ({error}); mend it") from error
    return _in_range(torch.tensor(values).T, path)


def _read_labels(path: str | Path, order: str) -> Float[Tensor, "n 5"]:
    if Path(path).suffix == ".csv":
        return read_traits(read_columns(path), path)
    labels = _load(path)
    if labels.dtype.kind not in "fiu" or labels.ndim != 2 or labels.shape[1] != len(TRAITS):
        raise ValueError(
            f"{path} has the shape {labels.shape} and type {labels.dtype}; expected `n 5` numbers,"
            " a column for each trait"
        )
    own_order = ",".join(TRAITS).lower()
    names = [name.strip().lower() for name in (order or own_order).split(",")]
    if sorted(names) != sorted(own_order.split(",")):
        raise ValueError(
            f"--traits {order!r} does not name the five traits; give {own_order} in the order of"
            " the columns"
        )
    if not order and not _is_by_preprocess(Path(path)):
        processes().print(
            f"{path} does not name its columns; they are taken as {', '.join(TRAITS)} (else"
            " --traits)"
        )
    columns = [names.index(trait.lower()) for trait in TRAITS]
    return _in_range(torch.from_numpy(labels[:, columns].astype(np.float32)), path)


def _is_by_preprocess(labels: Path) -> bool:
    """Whether `preprocess` wrote these labels, whose columns are then known."""
    about = labels.with_name(ABOUT)
    if labels.name != "labels.npy" or not about.is_file():
        return False
    return files.read_json(about)["traits"] == list(TRAITS)


def _in_range(labels: Float[Tensor, "n 5"], path: str | Path) -> Float[Tensor, "n 5"]:
    outside = ~((labels >= 0) & (labels <= 1))  # NaN too
    if outside.any():
        row, trait = outside.nonzero()[0].tolist()
        raise ValueError(
            f"row {row} of {path} has {TRAITS[trait]} {labels[row, trait].item():.4g}; expected"
            " labels in [0, 1], so scale them, or look for a missing one"
        )
    return labels


def _read_speakers(path: str | Path) -> np.ndarray:
    if Path(path).suffix == ".csv":
        columns = read_columns(path)
        if "speaker" not in columns:
            raise ValueError(
                f"{path} has no column speaker, only {', '.join(columns)}; name it in the header"
            )
        speakers = np.array(columns["speaker"])
    else:
        speakers = _load(path)
    names = [str(name).strip().lower() for name in speakers.tolist()]
    missing = [row for row, name in enumerate(names) if name in MISSING]
    if speakers.ndim != 1 or missing:
        fault = (
            f"row {missing[0]} without a speaker id" if missing else f"the shape {speakers.shape}"
        )
        raise ValueError(
            f"{path} has {fault}; expected one for each clip, since a split by clip leaks: the same"
            " person would be on both sides"
        )
    return speakers


def split_rows(
    count: int, speakers: np.ndarray | None, share: float, seed: int
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " valid"]]:
    """Rows to train on and rows to validate on, in order; with speakers, none of them is on both
    sides.

    Raises `ValueError` where a side would be empty.
    """
    if not 0 < share < 1:
        raise ValueError(f"val_split is {share}; expected a share between 0 and 1, such as 0.2")
    if seed < 0:
        raise ValueError(f"split_seed is {seed}; expected a number from 0 on")
    who = np.arange(count) if speakers is None else np.unique(speakers, return_inverse=True)[1]
    sizes = np.bincount(who)
    if len(sizes) < 4:
        what = "rows" if speakers is None else "speakers"
        raise ValueError(
            f"{len(sizes)} {what} cannot be split, because each side needs 2; add clips"
            + (" of other people, or leave out --speakers: then clips are split, which leaks")
            * (speakers is not None)
        )
    order = np.random.default_rng(seed).permutation(len(sizes))
    nearest = 1 + int(np.abs(np.cumsum(sizes[order]) - share * count).argmin())
    valid = np.isin(who, order[: min(max(2, nearest), len(sizes) - 2)])
    return np.flatnonzero(~valid), np.flatnonzero(valid)


# ---- drawn clips ---------------------------------------------------------------------------------


def _drawn(count: int, split: str) -> Arrays:
    """Tokens of drawn clips, kept in the cache; the main process makes them while the others wait."""
    if count < 1:
        raise ValueError(f"--clips {count} draws nothing; ask for at least 16")
    state, clips = processes(), ClipDataset(count, split)
    static, dynamic = (
        extractor().eval().to(state.device)
        for extractor in (StaticFeatureExtractor, DynamicFeatureExtractor)
    )
    with state.main_process_first():
        tokens = stored_tokens(clips, static, dynamic)
    made_of = f"{static.hash} {dynamic.hash}".encode() + tokens["traits"].numpy().tobytes()
    content = {"clips": count, "split": split, "sha256": hashlib.sha256(made_of).hexdigest()}
    face_tokens, motion_tokens = (tokens[name] for name in TOKENS)
    return Arrays(
        static=face_tokens,
        dynamic=motion_tokens,
        traits=tokens["traits"],
        speakers=clips.labels()["speaker"].numpy(),
        sources={"drawn clips": content},
    )
