"""The explorer's page and widget in Chromium: what is drawn, every control, and the state on both sides of a kernel."""

import base64
import contextlib
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from explorer_model import small_explorer, small_model
from matplotlib import colormaps
from PIL import Image
from test_explorer import Photos
from test_page import contrast, luminance

from course_lib.analysis.explorer import AttentionExplorer, explorer_script
from course_lib.analysis.explorer_data import look
from course_lib.analysis.localisation import energy, pointing_game
from course_lib.data import ATTRIBUTES
from course_lib.data.population import CELEBA_RATES

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def explorer():
    return small_explorer()


@pytest.fixture(scope="module")
def saved(explorer, tmp_path_factory):
    """One page that several tests open: eight samples of the explorer."""
    return explorer.to_html(tmp_path_factory.mktemp("page") / "page.html", 8)


@pytest.fixture
def open_page(browser):
    """Open a saved page with the network cut; any word on the console fails the test."""
    opened, said = [], []

    def opener(path, scheme="light", width=1300, script=True):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, offline=True,
                                      java_script_enabled=script, accept_downloads=True, reduced_motion="reduce")
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url)
                if not request.url.startswith(("file:", "data:", "blob:")) else None)
        page.goto(f"file://{path}")
        if script:
            wait(page, "window.attention !== undefined")
        opened.append(context)
        return page

    yield opener
    for context in opened:
        context.close()
    assert said == []


def wait(page, expression, seconds=20):
    """Until it is true; evaluated from outside, because the page's own policy forbids eval."""
    eventually(lambda: page.evaluate(expression), seconds)


def settle(page):
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def state(page, name):
    return page.evaluate(f"attention.get({name!r})")


def put(page, **values):
    page.evaluate("values => { for (const k in values) attention.set(k, values[k]); attention.save_changes() }", values)
    settle(page)
    settle(page)


def pixels(page, selector, index=0):
    """The pixels that a canvas holds, `height width 4`."""
    size, data = page.evaluate("""([selector, index]) => {
        const canvas = document.querySelectorAll(selector)[index], { width, height } = canvas;
        const copy = Object.assign(document.createElement("canvas"), { width, height });
        const brush = copy.getContext("2d", { willReadFrequently: true });
        brush.drawImage(canvas, 0, 0);
        return [[height, width], Array.from(brush.getImageData(0, 0, width, height).data)] }""", [selector, index])
    return np.array(data, np.uint8).reshape(*size, 4)


def exact(explorer, sample, layer, head, attribute, checkpoint=None):
    """The model's own weights of one map, before any quantisation."""
    model = explorer._model(checkpoint)
    weights = list(look(model, explorer.read(sample)["image"][None]).weights.values())[layer][0]
    return (weights.mean(0) if head < 0 else weights[head])[ATTRIBUTES.index(attribute)].numpy().reshape(7, 7)


def assert_drawn(page, weights, selector=".looking .picture canvas", index=0, tolerance=12):
    """The canvas is cividis of the weights; 255 levels, interpolated colours and alpha cost a few of 255."""
    expected = colormaps["cividis"](weights / weights.max())[..., :3] * 255
    shown = pixels(page, selector, index)[..., :3].astype(float)
    assert shown.shape == expected.shape
    assert np.abs(shown - expected).max() < tolerance
    assert np.abs(shown - expected).mean() < 3


@pytest.mark.parametrize(("sample", "layer", "head", "attribute"), [(0, 1, -1, "Bald"), (5, 0, 2, "Smiling")])
def test_the_map_on_screen_is_the_weights_in_cividis(open_page, saved, explorer, sample, layer, head, attribute):
    page = open_page(saved)
    put(page, sample=sample, layer=layer, head=head, attribute=attribute)
    weights = exact(explorer, sample, layer, head, attribute)
    assert_drawn(page, weights)
    expected_alpha = 255 * (0.35 + 0.65 * weights / weights.max())
    assert np.abs(pixels(page, ".looking .picture canvas")[..., 3] - expected_alpha).max() < 4
    for other in range(-1, 3):                               # the grid of all heads
        assert_drawn(page, exact(explorer, sample, layer, other, attribute), ".heads canvas", 4 * layer + other + 1, 9)
    chosen = page.locator("[role=option][aria-selected=true]")
    assert attribute.replace("_", " ") in chosen.inner_text()
    assert sentence(page) == explorer.figure(sample, attribute, layer, head).description.replace(" %", "\u00a0%")


