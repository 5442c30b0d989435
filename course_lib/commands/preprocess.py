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
from typing import Literal, NamedTuple

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
from ..training.lock import locked
from .arrays import TOKENS, read_columns, read_traits

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


class Clips(NamedTuple):
    """Where the videos lie, where the results of each go, and what these depend on."""

    folder: Path
    output: Path
    recipe: dict

    def name(self, video: Path) -> str:
        return video.relative_to(self.folder).as_posix()

    def record(self, video: Path) -> Path:
        """The file that says what was done; it is written last."""
        return self.output / "done" / f"{self.name(video)}.json"

    def tokens(self, video: Path) -> Path:
        return self.output / "tokens" / f"{self.name(video)}.safetensors"

    def is_done(self, video: Path) -> bool:
        """Whether the clip, as it is now, went through with these settings; tokens do no harm
        where only flow is asked for.
        """
        path, recipe = self.record(video), self.recipe
        record = files.read_json(path) if path.exists() else {}
        if not recipe["tokens"]:
            recipe = recipe | {"tokens": record.get("tokens")}
        if record != _source(video) | recipe:
            return False
        return not record["tokens"] or self.tokens(video).exists()


def preprocess(
    folder: str,
    *,
    output: str = "",
    labels: str = "",
    speakers: str = "",
    features: Literal["tokens", "none"] = "tokens",
    frames: int = 32,
    size: int = 112,
    method: Literal["dis", "farneback", "raft"] = "dis",
    on_missing: Literal["raise", "centre"] = "raise",
    workers: int = 2,
    batch_size: int = 8,
    shard: str = "1/1",
) -> Path:
    """Turn a folder of videos into faces and flow, and these into tokens and features that `train`
    reads; returns the output folder.

    Run it again to go on after a stop; each clip is done once. Shards and processes may share the
    output folder; whoever does the last clip writes the arrays.

    Args:
        folder: the videos, however deep
        output: where to write; default: data/ and the folder's name
        labels: CSV with the columns clip and the five traits (and speaker), or First Impressions'
            annotation .pkl, or a folder of those
        speakers: CSV with the columns clip and speaker; default: First Impressions' names tell
        features: 'tokens' also runs both extractors; 'none' stops at flow
        frames: flow fields in the window from the middle of each clip
        size: side of faces and flow in pixels
        method: how flow is estimated
        on_missing: a clip without a face is left out, or cut in its centre
        workers: processes that decode, track and compute flow
        batch_size: clips that go through the extractors together
        shard: which part to do: 2/8 is the second of eight
    """
    source = Path(folder)
    if not folder or not source.is_dir():
        raise FileNotFoundError(f"no folder {folder!r}; give the folder that holds the videos")
    target = Path(output or Path("data") / source.resolve().name)
    videos = _videos(source)
    traits = _read_labels(Path(labels)) if labels else None
    if traits is not None:
        labelled = [video for video in videos if video.name in traits]
        print(f"{len(labelled)} of {len(videos)} videos have labels")
        if not labelled:
            raise ValueError(
                f"{labels} has a label for none of the videos below {source}; its column clip"
                " should hold their file names"
            )
        videos = labelled
    window = {"frames": frames, "size": size, "method": method, "on_missing": on_missing}
    clips = Clips(source, target, {"window": window, "tokens": _extractor_hashes(features)})
    first, of = _shard(shard)
    with locked(target / "shards" / f"{first + 1}-of-{of}"):
        _work_through(videos[first::of], clips, workers, batch_size)
        if waiting := sum(not clips.record(video).exists() for video in videos):
            print(f"{waiting} clips are left to other shards; the last one writes the arrays")
        else:
            _write_arrays(videos, clips, traits, speakers, labels)
    return target


def _videos(folder: Path) -> list[Path]:
    videos = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in VIDEOS and not hidden:
            videos.append(path)
    if not videos:
        raise FileNotFoundError(
            f"no video below {folder}; it should hold files like {', '.join(VIDEOS[:4])}"
        )
    return videos


def _extractor_hashes(features: str) -> list[str] | None:
    if features == "none":
        return None
    manifest = files.read_json(runtime.assets("weights/manifest.json"))
    return [manifest[name]["sha256"] for name in ("static", "dynamic")]


def _shard(shard: str) -> tuple[int, int]:
    """Which of how many slices is ours, the first being 0: the shard's, dealt on to its processes."""
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"shard {shard!r} is none; 2/8 is the second of eight")
    rank = int(os.environ.get("RANK", 0))
    processes = int(os.environ.get("WORLD_SIZE", 1))
    return (int(match[1]) - 1) * processes + rank, int(match[2]) * processes


def _work_through(videos: list[Path], clips: Clips, workers: int, batch_size: int) -> None:
    """Do what is not done: workers decode, track and compute flow, this process runs the extractors
    on batches.
    """
    todo = [video for video in videos if not clips.is_done(video)]
    if len(todo) < len(videos):
        print(f"{len(videos) - len(todo)} of {len(videos)} clips are done already")
    if not todo:
        return
    extractors = _extractors() if clips.recipe["tokens"] else None
    windows = iter(
        DataLoader(
            Windows(todo, cache=clips.output / "flow", **clips.recipe["window"]),
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=_one_thread,
            # A forked worker would inherit OpenCV's threads as locks that nobody opens.
            multiprocessing_context="spawn" if workers else None,
        )
    )
    started, broken = time.perf_counter(), 0
    with tqdm(total=len(todo), unit="clip", mininterval=2, smoothing=0.05) as progress:
        while batch := list(islice(windows, batch_size)):
            good = [item for item in batch if "problem" not in item]
            for item in batch:
                if "problem" in item:
                    progress.write(_note_problem(item["video"], item["problem"], clips))
            if extractors and good:
                for item, tokens in zip(good, _tokens(good, extractors), strict=True):
                    files.save_tensors(clips.tokens(item["video"]), tokens)
            for item in good:
                files.write_json(clips.record(item["video"]), _source(item["video"]) | clips.recipe)
            broken += len(batch) - len(good)
            progress.update(len(batch))
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


