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
import scipy.stats
import torch
from explorer_driver import (
    ATTRIBUTE_CONTROLS,
    CLIP_CONTROLS,
    drive,
    eventually,
    of_kernel,
    of_page,
    opened,
    pixels,
    play,
    put,
    python_sets,
    sentence,
    settle,
    state,
    wait,
)
from explorer_model import small_explorer, small_model
from PIL import Image
from test_explorer import Photos
from test_page import contrast, luminance

from course_lib.data import FaceDataset
from course_lib.explorer import AttentionExplorer, look
from course_lib.explorer.base import MEAN, UNTRAINED
from course_lib.looking import energy, pointing_game
from course_lib.pictures.images import MAP_COLOUR
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


def assert_drawn(page, weights, selector=".looking .picture canvas", index=0, largest=0):
    """The canvas is one colour, as opaque as the weight's share of the largest, that of the map or
    a larger one; 255 levels cost a little.
    """
    shown = pixels(page, selector, index).astype(float)
    assert shown.shape == (*weights.shape, 4)
    assert np.abs(shown[..., 3] - 255 * weights / max(largest, weights.max())).max() < 4
    seen = shown[shown[..., 3] > 80][:, :3]  # what is half clear is stored less exactly
    assert not len(seen) or np.abs(seen - MAP_COLOUR).max() < 4


@pytest.mark.parametrize(
    ("sample", "layer", "head", "attribute"), [(0, 1, -1, "Bald"), (5, 0, 2, "Smiling")]
)
def test_the_map_on_screen_is_the_weights(
    open_page, saved, explorer, sample, layer, head, attribute
):
    page = open_page(saved)
    put(page, sample=sample, layer=layer, head=head, attribute=attribute)
    weights = exact(explorer, sample, layer, head, attribute)
    assert_drawn(page, weights)
    for other in range(-1, 3):  # the grid of all heads
        assert_drawn(
            page,
            exact(explorer, sample, layer, other, attribute),
            ".heads canvas",
            4 * layer + other + 1,
        )
    chosen = page.locator("[role=option][aria-selected=true]")
    assert attribute.replace("_", " ") in chosen.inner_text()
    page.get_by_role("button", name="Details").click()
    settle(page)
    said = f"{sentence(page)} {page.locator('.drawer .all').inner_text()}"
    assert (
        said.replace("\u00a0", " ") == explorer.figure(sample, attribute, layer, head).description
    )


def test_the_list_is_filtered_sorted_and_true(open_page, saved, explorer):
    page = open_page(saved)
    put(page, sample=0)
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
        text = page.locator(f"[role=option][data-index='{index}']").get_attribute("title")
        fact, found = header["truth"][index], probability[name] >= 0.5
        fate = (("rightly refused", "false alarm"), ("missed", "found"))[fact][found]
        assert text.endswith(
            f"predicted {probability[name]:.2f}, threshold 0.50, "
            f"{'present' if fact else 'absent'}, {fate}"
        )


def test_pointing_previews_and_clicking_holds(open_page, saved, explorer):
    page = open_page(saved)
    put(page, sample=0, attribute="Bald", layer=0, head=1)
    page.locator("[role=option]").nth(4).hover()
    settle(page)
    name = page.locator("[role=option]").nth(4).inner_text().split("\n")[0].replace(" ", "_")
    assert sentence(page).startswith(name.replace("_", " "))
    assert state(page, "attribute") == "Bald"  # only a preview
    assert_drawn(page, exact(explorer, 0, 0, 1, name))
    page.locator("[role=option]").nth(4).click()
    page.mouse.move(5, 5)
    settle(page)
    assert state(page, "attribute") == name
    assert sentence(page).startswith(name.replace("_", " "))

    box = page.locator(".looking .picture").bounding_box()
    page.mouse.move(box["x"] + 0.65 * box["width"], box["y"] + 0.35 * box["height"])
    settle(page)
    looks = np.array([exact(explorer, 0, 0, 1, each)[2, 4] for each in ATTRIBUTES])
    first = ATTRIBUTES[looks.argmax()].replace("_", " ")
    assert sentence(page).startswith(f"Patch 18 (row 2, column 4) is looked at most by {first} ")
    said = float(re.search(rf"{first} ([\d.]+)", sentence(page))[1])
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