def test_the_list_is_filtered_sorted_and_true(open_page, saved, explorer):
    page = open_page(saved)
    header = explorer.item(0).header

    def listed():
        return [text.split("\n")[0].replace(" ", "_") for text in page.locator("[role=option]").all_inner_texts()]

    rates = dict(zip(ATTRIBUTES, CELEBA_RATES, strict=True))
    for button, keeps in (("Rare", lambda name: rates[name] < 0.1), ("Common", lambda name: rates[name] > 0.3),
                          ("All", lambda name: True)):
        page.get_by_role("button", name=button, exact=True).click()
        settle(page)
        assert set(listed()) == {name for name in ATTRIBUTES if keeps(name)}
        assert page.get_by_role("button", name=button, exact=True).get_attribute("aria-pressed") == "true"
    probability = dict(zip(ATTRIBUTES, header["probabilities"], strict=True))
    error = {name: abs(fact - probability[name]) for name, fact in zip(ATTRIBUTES, header["truth"], strict=True)}
    for by, values in (("rarity", rates), ("probability", {k: -v for k, v in probability.items()}),
                       ("error", {k: -v for k, v in error.items()})):
        page.get_by_label("Sort by").select_option(by)
        settle(page)
        order = [values[name] for name in listed()]
        assert order == sorted(order)
    for index, name in enumerate(ATTRIBUTES):
        text = page.locator(f"[role=option][data-index='{index}']").get_attribute("aria-label")
        fact, found = header["truth"][index], probability[name] >= 0.5
        fate = (("rightly absent", "false alarm"), ("missed", "found"))[fact][found]
        assert text.endswith(f"predicted {probability[name]:.2f}, threshold 0.50, "
                             f"{'present' if fact else 'absent'}, {fate}")


def test_pointing_previews_and_clicking_holds(open_page, saved, explorer):
    page = open_page(saved)
    put(page, attribute="Bald", layer=0, head=1)
    page.locator("[role=option]").nth(4).hover()
    settle(page)
    name = page.locator("[role=option]").nth(4).inner_text().split("\n")[0].replace(" ", "_")
    assert sentence(page).startswith(name)
    assert state(page, "attribute") == "Bald"                # only a preview
    assert_drawn(page, exact(explorer, 0, 0, 1, name))
    page.locator("[role=option]").nth(4).click()
    page.mouse.move(5, 5)
    settle(page)
    assert state(page, "attribute") == name
    assert sentence(page).startswith(name)

    box = page.locator(".looking .picture").bounding_box()
    page.mouse.move(box["x"] + 0.65 * box["width"], box["y"] + 0.35 * box["height"])
    settle(page)
    looks = np.array([exact(explorer, 0, 0, 1, each)[2, 4] for each in ATTRIBUTES])
    assert sentence(page).startswith(f"Patch 18 (row 2, column 4) is looked at most by {ATTRIBUTES[looks.argmax()]} ")
    said = float(re.search(rf"{ATTRIBUTES[looks.argmax()]} ([\d.]+)", sentence(page))[1])
    assert said == pytest.approx(looks.max(), abs=0.01)
    assert state(page, "patch") == -1
    page.mouse.click(box["x"] + 0.65 * box["width"], box["y"] + 0.35 * box["height"])
    page.mouse.move(5, 5)
    settle(page)
    assert state(page, "patch") == 18
    first = page.locator("[role=option]").first.inner_text().split("\n")[0].replace(" ", "_")
    assert first == ATTRIBUTES[looks.argmax()]               # those that look there come first
    page.locator(".tokens").press("Escape")
    settle(page)
    assert state(page, "patch") == -1


def test_the_scores_are_those_of_python(open_page, saved, explorer):
    page = open_page(saved)
    put(page, sample=3, attribute="Eyeglasses", layer=1, head=0)
    weights = exact(explorer, 3, 1, 0, "Eyeglasses")
    region = explorer.read(3)["regions"][ATTRIBUTES.index("Eyeglasses")]
    text = page.locator(".readout").inner_text()

    def number(label):
        return float(re.search(label + r"\n([\d.]+)", text)[1])

    shares = weights[weights > 0] / weights.sum()
    entropy = -(shares * np.log(shares)).sum()
    assert number("Entropy") == pytest.approx(entropy, abs=0.02)
    assert number("Focus") == pytest.approx(1 - entropy / np.log(49), abs=0.011)
    inside = 100 * float(energy(torch.from_numpy(weights), region))
    assert number("Energy in the region") == pytest.approx(inside, abs=0.7)
    hits = pointing_game(torch.from_numpy(weights), region) > 0.5
    assert ("hits" if hits else "misses") in text.split("Strongest patch")[1]
    assert page.locator(".region .over").first.get_attribute("d") == explorer.item(3).header["outlines"][
        ATTRIBUTES.index("Eyeglasses")]
    page.get_by_label("outline the true region").uncheck()
    settle(page)
    assert page.locator(".region .over").first.get_attribute("d") == ""
    put(page, attribute="Male")
    assert page.locator(".readout").inner_text().count("unknown") == 2


