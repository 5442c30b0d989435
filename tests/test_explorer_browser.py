"""The explorer's page and widget in Chromium: what is drawn, every control, and the state on both
sides of a kernel.
"""

import io
import json
import re
import struct
import urllib.request

import explorer_driver
import numpy as np
import pytest
import torch
from chromium import PATIENCE
from explorer_driver import (
    ATTRIBUTE_CONTROLS,
    CLIP_CONTROLS,
    drive,
    eventually,
    of_kernel,
    of_page,
    opened,
    pixels,
    put,
    python_sets,
    sentence,
    settle,
    state,
    wait,
)
from explorer_model import small_explorer, small_model
from matplotlib import colormaps
from PIL import Image
from test_explorer import Photos
from test_page import contrast, luminance

from course_lib.explorer import AttentionExplorer, look
from course_lib.looking import energy, pointing_game
from course_lib.world import ATTRIBUTES, CELEBA_RATES

pytestmark = pytest.mark.browser
open_page, open_widget = explorer_driver.open_page, explorer_driver.open_widget  # fixtures


@pytest.fixture(scope="module")
def explorer():
    return small_explorer()


@pytest.fixture(scope="module")
def saved(explorer, tmp_path_factory):
    """One page that several tests open: eight samples of the explorer."""
    return explorer.to_html(tmp_path_factory.mktemp("page") / "page.html", 8)


def exact(explorer, sample, layer, head, attribute, checkpoint=None):
    """The model's own weights of one map, before any quantisation."""
    model = explorer._model(checkpoint)
    weights = list(look(model, explorer.read(sample)["image"][None]).weights.values())[layer][0]
    return (
        (weights.mean(0) if head < 0 else weights[head])[ATTRIBUTES.index(attribute)]
        .numpy()
        .reshape(7, 7)
    )


def assert_drawn(page, weights, selector=".looking .picture canvas", index=0, tolerance=12):
    """The canvas is cividis of the weights; 255 levels, interpolated colours and alpha cost a few
    of 255.
    """
    expected = colormaps["cividis"](weights / weights.max())[..., :3] * 255
    shown = pixels(page, selector, index)[..., :3].astype(float)
    assert shown.shape == expected.shape
    assert np.abs(shown - expected).max() < tolerance
    assert np.abs(shown - expected).mean() < 3


@pytest.mark.parametrize(
    ("sample", "layer", "head", "attribute"), [(0, 1, -1, "Bald"), (5, 0, 2, "Smiling")]
)
def test_the_map_on_screen_is_the_weights_in_cividis(
    open_page, saved, explorer, sample, layer, head, attribute
):
    page = open_page(saved)
    put(page, sample=sample, layer=layer, head=head, attribute=attribute)
    weights = exact(explorer, sample, layer, head, attribute)
    assert_drawn(page, weights)
    expected_alpha = 255 * (0.35 + 0.65 * weights / weights.max())
    assert np.abs(pixels(page, ".looking .picture canvas")[..., 3] - expected_alpha).max() < 4
    for other in range(-1, 3):  # the grid of all heads
        assert_drawn(
            page,
            exact(explorer, sample, layer, other, attribute),
            ".heads canvas",
            4 * layer + other + 1,
            9,
        )
    chosen = page.locator("[role=option][aria-selected=true]")
    assert attribute.replace("_", " ") in chosen.inner_text()
    assert sentence(page) == explorer.figure(sample, attribute, layer, head).description.replace(
        " %", "\u00a0%"
    )