def present(explorer, samples=8):
    """A sample and an attribute that it has, whose region is known, and one that it has not."""
    for sample in range(samples):
        header = explorer.item(sample).header
        for name, fact, path in zip(ATTRIBUTES, header["truth"], header["outlines"], strict=True):
            if fact and path:
                return sample, name, ATTRIBUTES[header["truth"].index(0)]
    raise AssertionError("no sample has a known region")


def test_the_scores_are_those_of_python(open_page, saved, explorer):
    page = open_page(saved)
    sample, name, absent = present(explorer)
    put(page, sample=sample, attribute=name, layer=1, head=0, drawer="details")
    weights = exact(explorer, sample, 1, 0, name)
    region = explorer.read(sample)["regions"][ATTRIBUTES.index(name)]
    text = page.locator(".readout").inner_text()

    def number(label):
        return float(re.search(label + r"\n([\d.]+)", text)[1])

    shares = weights[weights > 0] / weights.sum()
    entropy = -(shares * np.log(shares)).sum()
    assert number("Spread over about") == pytest.approx(np.exp(entropy), rel=0.02)
    inside = 100 * float(energy(torch.from_numpy(weights), region))
    assert number("Attention on the region") == pytest.approx(inside, abs=0.7)
    for title, which in (("of the mean map", (MEAN, 0)), ("untrained", (sample, UNTRAINED))):
        baseline = explorer.weights(*which)[1][0, ATTRIBUTES.index(name)]
        label = re.compile(rf"… {title}\n([\d.]+)")
        eventually(lambda label=label: label.search(page.locator(".readout").inner_text()))
        said = float(label.search(page.locator(".readout").inner_text())[1])
        share = 100 * float(energy(torch.from_numpy(baseline).reshape(7, 7), region))
        assert said == pytest.approx(share, abs=0.7)
    hits = pointing_game(torch.from_numpy(weights), region) > 0.5
    assert ("hits" if hits else "misses") in text.split("Strongest patch")[1]
    times = float(re.search(r"([\d.]+) times chance", sentence(page))[1])
    assert times == pytest.approx(inside / 100 / float(region.float().mean()), rel=0.06, abs=0.06)
    path = explorer.item(sample).header["outlines"][ATTRIBUTES.index(name)]
    assert page.locator(".region .over").first.get_attribute("d") == path
    page.get_by_label("true region").uncheck()
    settle(page)
    assert page.locator(".region .over").first.get_attribute("d") == ""
    put(page, outlined=True, attribute=absent)  # what is absent has no region
    assert page.locator(".region .over").first.get_attribute("d") == ""
    assert page.locator(".readout").inner_text().count("absent: none") == 2
    assert "times chance" not in sentence(page)


def test_samples_are_stepped_found_and_filtered(open_page, saved, explorer):
    page = open_page(saved)
    put(page, sample=0)
    page.get_by_role("button", name="next sample").click()
    settle(page)
    assert state(page, "sample") == 1
    page.get_by_role("slider", name="Sample").press("ArrowRight")
    settle(page)
    assert state(page, "sample") == 2
    page.get_by_role("button", name="sample before").click()
    settle(page)
    assert state(page, "sample") == 1
    search = page.get_by_label("Find a sample")
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
    put(page, sample=0, layer=0)
    reached = []
    while len(reached) < 60:
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
        "Random",
        "Find a sample",
        "Find",
        "Show",
        "reset",
        "Clearly",
        "Trained",
        "patches of the image",
        "Opacity",
        "smooth",
        "faint weights",
        "true region",
        "heads in colour",
        "All",
        "Rare",
        "Common",
        "Sort by",
        "Attributes",
        "Layer",
        "layer 0, mean",
        "Details",
        "How this weight arose",
        "Pin",
        "PNG",
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
    assert "sample 2, layer 1, head 0" in cards.first.get_attribute("title")
    assert_drawn(page, exact(explorer, 2, 1, 0, "Smiling"), ".pins canvas", 0)
    assert_drawn(page, exact(explorer, 4, 0, 2, "Bangs"), ".pins canvas", 1)
    here, there = exact(explorer, 5, 0, 1, "Bangs"), exact(explorer, 2, 1, 0, "Smiling")
    said = int(re.search(r"shares (\d+) %", cards.first.inner_text())[1])
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
    page.get_by_label("faint weights").check()
    settle(page)
    weights = exact(explorer, 1, 0, 0, "Bald")
    assert_drawn(page, np.sqrt(weights / weights.max()))
    page.get_by_role("slider", name="Opacity").fill("0.2")
    settle(page)
    assert (
        page.locator(".looking .picture canvas").evaluate("e => getComputedStyle(e).opacity")
        == "0.2"
    )
    page.get_by_role("combobox", name="Layer").select_option("1")
    page.get_by_role("radio", name="layer 1, head 2").click()
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