def test_samples_are_stepped_found_and_filtered(open_page, saved, explorer):
    page = open_page(saved)
    page.get_by_role("button", name="next sample").click()
    settle(page)
    assert state(page, "sample") == 1
    page.get_by_role("slider", name="Sample").press("ArrowRight")
    settle(page)
    assert state(page, "sample") == 2
    page.get_by_role("button", name="sample before").click()
    settle(page)
    assert state(page, "sample") == 1
    search = page.get_by_role("searchbox")
    search.fill("6")
    search.press("Enter")
    settle(page)
    assert state(page, "sample") == 6
    male = [bool(explorer.read(i)["target"][ATTRIBUTES.index("Male")]) for i in range(8)]
    search.fill("-male")
    page.get_by_role("button", name="Find").click()
    wait(page, f"attention.get('sample') === {next(i % 8 for i in range(7, 15) if not male[i % 8])}")
    for words, answer in (("21", "not in this page"), ("dog", "no attribute has 'dog'"),
                          ("male -male", "No sample has")):
        search.fill(words)
        search.press("Enter")
        eventually(lambda answer=answer: answer in page.locator(".notice").inner_text())
    index = ATTRIBUTES.index("Smiling")
    put(page, attribute="Smiling", sample=0)
    for value in ("found", "missed", "false alarm", "off region"):
        expected = []
        for i in range(8):
            header, maps = explorer.item(i).header, exact(explorer, i, 1, -1, "Smiling")
            fact, found = header["truth"][index], header["probabilities"][index] >= 0.5
            fate = {(1, True): "found", (1, False): "missed", (0, True): "false alarm"}.get((fact, found))
            off = pointing_game(torch.from_numpy(maps), explorer.read(i)["regions"][index]) < 0.5
            if fate == value or (value == "off region" and off):
                expected.append(i)
        page.get_by_label("Show").select_option(value)
        eventually(lambda: "match" in page.locator(".bar output.number").inner_text())
        settle(page)
        assert f"· {len(expected) or 'none'} match" in page.locator(".bar output.number").inner_text()
        if expected:
            put(page, sample=expected[0])
            seen = [expected[0]]
            for _ in expected[1:]:
                page.get_by_role("button", name="next sample").click()
                settle(page)
                seen.append(state(page, "sample"))
            assert seen == expected
        put(page, sample=0)


def test_every_control_is_reached_and_works_by_keyboard(open_page, saved):
    page = open_page(saved)
    put(page, layer=0)
    reached = []
    while len(reached) < 40:
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
        reached.append(page.evaluate("""document.activeElement.getAttribute("aria-label")
            || document.activeElement.closest("label")?.textContent || document.activeElement.textContent"""))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", reached[-1]
    for wanted in ("sample before", "Sample", "next sample", "Find a sample", "Find", "Show", "Pin", "PNG",
                   "patches of the image", "Map", "lift faint", "outline", "All", "Rare", "Common", "Sort by",
                   "Attributes", "Layer", "Head", "layer 0, mean"):
        assert any(name.startswith(wanted) or wanted in name for name in reached), (wanted, reached)
    grid = page.locator(".heads [aria-checked=true]")
    grid.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    settle(page)
    assert (state(page, "layer"), state(page, "head")) == (1, 1)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "layer 1, head 1"
    listbox = page.get_by_role("listbox")
    listbox.press("Home")
    first = state(page, "attribute")
    for key in ("ArrowDown", "ArrowDown", "ArrowUp"):
        listbox.press(key)
    settle(page)
    second = page.locator("[role=option]").nth(1)
    assert state(page, "attribute") != first
    assert second.get_attribute("aria-selected") == "true"
    assert listbox.get_attribute("aria-activedescendant") == second.get_attribute("id")
    listbox.press("ArrowRight")
    settle(page)
    assert state(page, "sample") == 1
    patches = page.get_by_role("slider", name="patches of the image")
    for key in ("Enter", "ArrowRight", "ArrowDown", "ArrowLeft"):
        patches.press(key)
        settle(page)
    assert state(page, "patch") == 7
    assert patches.get_attribute("aria-valuenow") == "7"
    assert patches.get_attribute("aria-valuetext").startswith("Patch 7 (row 1, column 0) is looked at most by")
    patches.press("p")
    settle(page)
    assert page.locator(".pins figure").count() == 1
    patches.press("Escape")
    settle(page)
    assert state(page, "patch") == -1
    page.wait_for_timeout(700)
    assert sentence(page) == page.locator("[aria-live=polite]").inner_text()


