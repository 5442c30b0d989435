"""The personality explorer in Chromium: the clip that plays, what is drawn beside it, and every
control.
"""

import re

import explorer_driver
import numpy as np
import pytest
from explorer_driver import (
    CLIP_CONTROLS,
    drive,
    eventually,
    of_page,
    pixels,
    put,
    python_sets,
    sentence,
    settle,
    state,
    wait,
)
from explorer_model import small_clips, small_personality_model
from matplotlib import colormaps
from test_explorer_clips import Recordings
from test_page import contrast, luminance

from course_lib.explorer import PersonalityExplorer
from course_lib.world import TRAITS

pytestmark = pytest.mark.browser
open_page, open_widget = explorer_driver.open_page, explorer_driver.open_widget  # fixtures
RAISES, LOWERS = (240, 138, 36), (63, 142, 252)
MAP_COLOUR = (225, 0, 190)


@pytest.fixture(scope="module")
def explorer():
    return small_clips()


@pytest.fixture(scope="module")
def saved(explorer, tmp_path_factory):
    return explorer.to_html(tmp_path_factory.mktemp("page") / "page.html", 3)


def map_of(explorer, sample, trait, head=-1):
    _, seen = explorer.clip(sample)
    if trait == "attention":
        return (seen.weights.mean(0) if head < 0 else seen.weights[head]).numpy()
    return seen.relevance[TRAITS.index(trait)].numpy()


def shown(page, sample):
    wait(page, f"document.querySelector('.explorer').dataset.sample === '{sample}'")


@pytest.mark.parametrize(
    ("sample", "trait", "head", "token", "step"),
    [
        (0, "attention", -1, -1, 3),
        (2, "attention", 1, 17, 6),
        (1, "Openness", -1, -1, 0),
        (1, "Neuroticism", 0, 40, 5),
    ],
)
def test_what_is_drawn_is_what_was_computed(
    open_page, saved, explorer, sample, trait, head, token, step
):
    page = open_page(saved)
    put(page, sample=sample, trait=trait, head=head, token=token, step=step)
    shown(page, sample)
    settle(page)
    values = map_of(explorer, sample, trait, head)
    top = np.abs(values).max()
    maps = [(".tokens canvas", 0, step), *((".face canvas", at, at) for at in range(8))]
    for selector, index, at in maps:
        drawn = values[:, at].reshape(7, 7)
        found = pixels(page, selector, index).astype(float)
        assert found.shape[:2] == drawn.shape
        if trait == "attention":
            alpha = 255 * drawn / top
            assert np.abs(found[..., 3] - alpha).max() < 2
            sure = alpha > 60  # the browser keeps colours premultiplied
            assert np.abs(found[sure][:, :3] - MAP_COLOUR).max(initial=0) < 6
        else:
            alpha = 255 * np.sqrt(np.abs(drawn) / top)
            assert np.abs(found[..., 3] - alpha).max() < 2
            for colour, where in ((RAISES, drawn > 0), (LOWERS, drawn < 0)):
                sure = where & (alpha > 60)  # the browser keeps colours premultiplied
                assert np.abs(found[sure][:, :3] - colour).max(initial=0) < 6
    assert sentence(page) == explorer.describe(sample, trait, head, token)
    shares = explorer.clip(sample)[1].shares(trait, head, token)
    said = [float(text) for text in page.locator(".steps .number").all_inner_texts()]
    np.testing.assert_allclose(said, shares, atol=0.0051)
    heights = page.evaluate("""[...document.querySelectorAll(".steps .column")].map((column) =>
        [...column.children].reduce((sum, bar) => sum + bar.getBoundingClientRect().height, 0))""")
    np.testing.assert_allclose(np.array(heights) / max(heights), shares / shares.max(), atol=0.03)
    moment = explorer.moment(sample)
    assert (
        page.locator(".steps button.decides")
        .get_attribute("aria-label")
        .startswith(f"time step {moment}, the moment")
    )
    outlined = page.locator(".steps .region .over").evaluate_all(
        "all => all.map((path) => path.getAttribute('d'))"
    )
    regions = explorer.item(sample).header["regions"]
    assert outlined == ([] if trait == "attention" else [regions[TRAITS.index(trait)]])
    text = page.locator(".readout").inner_text()
    assert ("hits" if int(shares.argmax()) == moment else "misses") in text


