"""A folder of videos into faces and flow, and these into tokens and features: each clip once, by
many processes.
"""

import csv
import io
import os
import re
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing import resource_tracker
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .. import files, runtime
from ..data.first_impressions import CLIP_NAME, read_annotations, speakers_of
from ..data.flow import OpticalFlowSequenceLoader
from ..data.video import LARGEST_FPS
from ..models.dynamic import DynamicFeatureExtractor
from ..models.static import StaticFeatureExtractor
from ..shapes import Float
from ..training.lock import locked
from ..world.stories import TRAITS
from .arrays import ABOUT, TOKENS, read_columns, read_traits
from .runs import at_least, between

__all__ = ["Windows", "preprocess"]

VIDEOS = (".mp4", ".mpg", ".mpeg", ".avi", ".webm", ".mov", ".mkv", ".m4v", ".gif")
FIRST_IMPRESSIONS = re.compile(r".+\.\d{3}\.\w+")  # what its clips are called


class Windows(Dataset):
    """Of each video its windows; of one that cannot be read, what is wrong with it."""

    def __init__(self, videos: list[Path], **options):
        self.videos, self.options = videos, options

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict:
        video = self.videos[index]
        try:
            windows = list(OpticalFlowSequenceLoader([video], **self.options))
        except Exception as error:  # a broken file can fail in any way
            return {"video": video, "problem": error}
        faces, flows = (torch.stack([item[key] for item in windows]) for key in ("face", "flow"))
        # flow is kept in half precision, so nothing is lost between the processes
        return {
            "video": video,
            "fps": windows[0]["fps"].item(),
            "faces": faces,
            "flows": flows.half(),
        }


class Clips(NamedTuple):
    """Where the videos lie, where the results of each go, and what these depend on."""

    folder: Path
    output: Path
    recipe: dict

    def name(self, video: Path) -> str:
        return video.relative_to(self.folder).as_posix()

    def record_path(self, video: Path) -> Path:
        """The file that says what was done; it is written last."""
        return self.output / "done" / f"{self.name(video)}.json"

    def tokens(self, video: Path) -> Path:
        return self.output / "tokens" / f"{self.name(video)}.safetensors"

    def record(self, video: Path) -> dict:
        """What was done; nothing if it was not, or if that file is damaged."""
        try:
            return files.read_json(self.record_path(video))
        except (OSError, ValueError):
            return {}

    def is_done(self, video: Path) -> bool:
        """Whether the clip, as it is now, went through with these settings; tokens do no harm
        where only flow is asked for.
        """
        record, wanted = self.record(video), _source(video) | self.recipe
        if not self.recipe["tokens"]:
            wanted["tokens"] = record.get("tokens")
        if "windows" not in record or wanted != {name: record.get(name) for name in wanted}:
            return False
        return not wanted["tokens"] or self.tokens(video).exists()


def preprocess(
    folder: str,
    *,
    output: str = "",
    labels: str = "",
    speakers: str = "",
    features: Literal["tokens", "none"] = "tokens",
    frames: int = 32,
    stride: int | None = None,
    size: int = 112,
    video_fps: float | None = 25.0,
    method: Literal["dis", "farneback", "raft"] = "dis",
    on_missing: Literal["raise", "centre"] = "raise",
    workers: int = 2,
    batch_size: int = 8,
    shard: str = "1/1",
) -> Path:
    """Turn a folder of videos into faces and flow, and these into tokens and features that `train`
    reads; returns the output folder.

    Run it again to go on after a stop; each clip is done once. Shards and processes may share the
    output folder; whoever does the last clip writes the arrays. Files that cannot be read are named
    and left out.

    Args:
        folder: the videos, however deep
        output: where to write; default: data/ and the folder's name
        labels: CSV with the columns clip and the five traits (and speaker), or First Impressions'
            annotation .pkl, or a folder of those; a clip is its path below the folder, or its file
            name where no two share it
        speakers: CSV with the columns clip and speaker; default: First Impressions' names tell
        features: 'tokens' also runs both extractors; 'none' stops at flow
        frames: flow fields in a window
        stride: a window, and a row of the arrays, every so many frames; default: one, from the
            middle of each clip
        size: side of faces and flow in pixels
        video_fps: the rate that all videos are resampled to, because flow is in pixels per frame;
            with null each keeps its own
        method: how flow is estimated
        on_missing: a clip without a face is left out, or cut in its centre
        workers: processes that decode, track and compute flow
        batch_size: clips that go through the extractors together
        shard: which part to do: 2/8 is the second of eight
    """
    at_least(1, batch_size=batch_size)
    at_least(0, workers=workers)
    if video_fps is not None:
        between(0, LARGEST_FPS, video_fps=video_fps)
    window = {
        "frames": frames,
        "stride": stride,
        "size": size,
        "video_fps": video_fps,
        "method": method,
        "on_missing": on_missing,
    }
    OpticalFlowSequenceLoader([], cache=False, **window)  # raises for settings that do not fit
    source = Path(folder)
    if not folder or not source.is_dir():
        raise FileNotFoundError(f"no folder {folder!r}; give the folder that holds the videos")
    target = Path(output or Path("data") / source.resolve().name)
    clips = Clips(source, target, {"window": window, "tokens": _extractor_hashes(features)})
    videos = _videos(source)
    traits = None
    if labels:
        traits = _read_labels(Path(labels), [clips.name(video) for video in videos])
        labelled = [video for video in videos if clips.name(video) in traits]
        print(f"{len(labelled)} of {len(videos)} videos have labels")
        if not labelled:
            raise ValueError(
                f"{labels} has a label for none of the videos below {source}; its column clip"
                " should hold their file names"
            )
        videos = labelled
    who = _speakers([clips.name(video) for video in videos], speakers, labels)
    first, of = _shard(shard)
    with locked(target / "shards" / f"{first + 1}-of-{of}"):
        _work_through(videos[first::of], clips, workers, batch_size)
        if waiting := sum(not clips.record_path(video).exists() for video in videos):
            print(f"{waiting} clips are left to other shards; the last one writes the arrays")
        else:
            _write_arrays(videos, clips, traits, who)
    return target