THEMES = [("light", None), ("dark", None), ("light", "false"), ("dark", "true")]


@pytest.mark.parametrize(("scheme", "light"), THEMES)
def test_the_notebooks_theme_goes_before_the_systems(open_page, saved, scheme, light):
    """`light` is what JupyterLab says of its own theme."""
    page = open_page(saved, scheme, width=400)
    if light is not None:
        page.evaluate("light => { document.body.dataset.jpThemeLight = light }", light)
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    colours = page.evaluate("""["found", "missed", "false alarm"].map((outcome) => {
        const fate = document.querySelector(".fate");
        fate.dataset.outcome = outcome;
        return getComputedStyle(fate).color })""")
    paper, ink = page.evaluate("""(({ backgroundColor, color }) => [backgroundColor, color])(
        getComputedStyle(document.querySelector(".explorer")))""")
    field, typed, placeholder = page.evaluate("""(() => {
        const input = document.querySelector("input[type=search]");
        return [getComputedStyle(input).backgroundColor, getComputedStyle(input).color,
          getComputedStyle(input, "::placeholder").color] })()""")
    panel, soft = (
        page.evaluate("""(() => [getComputedStyle(document.querySelector("section")).backgroundColor,
        getComputedStyle(document.querySelector(".note")).color])()""")
    )
    looking = page.evaluate("""(() => {  // the row whose attribute looks most at a held patch
        const row = getComputedStyle(document.querySelector(".entry[aria-selected=true]"));
        const brush = new OffscreenCanvas(1, 1).getContext("2d");
        for (const colour of [row.backgroundColor, row.backgroundImage.match(/color\\(.*?\\)/)[0]]) {
            brush.fillStyle = colour;
            brush.fillRect(0, 0, 1, 1);
        }
        return `rgb(${brush.getImageData(0, 0, 1, 1).data.slice(0, 3)})` })()""")
    assert min(contrast(colour, each) for colour in colours for each in (paper, looking)) > 4.5
    assert contrast(soft, looking) > 4.5
    assert contrast(ink, paper) > 7
    assert min(contrast(typed, field), contrast(placeholder, field), contrast(soft, panel)) > 4.5
    assert page.evaluate("getComputedStyle(document.querySelector('.explorer')).colorScheme") == (
        {"false": "dark", "true": "light"}.get(light, "light dark")
    )
    assert (luminance(paper) > 0.5) == (light == "true" if light else scheme == "light")


def test_beside_what_the_model_saw_stands_the_clear_twin(open_page, saved, explorer):
    page = open_page(saved)
    sample, name, _ = present(explorer)
    put(page, sample=sample, attribute=name, layer=0, head=0)

    def picture():
        wait(page, "document.querySelector('.looking img').complete")
        source = page.locator(".looking img").evaluate(
            """async image => {
            await image.decode();
            const { naturalWidth: width, naturalHeight: height } = image;
            const canvas = Object.assign(document.createElement("canvas"), { width, height });
            const brush = canvas.getContext("2d");
            brush.drawImage(image, 0, 0);
            return [height, width, Array.from(brush.getImageData(0, 0, width, height).data)] }"""
        )
        height, width, data = source
        return np.array(data, np.uint8).reshape(height, width, 4)[..., :3].astype(float)

    twin = explorer.dataset.clear_twin(sample).image
    assert picture().shape == twin.shape == (420, 420, 3)
    assert np.abs(picture() - twin).mean() < 4  # stored with loss
    before = pixels(page, ".looking .picture canvas")
    page.get_by_role("radio", name="As the model sees it").click()
    settle(page)
    assert picture().shape == (56, 56, 3)
    assert (pixels(page, ".looking .picture canvas") == before).all()  # the same map


