"""Speeds and sizes, each beside a peer measured in the same run: `make bench`.

Absolute times depend on the machine; the ratio is what a reader may compare. Each pair is measured in turns and the
medians are divided.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import imageio.v2 as imageio
import numpy as np
import torch
from torch import nn

from course_lib.data import ClipDataset, FaceDataset, draw_face, render_clip
from course_lib.data.flow import OpticalFlowComputer, end_point_error, flow_windows
from course_lib.data.video import face_windows, read_clip, track_face
from course_lib.models import DynamicFeatureExtractor, StaticFeatureExtractor
from course_lib.models.dynamic import I3D

VIDEO_FPS = 25


def seconds(*actions: Callable[[], object], rounds: int = 5) -> list[float]:
    """The median time of each action, all run in turns after one warm-up."""
    for action in actions:
        action()
    times = [[] for _ in actions]
    for _ in range(rounds):
        for action, kept in zip(actions, times, strict=True):
            started = time.perf_counter()
            action()
            kept.append(time.perf_counter() - started)
    return [float(np.median(kept)) for kept in times]


def row(what: str, value: str, peer: str, ratio: float, asked: str = "") -> None:
    print(f"| {what} | {value} | {peer} | {ratio:.2f} | {asked} |")


def videos(folder: str) -> list[Path]:
    """The real clips if COURSE_REAL_CLIPS names a folder of them, else one drawn clip as an mp4."""
    real = os.environ.get("COURSE_REAL_CLIPS")
    if real:
        return sorted(path for path in Path(real).iterdir() if path.suffix in (".mpg", ".mp4", ".avi", ".webm"))
    path = Path(folder) / "drawn.mp4"
    frames = np.concatenate([render_clip(seed, 224).frames[:25] for seed in (1, 1, 1)])
    imageio.mimwrite(path, frames, fps=VIDEO_FPS, macro_block_size=1)
    return [path]


def bench_pipeline(folder: str) -> None:
    """From file to tokens, against the video's own frame rate."""
    static, dynamic = StaticFeatureExtractor(weights=None).eval(), DynamicFeatureExtractor(weights=None).eval()
    paths = videos(folder)
    lengths = [sum(1 for _ in read_clip(path)) for path in paths]

    def decode():
        return [sum(1 for _ in read_clip(path)) for path in paths]

    def track():
        return [track_face(read_clip(path)) for path in paths]

    def whole():
        with torch.inference_mode():
            for path in paths:
                for item in flow_windows(path):
                    static.tokens(item["face"][None])
                    dynamic.tokens(item["flow"][None])

    total = sum(lengths)
    for name, spent in zip(("decode", "decode and track", "decode, track, flow, both extractors"),
                           seconds(decode, track, whole, rounds=3), strict=True):
        row(name, f"{total / spent:.0f} frames/s", f"{VIDEO_FPS} frames/s of the video", total / spent / VIDEO_FPS,
            "≥ 1")


def bench_memory() -> None:
    """Peak memory of decoding and tracking a clip ten times as long."""
    import tracemalloc

    def peak(repeats: int) -> float:
        frame = cv2.resize(draw_face({"Young"}, 0, 160).image, (320, 240))
        tracemalloc.start()
        track = track_face((frame for _ in range(30 * repeats)), 25)
        for crops in face_windows((frame for _ in range(30 * repeats)), track, [0], 16, 112):
            assert len(crops) == 17
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top / 1e6

    short, long = peak(1), peak(10)
    row("peak memory, 300 frames", f"{long:.1f} MB", f"{short:.1f} MB for 30 frames", long / short, "flat")


def bench_extractors() -> None:
    """Both extractors beside the bare module on the same, already normalised input."""
    static, dynamic = StaticFeatureExtractor(weights=None).eval(), DynamicFeatureExtractor(weights=None).eval()
    images, flow = torch.rand(8, 3, 112, 112), torch.randn(2, 32, 112, 112, 2)
    normalised = flow.permute(0, 4, 1, 2, 3).clip(-20, 20) / 20
    bare: nn.Module = I3D().eval()
    with torch.inference_mode():
        ours, peer = seconds(lambda: static(images), lambda: static.backbone(images))
        row("static extractor", f"{8 / ours:.0f} images/s", f"{8 / peer:.0f}/s, its ResNet", peer / ours, "≥ 0.95")
        ours, peer = seconds(lambda: dynamic(flow), lambda: bare(normalised), rounds=3)
        row("dynamic extractor", f"{2 / ours:.1f} clips/s", f"{2 / peer:.1f} clips/s, its I3D", peer / ours, "≥ 0.95")


def bench_world() -> None:
    """Drawing beside JPEG decoding of the same sizes, one process."""
    faces = FaceDataset(100, difficulty="medium")
    jpeg = cv2.imencode(".jpg", draw_face({"Young"}, 0).image)[1]
    ours, peer = seconds(lambda: [faces[i] for i in range(50)], lambda: [cv2.imdecode(jpeg, 1) for _ in range(50)])
    row("faces with regions, 112 px", f"{50 / ours:.0f}/s", f"{50 / peer:.0f}/s decoding JPEG", peer / ours)
    still = [cv2.imencode(".jpg", frame)[1] for frame in render_clip(0).frames]
    ours, peer = seconds(lambda: [render_clip(i) for i in range(3)],
                         lambda: [[cv2.imdecode(code, 1) for code in still] for _ in range(3)], rounds=3)
    row("clips of 32 frames with true flow", f"{3 / ours:.1f}/s", f"{3 / peer:.0f}/s decoding JPEG", peer / ours)


def bench_flow() -> None:
    """End-point error of each estimator on drawn clips, beside zero flow."""
    clips = [ClipDataset(4, "test", method="true").clip(i) for i in range(4)]
    moving = [(~clip.occluded) & (np.linalg.norm(clip.flow, axis=-1) > 0.05) for clip in clips]
    zero = np.mean([end_point_error(np.zeros_like(clip.flow), clip.flow, judged)
                    for clip, judged in zip(clips, moving, strict=True)])
    for method, preset in (("dis", "ultrafast"), ("dis", "fast"), ("dis", "medium"), ("farneback", "medium")):
        computer = OpticalFlowComputer(method, preset)
        error = np.mean([end_point_error(computer(clip.frames), clip.flow, judged)
                         for clip, judged in zip(clips, moving, strict=True)])
        name = method if method == "farneback" else f"{method} {preset}"
        row(f"end-point error, {name}", f"{error:.2f} px", f"{zero:.2f} px, zero flow", error / zero)


BENCHES = {"pipeline": bench_pipeline, "memory": bench_memory, "extractors": bench_extractors, "world": bench_world,
           "flow": bench_flow}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *BENCHES], help="which tables; all by default")
    chosen = parser.parse_args().names or list(BENCHES)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| what | measured | beside | ratio | asked |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            BENCHES[name](folder) if name == "pipeline" else BENCHES[name]()


if __name__ == "__main__":
    main()