def _videos(folder: Path) -> list[Path]:
    """The video files below the folder, without hidden ones; those that cannot be worked with are
    named and counted.
    """
    videos, odd = [], 0
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() not in VIDEOS or hidden:
            continue
        if fault := files.fault_of_name(path):
            print(f"skipped {fault}")
            odd += 1
        else:
            videos.append(path)
    if odd:
        print(f"{odd} of {odd + len(videos)} videos were skipped")
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
    loader = DataLoader(
        Windows(todo, cache=clips.output / "flow", **clips.recipe["window"]),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_begin_work,
        # A forked worker would inherit OpenCV's threads as locks that nobody opens.
        multiprocessing_context="spawn" if workers else None,
    )
    with _ctrl_c_waits():
        windows = iter(loader)
    started, broken = time.perf_counter(), 0
    with tqdm(total=len(todo), unit="clip", mininterval=2, smoothing=0.05) as progress:
        while batch := list(islice(windows, batch_size)):
            good = [item for item in batch if "problem" not in item]
            for item in batch:
                if "problem" in item:
                    progress.write(_note_problem(item["video"], item["problem"], clips))
            if extractors and good:
                _save_tokens(good, clips, extractors, batch_size)
            for item in good:
                facts = {"windows": len(item["faces"]), "fps": item["fps"]}
                files.write_json(
                    clips.record_path(item["video"]), _source(item["video"]) | clips.recipe | facts
                )
            broken += len(batch) - len(good)
            progress.update(len(batch))
    minutes = (time.perf_counter() - started) / 60
    print(
        f"{len(todo) - broken} clips in {minutes:.1f} minutes, {(len(todo) - broken) / minutes:.0f}"
        " a minute" + (f"; {broken} skipped" if broken else "")
    )


