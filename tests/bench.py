"""Speeds and sizes, each beside a peer measured in the same run: `make bench`.

Absolute times depend on the machine; the ratio is what a reader may compare. Each pair is measured
in turns and the medians are divided.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import cv2
import imageio.v2 as imageio
import nbformat
import numpy as np
import torch
import torch.nn.functional as F
from bench_attributes import bench_attributes, bench_losses
from bench_explorer import bench_explorer
from bench_live import bench_live
from bench_parts import bench_parts
from bench_tools import row, seconds
from bench_tracking import bench_tracking
from chromium import launch
from einops import reduce
from nbclient import NotebookClient
from playwright.sync_api import sync_playwright
from test_page import random_maps
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet50, vit_b_16

from course_lib.data import (
    ClipDataset,
    FaceDataset,
    OpticalFlowComputer,
    OpticalFlowSequenceLoader,
    end_point_error,
    face_windows,
    read_clip,
    track_face,
    warp,
)
from course_lib.lessons import check
from course_lib.lessons.exercises import all_exercises
from course_lib.looking import linear_probe
from course_lib.models import (
    I3D,
    DynamicFeatureExtractor,
    StaticFeatureExtractor,
    TokenPersonalityModel,
    VisualizableCrossAttention,
)
from course_lib.recorder import AttentionRecorder
from course_lib.recorder import page as pages
from course_lib.tables import Table
from course_lib.training import fit
from course_lib.world import ATTRIBUTES, CELEBA_RATES, RenderedClip, draw_face, render_clip
from course_lib.world.clips import PARTS

VIDEO_FPS = 25
LESSONS = {
    path.name[:2]: path for path in sorted(Path(__file__).parents[1].glob("notebooks/*.ipynb"))
}


def videos(folder: str) -> list[Path]:
    """The real clips if COURSE_REAL_CLIPS names a folder of them, else one drawn clip as an mp4."""
    real = os.environ.get("COURSE_REAL_CLIPS")
    if real:
        return sorted(
            path
            for path in Path(real).iterdir()
            if path.suffix in (".mpg", ".mp4", ".avi", ".webm")
        )
    path = Path(folder) / "drawn.mp4"
    frames = np.concatenate([render_clip(seed, 224).frames[:25] for seed in (1, 1, 1)])
    imageio.mimwrite(path, frames, fps=VIDEO_FPS, macro_block_size=1)
    return [path]


def bench_pipeline(folder: str) -> None:
    """From file to tokens, against the video's own frame rate."""
    static, dynamic = (
        StaticFeatureExtractor(weights=None).eval(),
        DynamicFeatureExtractor(weights=None).eval(),
    )
    paths = videos(folder)
    lengths = [sum(1 for _ in read_clip(path)) for path in paths]

    def decode():
        return [sum(1 for _ in read_clip(path)) for path in paths]

    def track():
        return [track_face(read_clip(path)) for path in paths]

    def whole():
        with torch.inference_mode():
            for path in paths:
                for item in OpticalFlowSequenceLoader(path, stride=32, cache=False):
                    static.tokens(item["face"][None])
                    dynamic.tokens(item["flow"][None])

    total = sum(lengths)
    for name, spent in zip(
        ("decode", "decode and track", "decode, track, flow, both extractors"),
        seconds(decode, track, whole, rounds=3),
        strict=True,
    ):
        row(
            name,
            f"{total / spent:.0f} frames/s",
            f"{VIDEO_FPS} frames/s of the video",
            total / spent / VIDEO_FPS,
            "≥ 1",
        )


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
    row(
        "peak memory, 300 frames",
        f"{long:.1f} MB",
        f"{short:.1f} MB for 30 frames",
        long / short,
        "flat",
    )


