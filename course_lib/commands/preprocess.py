"""A folder of videos into faces and flow, and these into tokens and features: each clip once, by
many processes.
"""

import csv
import io
import os
import re
import time
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .. import files, runtime
from ..data.first_impressions import read_annotations, speakers_of
from ..data.flow import OpticalFlowSequenceLoader
from ..models.dynamic import DynamicFeatureExtractor
from ..models.static import StaticFeatureExtractor
from ..shapes import Float
from ..training.lock import FolderLock
from .arrays import TOKENS, read_columns, read_traits
from .runs import claimed
from .settings import Preprocess

__all__ = ["Windows", "preprocess"]

VIDEOS = (".mp4", ".mpg", ".mpeg", ".avi", ".webm", ".mov", ".mkv", ".m4v", ".gif")
FIRST_IMPRESSIONS = re.compile(r".+\.\d{3}\.\w+")  # what its clips are called


class Windows(Dataset):
    """Of each video the window from its middle; of one that cannot be read, what is wrong with it."""

    def __init__(self, videos: list[Path], **options):
        self.videos, self.options = videos, options

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict:
        video = self.videos[index]
        try:
            window = OpticalFlowSequenceLoader([video], **self.options)[0]
        except Exception as error:  # a broken file can fail in any way
            return {"video": video, "problem": error}
        return {"video": video, "face": window["face"], "flow": window["flow"]}


class Place(NamedTuple):
    """Where the results of one video lie."""

    record: Path  # says what was done, and is written last
    tokens: Path


def preprocess(settings: Preprocess) -> Path:
    """Do this process's share of the videos; whoever does the last one writes the arrays. Returns
    the output folder.
    """
    folder = Path(settings.folder)
    if not settings.folder or not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {settings.folder!r}; give the folder that holds the videos"
        )
    output = Path(settings.output or Path("data") / folder.resolve().name)
    videos = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in VIDEOS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not videos:
        raise FileNotFoundError(
            f"no video below {folder}; it should hold files like {', '.join(VIDEOS[:4])}"
        )
    traits = _read_labels(Path(settings.labels)) if settings.labels else None
    if traits is not None:
        videos, found = [video for video in videos if video.name in traits], len(videos)
        print(f"{len(videos)} of {found} videos have labels")
        if not videos:
            raise ValueError(
                f"{settings.labels} has a label for none of the videos below {folder}; its column"
                " clip should hold their file names"
            )
    first, of = _shard(settings.shard)
    with claimed(output / "shards" / f"{first + 1}-of-{of}") as lock:
        _work_through(videos[first::of], folder, output, settings, lock)
        _write_arrays(videos, traits, folder, output, settings)
    return output


def _shard(shard: str) -> tuple[int, int]:
    """Which of how many slices is ours, the first being 0: the shard's, dealt on to its processes."""
    if not (match := re.fullmatch(r"(\d+)/(\d+)", shard)) or not 1 <= int(match[1]) <= int(
        match[2]
    ):
        raise ValueError(f"shard {shard!r} is none; 2/8 is the second of eight")
    rank, processes = (
        int(os.environ.get(name, other)) for name, other in (("RANK", 0), ("WORLD_SIZE", 1))
    )
    return (int(match[1]) - 1) * processes + rank, int(match[2]) * processes


def _work_through(
    videos: list[Path], folder: Path, output: Path, settings: Preprocess, lock: FolderLock
) -> None:
    """Do what is not done: workers decode, track and compute flow, this process runs the extractors
    on batches.
    """
    wanted = _wanted(settings)
    todo = [video for video in videos if not _is_done(video, folder, output, wanted)]
    if len(todo) < len(videos):
        print(f"{len(videos) - len(todo)} of {len(videos)} clips are done already")
    if not todo:
        return
    extractors = _extractors() if settings.features == "tokens" else None
    windows = iter(
        DataLoader(
            Windows(todo, cache=output / "flow", **wanted["window"]),
            batch_size=None,
            num_workers=settings.workers,
            collate_fn=_as_it_is,
            worker_init_fn=_one_thread,
            # A forked worker would inherit OpenCV's threads as locks that nobody opens.
            multiprocessing_context="spawn" if settings.workers else None,
        )
    )
    started, broken = time.perf_counter(), 0
    with tqdm(total=len(todo), unit="clip", mininterval=2, smoothing=0.05) as progress:
        while batch := list(islice(windows, settings.batch_size)):
            broken += sum(_note_problem(item, folder, output, progress) for item in batch)
            good = [item for item in batch if "problem" not in item]
            tokens = _tokens(good, extractors) if extractors and good else [{}] * len(good)
            for item, kept in zip(good, tokens, strict=True):
                place = _place(item["video"], folder, output)
                if kept:
                    files.save_tensors(place.tokens, kept)
                files.write_json(place.record, _source(item["video"]) | wanted)
            progress.update(len(batch))
            lock.renew()
    minutes = (time.perf_counter() - started) / 60
    print(
        f"{len(todo) - broken} clips in {minutes:.1f} minutes, {(len(todo) - broken) / minutes:.0f}"
        " a minute" + (f"; {broken} skipped" if broken else "")
    )