def test_the_untrained_model_and_the_mean_map_are_one_click_away(open_page, saved, explorer):
    page = open_page(saved)
    sample, name, _ = present(explorer)
    put(page, sample=sample, attribute=name, layer=1, head=2)
    page.get_by_role("radio", name="Untrained").click()
    eventually(lambda: "untrained model" in sentence(page))
    settle(page)
    scale = {"largest": exact(explorer, sample, 1, 2, name).max()}  # that of the trained map
    assert_drawn(page, exact(explorer, sample, 1, 2, name, "untrained"), **scale)
    page.get_by_role("radio", name="Mean map").click()
    eventually(lambda: "mean map" in sentence(page))
    settle(page)
    maps = [exact(explorer, k, 1, 2, name) for k in range(24)]
    assert_drawn(page, np.mean(maps, 0), **scale)
    page.get_by_role("radio", name="Trained", exact=True).click()
    settle(page)
    assert_drawn(page, exact(explorer, sample, 1, 2, name))


def test_heads_in_colour_are_opaque_where_one_of_them_looks(open_page, saved, explorer):
    page = open_page(saved)
    put(page, sample=1, attribute="Smiling", layer=0, together=True)
    shares = [exact(explorer, 1, 0, head, "Smiling") for head in range(3)]
    shares = np.array([map_ / map_.max() for map_ in shares])
    shown = pixels(page, ".looking .picture canvas").astype(float)
    assert np.abs(shown[..., 3] - 255 * shares.max(0)).max() < 4
    row, column = np.unravel_index((shares[1] - shares[[0, 2]].max(0)).argmax(), (7, 7))
    red, green, blue = shown[row, column, :3]
    assert blue > 1.3 * max(red, green)  # head 1 is blue


def test_a_weight_is_the_softmax_of_what_is_shown_before_it(open_page, saved, explorer):
    page = open_page(saved)
    put(page, sample=2, attribute="Bangs", layer=0, head=1, drawer="weight")
    weights = exact(explorer, 2, 0, 1, "Bangs").ravel()
    for patch in (int(weights.argmax()), 0, 30):
        put(page, patch=patch)
        text = page.locator(".drawer .all").inner_text()
        score, power, total, weight = (
            float(re.search(pattern, text)[1])
            for pattern in (
                r"√d = (-?[\d.]+?)\. ", r"power is ([\de.+-]+),", r"of ([\de.+-]+) in", r"weight is ([\de.-]+),"
            )
        )  # fmt: skip
        assert weight == pytest.approx(weights[patch], rel=0.06, abs=0.002)
        assert power / total == pytest.approx(weights[patch], rel=0.1, abs=0.002)
        assert np.exp(score) == pytest.approx(power, rel=0.08)
    put(page, maps="mean map")
    eventually(lambda: "trained model only" in page.locator(".drawer").inner_text())


# What the browser counts as layout shift; attributes change places in the list where they are sorted anew.
SHIFTS = """() => { window.shifts = [];
    const sorted = ({ node }) => (node?.nodeType === 1 ? node : node?.parentElement)?.closest(".list");
    new PerformanceObserver((list) => { for (const entry of list.getEntries()) {
      if (!entry.sources.every(sorted)) window.shifts.push([entry.value,
        entry.sources.map((source) => source.node?.className || source.node?.nodeName)]) } })
      .observe({ type: "layout-shift" }) }"""