def bench_extractors() -> None:
    """Both extractors beside torchvision's bare module on the same, already normalised input; what
    size costs.

    torchvision has no I3D: the peer is its GoogLeNet, inflated with plain convolutions, in the
    extractor's layout.
    """
    static, dynamic = (
        StaticFeatureExtractor(weights=None).eval(),
        DynamicFeatureExtractor(weights=None).eval(),
    )
    resnet = resnet50(replace_stride_with_dilation=[False, False, True], width_per_group=16).eval()
    resnet.fc = nn.Identity()
    i3d = I3D(padding="zeros").to(memory_format=torch.channels_last_3d).eval()
    images, flow = torch.rand(8, 3, 112, 112), torch.randn(4, 32, 112, 112, 2)
    normal_images = (images - static.mean) / static.std
    normal_flow = flow.movedim(-1, 1).clip(-20, 20) / 20
    with torch.inference_mode():
        ours, peer = seconds(lambda: static(images), lambda: resnet(normal_images), rounds=15)
        row(
            "static extractor",
            f"{8 / ours:.0f} images/s",
            f"{8 / peer:.0f}/s, its ResNet",
            peer / ours,
            "≥ 0.95",
        )
        ours, peer = seconds(lambda: dynamic(flow[:2]), lambda: i3d(normal_flow[:2]))
        row(
            "dynamic extractor",
            f"{2 / ours:.1f} clips/s",
            f"{2 / peer:.1f} clips/s, its I3D",
            peer / ours,
            "≥ 0.95",
        )
        one, four, long = seconds(
            lambda: dynamic(flow[:1]),
            lambda: dynamic(flow),
            lambda: dynamic(flow[:2].flatten(0, 1)[None]),
            rounds=3,
        )
        row(
            "dynamic extractor, 4 clips",
            f"{four:.2f} s",
            f"4 × {one:.2f} s",
            four / one / 4,
            "about 1",
        )
        row(
            "dynamic extractor, 64 frames",
            f"{long:.2f} s",
            f"2 × {one:.2f} s",
            long / one / 2,
            "about 1",
        )
    for name, (few, many), chunk in (
        ("StaticFeatureExtractor", ((8, 3, 112, 112), (64, 3, 112, 112)), 8),
        ("DynamicFeatureExtractor", ((1, 32, 112, 112, 2), (8, 32, 112, 112, 2)), 1),
        ("DynamicFeatureExtractor", ((1, 32, 112, 112, 2), (1, 128, 112, 112, 2)), None),
    ):
        base, large = peak_memory(name, few), peak_memory(name, many)
        row(
            f"{name} of {many}, peak memory",
            f"{large:.0f} MB",
            f"{base:.0f} MB for {few}",
            large / base,
        )
        if chunk:
            large = peak_memory(name, many, chunk)
            row(
                f"the same, chunk={chunk}",
                f"{large:.0f} MB",
                f"{base:.0f} MB",
                large / base,
                "about 1",
            )


def peak_memory(extractor: str, shape: tuple[int, ...], chunk: int | None = None) -> float:
    """The most memory, in MB, that a process of its own holds while it extracts features once
    (Linux says).
    """
    program = (
        f"import torch; from course_lib.models import {extractor}; torch.set_grad_enabled(False); "
        f"{extractor}(weights=None).eval()(torch.zeros{shape}, chunk={chunk}); "
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    return (
        int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)
        / 1024
    )


def bench_probe() -> None:
    """What a linear probe reads from each moment of 120 unseen clips: course weights, random ones,
    the flow itself.
    """
    clips = ClipDataset(120, "test")
    stories, speaker = (
        [clips.story(i) for i in range(len(clips))],
        clips.labels()["speaker"].repeat_interleave(8),
    )
    dart = torch.from_numpy(np.concatenate([story.darts for story in stories]))
    size = torch.from_numpy(np.concatenate([story.sizes for story in stories]))
    flow = torch.stack(
        [torch.from_numpy(clips.estimate(clips.clip(i).frames)).half() for i in range(len(clips))]
    )
    features = {
        f"{weights or 'random'} weights": (
            DynamicFeatureExtractor(weights).tokens(flow.float(), chunk=1)
        )
        for weights in ("course", None)
    }
    motion = torch.cat([flow, flow.norm(dim=-1, keepdim=True)], dim=-1).float()
    for name, frames, places in (
        ("a moment's mean flow, 4 × 4", 1, 4),
        ("a moment's four flows, 7 × 7", 4, 7),
    ):
        features[name] = reduce(
            motion,
            "clips (moments frames f) (rows h) (columns w) uvs -> "
            "clips moments (frames rows columns uvs)",
            "mean",
            moments=8,
            frames=frames,
            rows=places,
            columns=places,
        )
    for name, vectors in features.items():
        for what, target in (("dart direction", dart), ("movement sizes", size)):
            probe = linear_probe(vectors.flatten(0, 1), target, speaker)
            score, floor = probe.scores.mean().item(), probe.baselines.mean().item()
            print(
                f"| {what} from {name} | {probe.measure} {score:.3f} | {floor:.3f}, a constant"
                " | | |"
            )