def _as_it_is(item: dict) -> dict:
    return item


def _one_thread(worker: int) -> None:
    """Many workers with many threads each would only get into each other's way."""
    cv2.setNumThreads(1)


def _note_problem(item: dict, folder: Path, output: Path, progress: tqdm) -> bool:
    """Name a broken clip; what has nothing to do with the clip, such as a full disk, stops the
    work.
    """
    if not (problem := item.get("problem")):
        return False
    if isinstance(problem, OSError) and not isinstance(problem, FileNotFoundError):
        raise problem
    sentence = (
        str(problem)
        if isinstance(problem, ValueError | OSError)
        else f"{type(problem).__name__}: {problem}"
    )
    progress.write(f"skipped {item['video'].relative_to(folder)}: {sentence}")
    files.write_json(
        _place(item["video"], folder, output).record, _source(item["video"]) | {"problem": sentence}
    )
    return True


def _extractors() -> tuple[StaticFeatureExtractor, DynamicFeatureExtractor]:
    device = runtime.default_device()
    return StaticFeatureExtractor().eval().to(device), DynamicFeatureExtractor().eval().to(device)


def _tokens(items: list[dict], extractors: tuple) -> list[dict[str, Tensor]]:
    """Face tokens `49 2048` and motion tokens `steps 1024` of each clip, in half precision."""
    made = [
        extractor.tokens(torch.stack([item[name] for item in items]), chunk=len(items)).half()
        for extractor, name in zip(extractors, ("face", "flow"), strict=True)
    ]
    return [dict(zip(TOKENS, pair, strict=True)) for pair in zip(*made, strict=True)]


# ---- what is done --------------------------------------------------------------------------------


def _place(video: Path, folder: Path, output: Path) -> Place:
    name = video.relative_to(folder).as_posix()
    return Place(output / "done" / f"{name}.json", output / "tokens" / f"{name}.safetensors")


def _source(video: Path) -> dict:
    """Which state of the file was read."""
    state = video.stat()
    return {"bytes": state.st_size, "modified": state.st_mtime_ns}


def _wanted(settings: Preprocess) -> dict:
    """What a result depends on: how the window is cut, and which extractors made its tokens."""
    weights = (
        files.read_json(runtime.assets("weights/manifest.json"))
        if settings.features == "tokens"
        else {}
    )
    return {
        "window": {
            name: getattr(settings, name) for name in ("frames", "size", "method", "on_missing")
        },
        "tokens": [weights[name]["sha256"] for name in ("static", "dynamic")] if weights else None,
    }


def _is_done(video: Path, folder: Path, output: Path, wanted: dict) -> bool:
    """Whether the clip, as it is now, went through with these settings; tokens do no harm to who
    wants only flow.
    """
    place = _place(video, folder, output)
    kept = files.read_json(place.record) if place.record.exists() else {}
    if not wanted["tokens"]:
        wanted = wanted | {"tokens": kept.get("tokens")}
    return kept == _source(video) | wanted and (not kept["tokens"] or place.tokens.exists())


# ---- the arrays that `train` reads ---------------------------------------------------------------