def _as_it_is(item: dict) -> dict:
    return item


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Let Ctrl-C wait here, and in the processes that begin here until `_begin_work`: while they
    import, they would die of it with a traceback.
    """
    in_main = threading.current_thread() is threading.main_thread()  # others change no signals
    if not in_main or not hasattr(signal, "pthread_sigmask"):  # Windows has none
        yield
        return
    resource_tracker.ensure_running()  # when it begins, it lets Ctrl-C through
    pressed = []
    handler = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if pressed:
        raise KeyboardInterrupt


def _begin_work(worker: int) -> None:
    """Compute with one thread, because many workers with many threads each would only get into each
    other's way; and take Ctrl-C from here on.
    """
    cv2.setNumThreads(1)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _note_problem(video: Path, problem: Exception, clips: Clips) -> str:
    """Note that a clip is broken, and return the sentence that names it; what has nothing to do
    with the clip, such as a full disk, stops the work.
    """
    if isinstance(problem, OSError) and not isinstance(problem, FileNotFoundError):
        raise problem
    expected = isinstance(problem, ValueError | OSError)
    sentence = str(problem) if expected else f"{type(problem).__name__}: {problem}"
    files.write_json(clips.record_path(video), _source(video) | {"problem": sentence})
    return f"skipped {clips.name(video)}: {sentence}"


def _source(video: Path) -> dict:
    """Which state of the file was read; nothing if it is gone meanwhile."""
    try:
        state = video.stat()
    except OSError:
        return {}
    return {"bytes": state.st_size, "modified": state.st_mtime_ns}


def _extractors() -> tuple[StaticFeatureExtractor, DynamicFeatureExtractor]:
    device = runtime.default_device()
    return StaticFeatureExtractor().eval().to(device), DynamicFeatureExtractor().eval().to(device)


def _save_tokens(items: list[dict], clips: Clips, extractors: tuple, chunk: int) -> None:
    """Write the tokens of each clip, of the windows of all of them computed together."""
    faces = torch.cat([item["faces"] for item in items])
    flows = torch.cat([item["flows"] for item in items]).float()
    face_tokens, motion_tokens = _tokens(faces, flows, extractors, chunk)
    first = 0
    for item in items:
        rows = slice(first, first + len(item["faces"]))
        pair = (face_tokens[rows], motion_tokens[rows])
        files.save_tensors(clips.tokens(item["video"]), dict(zip(TOKENS, pair, strict=True)))
        first = rows.stop


def _tokens(
    faces: Float[Tensor, "n 3 height width"],
    flows: Float[Tensor, "n frames height width 2"],
    extractors: tuple,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Face tokens `n 49 2048` and motion tokens `n steps 1024`, in half precision."""
    static, dynamic = extractors
    return static.tokens(faces, chunk=chunk).half(), dynamic.tokens(flows, chunk=chunk).half()


# ---- the arrays that `train` reads ---------------------------------------------------------------


def _write_arrays(
    videos: list[Path],
    clips: Clips,
    traits: dict[str, Tensor] | None,
    speaker_by_clip: dict[str, str] | None,
) -> None:
    """One row for each window of each clip that went through, and a file about them: settings,
    frame rates, and what the columns of the labels are.
    """
    done, output = [video for video in videos if clips.is_done(video)], clips.output
    print(f"{len(done)} clips are done, {len(videos) - len(done)} could not be used")
    if not done:
        raise ValueError(
            f"none of the {len(videos)} videos could be used; the sentences above say why"
        )
    records = {clips.name(video): clips.record(video) for video in done}
    names = [name for name, record in records.items() for _ in range(record["windows"])]
    rates = sorted({record["fps"] for record in records.values()})
    if len(rates) > 1:
        print(
            f"the clips have from {rates[0]:g} to {rates[-1]:g} frames a second, and flow is in"
            " pixels per frame, so they do not compare; give --video_fps 25 to resample them"
        )
    for name in ("speakers.npy", "labels.npy", ABOUT):  # of an earlier run, maybe of other rows
        (output / name).unlink(missing_ok=True)
    speakers = None
    if speaker_by_clip is not None:
        speakers = [speaker_by_clip[name] for name in names]
        _write_array(output / "speakers.npy", len(names), speakers, f"U{max(map(len, speakers))}")
    _write_table(output / "clips.csv", records, speaker_by_clip)
    if traits is not None:
        _write_array(output / "labels.npy", len(names), (traits[name].numpy() for name in names))
    if clips.recipe["tokens"]:
        for name, pooled in zip(TOKENS, ("static_features", "dynamic_features"), strict=True):
            of_clips = (files.load_tensors(clips.tokens(video))[0][name].numpy() for video in done)
            _write_array(output / f"{name}.npy", len(names), chain.from_iterable(of_clips))
            tokens = np.load(output / f"{name}.npy", "r")
            means = (window.astype(np.float32).mean(axis=0) for window in tokens)
            _write_array(output / f"{pooled}.npy", len(names), means)
    about = {
        "clips": len(done),
        "rows": len(names),
        "traits": None if traits is None else list(TRAITS),
        "fps": rates,
        **clips.recipe,
    }
    files.write_json(output / ABOUT, about)
    if traits is None:
        print(f"{output} has no labels; give --labels FILE.csv, or name them to `train`")
    else:
        print(f"{output} is ready for `python -m course_lib train --dataset {output}`")