def test_nothing_moves_when_one_paints_pins_chooses_or_errs(open_widget):
    explorer = AttentionExplorer(small_model(layers=1, heads=4), FaceDataset(4, "test", size=56))
    widget = explorer.create_interactive_viewer(sample=1, attribute="Smiling")
    page = open_widget(widget)
    page.set_viewport_size({"width": 833, "height": 680})
    page.evaluate("document.body.style.margin = 0")
    settle(page)
    page.evaluate(SHIFTS)

    def places():
        return [
            page.locator(name).first.bounding_box()
            for name in (".looking .picture", ".list", ".removing", ".pins", ".drawers")
        ]

    before = places()
    top, bottom = before[0]["y"], before[2]["y"] + before[2]["height"]
    assert 0 < top < bottom < 680  # the face, the list and the painting-over stand together
    assert before[0]["x"] + before[0]["width"] < before[1]["x"]
    slider = page.get_by_role("slider", name="Paint over")
    slider.fill("5")
    eventually(lambda: page.locator(".effect .line").count() == 3)
    page.get_by_role("button", name="Pin", exact=True).click()
    page.locator("[role=option]").nth(2).click()
    page.get_by_role("button", name="Pin", exact=True).click()
    page.get_by_label("Find a sample").fill("dog")
    page.get_by_label("Find a sample").press("Enter")
    eventually(lambda: "no attribute has 'dog'" in page.locator(".notice").inner_text())
    page.locator(".looking .picture").hover()
    settle(page)
    page.locator("[role=option]").nth(3).hover()
    page.get_by_role("button", name="next sample").click()
    shown(page, 2)
    settle(page)
    assert places() == before
    moved = page.evaluate("shifts")
    assert sum(value for value, _ in moved) < 0.001, moved


@pytest.mark.parametrize("width", [480, 605, 1053])
def test_the_picture_stands_beside_the_list_from_480_px_on(open_page, saved, width):
    page = open_page(saved, width=width + 36)  # the page has a margin
    picture, names = (page.locator(name).first.bounding_box() for name in (".looking", ".list"))
    assert picture["x"] + picture["width"] < names["x"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width + 36


def test_no_button_is_cut_off_at_any_width(open_page, saved):
    page = open_page(saved)
    for width in (1300, 1000, 833, 780, 700, 605, 480, 400):
        page.set_viewport_size({"width": width, "height": 700})
        settle(page)
        cut = page.evaluate(
            """() => [...document.querySelectorAll(".explorer button")].filter((button) => {
              const panel = button.closest(".removing, .bar, .looking, .pins, .explorer");
              const { left, right } = panel.getBoundingClientRect();
              const box = button.getBoundingClientRect();
              return box.width && (box.left < left - 1 || box.right > right + 1);
            }).map((button) => button.innerText)"""
        )
        assert cut == [], width


def test_the_sample_slider_stands_between_its_buttons_at_every_width(open_page, saved):
    page = open_page(saved)
    put(page, outcome="found", attribute="Smiling")  # the longest number beside it
    eventually(lambda: "match" in page.locator("output").first.inner_text())
    for width in (1300, 1000, 833, 780, 700, 605, 480, 400):
        page.set_viewport_size({"width": width, "height": 700})
        settle(page)
        back, slider, on, number = (
            page.locator(name).first.bounding_box()
            for name in (
                "[aria-label='sample before']",
                ".bar input[type=range]",
                "[aria-label='next sample']",
                ".bar output",
            )
        )
        assert slider["width"] >= 60, width
        for left, right in ((back, slider), (slider, on), (on, number)):
            assert left["x"] + left["width"] <= right["x"], width
        assert number["x"] + number["width"] <= width
        assert page.evaluate("document.documentElement.scrollWidth") <= width, width


def test_changes_are_taken_back_and_errors_go_away(open_page, saved, explorer):
    page = open_page(saved)
    opening = {name: state(page, name) for name in ("sample", "attribute", "lift")}
    undo = page.get_by_role("button", name="undo")
    assert undo.is_disabled()
    page.get_by_label("faint weights").check()
    page.get_by_role("button", name="next sample").click()
    settle(page)
    undo.click()
    settle(page)
    assert [state(page, "sample"), state(page, "lift")] == [opening["sample"], True]
    put(page, sample=7)
    page.get_by_role("button", name="reset").click()
    settle(page)
    assert {name: state(page, name) for name in opening} == opening
    page.get_by_role("button", name="undo").click()
    settle(page)
    assert [state(page, "sample"), state(page, "lift")] == [7, True]
    seen = set()
    for _ in range(30):
        page.get_by_role("button", name="Random").click()
        settle(page)
        seen.add(state(page, "sample"))
    assert len(seen) > 3
    assert seen <= set(range(8))
    search, notice = page.get_by_label("Find a sample"), page.locator(".notice")
    for away in (
        lambda: page.get_by_label("faint weights").press("Space"),
        lambda: page.get_by_role("button", name="close").click(),
    ):
        search.fill("99999")
        search.press("Enter")
        eventually(lambda: "not in this page" in notice.inner_text())
        away()
        settle(page)
        assert notice.inner_text() == ""


def test_the_search_knows_near_words(open_page, saved, explorer):
    page = open_page(saved)
    for words, name in (("woman", "-Male"), ("grey", "Gray_Hair"), ("-beardless", "-No_Beard")):
        index, wanted = ATTRIBUTES.index(name.lstrip("-")), not name.startswith("-")
        having = [bool(explorer.read(k)["target"][index]) == wanted for k in range(8)]
        put(page, sample=0)
        page.get_by_label("Find a sample").fill(words)
        page.get_by_label("Find a sample").press("Enter")
        if not any(having):
            eventually(
                lambda words=words: f"No sample has {words}" in page.locator(".notice").inner_text()
            )
            continue
        first = next(k % 8 for k in range(1, 9) if having[k % 8])
        wait(page, f"attention.get('sample') === {first}")


def test_without_javascript_the_still_part_stays(open_page, saved):
    page = open_page(saved, script=False)
    assert "JavaScript is off" in page.locator("#note").inner_text()
    assert (
        page.locator("#static img")
        .get_attribute("alt")
        .startswith("Where the surest attribute looks")
    )
    assert "Wearing Hat" in page.locator("#static table").inner_text()


def test_a_page_says_what_is_unknown_and_what_failed(open_page, tmp_path):
    explorer = AttentionExplorer(small_model(), Photos())
    page = open_page(explorer.to_html(tmp_path / "page.html", 4))
    assert "the truth is unknown" in sentence(page)
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
    widget = explorer.create_interactive_viewer(sample=0, attribute="Smiling")
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
        [removal.whole, removal.without, removal.random.mean()], abs=0.0051
    )
    assert page.locator(".masked i").count() == 5
    python_sets(page, widget, mask=0)
    settle(page)
    assert page.locator(".masked i").count() == page.locator(".effect .line").count() == 0