def test_pins_compare_attributes_samples_and_heads(open_page, saved, explorer):
    page = open_page(saved)
    put(page, sample=2, attribute="Smiling", layer=1, head=0)
    page.get_by_role("button", name="Pin").click()
    put(page, sample=4, attribute="Bangs", layer=0, head=2)
    page.get_by_role("button", name="Pin").click()
    page.get_by_role("button", name="Pin").click()            # the same view is pinned once
    put(page, sample=5, head=1)
    settle(page)
    cards = page.locator(".pins figure")
    eventually(lambda: cards.locator("canvas").count() == 2)
    assert "sample 2, layer 1, head 0" in cards.first.inner_text().replace("\u00a0", " ")
    assert_drawn(page, exact(explorer, 2, 1, 0, "Smiling"), ".pins canvas", 0)
    assert_drawn(page, exact(explorer, 4, 0, 2, "Bangs"), ".pins canvas", 1)
    here, there = exact(explorer, 5, 0, 1, "Bangs"), exact(explorer, 2, 1, 0, "Smiling")
    said = int(re.search(r"(\d+) % of its attention", cards.first.inner_text())[1])
    assert said == pytest.approx(100 * np.minimum(here, there).sum(), abs=1.5)
    cards.first.get_by_role("button", name="Show").click()
    settle(page)
    assert [state(page, name) for name in ("sample", "attribute", "layer", "head")] == [2, "Smiling", 1, 0]
    cards.first.get_by_role("button", name="Remove").click()
    settle(page)
    assert cards.count() == 1
    with page.expect_download() as download:
        page.get_by_role("button", name="PNG").click()
    width, height = struct.unpack(">II", download.value.path().read_bytes()[16:24])
    assert width > 800 > height > 400                         # the view and its pin


def test_lifting_fading_and_layers_change_what_is_drawn(open_page, saved, explorer):
    page = open_page(saved)
    put(page, sample=1, attribute="Bald", layer=0, head=0)
    page.get_by_label("lift faint weights").check()
    settle(page)
    weights = exact(explorer, 1, 0, 0, "Bald")
    assert_drawn(page, np.sqrt(weights / weights.max()))
    page.get_by_role("slider", name="Map").fill("0.2")
    settle(page)
    assert page.locator(".looking .picture canvas").evaluate("e => getComputedStyle(e).opacity") == "0.2"
    page.get_by_role("combobox", name="Layer").select_option("1")
    page.get_by_role("combobox", name="Head").select_option("2")
    settle(page)
    assert (state(page, "layer"), state(page, "head")) == (1, 2)
    page.locator(".heads [role=radio]").nth(0).click()
    settle(page)
    assert (state(page, "layer"), state(page, "head")) == (0, -1)


def test_the_checkpoints_play_from_the_page(open_page, tmp_path):
    states = {f"epoch {epoch}": small_model(seed=epoch).state_dict() for epoch in range(3)}
    explorer = small_explorer(n=3, checkpoints=states)
    page = open_page(explorer.to_html(tmp_path / "page.html", 2))
    put(page, sample=1, attribute="Bald", layer=0, head=0)
    slider = page.get_by_role("slider", name="Checkpoint")
    for checkpoint in (2, 0, 1):
        slider.fill(str(checkpoint))
        wait(page, f"document.querySelector('.explorer').dataset.sample === '1 {checkpoint}'")
        settle(page)
        assert_drawn(page, exact(explorer, 1, 0, 0, "Bald", checkpoint))
        assert f"epoch {checkpoint}" in page.locator(".bar").nth(1).inner_text()
    page.get_by_role("button", name="Play").click()
    wait(page, "attention.get('checkpoint') === 2")
    page.get_by_role("button", name="Pause").click()