def _note_problem(video: Path, problem: Exception, clips: Clips) -> str:
    """Note that a clip is broken, and return the sentence that names it; what has nothing to do
    with the clip, such as a full disk, stops the work.
    """
    if isinstance(problem, OSError) and not isinstance(problem, FileNotFoundError):
        raise problem
    expected = isinstance(problem, ValueError | OSError)
    sentence = str(problem) if expected else f"{type(problem).__name__}: {problem}"
    files.write_json(clips.record(video), _source(video) | {"problem": sentence})
    return f"skipped {clips.name(video)}: {sentence}"


def _source(video: Path) -> dict:
    """Which state of the file was read."""
    state = video.stat()
    return {"bytes": state.st_size, "modified": state.st_mtime_ns}


def _extractors() -> tuple[StaticFeatureExtractor, DynamicFeatureExtractor]:
    device = runtime.default_device()
    return StaticFeatureExtractor().eval().to(device), DynamicFeatureExtractor().eval().to(device)


def _tokens(items: list[dict], extractors: tuple) -> list[dict[str, Tensor]]:
    """Face tokens `49 2048` and motion tokens `steps 1024` of each clip, in half precision."""
    static, dynamic = extractors
    faces = torch.stack([item["face"] for item in items])
    flows = torch.stack([item["flow"] for item in items])
    face_tokens = static.tokens(faces, chunk=len(items)).half()
    motion_tokens = dynamic.tokens(flows, chunk=len(items)).half()
    return [
        dict(zip(TOKENS, pair, strict=True))
        for pair in zip(face_tokens, motion_tokens, strict=True)
    ]


# ---- the arrays that `train` reads ---------------------------------------------------------------


def _write_arrays(
    videos: list[Path], clips: Clips, traits: dict | None, speaker_table: str, label_table: str
) -> None:
    """One row for each clip that went through."""
    done, output = [video for video in videos if clips.is_done(video)], clips.output
    print(f"{len(done)} clips are done, {len(videos) - len(done)} could not be used")
    if not done:
        raise ValueError(
            f"none of the {len(videos)} videos could be used; the sentences above say why"
        )
    speakers = _speakers(done, speaker_table, label_table)
    for name in ("speakers", "labels"):  # those of an earlier run may belong to other rows
        (output / f"{name}.npy").unlink(missing_ok=True)
    _write_table(output / "clips.csv", [clips.name(video) for video in done], speakers)
    if speakers:
        _write_array(output / "speakers.npy", len(done), speakers, f"U{max(map(len, speakers))}")
    if traits is not None:
        rows = (traits[video.name].numpy() for video in done)
        _write_array(output / "labels.npy", len(done), rows)
    if clips.recipe["tokens"]:
        for name, pooled in zip(TOKENS, ("static_features", "dynamic_features"), strict=True):
            rows = (files.load_tensors(clips.tokens(video))[0][name].numpy() for video in done)
            _write_array(output / f"{name}.npy", len(done), rows)
            tokens = np.load(output / f"{name}.npy", "r")
            means = (clip.astype(np.float32).mean(axis=0) for clip in tokens)
            _write_array(output / f"{pooled}.npy", len(done), means)
    if traits is None:
        print(f"{output} has no labels; give --labels FILE.csv, or name them to `train`")
    else:
        print(f"{output} is ready for `python -m course_lib train --dataset {output}`")


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


def _write_table(path: Path, names: list[str], speakers: list[str] | None) -> None:
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["clip", "speaker"])
    table.writerows(zip(names, speakers or [""] * len(names), strict=True))
    with files.atomic(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


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


def _speakers(videos: list[Path], speaker_table: str, label_table: str) -> list[str] | None:
    """Who speaks in each video, from a table or from First Impressions' names; none if there is no
    way to know.
    """
    table = speaker_table or (label_table if label_table.endswith(".csv") else "")
    columns = read_columns(table) if table else {}
    if speaker_table and not {"clip", "speaker"} <= columns.keys():
        raise ValueError(
            f"{table} needs the columns clip and speaker, and has {', '.join(columns)}"
        )
    if "speaker" in columns:
        speaker_by_clip = dict(zip(columns["clip"], columns["speaker"], strict=True))
        speakers = [speaker_by_clip.get(video.name, "") for video in videos]
        if "" in speakers:
            raise ValueError(
                f"{table} has no speaker for {videos[speakers.index('')].name}; add one, since a"
                " split by clip leaks"
            )
        return speakers
    if all(FIRST_IMPRESSIONS.fullmatch(video.name) for video in videos):
        return speakers_of([video.name for video in videos])
    print(
        "nobody says who speaks in which clip, so the split will be by clip, which leaks; give"
        " --speakers FILE.csv"
    )
    return None