def test_patches_are_painted_over_by_hand(open_widget, explorer):
    """By a click, a drag and a key; what it does to every attribute stands in the list."""
    widget = explorer.create_interactive_viewer(sample=1, attribute="Smiling", layer=1, head=-1)
    page = open_widget(widget)
    brush, uncover = (
        page.get_by_role("button", name=name, exact=True) for name in ("By hand", "Uncover")
    )
    assert uncover.is_disabled()
    brush.click()
    face = page.locator(".looking .picture")
    box = face.bounding_box()

    def at(row, column):
        x, y = (box[side] + (k + 0.5) * box["width"] / 7 for side, k in (("x", column), ("y", row)))
        return x, y

    page.mouse.click(*at(1, 2))
    eventually(lambda: state(page, "covered") == widget.covered == [9])
    page.mouse.move(*at(4, 1))
    page.mouse.down()
    page.mouse.move(*at(4, 3), steps=8)
    page.mouse.up()
    eventually(lambda: state(page, "covered") == widget.covered == [9, 29, 30, 31])
    page.mouse.click(*at(1, 2))  # a painted one is uncovered
    eventually(lambda: state(page, "covered") == widget.covered == [29, 30, 31])
    assert widget.patch == -1  # nothing is held by it
    settle(page)
    removal = explorer.remove(1, ATTRIBUTES.index("Smiling"), patches=[29, 30, 31])
    lines = page.locator(".effect .number")
    eventually(lambda: lines.count() == 3)
    said = [float(text) for text in lines.all_inner_texts()]
    assert said == pytest.approx(
        [removal.whole, removal.without, removal.random.mean()], abs=0.0051
    )
    mean, change = removal.random.mean(), removal.without - removal.whole
    verdict = "needs them" if change < 0 else "speak against"
    near = abs(removal.without - mean) <= max(0.02, 2 * removal.random.std())
    if near or abs(change) <= abs(mean - removal.whole):
        verdict = "no more than patches at random"
    assert verdict in page.locator(".effect .note").inner_text()
    whole = explorer.item(1).header["probabilities"]
    for index, probability in enumerate(removal.probabilities):
        row = page.locator(f".entry[data-index='{index}']")
        assert float(row.locator(".number").inner_text()) == pytest.approx(probability, abs=0.0051)
        assert row.locator("small").inner_text() == f"was {whole[index]:.2f}"
    assert page.locator(".masked i").count() == 3
    page.keyboard.press("u")
    eventually(lambda: state(page, "covered") == widget.covered != [29, 30, 31])
    python_sets(page, widget, covered=[29])
    page.get_by_role("button", name="next sample").click()
    eventually(lambda: state(page, "covered") == widget.covered == [])  # they belong to one face
    page.keyboard.press("u")
    shown(page, 1)
    eventually(lambda: state(page, "covered") == widget.covered == [29])
    page.mouse.move(1, 1)
    tokens = page.locator(".looking .tokens")
    python_sets(page, widget, covered=[], patch=10)
    settle(page)
    tokens.press("ArrowRight")
    tokens.press("Enter")
    eventually(lambda: state(page, "covered") == widget.covered == [11])
    assert state(page, "patch") == 11
    brush.click()
    page.mouse.click(*at(5, 5))
    eventually(lambda: state(page, "patch") == widget.patch == 40)  # a look again
    assert widget.covered == [11]
    uncover.click()
    eventually(lambda: state(page, "covered") == widget.covered == [])
    settle(page)
    assert page.locator(".masked i").count() == 0
    page.get_by_role("slider", name="Paint over").fill("2")
    eventually(lambda: state(page, "mask") == widget.mask == 2)
    python_sets(page, widget, covered=[0])  # chosen patches go before the most attended ones
    eventually(lambda: page.locator(".masked i").count() == 1)