def test_the_list_is_filtered_sorted_and_true(open_page, saved, explorer):
    page = open_page(saved)
    header = explorer.item(0).header

    def listed():
        return [
            text.split("\n")[0].replace(" ", "_")
            for text in page.locator("[role=option]").all_inner_texts()
        ]

    rates = dict(zip(ATTRIBUTES, CELEBA_RATES, strict=True))
    for button, keeps in (
        ("Rare", lambda name: rates[name] < 0.1),
        ("Common", lambda name: rates[name] > 0.3),
        ("All", lambda name: True),
    ):
        page.get_by_role("button", name=button, exact=True).click()
        settle(page)
        assert set(listed()) == {name for name in ATTRIBUTES if keeps(name)}
        assert (
            page.get_by_role("button", name=button, exact=True).get_attribute("aria-pressed")
            == "true"
        )
    probability = dict(zip(ATTRIBUTES, header["probabilities"], strict=True))
    error = {
        name: abs(fact - probability[name])
        for name, fact in zip(ATTRIBUTES, header["truth"], strict=True)
    }
    for by, values in (
        ("rarity", rates),
        ("probability", {k: -v for k, v in probability.items()}),
        ("error", {k: -v for k, v in error.items()}),
    ):
        page.get_by_label("Sort by").select_option(by)
        settle(page)
        order = [values[name] for name in listed()]
        assert order == sorted(order)
    for index, name in enumerate(ATTRIBUTES):
        text = page.locator(f"[role=option][data-index='{index}']").get_attribute("aria-label")
        fact, found = header["truth"][index], probability[name] >= 0.5
        fate = (("rightly refused", "false alarm"), ("missed", "found"))[fact][found]
        assert text.endswith(
            f"predicted {probability[name]:.2f}, threshold 0.50, "
            f"{'present' if fact else 'absent'}, {fate}"
        )


def test_pointing_previews_and_clicking_holds(open_page, saved, explorer):
    page = open_page(saved)
    put(page, attribute="Bald", layer=0, head=1)
    page.locator("[role=option]").nth(4).hover()
    settle(page)
    name = page.locator("[role=option]").nth(4).inner_text().split("\n")[0].replace(" ", "_")
    assert sentence(page).startswith(name)
    assert state(page, "attribute") == "Bald"  # only a preview
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
    assert sentence(page).startswith(
        f"Patch 18 (row 2, column 4) is looked at most by {ATTRIBUTES[looks.argmax()]} "
    )
    said = float(re.search(rf"{ATTRIBUTES[looks.argmax()]} ([\d.]+)", sentence(page))[1])
    assert said == pytest.approx(looks.max(), abs=0.01)
    assert state(page, "patch") == -1
    page.mouse.click(box["x"] + 0.65 * box["width"], box["y"] + 0.35 * box["height"])
    page.mouse.move(5, 5)
    settle(page)
    assert state(page, "patch") == 18
    first = page.locator("[role=option]").first.inner_text().split("\n")[0].replace(" ", "_")
    assert first == ATTRIBUTES[looks.argmax()]  # those that look there come first
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
    assert (
        page.locator(".region .over").first.get_attribute("d")
        == explorer.item(3).header["outlines"][ATTRIBUTES.index("Eyeglasses")]
    )
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
    wait(
        page, f"attention.get('sample') === {next(i % 8 for i in range(7, 15) if not male[i % 8])}"
    )
    for words, answer in (
        ("21", "not in this page"),
        ("dog", "no attribute has 'dog'"),
        ("male -male", "No sample has"),
    ):
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
            fate = {(1, True): "found", (1, False): "missed", (0, True): "false alarm"}.get(
                (fact, found)
            )
            off = pointing_game(torch.from_numpy(maps), explorer.read(i)["regions"][index]) < 0.5
            if fate == value or (value == "off region" and off and fact):
                expected.append(i)
        page.get_by_label("Show").select_option(value)
        eventually(lambda: "match" in page.locator(".bar output.number").inner_text())
        settle(page)
        assert (
            f"· {len(expected) or 'none'} match" in page.locator(".bar output.number").inner_text()
        )
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
        reached.append(
            page.evaluate(
                """document.activeElement.getAttribute("aria-label")
            || document.activeElement.closest("label")?.textContent || document.activeElement.textContent"""
            )
        )
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", (
            reached[-1]
        )
    for wanted in (
        "sample before",
        "Sample",
        "next sample",
        "Find a sample",
        "Find",
        "Show",
        "Pin",
        "PNG",
        "patches of the image",
        "Map",
        "lift faint",
        "outline",
        "All",
        "Rare",
        "Common",
        "Sort by",
        "Attributes",
        "Layer",
        "Head",
        "layer 0, mean",
    ):
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
    assert patches.get_attribute("aria-valuetext").startswith(
        "Patch 7 (row 1, column 0) is looked at most by"
    )
    patches.press("p")
    settle(page)
    assert page.locator(".pins figure").count() == 1
    patches.press("Escape")
    settle(page)
    assert state(page, "patch") == -1
    eventually(lambda: sentence(page) == page.locator("[aria-live=polite]").inner_text())


