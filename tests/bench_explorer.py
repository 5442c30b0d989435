"""What a change of the explorer's view costs in a browser: attribute, layer, head and sample, first
paint, memory.

Run by `make bench ARGS=explorer`; measured with 40 attributes × 4 layers × 8 heads × 196 patches.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from chromium import launch
from explorer_model import small_model
from playwright.sync_api import sync_playwright

from course_lib.explorer import AttentionExplorer

MEASURE = """async ([changes, rounds]) => {
    const frames = [], real = window.requestAnimationFrame, times = {};
    window.requestAnimationFrame = (paint) => frames.push(paint);
    for (const [name, values] of Object.entries(changes)) {
      times[name] = [];
      for (let round = 0; round < rounds; round++) {
        const start = performance.now();
        for (const [key, options] of Object.entries(values)) attention.set(key, options[round % options.length]);
        attention.save_changes();
        while (frames.length) frames.shift()(start);
        const wanted = `${attention.get("sample")} ${attention.get("checkpoint")}`;
        while (document.querySelector(".explorer").dataset.sample !== wanted) {     // a sample is unpacked in between
          await new Promise((done) => setTimeout(done));
          while (frames.length) frames.shift()(start);
        }
        document.body.offsetHeight;                                                 // style and layout, too
        times[name].push(performance.now() - start);
      }
    }
    window.requestAnimationFrame = real;
    return times; }"""
HEAP = """async () => { for (let i = 0; i < 3; i++) { gc(); await new Promise(done => setTimeout(done, 50)); }
    return performance.memory.usedJSHeapSize / 1e6 }"""


FIRST = """new MutationObserver((_, observer) => {       // from the navigation until the first sample is on screen
    if (!document.querySelector(".explorer[data-sample]")) return;
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => { window.opened = performance.now() }));
}).observe(document, { subtree: true, childList: true, attributes: true })"""


class Noise(torch.utils.data.Dataset):
    """Drawn at no cost, so that the explorer is measured and not the drawing."""

    def __len__(self):
        return 100

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        squares = torch.rand(40, 14, 14, generator=generator) > 0.9
        return {
            "image": torch.rand(3, 112, 112, generator=generator),
            "target": torch.ones(40),
            "regions": squares.repeat_interleave(8, 1).repeat_interleave(8, 2),
        }


def bench_explorer(row: Callable[..., None]) -> None:
    """A row for each change, with its 95th percentile, beside the budget; memory beside that of the
    start.
    """
    explorer = AttentionExplorer(small_model(14, 40, 4, 8), Noise())
    names = explorer.names
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        few, many = (explorer.to_html(Path(folder) / f"{count}.html", count) for count in (4, 80))
        browser = launch(
            playwright.chromium, "--js-flags=--expose-gc", "--enable-precise-memory-info"
        )
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.add_init_script(FIRST)
        firsts = []
        for path in (few, few, few, many):
            page.goto(f"file://{path}")
            while not page.evaluate(
                "window.attention !== undefined && window.opened !== undefined"
            ):
                time.sleep(0.02)
            firsts.append(page.evaluate("window.opened"))
        first = float(np.median(firsts[:3]))
        changes = {
            "attribute": {"attribute": names[:20]},
            "layer": {"layer": [0, 1, 2, 3]},
            "head": {"head": [-1, 0, 1, 2, 3, 4, 5, 6, 7]},
            "sample": {"sample": list(range(0, 80))},
        }
        page.evaluate(MEASURE, [changes, 10])  # warm up
        times = page.evaluate(MEASURE, [changes, 100])
        for name, budget in (("attribute", 16), ("layer", 16), ("head", 16), ("sample", 100)):
            late = float(np.percentile(times[name], 95))
            row(
                f"explorer, {name} change, 95th percentile",
                f"{late:.1f} ms",
                f"{np.median(times[name]):.1f} ms median",
                late / budget,
                f"≤ {budget} ms",
            )
        row(
            "explorer, first paint of a page of 4 samples",
            f"{first:.0f} ms",
            "1000 ms allowed",
            first / 1000,
            "≤ 1",
        )
        before = page.evaluate(HEAP)
        page.evaluate(MEASURE, [{"sample": changes["sample"]}, 1000])
        after = page.evaluate(HEAP)
        row(
            "explorer, memory after 1,000 samples",
            f"{after:.1f} MB",
            f"{before:.1f} MB before",
            after / before,
            "flat",
        )
        browser.close()
    spent = []
    for sample in range(80, 100):
        started = time.perf_counter()
        item = explorer.item(sample)
        json.dumps(item.header)
        spent.append(1000 * (time.perf_counter() - started))
    late = float(np.percentile(spent, 95))
    row(
        "explorer, a new sample in the kernel, 95th percentile",
        f"{late:.0f} ms",
        f"{np.median(spent):.0f} ms median",
        late / 100,
        "≤ 100 ms with the page's part",
    )