def draw_faces(first: int) -> None:
    """A hundred faces with their regions."""
    faces = FaceDataset(first + 100)
    for index in range(first, first + 100):
        seed, tone, attributes = faces.person(index)
        draw_face(attributes, seed, difficulty="medium", tone=tone)


def draw_clips(first: int) -> None:
    """Two clips."""
    for seed in range(first, first + 2):
        render_clip(seed)


def bench_world() -> None:
    """Drawing, and reading what was drawn, beside decoding JPEGs of the same size."""
    faces = FaceDataset(100)
    picture = cv2.imencode(".jpg", draw_face({"Young"}, 0).image)[1]
    frames = [cv2.imencode(".jpg", frame)[1] for frame in render_clip(0).frames]
    # a core each
    with multiprocessing.get_context("spawn").Pool(2, cv2.setNumThreads, (1,)) as pool:
        one, two, items, peer = seconds(
            lambda: draw_faces(0),
            lambda: pool.map(draw_faces, (0, 100), 1),
            lambda: [faces[i] for i in range(100)],
            lambda: [cv2.imdecode(picture, 1) for _ in range(100)],
        )
        decoding = f"{100 / peer:.0f}/s decoding JPEG"
        row("faces with regions, 112 px", f"{100 / one:.0f}/s", decoding, peer / one)
        row("the same as items of a data set", f"{100 / items:.0f}/s", decoding, peer / items)
        row(
            "faces in two processes",
            f"{200 / two:.0f}/s",
            f"{100 / one:.0f}/s in one",
            2 * one / two,
            "≥ 1000/s",
        )
        one, two, peer = seconds(
            lambda: draw_clips(0),
            lambda: pool.map(draw_clips, (0, 2), 1),
            lambda: [[cv2.imdecode(code, 1) for code in frames] for _ in range(2)],
        )
        row(
            "clips of 32 frames with true flow",
            f"{2 / one:.1f}/s",
            f"{2 / peer:.0f}/s decoding JPEG",
            peer / one,
        )
        row(
            "clips in two processes",
            f"{4 / two:.1f}/s",
            f"{2 / one:.1f}/s in one",
            2 * one / two,
            "≥ 16/s",
        )


def sampled_on_one_part(clip: RenderedClip, t: int) -> np.ndarray:
    """Pixels of frame t whose place in frame t + 1 can be sampled bicubically without touching
    another part.
    """
    square = np.ones((5, 5), np.uint8)
    darkest, brightest = cv2.erode(clip.parts[t + 1], square), cv2.dilate(clip.parts[t + 1], square)
    around = np.where(darkest == brightest, darkest, np.uint8(255))
    there = np.indices(around.shape, np.float32)[::-1].transpose(1, 2, 0) + clip.flow[t]
    landed = cv2.remap(around, there, None, cv2.INTER_NEAREST, borderValue=255)
    pure = cv2.erode(clip.parts[t], square[1:4, 1:4]) == cv2.dilate(clip.parts[t], square[1:4, 1:4])
    return (landed == clip.parts[t]) & pure & ~clip.occluded[t]