def test_keys_that_come_faster_than_pictures_all_count(open_page, saved):
    page = open_page(saved)
    put(page, patch=0)
    page.evaluate("""() => { const tokens = document.querySelector(".explorer .tokens");
      for (const key of ["ArrowRight", "ArrowDown", "ArrowRight", "ArrowDown", "ArrowLeft"])
        tokens.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true })); }""")
    settle(page)
    assert state(page, "patch") == 2 * 7 + 1


def test_every_control_does_the_same_on_a_page_and_in_a_widget(
    open_page, open_widget, saved, explorer
):
    page = open_page(saved)
    put(page, sample=2, attribute="Smiling", layer=0, head=-1, sort="rarity")
    drive(page.locator(".explorer"), ATTRIBUTE_CONTROLS, [of_page(page)])
    widget = explorer.create_interactive_viewer(sample=2, attribute="Smiling", layer=0)
    page = open_widget(widget)
    drive(
        page.locator(".explorer"),
        ATTRIBUTE_CONTROLS,
        [of_page(page), lambda name: getattr(widget, name)],
    )


def test_pins_compare_attributes_samples_and_heads(open_page, saved, explorer):
    page = open_page(saved)
    put(page, sample=2, attribute="Smiling", layer=1, head=0)
    page.get_by_role("button", name="Pin").click()
    put(page, sample=4, attribute="Bangs", layer=0, head=2)
    page.get_by_role("button", name="Pin").click()
    page.get_by_role("button", name="Pin").click()  # the same view is pinned once
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
    assert [state(page, name) for name in ("sample", "attribute", "layer", "head")] == [
        2,
        "Smiling",
        1,
        0,
    ]
    cards.first.get_by_role("button", name="Remove").click()
    settle(page)
    assert cards.count() == 1
    with page.expect_download() as download:
        page.get_by_role("button", name="PNG").click()
    width, height = struct.unpack(">II", download.value.path().read_bytes()[16:24])
    assert width > 800 > height > 400  # the view and its pin


def test_lifting_fading_and_layers_change_what_is_drawn(open_page, saved, explorer):
    page = open_page(saved)
    put(page, sample=1, attribute="Bald", layer=0, head=0)
    page.get_by_label("lift faint weights").check()
    settle(page)
    weights = exact(explorer, 1, 0, 0, "Bald")
    assert_drawn(page, np.sqrt(weights / weights.max()))
    page.get_by_role("slider", name="Map").fill("0.2")
    settle(page)
    assert (
        page.locator(".looking .picture canvas").evaluate("e => getComputedStyle(e).opacity")
        == "0.2"
    )
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
    assert (
        page.locator("#static img")
        .get_attribute("alt")
        .startswith("Where the surest attribute looks")
    )
    assert "Wearing_Hat" in page.locator("#static table").inner_text()


def test_a_page_says_what_is_unknown_and_what_failed(open_page, tmp_path):
    explorer = AttentionExplorer(small_model(), Photos())
    page = open_page(explorer.to_html(tmp_path / "page.html", 4))
    assert "truth unknown" in sentence(page)
    assert "frequencies unknown" in page.locator(".choosing").inner_text()
    put(page, sample=2)
    eventually(
        lambda: (
            "Sample 2 could not be loaded (OSError: disk on fire)"
            in page.locator(".notice").inner_text()
        )
    )
    page.get_by_role("button", name="next sample").click()
    wait(page, "document.querySelector('.explorer').dataset.sample === '3 0'")
    assert page.locator(".notice").inner_text() == ""


# ---------------------------------------------------------------- the widget, with this process as its kernel


def shown(page, sample, checkpoint=0):
    wait(page, f"document.querySelector('.explorer').dataset.sample === '{sample} {checkpoint}'")


def test_samples_come_from_the_kernel_once(open_widget, explorer):
    widget = explorer.create_interactive_viewer(sample=2, layer=0, head=1, attribute="Smiling")
    page = open_widget(widget)
    shown(page, 2)
    assert_drawn(page, exact(explorer, 2, 0, 1, "Smiling"))

    def items():
        return [content["sample"] for content in page.asked if content.get("kind") == "item"]

    assert 2 not in items()  # it came with the widget
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
    eventually(
        lambda: (
            state(page, "attribute") != "Smiling" and widget.attribute == state(page, "attribute")
        )
    )


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
    assert 0 in again  # it was forgotten
    assert 68 not in again