def test_the_five_traits_stand_beside_the_truth(open_page, saved, explorer):
    page = open_page(saved)
    put(page, sample=1)
    shown(page, 1)
    clip, seen = explorer.clip(1)
    for index, name in enumerate(TRAITS):
        row = page.locator(f"[data-trait={name}]")
        assert (
            row.get_attribute("aria-label")
            == f"{name}, predicted {seen.traits[index]:.2f}, in truth {clip['traits'][index]:.2f}"
        )
        assert (
            row.locator(".number").inner_text()
            == f"{seen.traits[index]:.2f} / {clip['traits'][index]:.2f}"
        )
        small = pixels(page, f"[data-trait={name}] canvas")[0, :, :3].astype(float)
        shares = seen.shares(name).numpy()
        assert (
            np.abs(small - colormaps["cividis"](shares / max(0.5, shares.max()))[:, :3] * 255).max()
            < 12
        )


def test_every_control_does_the_same_on_a_page_and_in_a_widget(
    open_page, open_widget, saved, explorer
):
    page = open_page(saved)
    put(page, step=0)
    drive(page.locator(".explorer"), CLIP_CONTROLS, [of_page(page)])
    widget = explorer.create_interactive_viewer(playing=False)
    page = open_widget(widget)
    drive(
        page.locator(".explorer"),
        CLIP_CONTROLS,
        [of_page(page), lambda name: getattr(widget, name)],
    )
    python_sets(page, widget, sample=2, trait="Extraversion", token=7)
    shown(page, 2)
    eventually(lambda: sentence(page) == explorer.describe(2, "Extraversion", token=7))


def film_frame(page):
    """Which frame of the clip's film is on screen: the nearest."""
    return page.evaluate("""async () => {
        const meta = JSON.parse(document.getElementById("meta").textContent), sample = attention.get("sample");
        const { frames, count } = meta.items.find((item) => item.sample === sample), image = new Image();
        image.src = frames.source;
        await image.decode();
        const { width, height, columns } = frames;
        const read = (source, x, y) => {
          const canvas = Object.assign(document.createElement("canvas"), { width, height });
          const brush = canvas.getContext("2d", { willReadFrequently: true });
          brush.drawImage(source, x, y, width, height, 0, 0, width, height);
          return brush.getImageData(0, 0, width, height).data; };
        const seen = read(document.querySelector(".pictures canvas"), 0, 0);
        const errors = Array.from({ length: count }, (_, k) => {
          const data = read(image, (k % columns) * width, Math.floor(k / columns) * height);
          return data.reduce((sum, value, i) => sum + Math.abs(value - seen[i]), 0); });
        return errors.indexOf(Math.min(...errors)); }""")