def test_light_and_dark_keep_contrast_and_four_hundred_pixels_suffice(open_page, saved):
    for scheme in ("light", "dark"):
        page = open_page(saved, scheme, width=400)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        colours = page.evaluate("""["found", "missed", "false alarm"].map((outcome) => {
            const fate = document.querySelector(".fate");
            fate.dataset.outcome = outcome;
            return getComputedStyle(fate).color })""")
        paper, ink = page.evaluate("""(({ backgroundColor, color }) => [backgroundColor, color])(
            getComputedStyle(document.querySelector(".explorer")))""")
        assert all(contrast(colour, paper) > 4.5 for colour in colours), colours
        assert contrast(ink, paper) > 7
        assert (luminance(paper) > 0.5) == (scheme == "light")


def test_without_javascript_the_still_part_stays(open_page, saved):
    page = open_page(saved, script=False)
    assert "JavaScript is off" in page.locator("#note").inner_text()
    assert page.locator("#static img").get_attribute("alt").startswith("Where the surest attribute looks")
    assert "Wearing_Hat" in page.locator("#static table").inner_text()


def test_a_page_says_what_is_unknown_and_what_failed(open_page, tmp_path):
    explorer = AttentionExplorer(small_model(), Photos())
    page = open_page(explorer.to_html(tmp_path / "page.html", 4))
    assert "truth unknown" in sentence(page)
    assert "frequencies unknown" in page.locator(".choosing").inner_text()
    put(page, sample=2)
    eventually(lambda: "Sample 2 could not be loaded (OSError: disk on fire)" in page.locator(".notice").inner_text())
    page.get_by_role("button", name="next sample").click()
    wait(page, "document.querySelector('.explorer').dataset.sample === '3 0'")
    assert page.locator(".notice").inner_text() == ""


# ---------------------------------------------------------------- the widget, with this process as its kernel

STUB = """
const values = VALUES, listeners = {};
const decode = (text) => text && new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const encode = (buffer) => btoa(Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join(""));
values.planes = decode(values.planes);
const announce = (name, ...rest) => (listeners[name] || []).slice().forEach((listener) => listener(...rest));
const put = (changed) => { for (const [name, value] of Object.entries(changed)) {
  if (JSON.stringify(values[name]) === JSON.stringify(value)) continue;
  values[name] = value;
  announce(`change:${name}`);
  announce("change");
} };
let dirty = {};
const tell = async (kind, content, buffers = []) => {
  const reply = await window.toKernel(kind, content, buffers);
  put(reply.state);
  for (const [message, planes] of reply.messages) announce("msg:custom", message, planes.map(decode));
};
window.attention = { get: (name) => values[name],
  set: (name, value) => { dirty[name] = value; put({ [name]: value }); },
  on: (name, listener) => (listeners[name] ||= []).push(listener),
  off: (name, listener) => { listeners[name] = (listeners[name] || []).filter((other) => other !== listener); },
  save_changes: () => { const changed = dirty; dirty = {}; tell("state", changed); },
  send: (content, callbacks, buffers) => {
    if (window.dead) throw new Error("no comm");
    tell("custom", content, (buffers || []).map(encode));
  } };
window.hear = put;
window.close_view = renderExplorer({ model: window.attention, el: document.body });
window.listening = () => Object.values(listeners).flat().length;
"""


@pytest.fixture
def open_widget(browser):
    """The widget's own module in a page whose kernel is this process: returns the page and what sets traits."""
    opened, said = [], []

    def opener(widget, slow=()):
        asked, messages = [], []
        widget.send = lambda content, buffers=None: messages.append(
            [content, [base64.b64encode(bytes(buffer)).decode() for buffer in buffers or []]])

        def to_kernel(kind, content, buffers):
            messages.clear()
            asked.append(content)
            if kind == "state":
                widget.set_state(content)
            elif content["kind"] not in slow:
                widget._receive(widget, content, [base64.b64decode(buffer) for buffer in buffers])
            state = {name: getattr(widget, name) for name in (*widget.state_names(), "own")}
            return {"messages": list(messages), "state": state}

        values = {name: getattr(widget, name) for name in (*widget.state_names(), "own", "meta", "first")}
        values["planes"] = base64.b64encode(widget.planes).decode()
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.expose_function("toKernel", to_kernel)
        script = f"{explorer_script()}\n{STUB.replace('VALUES', json.dumps(values))}"
        page.set_content(f'<!doctype html><script type="module">{script}</script>')
        wait(page, "window.close_view !== undefined")
        opened.append(page)
        page.asked = asked
        return page

    yield opener
    for page in opened:
        page.close()
    assert said == []