def test_filtering_asks_for_predictions_first(open_widget, capsys):
    explorer = small_explorer()
    widget = explorer.create_interactive_viewer(attribute="Smiling")
    page = open_widget(widget)
    codes = small_explorer().predict().outcomes(ATTRIBUTES.index("Smiling"), 0.5)
    number, outcome = next(
        (code, name)
        for code, name in ((1, "found"), (2, "missed"), (3, "false alarm"))
        if 0 < ((codes & 7) == code).sum() < 24
    )
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
    assert said == pytest.approx(
        [removal.whole, removal.attended, removal.random.mean()], abs=0.0051
    )
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
    for name, content, why in (
        ("notes.txt", b"hello", "is no PNG or JPEG"),
        ("cut.png", png(64, 64)[:50], "is damaged"),
        ("tiny.png", png(20, 20), "has only 20 × 20 px"),
    ):
        chooser.set_input_files({"name": name, "mimeType": "image/png", "buffer": content})
        eventually(
            lambda name=name, why=why: f"“{name}” {why}" in page.locator(".notice").inner_text()
        )
    assert widget.sample == 0
    chooser.set_input_files(
        {"name": "me.jpg", "mimeType": "image/jpeg", "buffer": png(90, 70, "JPEG")}
    )
    shown(page, -1)
    assert (widget.sample, widget.own) == (-1, "me.jpg")
    assert "me.jpg" in page.locator(".bar output.number").inner_text()
    assert "truth unknown" in sentence(page)
    assert page.locator(".notice").inner_text() == ""
    picture = page.locator(".looking img").evaluate("e => e.src")
    page.evaluate(
        """async bytes => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], "second.png", { type: "image/png" }));
        document.querySelector(".looking").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer }));
    }""",
        list(png(48, 48, colour=(200, 20, 20))),
    )
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


# ---------------------------------------------------------------- the widgets in real notebooks

CELLS = [
    """\
import sys
sys.path[:0] = [r"ROOT", r"ROOT/tests"]
import torch
torch.set_num_threads(1)
from explorer_model import small_explorer
explorer = small_explorer()
viewer = explorer.create_interactive_viewer(sample=5)
viewer""",
    """\
from explorer_model import small_clips
personality = small_clips()
clips = personality.create_interactive_viewer(playing=False)
clips""",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lab", "voila", "classic"])
def test_the_widgets_and_python_see_the_same_state(browser, tmp_path, name):
    with opened(browser, tmp_path, name, CELLS) as (page, kernel):
        first, second = page.locator(".explorer:not(.clips)"), page.locator(".explorer.clips")
        second.wait_for(timeout=PATIENCE)
        eventually(lambda: first.get_attribute("data-sample") == "5 0")
        kernel("viewer.sample = 2; viewer.attribute = 'Smiling'; viewer.layer = 0; viewer.head = 1")
        eventually(lambda: first.get_attribute("data-sample") == "2 0")
        eventually(lambda: "Smiling" in sentence(first) and "head 1" in sentence(first))
        kernel("viewer.head = -1; clips.playing = False; clips.step = 0")
        drive(first, ATTRIBUTE_CONTROLS, [of_kernel(kernel, "viewer")])
        drive(second, CLIP_CONTROLS, [of_kernel(kernel, "clips")])
        kernel("clips.sample = 2; clips.trait = 'Extraversion'; clips.token = 7")
        said = kernel("print(personality.describe(2, 'Extraversion', token=7))")
        eventually(lambda: sentence(second) == said)
        if name == "lab":
            restart(page, kernel)
            first.get_by_role("searchbox").fill("20")
            first.get_by_role("searchbox").press("Enter")
            eventually(lambda: "does not answer" in first.locator(".notice").inner_text())
            first.get_by_role("searchbox").fill("2")  # what the page holds is still there
            first.get_by_role("searchbox").press("Enter")
            eventually(lambda: first.get_attribute("data-sample") == "2 0")


def restart(page, kernel):
    """As the notebook program's own button does it."""
    found = json.loads(urllib.request.urlopen(f"{page.root}/api/kernels", timeout=60).read())
    request = urllib.request.Request(
        f"{page.root}/api/kernels/{found[0]['id']}/restart", method="POST"
    )
    urllib.request.urlopen(request, timeout=120).close()
    kernel.client.wait_for_ready(timeout=200)
