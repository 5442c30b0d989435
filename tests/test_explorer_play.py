"""What a reader may do in the explorer besides looking: point first, draw a face, share a view, take
the tour.
"""

import io
import json
import re
import urllib.parse

import explorer_driver
import numpy as np
import pytest
import torch
from explorer_driver import (
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
from explorer_model import small_explorer, small_model
from PIL import Image
from scipy.stats import binomtest
from test_page import contrast
from traitlets import TraitError

from course_lib.data import FaceDataset
from course_lib.explorer import AttentionExplorer, look
from course_lib.explorer.drawing import SLIDERS, drawing_of, drawn_item
from course_lib.looking.localisation import covered
from course_lib.world import ATTRIBUTES

open_page, open_widget = explorer_driver.open_page, explorer_driver.open_widget  # fixtures
FIRST = drawing_of({"attributes": ["Eyeglasses", "Smiling"]})
SIZES = [(833, "light"), (480, "dark"), (400, "light"), (400, "dark")]


@pytest.fixture(scope="module")
def explorer():
    return small_explorer()


@pytest.fixture(scope="module")
def saved(explorer, tmp_path_factory):
    return explorer.to_html(tmp_path_factory.mktemp("play") / "page.html", 12)


def says(page, words):
    eventually(lambda: words in sentence(page))


# ---------------------------------------------------------------- point first


def round_of(page, explorer):
    """What is asked: the sample, the attribute, and which patches its region touches."""
    asked = page.locator(".playing")
    eventually(lambda: asked.get_attribute("data-sample"))
    sample, name = int(asked.get_attribute("data-sample")), asked.get_attribute("data-attribute")
    regions = explorer.read(sample)["regions"][ATTRIBUTES.index(name)]
    return sample, name, (covered(regions[None], (7, 7))[0] > 1e-9).numpy().ravel()


def peak(explorer, sample, name):
    weights = explorer.weights(sample)[-1][:, ATTRIBUTES.index(name)].mean(0)
    return int(weights.argmax())


def click_patch(page, patch):
    box = page.locator(".looking .picture").bounding_box()
    row, column = divmod(patch, 7)
    side = box["width"] / 7
    page.mouse.click(box["x"] + (column + 0.5) * side, box["y"] + (row + 0.5) * side)
    settle(page)


def score(page, who):
    return page.locator(f".score tr[data-who={who}] td").first.inner_text()


@pytest.mark.browser
def test_ten_faces_are_scored_as_the_pointing_game_scores_them(open_page, saved, explorer):
    page = open_page(saved)
    page.get_by_role("radio", name="Point first").click()
    settle(page)
    mine, models = 0, 0
    for number in range(10):
        sample, name, region = round_of(page, explorer)
        says(page, f"Face {number + 1} of 10: point at what shows {name.replace('_', ' ')}.")
        assert 0 < region.mean() <= 0.3
        assert not name.startswith("No_")  # nobody can point at what is absent
        canvas = page.locator(".looking .picture canvas")
        assert canvas.evaluate("e => getComputedStyle(e).opacity") == "0"  # nothing is given away
        assert page.locator(".region .over").first.get_attribute("d") == ""
        assert page.locator(".spot", has_text="M").count() == 1  # in the table only
        hit = number % 3 > 0
        click_patch(page, int(region.argmax() if hit else (~region).argmax()))
        mine += hit
        top = peak(explorer, sample, name)
        models += bool(region[top])
        line = page.locator(".answers .fate").all_inner_texts()
        assert line[0] == ("✓ You hit" if hit else "✗ You missed")
        assert line[1] == ("✓ Model hit" if region[top] else "✗ Model missed")
        assert f"{region.mean():.1%}"[:2] in page.locator(".answers .note").inner_text()
        assert page.locator(".region .over").first.get_attribute("d") != ""
        spots = page.locator(".spots").evaluate_all(
            "all => all.map((e) => [e.textContent, e.style.left, e.style.top])"
        )
        (model,) = [place for place in spots if "M" in place[0]]
        assert float(model[1][:-1]) == pytest.approx(100 * (top % 7) / 7, abs=0.01)
        assert float(model[2][:-1]) == pytest.approx(100 * (top // 7) / 7, abs=0.01)
        assert score(page, "you") == f"{mine} of {number + 1}"
        assert score(page, "model") == f"{models} of {number + 1}"
        if number < 9:
            page.get_by_role("button", name="Next face").click()
            settle(page)
    says(page, f"You hit {mine} of 10, the model {models} of 10, chance ")
    low, high = binomtest(mine, 10).proportion_ci(method="wilson")
    shown = page.locator(".score tr[data-who=you] .number").inner_text().replace("\u00a0", " ")
    said = [float(text) for text in re.findall(r"[\d.]+", shown)]
    assert said == pytest.approx([100 * low, 100 * high], abs=0.51)
    page.get_by_role("button", name="New game").click()
    eventually(lambda: score(page, "you") == "0 of 0")


@pytest.mark.browser
def test_the_game_is_played_by_keyboard(open_page, saved, explorer):
    page = open_page(saved)
    page.get_by_role("radio", name="Explore").press("ArrowRight")
    says(page, "Face 1 of 10")
    assert state(page, "mode") == "point"
    before = state(page, "sample")
    for number in range(2):
        _, _, region = round_of(page, explorer)
        patches = page.get_by_role("slider", name="patches of the face")
        patches.press("Home")
        for _ in range(int(region.argmax())):
            patches.press("ArrowRight")
        settle(page)
        assert patches.get_attribute("aria-valuenow") == str(int(region.argmax()))
        assert score(page, "you") == f"{number} of {number}"  # arrows only move
        patches.press("Enter")
        eventually(lambda number=number: score(page, "you") == f"{number + 1} of {number + 1}")
        eventually(lambda: page.evaluate("document.activeElement.textContent") == "Next face")
        page.keyboard.press("Enter")
        eventually(lambda: page.evaluate("document.activeElement.className") == "tokens")
    patches.press("Escape")
    settle(page)
    assert (state(page, "mode"), state(page, "sample")) == ("explore", before)


@pytest.mark.browser
def test_without_a_known_region_there_is_no_game(open_page, tmp_path):
    faces = FaceDataset(3, "test", size=56, regions=False)
    page = open_page(AttentionExplorer(small_model(), faces).to_html(tmp_path / "page.html", 3))
    page.get_by_role("radio", name="Point first").click()
    says(page, "No face was found")
    page.get_by_role("button", name="Explore", exact=True).click()
    eventually(lambda: page.locator(".list").count() == 1)


# ---------------------------------------------------------------- draw a face


def test_a_drawing_is_an_item_of_which_everything_is_known():
    item = drawn_item(FIRST, ATTRIBUTES, 56, 128)
    names = {name for name, there in zip(ATTRIBUTES, item["target"], strict=True) if there}
    assert names == {"Eyeglasses", "Smiling", "No_Beard"}
    assert item["image"].shape == (3, 56, 56)
    assert item["clear"].image.shape == (128, 128, 3)
    glasses, bald = (item["regions"][ATTRIBUTES.index(name)] for name in ("Eyeglasses", "Bald"))
    assert glasses.any()
    assert not bald.any()
    twin = item["clear"].regions[ATTRIBUTES.index("Eyeglasses")]
    assert abs(twin.mean() - glasses.float().mean()) < 0.01
    for name in ("blur", "noise", "dim", "cover"):  # damage changes what is seen and not the twin
        damaged = drawn_item(FIRST | {name: SLIDERS[name][1]}, ATTRIBUTES, 56, 128)
        assert (damaged["image"] - item["image"]).abs().mean() > 0.005, name
        assert (damaged["clear"].image == item["clear"].image).all(), name
    for name in ("person", "skin", "turn", "nod", "tilt", "size", "right", "down"):
        moved = drawn_item(FIRST | {name: SLIDERS[name][1]}, ATTRIBUTES, 56, 128)
        assert (moved["clear"].image != item["clear"].image).any(), name
    some = drawn_item(FIRST, ATTRIBUTES[10:20], 56, 64)  # a model of some of the attributes
    assert torch.equal(some["regions"], item["regions"][10:20])
    assert torch.equal(some["target"], item["target"][10:20])


@pytest.mark.parametrize(
    ("drawing", "message"),
    [
        ({"attributes": ["Bald", "Black_Hair"]}, "contradict each other"),
        ({"attributes": ["Dog"]}, "unknown attribute 'Dog'"),
        ({"attributes": "Bald"}, "expected a list of names"),
        ({"attributes": [3]}, "expected a list of names"),
        ({"turn": 9}, "turn is 9, expected -0.25 to 0.25"),
        ({"blur": float("nan")}, "blur is nan"),
        ({"blur": True}, "blur is True"),
        ({"ears": 3}, "a drawing has no 'ears'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(explorer, drawing, message):
    viewer = explorer.create_interactive_viewer()
    with pytest.raises(TraitError, match=message):
        viewer.drawing = drawing
    assert viewer.drawing == {}
    with pytest.raises(TraitError):
        explorer.create_interactive_viewer(drawing=drawing)


def test_python_draws_too():
    explorer = small_explorer(n=3)
    viewer = explorer.create_interactive_viewer(drawing={"attributes": ["Bald"]})
    assert (viewer.sample, viewer.own, viewer.attribute) == (-1, "drawn face 1", "Bald")
    viewer.draw(["Smiling"], turn=0.1)
    assert viewer.own == "drawn face 2"
    truth = explorer.item(-1).header["truth"]
    assert [ATTRIBUTES[i] for i, there in enumerate(truth) if there] == ["No_Beard", "Smiling"]
    assert viewer.drawing["turn"] == 0.1
    odd = AttentionExplorer(
        small_model(attributes=5), FaceDataset(3, "test", size=56), list("abcde")
    )
    assert odd.meta()["drawing"] is None
    with pytest.raises(ValueError, match="no drawn face has"):
        odd.draw({})


@pytest.mark.browser
def test_prediction_and_map_follow_the_switches_and_sliders(open_widget):
    explorer = small_explorer(n=4)
    widget = explorer.create_interactive_viewer(sample=2, attribute="Smiling", layer=0, head=1)
    there = {
        name
        for name, is_there in zip(ATTRIBUTES, explorer.item(2).header["truth"], strict=True)
        if is_there
    }
    page = open_widget(widget)
    page.get_by_role("radio", name="Draw a face").click()
    eventually(lambda: widget.sample == -1 and widget.own == "drawn face 1")
    assert {*widget.drawing["attributes"]} == there  # it starts with what the face had

    def map_shown(page):
        return pixels(page, ".looking .picture canvas")[..., 3].ravel().astype(float)

    def follows():
        """The page shows what the model makes of the drawing."""
        item = drawn_item(widget.drawing, explorer.names, 56, 420)
        seen = look(explorer.model, item["image"][None])
        said = [f"{p:.2f}" for p in seen.probabilities[0].tolist()]
        eventually(lambda: page.locator(".switch .number").all_inner_texts() == said)
        weights = next(iter(seen.weights.values()))[0, 1, ATTRIBUTES.index(widget.attribute)]
        opacity = 255 * (weights / weights.max()).numpy()
        eventually(lambda: np.abs(map_shown(page) - opacity).max() < 4)

    page.mouse.move(2, 670)
    follows()
    page.get_by_role("button", name="Plain face").click()
    eventually(lambda: widget.drawing["attributes"] == [])
    hat = page.get_by_role("checkbox", name="Wearing Hat")
    hat.focus()
    hat.press("Space")
    eventually(lambda: widget.drawing["attributes"] == ["Wearing_Hat"])
    assert widget.attribute == "Wearing_Hat"
    bald = page.get_by_role("checkbox", name="Bald")
    bald.check()
    eventually(lambda: widget.drawing["attributes"] == ["Bald"])  # it cannot have a hat
    settle(page)
    assert not hat.is_checked()
    for name in ("Turn", "Blur"):
        slider = page.get_by_role("slider", name=name)
        slider.press("End")
        _, high, _ = SLIDERS[name.lower()]
        eventually(lambda name=name, high=high: widget.drawing[name.lower()] == high)
    page.mouse.move(2, 670)
    follows()
    says(page, "Bald ")
    assert page.locator(".region .over").first.get_attribute("d")
    page.get_by_role("button", name="undo").click()
    eventually(lambda: widget.drawing["blur"] == 0)
    page.get_by_role("slider", name="Turn").press("Escape")
    page.get_by_role("button", name="Explore", exact=True).click()
    eventually(lambda: widget.mode == "explore" and page.locator(".list").count() == 1)
    python_sets(page, widget, mode="draw")
    eventually(lambda: page.get_by_role("checkbox", name="Bald").is_checked())
    page.get_by_label("Find a sample").fill("3")
    page.get_by_label("Find a sample").press("Enter")
    eventually(lambda: (widget.sample, widget.mode) == (3, "explore"))  # no drawing any more


@pytest.mark.browser
def test_a_page_says_why_it_cannot_draw(open_page, saved):
    page = open_page(saved)
    page.get_by_role("radio", name="Draw a face").click()
    settle(page)
    assert "A face is drawn by Python" in page.locator(".drawing").inner_text()
    assert state(page, "sample") >= 0
    page.get_by_role("button", name="Explore", exact=True).press("Enter")
    settle(page)
    assert state(page, "mode") == "explore"


# ---------------------------------------------------------------- share

WHOLE = {
    "sample": 4, "layer": 0, "head": 2, "attribute": "Bangs", "patch": 9, "rarity": "common",
    "sort": "error", "outcome": "found", "maps": "mean map", "clear": False,
    "together": True, "lift": True, "smooth": True, "outlined": False, "strength": 0.35,
    "drawer": "share", "mode": "explore", "covered": [3, 24],
    "pinned": [{"sample": 2, "checkpoint": 0, "layer": 1, "head": 0, "attribute": "Smiling"},
               {"sample": 5, "checkpoint": 0, "layer": 0, "head": -1, "attribute": "Bald"}],
}  # fmt: skip


@pytest.mark.browser
def test_the_whole_state_is_in_the_address(open_page, saved):
    page = open_page(saved)
    put(page, **WHOLE)
    field = page.get_by_label("the address of this view")
    address = field.input_value()
    eventually(lambda: page.evaluate("location.href") == address)
    again = open_page(f"{saved}#{address.split('#')[1]}")
    assert {name: state(again, name) for name in WHOLE} == WHOLE
    eventually(lambda: again.locator(".pins figure canvas").count() == 2)
    assert again.locator(".notice").inner_text() == ""
    put(again, sample=0, pinned=[], mode="point")  # what the page opens with is a choice, too
    eventually(lambda: "%22point%22" in again.evaluate("location.hash"))
    third = open_page(f"{saved}{again.evaluate('location.hash')}")
    assert (state(third, "sample"), state(third, "pinned")) == (0, [])
    third.evaluate("hash => { location.hash = hash }", address.split("#")[1])
    eventually(lambda: state(third, "sample") == 4 and state(third, "mode") == "explore")


HOSTILE = [
    {"sample": "4", "layer": [], "head": {}, "attribute": "<img src=x onerror=alert(1)>"},
    {"strength": "1; background: url(https://example.org)", "patch": 1e99, "mask": -5},
    {"covered": [1, 1, -2, 49, 1.5, "x", None, [2]], "head": "all"},
    {"pinned": 7, "maps": None, "drawer": "constructor", "mode": "toString"},
    {"pinned": [{"sample": 1}, None, 3, [WHOLE["pinned"][0]], WHOLE["pinned"][0] | {"head": 99}]},
    {"pinned": [WHOLE["pinned"][0] | {"own": "x"}] * 500, "clear": "yes", "lift": 1},
    {"__proto__": {"sample": 3}, "meta": {"count": 1}, "planes": [], "own": "<b>"},
    {"drawing": {"attributes": ["Bald"], "__proto__": 1}, "sample": -1, "strength": -4},
    {"drawing": FIRST, "sample": -1, "checkpoint": 17},
    [], 3, "text", None,
]  # fmt: skip


@pytest.mark.browser
def test_a_hostile_address_is_refused(open_page, saved):
    page = open_page(saved)
    names = [*WHOLE, "drawing", "mask", "checkpoint"]
    opening = {name: state(page, name) for name in names}
    for said in HOSTILE:
        again = open_page(f"{saved}#{urllib.parse.quote(json.dumps(said))}")
        settle(again)
        eventually(
            lambda again=again: re.fullmatch(
                r"\d+ 0", again.locator(".explorer").get_attribute("data-sample")
            )
        )
        assert again.locator(".looking .picture canvas").count() == 1
        assert again.locator(".masked i").count() <= 1
        assert again.locator(".pins figure").count() == 0
        style = again.locator(".looking .picture").get_attribute("style")
        assert re.fullmatch(r"--strength: ?[\d.]+", style.rstrip("; ")), style
        assert again.locator("img[src=x]").count() == 0
        assert state(again, "meta")["count"] == 24
        if isinstance(said, dict) and {*said} & {*names}:
            left_out = re.search(r"\((.*)\)", again.locator(".notice").inner_text())[1]
            assert {*left_out.split(", ")} <= {*said}
        again.locator("[role=option]").nth(2).click()  # it works
        settle(again)
        put(again, **opening)
        again.context.close()
    broken = open_page(f"{saved}#%E0%A4%A")
    assert {name: state(broken, name) for name in names} == opening


@pytest.mark.browser
def test_a_notebook_shares_a_line_of_python(open_widget, explorer):
    widget = explorer.create_interactive_viewer(sample=3, attribute="Bangs", drawer="share")
    page = open_widget(widget)
    page.get_by_label("smooth").check()
    page.get_by_role("button", name="Pin", exact=True).click()
    eventually(lambda: widget.pinned and widget.smooth)
    settle(page)  # Python hears of a pin before the page is drawn again
    line = page.get_by_label("a line of Python").input_value()
    again = eval(line, {"explorer": explorer})
    assert {name: getattr(again, name) for name in again.state_names()} == {
        name: getattr(widget, name) for name in widget.state_names()
    }
    # without a clipboard, as in a page that has no address, the browser copies what is selected
    page.evaluate("""() => document.addEventListener("copy", () => {
      const { value, selectionStart, selectionEnd } = document.activeElement;
      window.copied = value.slice(selectionStart, selectionEnd);
    })""")
    assert page.evaluate("navigator.clipboard") is None
    page.get_by_role("button", name="Copy").press("Enter")
    eventually(lambda: "Copied: a line of Python" in page.locator(".notice").inner_text())
    assert page.evaluate("copied") == line
    eventually(lambda: page.get_by_role("button", name="Copied").count() == 1)
    page.get_by_label("smooth").uncheck()  # another line, not copied yet
    copy = page.get_by_role("button", name="Copy", exact=True)
    eventually(lambda: copy.count() == 1)
    page.evaluate("""Object.defineProperty(navigator, "clipboard",
      { value: { writeText: async (text) => { window.copied = text; } } })""")
    copy.click()
    eventually(lambda: page.evaluate("copied") not in (None, line))
    assert page.evaluate("copied") == page.get_by_label("a line of Python").input_value()


@pytest.mark.browser
def test_the_card_is_a_picture_with_the_map(open_page, saved):
    cards = []
    page = open_page(saved)
    put(page, drawer="share", strength=1)
    for strength in (0, 1):
        put(page, strength=strength)
        with page.expect_download() as download:
            page.get_by_role("button", name="Card").press("Enter")
        assert download.value.suggested_filename == "card.png"
        with Image.open(io.BytesIO(download.value.path().read_bytes())) as image:
            assert image.size == (1200, 630)
            cards.append(np.array(image.convert("RGB")).astype(int))
    face = np.abs(cards[1] - cards[0])
    assert face[30:600, 30:600].max() > 60  # the map
    assert face[:, 620:].max() == 0  # and nothing else
    words = cards[0][80:360, 630:1170]
    assert (words < 100).all(-1).mean() > 0.01  # dark letters of the verdict
    assert cards[0][400:570, 630:800].std() > 10  # what the model sees


# ---------------------------------------------------------------- the tour


@pytest.mark.browser
def test_the_tour_has_five_steps_and_is_skipped_and_taken_up_again(open_page, saved):
    page = open_page(saved)
    card, focused = page.locator(".tour"), "document.activeElement.textContent"
    opener = page.get_by_role("button", name="Tour")
    opener.press("Enter")
    outlined = {1: ".looking", 2: ".looking", 3: ".list", 4: ".looking", 5: ".removing"}
    values = {1: ("clear", True), 2: ("clear", False), 4: ("maps", "mean map"), 5: ("mask", 5)}
    for step in range(1, 6):
        eventually(lambda step=step: f"{step} of 5" in card.inner_text())
        assert card.get_attribute("aria-label") == f"Tour, step {step} of 5"
        assert (
            page.locator(outlined[step]).first.evaluate("e => getComputedStyle(e).outlineStyle")
            == "solid"
        )
        if step in values:
            name, value = values[step]
            assert state(page, name) == value
        assert page.evaluate(focused) in ("Next", "End")
        if step < 5:
            page.keyboard.press("Enter" if step % 2 else "ArrowRight")
            settle(page)
    page.keyboard.press("ArrowLeft")
    eventually(lambda: "4 of 5" in card.inner_text())
    page.keyboard.press("Escape")
    eventually(lambda: card.count() == 0)
    eventually(lambda: page.evaluate(focused) == "Tour")
    page.keyboard.press("Enter")  # it goes on where it was left
    eventually(lambda: "4 of 5" in card.inner_text())
    page.get_by_role("button", name="Back").click()
    eventually(lambda: "3 of 5" in card.inner_text())
    page.get_by_role("button", name="Skip").click()
    eventually(lambda: card.count() == 0)
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [
        0,
        0,
        "",
    ]
    page.reload()
    wait(page, "window.attention !== undefined")
    opener.click()
    eventually(lambda: "1 of 5" in card.inner_text())


# ---------------------------------------------------------------- in every size and theme


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_every_mode_fits_and_can_be_read(open_page, open_widget, saved, explorer, width, scheme):
    page = open_page(saved, scheme, width=width)
    for mode in ("point", "draw", "explore"):
        put(page, mode=mode, drawer="share")
        if mode == "point":
            eventually(lambda: page.locator(".playing").get_attribute("data-sample"))
            click_patch(page, 24)
        if mode == "explore":
            page.get_by_role("button", name="Tour").click()
            settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, mode
        for name, paper in (
            (".question", "section"), (".answers .fate", "section"), (".spot.you", ".spot.you"),
            (".spot.model", ".spot.model"), (".spot.chance", ".spot.chance"), (".tour p", ".tour"),
            (".sharing input", ".sharing input"), (".drawing p", "section"),
        ):  # fmt: skip
            if page.locator(name).count():
                ink, ground = page.evaluate(
                    """([name, paper]) => [getComputedStyle(document.querySelector(name)).color,
                      getComputedStyle(document.querySelector(paper)).backgroundColor]""",
                    [name, paper],
                )
                assert contrast(ink, ground) > 4.5, (mode, name)
    unnamed = page.evaluate(
        """[...document.querySelectorAll("button, input, select")].filter((e) =>
             !(e.getAttribute("aria-label") || e.textContent || e.closest("label")?.textContent)).length"""
    )
    assert unnamed == 0


@pytest.mark.browser
def test_a_game_and_a_drawing_stand_on_one_screen(open_widget, explorer):
    widget = explorer.create_interactive_viewer(drawing=FIRST, mode="draw")
    page = open_widget(widget)
    page.set_viewport_size({"width": 833, "height": 680})
    page.evaluate("document.body.style.margin = 0")
    eventually(lambda: page.locator(".switch").count() == 33)
    settle(page)

    def bottom(name):
        box = page.locator(name).first.bounding_box()
        return box["y"] + box["height"]

    assert max(map(bottom, (".looking .picture", ".sliders", ".switches"))) < 680
    python_sets(page, widget, mode="point")
    eventually(lambda: page.locator(".score").count())
    settle(page)
    assert max(map(bottom, (".looking .picture", ".score"))) < 680
    assert of_page(page)("mode") == "point"