def python_sets(page, widget, **changed):
    """What happens when a cell sets traits: the widget's, and then the page's."""
    for name, value in changed.items():
        setattr(widget, name, value)
    page.evaluate("values => hear(values)", changed)


def shown(page, sample, checkpoint=0):
    wait(page, f"document.querySelector('.explorer').dataset.sample === '{sample} {checkpoint}'")


def test_samples_come_from_the_kernel_once(open_widget, explorer):
    widget = explorer.create_interactive_viewer(sample=2, layer=0, head=1, attribute="Smiling")
    page = open_widget(widget)
    shown(page, 2)
    assert_drawn(page, exact(explorer, 2, 0, 1, "Smiling"))

    def items():
        return [content["sample"] for content in page.asked if content.get("kind") == "item"]

    assert 2 not in items()                                   # it came with the widget
    python_sets(page, widget, sample=9, head=2)
    shown(page, 9)
    settle(page)
    assert_drawn(page, exact(explorer, 9, 0, 2, "Smiling"))
    page.get_by_role("button", name="sample before").click()
    shown(page, 8)
    assert widget.sample == 8
    page.get_by_role("button", name="next sample").click()
    shown(page, 9)
    assert items().count(9) == 1
    page.locator(".explorer [role=listbox]").press("End")
    settle(page)
    eventually(lambda: state(page, "attribute") != "Smiling" and widget.attribute == state(page, "attribute"))


def test_the_page_forgets_the_oldest_samples(open_widget):
    explorer = small_explorer(n=90)
    widget = explorer.create_interactive_viewer()
    page = open_widget(widget)
    for sample in range(70):
        python_sets(page, widget, sample=sample)
        shown(page, sample)
    count = len(page.asked)
    for sample in (68, 0):
        python_sets(page, widget, sample=sample)
        shown(page, sample)
    again = [content["sample"] for content in page.asked[count:] if content.get("kind") == "item"]
    assert 0 in again                                         # it was forgotten
    assert 68 not in again


def test_filtering_asks_for_predictions_first(open_widget, capsys):
    explorer = small_explorer()
    widget = explorer.create_interactive_viewer(attribute="Smiling")
    page = open_widget(widget)
    codes = small_explorer().predict().outcomes(ATTRIBUTES.index("Smiling"), 0.5)
    number, outcome = next((code, name) for code, name in ((1, "found"), (2, "missed"), (3, "false alarm"))
                           if 0 < ((codes & 7) == code).sum() < 24)
    page.get_by_label("Show").select_option(outcome)
    page.get_by_role("button", name="Predict").click()
    eventually(lambda: "match" in page.locator(".bar output.number").inner_text())
    assert list(explorer.predictions) == [0]
    matches = np.flatnonzero((codes & 7) == number).tolist()
    assert f"· {len(matches)} match" in page.locator(".bar output.number").inner_text()
    eventually(lambda: state(page, "sample") == widget.sample == matches[0])
    assert widget.outcome == outcome
    python_sets(page, widget, outcome="any")
    settle(page)
    assert "match" not in page.locator(".bar output.number").inner_text()


def test_masking_shows_what_the_prediction_becomes(open_widget, explorer):
    widget = explorer.create_interactive_viewer(sample=1, attribute="Smiling", layer=1, head=-1)
    page = open_widget(widget)
    page.get_by_role("slider", name="Paint over").fill("5")
    eventually(lambda: page.locator(".effect .line").count() == 3)
    assert widget.mask == 5
    removal = explorer.remove(1, ATTRIBUTES.index("Smiling"), 1, -1, 5)
    said = [float(text) for text in page.locator(".effect .number").all_inner_texts()]
    assert said == pytest.approx([removal.whole, removal.attended, removal.random.mean()], abs=0.0051)
    assert page.locator(".masked i").count() == 5
    python_sets(page, widget, mask=0)
    settle(page)
    assert page.locator(".masked i").count() == page.locator(".effect .line").count() == 0