def bench_flow() -> None:
    """What the true flow is worth, then the end-point error of each estimator by face part, beside
    zero flow.
    """
    unseen = ClipDataset(8, "test", method="true")
    clips = [unseen.clip(i) for i in range(len(unseen))]
    residual = np.concatenate([clip.residual[clip.parts >= PARTS.index("head")] for clip in clips])
    row(
        "true flow, mean residual over the head",
        f"{residual.mean():.5f} px",
        "0.005 px allowed",
        residual.mean() / 0.005,
        "≤ 1",
    )
    row(
        "true flow, largest residual",
        f"{residual.max():.3f} px",
        "0.005 px, the mean allowed",
        residual.max() / 0.005,
    )

    flows = {
        "true flow": [clip.flow for clip in clips],
        "zero flow": [np.zeros_like(clip.flow) for clip in clips],
    }
    for method, preset in (
        ("dis", "ultrafast"),
        ("dis", "fast"),
        ("dis", "medium"),
        ("farneback", "medium"),
    ):
        computer = OpticalFlowComputer(method, preset)
        flows[method if method == "farneback" else f"dis {preset}"] = [
            computer(clip.frames) for clip in clips
        ]
    grey = {
        name: (
            np.concatenate(
                [
                    np.abs(warp(clip.frames[t + 1].astype(np.float32), flow[t]) - clip.frames[t])[
                        sampled_on_one_part(clip, t)
                    ]
                    for clip, flow in zip(clips, fields, strict=True)
                    for t in range(len(flow) - 1)
                ]
            ).mean()
        )
        for name, fields in flows.items()
    }
    for peer, asked in (("zero flow", "≤ 0.5"), ("dis medium", "< 1")):
        row(
            "photometric error, true flow",
            f"{grey['true flow']:.2f} grey levels",
            f"{grey[peer]:.2f}, {peer}",
            grey["true flow"] / grey[peer],
            asked,
        )

    truth, parts = np.stack(flows["true flow"]), np.stack([clip.parts for clip in clips])
    moving = ~np.stack([clip.occluded for clip in clips]) & (np.linalg.norm(truth, axis=-1) > 0.05)
    places = {"all that moves": moving} | {
        part: moving & (parts == k) for k, part in enumerate(PARTS)
    }
    for place, judged in places.items():
        for name in list(flows)[2:] if judged.any() else []:
            error, zero = (
                end_point_error(np.stack(flows[one]), truth, judged) for one in (name, "zero flow")
            )
            row(
                f"end-point error, {place}, {name}",
                f"{error:.2f} px",
                f"{zero:.2f} px, zero flow",
                error / zero,
            )


def bench_rates() -> None:
    """Rates of 20,000 faces beside CelebA's, and how attributes depend on sex and age."""
    faces = FaceDataset(20_000, "train", 1)
    drawn = np.stack([faces.target(i).numpy() for i in range(len(faces))])
    off = np.abs(drawn.mean(0) - CELEBA_RATES)
    worst = off.argmax()
    row(
        "attribute rates, 20,000 faces",
        f"{100 * off[worst]:.2f} points off at most",
        f"CelebA, {ATTRIBUTES[worst]}",
        drawn.mean(0)[worst] / CELEBA_RATES[worst],
        "within 1 point",
    )
    male, young = (drawn[:, ATTRIBUTES.index(name)] == 1 for name in ("Male", "Young"))
    groups = {
        "young women": ~male & young,
        "older women": ~male & ~young,
        "young men": male & young,
        "older men": male & ~young,
    }
    rows = [("drawn rate in %", "all", *groups, "CelebA")]
    for i, name in enumerate(ATTRIBUTES):
        shares = [drawn[:, i].mean(), *(drawn[group, i].mean() for group in groups.values())]
        rows.append((name, *(f"{100 * share:.1f}" for share in (*shares, CELEBA_RATES[i]))))
    print(f"\n{Table('', rows).markdown()}")


def bench_checks() -> None:
    """The slowest checks of exercises, on the library's own answers, beside the time that a check
    may take.
    """
    spent = {}
    # own progress
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, COURSE_CACHE=folder):
        for name, (_, exercise) in all_exercises().items():
            answer = exercise.load_solution()
            started = time.process_time()
            with contextlib.redirect_stdout(io.StringIO()):
                check(name, answer)
            spent[name] = time.process_time() - started
    for name in sorted(spent, key=spent.get, reverse=True)[:3]:
        row(f"check of {name}", f"{spent[name]:.2f} s", "2 s allowed", spent[name] / 2, "≤ 1")