def _write_arrays(
    videos: list[Path], traits: dict | None, folder: Path, output: Path, settings: Preprocess
) -> None:
    """One row for each clip that went through, once all shards are done."""
    wanted = _wanted(settings)
    records = [_place(video, folder, output).record for video in videos]
    if waiting := sum(not record.exists() for record in records):
        return print(
            f"{waiting} clips are left to other shards; whoever does the last one writes the arrays"
        )
    done = [video for video in videos if _is_done(video, folder, output, wanted)]
    print(f"{len(done)} clips are done, {len(videos) - len(done)} could not be used")
    if not done:
        raise ValueError(
            f"none of the {len(videos)} videos could be used; the sentences above say why"
        )
    speakers = _speakers(done, settings)
    for name in ("speakers", "labels"):  # those of an earlier run may belong to other rows
        (output / f"{name}.npy").unlink(missing_ok=True)
    _write_table(output / "clips.csv", done, speakers, folder)
    if speakers:
        _write_array(output / "speakers.npy", len(done), speakers, f"U{max(map(len, speakers))}")
    if traits is not None:
        _write_array(
            output / "labels.npy", len(done), (traits[video.name].numpy() for video in done)
        )
    if settings.features == "tokens":
        for name, pooled in zip(TOKENS, ("static_features", "dynamic_features"), strict=True):
            kept = (
                files.load_tensors(_place(video, folder, output).tokens)[0][name].numpy()
                for video in done
            )
            _write_array(output / f"{name}.npy", len(done), kept)
            tokens = np.load(output / f"{name}.npy", "r")
            _write_array(
                output / f"{pooled}.npy",
                len(done),
                (clip.astype(np.float32).mean(axis=0) for clip in tokens),
            )
    return print(
        f"{output} is ready for `python -m course_lib train --dataset {output}`"
        if traits is not None
        else f"{output} has no labels; give --labels FILE.csv, or name them to `train`"
    )


def _write_array(path: Path, count: int, rows: Iterable, kind: str = "") -> None:
    """An .npy file, written row by row: it may be larger than memory. Its type is `kind`, or that
    of the first row.
    """
    rows = iter(rows)
    first = np.asarray(next(rows))
    with files.atomic(path) as temporary:
        array = np.lib.format.open_memmap(
            temporary, "w+", kind or first.dtype, (count, *first.shape)
        )
        for number, row in enumerate(chain([first], rows)):
            array[number] = row
        array.flush()


def _write_table(path: Path, videos: list[Path], speakers: list[str] | None, folder: Path) -> None:
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["clip", "speaker"])
    table.writerows(
        zip(
            [video.relative_to(folder).as_posix() for video in videos],
            speakers or [""] * len(videos),
            strict=True,
        )
    )
    with files.atomic(path) as temporary:
        temporary.write_text(text.getvalue())


def _read_labels(path: Path) -> dict[str, Float[Tensor, " traits"]]:
    """The traits of each clip, by its file name."""
    if path.suffix == ".csv":
        columns = read_columns(path)
        if "clip" not in columns:
            raise ValueError(
                f"{path} has no column clip, only {', '.join(columns)}; name it in the header"
            )
        return dict(zip(columns["clip"], read_traits(columns, path), strict=True))
    tables = sorted(path.rglob("annotation_*.pkl")) if path.is_dir() else [path]
    if not tables or not tables[0].is_file():
        raise FileNotFoundError(
            f"no labels at {path}; give a CSV file, or annotation_*.pkl of First Impressions"
        )
    return {
        clip: torch.tensor(values)
        for table in tables
        for clip, values in read_annotations(table).items()
    }


def _speakers(videos: list[Path], settings: Preprocess) -> list[str] | None:
    """Who speaks in each video, from a table or from First Impressions' names; none if there is no
    way to know.
    """
    table = settings.speakers or (settings.labels if settings.labels.endswith(".csv") else "")
    columns = read_columns(table) if table else {}
    if settings.speakers and not {"clip", "speaker"} <= columns.keys():
        raise ValueError(
            f"{table} needs the columns clip and speaker, and has {', '.join(columns)}"
        )
    if "speaker" in columns:
        known = dict(zip(columns["clip"], columns["speaker"], strict=True))
        if missing := next((video.name for video in videos if not known.get(video.name)), None):
            raise ValueError(
                f"{table} has no speaker for {missing}; add one, since a split by clip leaks"
            )
        return [known[video.name] for video in videos]
    if all(FIRST_IMPRESSIONS.fullmatch(video.name) for video in videos):
        return speakers_of([video.name for video in videos])
    print(
        "nobody says who speaks in which clip, so the split will be by clip, which leaks; give"
        " --speakers FILE.csv"
    )
    return None