def test_the_region_that_decides_is_painted_over(open_widget, explorer):
    targets = torch.stack([explorer.dataset[i]["target"] for i in range(24)])
    column = ATTRIBUTES.index("Smiling")
    smiling, *others = (targets[:, column] == 1).nonzero()[:, 0].tolist()
    not_smiling = int((targets[:, column] == 0).nonzero()[0])
    widget = explorer.create_interactive_viewer(sample=smiling, attribute="Smiling")
    page = open_widget(widget)
    region = page.get_by_role("button", name="Its region")
    region.click()
    eventually(lambda: state(page, "region") is widget.region is True)
    painted = page.locator(".masked i")
    for sample in (smiling, others[0]):  # it follows the face
        python_sets(page, widget, sample=sample)
        shown(page, sample)
        patches = touched(explorer, sample, column)
        removal = explorer.remove(sample, column, patches=patches)
        line = f"without its region ({len(patches)})"
        page.locator(".effect .line", has_text=line).get_by_text(
            f"{removal.without:.2f}"
        ).wait_for()
        assert painted.count() == len(patches)
    python_sets(page, widget, sample=not_smiling)
    shown(page, not_smiling)
    eventually(lambda: "no region of it to paint over" in page.locator(".effect").inner_text())
    assert painted.count() == 0
    region.click()
    eventually(lambda: state(page, "region") is widget.region is False)
    settle(page)
    assert region.is_disabled()  # what is absent has no region


def touched(explorer, sample, column):
    """The patches that the region of an attribute touches."""
    region = explorer.read(sample)["regions"][column].float()[None, None]
    return torch.nn.functional.adaptive_max_pool2d(region, 7).flatten().nonzero()[:, 0].tolist()