class BareAttention(nn.Module):
    """Four projections around PyTorch's fused attention: what the course's layer is measured
    against.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads, self.projections = (
            heads,
            nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(4)),
        )

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project, x in zip(self.projections, (query, key, value), strict=False)
        )
        return self.projections[3](
            F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        )


def measure_attention(
    batch: int, queries: int, keys: int, dim: int, heads: int, repeats: int
) -> None:
    bare, layer = (
        BareAttention(dim, heads),
        VisualizableCrossAttention(dim, dim, dim, heads, record=False),
    )
    query, tokens = torch.randn(batch, queries, dim), torch.randn(batch, keys, dim)

    def repeated(model: nn.Module, **keywords) -> Callable[[], object]:
        return lambda: [model(query, tokens, tokens, **keywords) for _ in range(repeats)]

    plain, fused, recording = seconds(
        repeated(bare),
        repeated(layer),
        repeated(layer, record=True),
        rounds=15,
        clock=time.process_time,
    )
    for name, spent, asked in (("fused", fused, "≤ 1.05"), ("recording", recording, "≤ 1.5")):
        row(
            f"cross-attention, {name}, {batch} × {queries} × {keys} tokens, {dim} wide",
            f"{1e3 * spent / repeats:.2f} ms",
            f"{1e3 * plain / repeats:.2f} ms bare",
            spent / plain,
            asked,
        )


def bench_attention() -> None:
    """The course's layer beside a bare one, and the recorder on a model nobody here wrote; one
    thread's own time.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        measure_attention(64, 49, 8, dim=128, heads=4, repeats=60)
        measure_attention(4, 196, 196, dim=768, heads=12, repeats=4)
        vit, image = vit_b_16().eval(), torch.randn(4, 3, 224, 224)

        def recorded() -> None:
            with AttentionRecorder(vit):
                vit(image)

        def idle() -> None:
            with AttentionRecorder(bystander):  # one that watches another model
                vit(image)

        bystander = BareAttention(8, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the bystander is never called
            plain, full, watched = seconds(
                lambda: vit(image), recorded, idle, rounds=7, clock=time.process_time
            )
        row(
            "vit_b_16, batch of 4, recorded in full",
            f"{full:.2f} s",
            f"{plain:.2f} s",
            full / plain,
            "≤ 1.5",
        )
        row(
            "the same, recorder idle",
            f"{watched:.2f} s",
            f"{plain:.2f} s",
            watched / plain,
            "≤ 1.05",
        )
        convolutions, image = resnet50().eval(), torch.randn(1, 3, 224, 224)

        def nothing() -> None:
            with AttentionRecorder(convolutions):
                convolutions(image)

        def function_mode() -> None:  # the least that a hook on functions costs
            with TorchFunctionMode():
                convolutions(image)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there is no attention
            plain, watched, least = seconds(
                lambda: convolutions(image),
                nothing,
                function_mode,
                rounds=9,
                clock=time.process_time,
            )
        for name, spent in (
            ("recorded, no attention", watched),
            ("empty TorchFunctionMode", least),
        ):
            row(
                f"resnet50, one image, {name}",
                f"{1e3 * spent:.0f} ms",
                f"{1e3 * plain:.0f} ms",
                spent / plain,
                "≤ 1.2",
            )
    torch.set_num_threads(threads)


def repaint_times(page, rounds=40):
    """Milliseconds of script, style and layout that a hover, and a change of layer and head, take."""
    return page.evaluate(
        """async rounds => {
        const frames = [], real = window.requestAnimationFrame;
        window.requestAnimationFrame = (paint) => frames.push(paint);
        const measure = (act) => {
          const start = performance.now();
          act();
          while (frames.length) frames.shift()(start);
          document.body.offsetHeight;
          return performance.now() - start;
        };
        const picture = document.querySelector(".picture"), box = picture.getBoundingClientRect(), times = [[], []];
        for (let i = 0; i < rounds; i++) {
          times[0].push(measure(() => picture.dispatchEvent(new PointerEvent("pointermove", { bubbles: true,
            clientX: box.left + box.width * ((i * 0.37) % 1), clientY: box.top + box.height * ((i * 0.73) % 1) }))));
          times[1].push(measure(() => { attention.set("layer", i % 12); attention.set("head", (5 * i) % 12);
            attention.save_changes(); }));
        }
        window.requestAnimationFrame = real;
        return times; }""",
        rounds,
    )


def bench_viewer(folder: str) -> None:
    """The page of 12 layers × 12 heads beside BertViz's model view, and its repaints beside a frame
    of 60 Hz.
    """
    maps, words = random_maps(12, 12, 64, 64, sharp=1.0), [f"word{i}" for i in range(64)]
    viewer = len(pages.script("recorder/web/kit.js", "recorder/web/viewer.js").encode())
    actions = [lambda: pages.attention_page(maps, query_names=words)]
    try:
        from bertviz import model_view
    except ImportError:
        print("| (BertViz is not installed: the page stands beside itself) |||||")
    else:
        attention = [weights[:1] for weights in maps.values()]
        actions.append(lambda: model_view(attention, words, html_action="return").data)
    times, sizes = seconds(*actions), [len(action().encode()) / 1e6 for action in actions]
    sizes[0] -= viewer / 1e6
    row(
        "page of 12 × 12 × 64 tokens, built",
        f"{times[0]:.3f} s",
        f"{times[-1]:.3f} s",
        times[0] / times[-1],
        "≤ 0.15 s",
    )
    row(
        "the same, size without the viewer",
        f"{sizes[0]:.2f} MB",
        f"{sizes[-1]:.2f} MB",
        sizes[0] / sizes[-1],
        "≤ 0.5 MB",
    )
    row("the viewer and its kit", f"{viewer / 1e3:.0f} kB", "", viewer / 120e3, "≤ 120 kB")
    maps = random_maps(12, 12, 197, 197, sharp=1.0)
    path = pages.save_page(
        Path(folder) / "page.html", maps, image=torch.rand(3, 224, 224), grid=(14, 14)
    )
    with sync_playwright() as playwright:
        page = launch(playwright.chromium).new_page()
        started = time.perf_counter()
        page.goto(f"file://{path}")
        page.wait_for_selector(".attention .mark")
        first = time.perf_counter() - started
        hover, change = (float(np.quantile(spent, 0.95)) for spent in repaint_times(page, 100))
    row("12 × 12 × 197 tokens: to the first picture", f"{first:.2f} s", "", first, "≤ 1 s")
    for what, spent in (("hover", hover), ("other layer and head", change)):
        row(
            f"12 × 12 × 197 tokens: {what}, 95 %",
            f"{spent:.1f} ms",
            "16.7 ms, a frame",
            spent / 16.7,
            "≤ 1",
        )


def random_tokens(clips: int) -> TensorDataset:
    """Tokens of the extractors' shapes, as `cache_tokens` keeps them, in single precision."""
    return TensorDataset(
        torch.randn(clips, 49, 2048), torch.randn(clips, 8, 1024), torch.rand(clips, 5)
    )


class StepTimes:
    """Processor time of each step of `fit`, from the end of one step to the end of the next."""

    def __init__(self):
        self.times, self.last = [], None

    def before_epoch(self, run) -> None:
        self.last = None

    def after_step(self, run) -> None:
        now = time.process_time()
        if self.last is not None:
            self.times.append(now - self.last)
        self.last = now


def by_hand(model: nn.Module, train: DataLoader, epochs: int, times: StepTimes) -> None:
    """The loop without anything around it."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(epochs):
        times.before_epoch(None)
        for *inputs, target in train:
            model.train()
            optimizer.zero_grad()
            F.mse_loss(model(*inputs), target).backward()
            optimizer.step()
            times.after_step(None)


def bench_training() -> None:
    """Steps of `fit` beside a loop by hand on the same model and batches, in turns; two processes
    beside one.
    """
    small = TensorDataset(torch.randn(6_400, 64), torch.rand(6_400, 5))
    mlp = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 5))
    for what, data, model, asked in (
        ("token model", random_tokens(640), TokenPersonalityModel(), "≥ 0.95"),
        ("a model of 9,000 parameters", small, mlp, ""),
    ):
        batches, ours, peer = DataLoader(data, 64, shuffle=True), StepTimes(), StepTimes()
        for _ in range(6):
            fit(model, batches, epochs=2, callbacks=[ours])
            by_hand(model, batches, 2, peer)
        spent, beside = float(np.median(ours.times)), float(np.median(peer.times))
        row(
            f"fit, batches of 64, {what}",
            f"{1 / spent:.1f} steps/s",
            f"{1 / beside:.1f} steps/s by hand",
            beside / spent,
            asked,
        )
    with tempfile.TemporaryDirectory() as folder:
        one, two = (clips_per_second(Path(folder), processes) for processes in (1, 2))
    row(
        "fit in two processes, a thread each",
        f"{two:.0f} clips/s",
        f"{one:.0f} clips/s in one",
        two / one,
    )


LAUNCHED = """
import time, torch
from torch.utils.data import DataLoader, TensorDataset
from course_lib.models import TokenPersonalityModel
from course_lib.training import fit
from bench import random_tokens

class Clock:
    seconds = []
    def before_epoch(self, run):
        self.started = time.perf_counter()
    def after_epoch(self, run):
        self.seconds.append(time.perf_counter() - self.started)

torch.set_num_threads(1)
torch.manual_seed(0)
clock = Clock()
run = fit(TokenPersonalityModel(), DataLoader(random_tokens(640), 64, shuffle=True), epochs=4, callbacks=[clock])
if run.accelerator.is_main_process:
    print(run.accelerator.num_processes, "processes, clips/s", 640 / min(clock.seconds[1:]))
"""


def clips_per_second(folder: Path, processes: int) -> float:
    """How fast so many processes learn together, each with one thread: its best epoch."""
    program = folder / "launched.py"
    program.write_text(LAUNCHED)
    output = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc_per_node",
            str(processes),
            "--standalone",
            str(program),
        ],
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
            "PYTHONPATH": str(Path(__file__).parent),
        },
    ).stdout
    return float(output.split("clips/s")[1].split()[0])


def bench_preprocess(folder: str, clips: int = 36) -> None:
    """Clips per minute of `preprocess`, start of the workers included: two beside one, then with
    the extractors.
    """
    from course_lib.commands.preprocess import preprocess

    source, paths = Path(folder) / "to_preprocess", videos(folder)
    source.mkdir()
    for number in range(clips):  # a byte more makes another file, which no cache knows
        path = paths[number % len(paths)]
        (source / f"{number}{path.suffix}").write_bytes(path.read_bytes() + bytes([number]))

    def per_minute(workers: int, features: str) -> float:
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            preprocess(
                str(source),
                output=f"{folder}/{features}{workers}",
                features=features,
                workers=workers,
                on_missing="centre",
            )
        return 60 * clips / (time.perf_counter() - started)

    one, two, tokens = per_minute(1, "none"), per_minute(2, "none"), per_minute(2, "tokens")
    row(
        "preprocess with two workers",
        f"{two:.0f} clips/min",
        f"{one:.0f} clips/min with one",
        two / one,
    )
    row(
        "preprocess with tokens, two workers",
        f"{tokens:.0f} clips/min",
        f"{two:.0f} clips/min without",
        tokens / two,
    )


BENCHES = {
    "pipeline": bench_pipeline,
    "memory": bench_memory,
    "extractors": bench_extractors,
    "probe": bench_probe,
    "world": bench_world,
    "flow": bench_flow,
    "rates": bench_rates,
    "checks": bench_checks,
    "attention": bench_attention,
    "viewer": bench_viewer,
    "training": bench_training,
    "preprocess": bench_preprocess,
    "attributes": bench_attributes,
    "losses": bench_losses,
    "explorer": lambda: bench_explorer(row),
    "live": bench_live,
    "parts": bench_parts,
    "tracking": bench_tracking,
}


def bench_lesson(path: Path) -> None:
    """One notebook from top to bottom, alone on the machine; a lesson may take two minutes."""
    notebook, most = nbformat.read(path, 4), 120
    started = time.perf_counter()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": path.parent}}).execute()
    took = time.perf_counter() - started
    row(f"lesson {path.name[:2]}", f"{took:.0f} s", f"{most} s", took / most, "at most 1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"which tables: {', '.join(BENCHES)}; or lessons by number, such as 08, which are then"
        " run one after another; all tables by default",
    )
    chosen = parser.parse_args().names or list(BENCHES)
    if unknown := sorted(set(chosen) - {*BENCHES, *LESSONS}):
        known = ", ".join([*BENCHES, *LESSONS])
        parser.error(f"there is no table or lesson {unknown[0]}; name some of {known}")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| what | measured | beside | ratio | asked |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            if name in LESSONS:
                bench_lesson(LESSONS[name])
                continue
            (
                BENCHES[name](folder)
                if name in ("pipeline", "viewer", "preprocess", "attributes")
                else BENCHES[name]()
            )


if __name__ == "__main__":
    main()