def _write_array(path: Path, count: int, rows: Iterable, kind: str = "") -> None:
    """An .npy file, written row by row, because it may be larger than memory; a full disk is an
    error of its own here, and a crash where the file is mapped into memory. Its type is `kind`, or
    that of the first row.
    """
    rows = iter(rows)
    first = np.asarray(next(rows), kind or None)
    header = {
        "descr": np.lib.format.dtype_to_descr(first.dtype),
        "fortran_order": False,
        "shape": (count, *first.shape),
    }
    with files.atomic(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for row in chain([first], rows):
            file.write(np.asarray(row, first.dtype).tobytes())


def _write_table(
    path: Path, records: dict[str, dict], speaker_by_clip: dict[str, str] | None
) -> None:
    """Which clip each row of the arrays shows, and which of its windows, at which rate."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["clip", "speaker", "window", "fps"])
    for name, record in records.items():
        speaker = "" if speaker_by_clip is None else speaker_by_clip[name]
        for window in range(record["windows"]):
            table.writerow([name, speaker, window, record["fps"]])
    with files.atomic(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


# ---- labels and speakers -------------------------------------------------------------------------


def _rows_of(clips: Sequence[str], names: Iterable[str], table: str | Path) -> dict[str, int]:
    """Which row of a table is about which clip. The table names a clip by its path below the
    folder, or by its file name where no two clips share it.

    Raises `ValueError` for a name that may be several clips, and for a clip with several rows.
    """
    by_name = defaultdict(list)
    for clip in clips:
        by_name[PurePosixPath(clip).name].append(clip)
    paths, rows = set(clips), {}
    for row, name in enumerate(names):
        path = PurePosixPath(name.replace("\\", "/")).as_posix()
        meant = [path] if path in paths else by_name.get(path, [])
        if len(meant) > 1:
            raise ValueError(
                f"{table} names {name}, which may be {meant[0]} or {meant[1]}; write such clips as"
                " these paths"
            )
        for clip in meant:
            if clip in rows:
                raise ValueError(f"{table} has {clip} in several rows; leave one of them")
            rows[clip] = row
    return rows


def _read_labels(path: Path, clips: Sequence[str]) -> dict[str, Float[Tensor, " traits"]]:
    """The traits of each clip that has some, by its path below the folder."""
    if path.suffix == ".csv":
        columns = read_columns(path)
        if "clip" not in columns:
            raise ValueError(
                f"{path} has no column clip, only {', '.join(columns)}; name it in the header"
            )
        names, traits = columns["clip"], read_traits(columns, path)
    else:
        annotated = _read_annotations(path)
        names, traits = list(annotated), torch.tensor(list(annotated.values()))
    return {clip: traits[row] for clip, row in _rows_of(clips, names, path).items()}


def _read_annotations(path: Path) -> dict[str, list[float]]:
    tables = sorted(path.rglob("annotation_*.pkl")) if path.is_dir() else [path]
    if not tables or not tables[0].is_file():
        raise FileNotFoundError(
            f"no labels at {path}; give a CSV file, or annotation_*.pkl of First Impressions"
        )
    annotated: dict[str, list[float]] = {}
    for table in tables:
        for clip, values in read_annotations(table).items():
            if annotated.setdefault(clip, values) != values:
                raise ValueError(
                    f"{table} has other labels for {clip} than another table below {path}; leave"
                    " one of them"
                )
    return annotated


def _speakers(clips: list[str], speaker_table: str, label_table: str) -> dict[str, str] | None:
    """Who speaks in each clip, from a table or from First Impressions' names; none if there is no
    way to know.
    """
    table = speaker_table or (label_table if label_table.endswith(".csv") else "")
    columns = read_columns(table) if table else {}
    if speaker_table and not {"clip", "speaker"} <= columns.keys():
        raise ValueError(
            f"{table} needs the columns clip and speaker, and has {', '.join(columns)}"
        )
    if "speaker" in columns:
        rows = _rows_of(clips, columns["clip"], table)
        speakers = {clip: columns["speaker"][row] for clip, row in rows.items()}
        if missing := [clip for clip in clips if not speakers.get(clip)]:
            raise ValueError(
                f"{table} has no speaker for {missing[0]}; add one, since a split by clip leaks"
            )
        return speakers
    names = [PurePosixPath(clip).name for clip in clips]
    if all(FIRST_IMPRESSIONS.fullmatch(name) for name in names):
        # only First Impressions' own names mean the same in every folder
        known = [
            name if CLIP_NAME.fullmatch(name) else clip
            for name, clip in zip(names, clips, strict=True)
        ]
        return dict(zip(clips, speakers_of(known), strict=True))
    print(
        "nobody says who speaks in which clip, so the split will be by clip, which leaks; give"
        " --speakers FILE.csv"
    )
    return None
