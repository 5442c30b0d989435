"""How long a page's own model takes for a face, beside PyTorch on one thread.

Run by `make bench ARGS=live`. On a busy machine the clock says little, so the processor time of the
worker's thread is the figure, and the clock's median and fastest stand beside it.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from bench_tools import row
from chromium import launch
from explorer_driver import wait
from playwright.sync_api import sync_playwright
from test_live_model import demo, text_of

from course_lib.training import course_attribute_predictor

FACES = 50
LOOK = """async ([image, count]) => {
    const pixels = floats(image), times = [];
    for (let i = 0; i < count; i++) times.push((await live.look(pixels)).milliseconds);
    return times; }"""
PAINTED = """async ([image, workers]) => {
    const { description } = live.meta.model, pixels = floats(image), lists = [...Array(17)].map((_, k) => [k]);
    const model = await openModel({ description, bytes: planes, tokens: live.meta.tokens }, { workers });
    await model.looks(pixels, lists);
    const start = performance.now();
    await model.looks(pixels, lists);
    model.close();
    return performance.now() - start; }"""


def processor_time() -> float:
    """Seconds that workers' threads ran, in all browsers of this machine."""
    ticks = 0
    for task in Path("/proc").glob("[0-9]*/task/[0-9]*/stat"):
        try:
            name, fields = task.read_text().rsplit(")", 1)
        except OSError:  # it ended
            continue
        if "(DedicatedWorker" in name:
            ticks += sum(map(int, fields.split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def bench_live() -> None:
    measure("7 × 7 tokens, 56 px", course_attribute_predictor(), 56, 49)
    measure("14 × 14 tokens, 112 px", course_attribute_predictor(tokens=196), 112, 196)


def measure(name: str, model: torch.nn.Module, size: int, tokens: int) -> None:
    image = torch.rand(3, size, size)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = demo(Path(folder) / "page.html", model, image, tokens)
        browser = launch(playwright.chromium)
        page = browser.new_page()
        page.goto(f"file://{path}")
        wait(page, "window.attention !== undefined")
        page.evaluate(LOOK, [text_of(image), 10])  # warm up
        before = processor_time()
        clock = page.evaluate(LOOK, [text_of(image), FACES])
        spent = 1000 * (processor_time() - before) / FACES
        one, two = (page.evaluate(PAINTED, [text_of(image), workers]) for workers in (1, 2))
        browser.close()
    pytorch = []
    with torch.inference_mode():
        for _ in range(FACES):
            started = time.thread_time()
            model(image[None])
            pytorch.append(1000 * (time.thread_time() - started))
    peer = statistics.median(pytorch)
    row(
        f"a face in the page, {name}",
        f"{spent:.0f} ms of one core; clock: median {statistics.median(clock):.0f},"
        f" fastest {min(clock):.0f} ms",
        f"PyTorch {peer:.1f} ms",
        spent / peer,
        "≤ 300 ms",
    )
    row(f"17 painted faces, {name}, 2 workers", f"{two:.0f} ms", f"1: {one:.0f} ms", two / one)