def sensitive_explorer():
    """Its predictions lie around one half, and move when something is painted over."""
    explorer = small_explorer()
    images = torch.stack([explorer.read(k)["image"] for k in range(24)])
    head = explorer.model.decoder.head
    with torch.no_grad():
        head.bias.copy_(60 * (head.bias - explorer.model(images).mean(0)))
        head.weight *= 60
    return explorer


def test_what_the_region_is_worth_on_sixteen_faces(open_widget):
    explorer, column = sensitive_explorer(), ATTRIBUTES.index("Wearing_Lipstick")
    page = open_widget(explorer.create_interactive_viewer(sample=3, attribute="Wearing_Lipstick"))
    page.get_by_role("button", name="On 16 faces").click()
    note = page.locator(".effect .note")
    eventually(lambda: "faces with it" in note.inner_text())
    have = [k for k in range(24) if explorer.read(k)["target"][column] == 1]
    have = [k for k in have if touched(explorer, k, column)]
    assert 4 < len(have) <= 16
    removals = [explorer.remove(k, column, patches=touched(explorer, k, column)) for k in have]
    words = re.search(
        r"(\d+) faces with it after 3: (\S+) ± (\S+) without its region, lower on (\d+); (\S+) ±",
        note.inner_text(),
    )
    count, without, half, lower, random = (float(word.replace("−", "-")) for word in words.groups())
    falls = np.array([removal.without - removal.whole for removal in removals])
    assert count == len(have)
    assert without == pytest.approx(falls.mean(), abs=0.0051)
    assert lower == (falls < 0).sum()
    interval = scipy.stats.t.ppf(0.975, len(have) - 1) * scipy.stats.sem(falls)
    assert half == pytest.approx(interval, abs=0.0051, rel=0.02)
    chance = np.mean([removal.random.mean() - removal.whole for removal in removals])
    assert random == pytest.approx(chance, abs=0.0051)
    assert abs(without - random) > 0.05
    assert half > 0.1
    page.locator("[role=option]", has_text="Bangs").click()
    settle(page)
    assert "faces with it" not in page.locator(".effect").inner_text()  # of another attribute


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
    assert "the truth is unknown" in sentence(page)
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
        second.wait_for()
        eventually(lambda: first.get_attribute("data-sample") == "5 0")
        kernel("viewer.sample = 2; viewer.attribute = 'Smiling'; viewer.layer = 0; viewer.head = 1")
        eventually(lambda: first.get_attribute("data-sample") == "2 0")
        eventually(lambda: sentence(first).startswith("Smiling "))
        head = first.get_by_role("radio", name="layer 0, head 1")
        eventually(lambda: head.get_attribute("aria-checked") == "true")
        kernel("viewer.head = -1; clips.playing = False; clips.step = 0")
        drive(first, ATTRIBUTE_CONTROLS, [of_kernel(kernel, "viewer")])
        play(first, of_kernel(kernel, "viewer"))
        drive(second, CLIP_CONTROLS, [of_kernel(kernel, "clips")])
        kernel("clips.sample = 2; clips.trait = 'Extraversion'; clips.token = 7")
        said = kernel("print(personality.describe(2, 'Extraversion', token=7))")
        eventually(lambda: sentence(second) == said)
        cut = "e => e.scrollHeight - e.clientHeight"  # what does not fit
        assert second.locator(".sentence").first.evaluate(cut) <= 1
        if name == "lab":
            restart(page, kernel)
            first.get_by_label("Find a sample").fill("20")
            first.get_by_label("Find a sample").press("Enter")
            eventually(lambda: "does not answer" in first.locator(".notice").inner_text())
            first.get_by_label("Find a sample").fill("2")  # what the page holds is still there
            first.get_by_label("Find a sample").press("Enter")
            eventually(lambda: first.get_attribute("data-sample") == "2 0")


def restart(page, kernel):
    """As the notebook program's own button does it."""
    found = json.loads(urllib.request.urlopen(f"{page.root}/api/kernels", timeout=60).read())
    request = urllib.request.Request(
        f"{page.root}/api/kernels/{found[0]['id']}/restart", method="POST"
    )
    urllib.request.urlopen(request, timeout=120).close()
    kernel.client.wait_for_ready(timeout=200)