def png(width, height, kind="PNG", colour=(30, 160, 90)):
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), colour, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def test_an_image_of_ones_own_is_dropped_in_or_refused(open_widget):
    explorer = small_explorer(n=3)
    widget = explorer.create_interactive_viewer()
    page = open_widget(widget)
    chooser = page.locator("input[type=file]")
    for name, content, why in (("notes.txt", b"hello", "is no PNG or JPEG"),
                               ("cut.png", png(64, 64)[:50], "is damaged"),
                               ("tiny.png", png(20, 20), "has only 20 × 20 px")):
        chooser.set_input_files({"name": name, "mimeType": "image/png", "buffer": content})
        eventually(lambda name=name, why=why: f"“{name}” {why}" in page.locator(".notice").inner_text())
    assert widget.sample == 0
    chooser.set_input_files({"name": "me.jpg", "mimeType": "image/jpeg", "buffer": png(90, 70, "JPEG")})
    shown(page, -1)
    assert (widget.sample, widget.own) == (-1, "me.jpg")
    assert "me.jpg" in page.locator(".bar output.number").inner_text()
    assert "truth unknown" in sentence(page)
    assert page.locator(".notice").inner_text() == ""
    picture = page.locator(".looking img").evaluate("e => e.src")
    page.evaluate("""async bytes => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], "second.png", { type: "image/png" }));
        document.querySelector(".looking").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer }));
    }""", list(png(48, 48, colour=(200, 20, 20))))
    eventually(lambda: page.evaluate("attention.get('own')") == widget.own == "second.png")
    eventually(lambda: page.locator(".looking img").evaluate("e => e.src") != picture)
    assert widget.sample == -1


def test_a_silent_kernel_is_named_and_what_is_there_still_works(open_widget, explorer):
    widget = explorer.create_interactive_viewer(sample=0, attribute="Smiling")
    page = open_widget(widget, slow=("item",))
    python_sets(page, widget, sample=7)
    eventually(lambda: "does not answer" in page.locator(".notice").inner_text())
    python_sets(page, widget, sample=0, attribute="Bald", layer=0, head=0)
    settle(page)
    assert_drawn(page, exact(explorer, 0, 0, 0, "Bald"))
    page.evaluate("window.dead = true")
    python_sets(page, widget, mask=3)
    eventually(lambda: "the kernel is gone" in page.locator(".effect").inner_text())


def test_the_page_is_saved_and_the_view_lets_go(open_widget, open_page, explorer, tmp_path):
    page = open_widget(explorer.create_interactive_viewer(sample=3, attribute="Bangs"))
    shown(page, 3)
    with page.expect_download() as download:
        page.get_by_role("button", name="Page", exact=True).click()
    path = tmp_path / "saved.html"
    path.write_bytes(download.value.path().read_bytes())
    saved = open_page(path)
    shown(saved, 3)
    assert sentence(saved).startswith("Bangs")
    page.evaluate("close_view()")
    assert page.evaluate("[listening(), document.querySelectorAll('.explorer').length]") == [0, 0]


# ---------------------------------------------------------------- the widget in real notebooks

CELLS = ["""\
import sys
sys.path[:0] = [r"ROOT", r"ROOT/tests"]
import torch
torch.set_num_threads(1)
from explorer_model import small_explorer
explorer = small_explorer()
viewer = explorer.create_interactive_viewer(sample=2)
viewer"""]


def notebook(path, cells=CELLS):
    """Write a notebook with these code cells."""
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": {
        "name": "python3", "display_name": "Python 3", "language": "python"}}, "cells": [
        {"cell_type": "code", "id": f"cell-{index}", "metadata": {}, "outputs": [], "execution_count": None,
         "source": source.replace("ROOT", str(ROOT))} for index, source in enumerate(cells)]}))
    return path


PATIENCE = 300_000                      # ms: a busy machine takes minutes to start a notebook program


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def serving(command, folder, address):
    """Run a server in a session of its own until its address answers; end it and its kernels afterwards."""
    own = {name: str(folder / name.lower()) for name in (
        "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR",
        "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")}
    Path(own["JUPYTER_RUNTIME_DIR"]).mkdir(parents=True, exist_ok=True)
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True,
                                  env=os.environ | own | {"OMP_NUM_THREADS": "1"})
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(address, timeout=200).close()
                break
            except urllib.error.HTTPError:
                break                                       # it answers
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.5)
        yield Path(own["JUPYTER_RUNTIME_DIR"])
    finally:
        for attempt in range(50):
            try:
                os.killpg(server.pid, signal.SIGKILL if attempt == 40 else signal.SIGTERM if attempt == 0 else 0)
            except ProcessLookupError:
                break
            server.poll()
            time.sleep(0.1)