def test_the_clip_plays_with_its_playhead_and_stands_still_for_those_who_want_that(
    open_page, saved
):
    page = open_page(saved)  # reduced motion
    assert state(page, "playing") is False
    for step in (0, 5, 7):
        put(page, step=step)
        eventually(lambda step=step: film_frame(page) == 4 * step + 2)
        assert (
            page.locator(".steps [aria-checked=true]")
            .get_attribute("aria-label")
            .startswith(f"time step {step}")
        )
    page = open_page(saved, motion="no-preference")
    assert state(page, "playing") is True
    seen = set()
    eventually(lambda: seen.add(state(page, "step")) or len(seen) >= 3)
    page.get_by_role("button", name="Pause").click()
    step = state(page, "step")
    eventually(lambda: film_frame(page) // 4 == step)
    for _ in range(20):
        settle(page)  # time for forty frames
    assert state(page, "step") == step
    assert page.locator(".playhead:visible").count() == 1
    assert page.locator(f".tile:nth-child({step + 1}) .playhead").is_visible()


def test_pointing_previews_and_clicking_holds(open_page, saved, explorer):
    page = open_page(saved)
    put(page, sample=1, trait="Openness", step=2)
    shown(page, 1)
    box = page.locator(".tokens .picture").bounding_box()
    page.mouse.move(box["x"] + 0.65 * box["width"], box["y"] + 0.35 * box["height"])
    eventually(lambda: sentence(page) == explorer.describe(1, "Openness", token=18))
    assert state(page, "token") == -1
    page.locator("[data-trait=Neuroticism]").hover()
    eventually(lambda: sentence(page) == explorer.describe(1, "Neuroticism"))
    assert state(page, "trait") == "Openness"
    face = page.locator(".face").nth(6)
    face.scroll_into_view_if_needed()

    def at_patch(act):
        """The mouse at the middle of the patch, wherever the page has it by now."""
        box = face.bounding_box()
        act(box["x"] + box["width"] * 2.5 / 7, box["y"] + box["height"] * 4.5 / 7)

    def hint():
        at_patch(page.mouse.move)
        return page.locator("[aria-label='Over time'] > .note").inner_text()

    way = "raises" if map_of(explorer, 1, "Openness")[30, 6] > 0 else "lowers"
    eventually(lambda: f"Face patch 30 (row 4, column 2), time step 6: {way}" in hint())
    at_patch(page.mouse.click)
    page.mouse.move(5, 5)
    settle(page)
    assert (state(page, "token"), state(page, "step")) == (30, 6)
    assert sentence(page) == explorer.describe(1, "Openness", token=30)
    eventually(lambda: page.locator("[aria-live=polite]").inner_text() == sentence(page))


def test_all_is_reached_by_tab_with_a_visible_focus(open_page, saved):
    page = open_page(saved)
    settle(page)
    reached = []
    while len(reached) < 30:
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
        "clip before",
        "Clip",
        "next clip",
        "Head",
        "Play",
        "Frame",
        "Speed",
        "patches of the face",
        "time step",
        "Attention",
    ):
        assert any(wanted in name for name in reached), (wanted, reached)
    page.locator("body").press("Shift+Tab")
    assert page.locator("button:not([role])").evaluate_all("all => all.every(each => each.title)")


def test_light_dark_narrow_and_without_javascript(open_page, saved):
    for scheme in ("light", "dark"):
        page = open_page(saved, scheme, width=400)
        shown(page, 0)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        paper, ink, mark = page.evaluate(
            """(({ backgroundColor, color }) => [backgroundColor, color, getComputedStyle(
            document.querySelector(".decides small")).color])(getComputedStyle(document.querySelector(".explorer")))"""
        )
        assert contrast(ink, paper) > 7
        assert contrast(mark, paper) > 4
        assert (luminance(paper) > 0.5) == (scheme == "light")
    page = open_page(saved, script=False)
    assert (
        page.locator("#static img")
        .first.get_attribute("alt")
        .startswith("Attention over the 8 moments")
    )


def test_a_page_says_what_is_unknown_and_what_failed(open_page, tmp_path):
    explorer = PersonalityExplorer(small_personality_model(), Recordings())
    page = open_page(explorer.to_html(tmp_path / "page.html", 4))
    put(page, trait="Openness")
    assert "truth unknown" in sentence(page)
    assert page.locator(".readout").inner_text().count("unknown") == 1
    assert page.locator(".pictures figure:visible").count() == 2  # no frames, but flow and face
    assert re.search(r"0?\.\d\d / \?", page.locator("[data-trait=Openness] .number").inner_text())
    put(page, sample=1)
    eventually(
        lambda: (
            "Clip 1 could not be loaded (OSError: disk on fire)"
            in page.locator(".notice").inner_text()
        )
    )
    put(page, sample=3)
    shown(page, 3)
    assert page.locator(".notice").inner_text() == ""


def test_the_widget_asks_once_saves_a_page_and_lets_go(open_widget, open_page, tmp_path):
    explorer = small_clips()
    widget = explorer.create_interactive_viewer(sample=1, playing=False, trait="Openness")
    page = open_widget(widget)
    shown(page, 1)
    asked = lambda: [content["sample"] for content in page.asked if content.get("kind") == "item"]  # noqa: E731
    python_sets(page, widget, sample=0)
    shown(page, 0)
    python_sets(page, widget, sample=1)
    shown(page, 1)
    assert 1 not in asked()  # it came with the widget
    assert asked().count(0) == 1
    with page.expect_download() as download:
        page.get_by_role("button", name="Page", exact=True).click()
    path = tmp_path / "saved.html"
    path.write_bytes(download.value.path().read_bytes())
    page.evaluate("close_view()")
    assert page.evaluate("[listening(), document.querySelectorAll('.explorer').length]") == [0, 0]
    page = open_page(path)
    shown(page, 1)
    assert sentence(page) == explorer.describe(1, "Openness")