class Kernel:
    """The kernel of the notebook on screen, asked from outside."""

    def __init__(self, runtime):
        from jupyter_client import BlockingKernelClient

        newest = max(runtime.rglob("kernel-*.json"), key=lambda path: path.stat().st_mtime)
        self.client = BlockingKernelClient(connection_file=str(newest))
        self.client.load_connection_file()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=200)

    def __call__(self, code):
        said = []
        reply = self.client.execute_interactive(code, timeout=200, output_hook=lambda message: said.append(
            message["content"].get("text", "") if message["msg_type"] == "stream" else ""))
        text = "".join(said).strip()
        assert reply["content"]["status"] == "ok", reply["content"].get("evalue")
        return text

    def close(self):
        self.client.stop_channels()


def eventually(check, seconds=60):
    end = time.monotonic() + seconds
    while True:
        found = check()
        if found or time.monotonic() > end:
            assert found
            return found
        time.sleep(0.05)


def watch(page, said):
    """Errors of the page, apart from what the notebook programs themselves say."""
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text) if message.type == "error"
            and re.search("explorer|anywidget|widget", message.text, re.IGNORECASE) else None)


def sentence(page):
    return page.locator(".explorer .sentence").inner_text()


def drive(page, kernel):
    """The core path: both sides see what the other does."""
    eventually(lambda: page.locator(".explorer").get_attribute("data-sample") == "2 0")
    kernel("viewer.sample = 5; viewer.attribute = 'Smiling'; viewer.head = 1")
    eventually(lambda: page.locator(".explorer").get_attribute("data-sample") == "5 0")
    eventually(lambda: sentence(page).startswith("Smiling") and "head 1" in sentence(page))
    page.locator(".explorer").get_by_role("button", name="next sample").click()
    eventually(lambda: kernel("print(viewer.sample)") == "6")
    eventually(lambda: page.locator(".explorer").get_attribute("data-sample") == "6 0")
    page.locator(".explorer [role=listbox]").press("ArrowDown")
    eventually(lambda: kernel("print(viewer.attribute)") != "Smiling")
    eventually(lambda: sentence(page).startswith(kernel("print(viewer.attribute)")))


def program(name, notebook_name, port):
    """The command that serves a notebook, an address that answers when it is up, and the notebook's own."""
    root = f"http://localhost:{port}"
    if name == "voila":
        return ([sys.executable, "-m", "voila", notebook_name, "--no-browser", f"--port={port}",
                 "--Voila.connection_dir_root=jupyter_runtime_dir"], f"{root}/nothing", f"{root}/")
    if name == "lab":
        return ([sys.executable, "-m", "jupyter", "lab", "--no-browser", f"--port={port}", "--allow-root",
                 "--IdentityProvider.token=", "--ServerApp.password="], f"{root}/api",
                f"{root}/lab/tree/{notebook_name}")
    old = os.environ.get("COURSE_CLASSIC_PYTHON")
    if old is None:
        pytest.skip("COURSE_CLASSIC_PYTHON names no python with notebook 6 and ipywidgets 7 (see make colab)")
    return ([old, "-m", "notebook", "--no-browser", f"--port={port}", "--allow-root", "--NotebookApp.token=",
             "--NotebookApp.password="], f"{root}/api", f"{root}/notebooks/{notebook_name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lab", "voila", "classic"])
def test_the_widget_and_python_see_the_same_state(browser, tmp_path, name):
    path, port, said = notebook(tmp_path / "explorer.ipynb"), free_port(), []
    command, ready, address = program(name, path.name, port)
    with serving(command, tmp_path, ready) as runtime:
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        watch(page, said)
        page.goto(address, timeout=PATIENCE)                # Voilà runs the notebook first
        if name != "voila":
            cell, idle = {"lab": (".jp-Notebook .jp-Cell", "text=| Idle"),
                          "classic": ("#notebook-container .cell", "#kernel_indicator_icon.kernel_idle_icon")}[name]
            page.locator(idle).wait_for(timeout=PATIENCE)   # what runs before is dropped
            page.locator(cell).first.click()
            page.keyboard.press("Shift+Enter")
        drawn = page.locator(".explorer").or_(page.get_by_text("Error displaying widget")).first
        try:
            drawn.wait_for(timeout=PATIENCE)
            if name == "voila" and not page.locator(".explorer").count():
                page.reload(timeout=PATIENCE)               # it gives a busy machine four seconds to send its widgets
            page.locator(".explorer").wait_for(timeout=PATIENCE)
            kernel = Kernel(runtime)
            drive(page, kernel)
            kernel.close()
        finally:
            if os.environ.get("SHOTS"):
                page.screenshot(path=f"{os.environ['SHOTS']}/{name}.png")
            page.close()
    assert said == []
