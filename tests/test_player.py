"""Films in a notebook: what travels, what is there without JavaScript, and the player in Chromium."""

import json
import re
from html import unescape

import explorer_driver
import numpy as np
import pytest
from explorer_driver import eventually

from course_lib.pictures import Animation, player_script

open_page = explorer_driver.open_page
GREYS = (40, 90, 140, 190, 240)


@pytest.fixture
def film():
    """Five frames of one grey each."""
    return Animation([np.full((60, 90, 3), grey, np.uint8) for grey in GREYS], 10, "Five greys.")


def test_a_film_is_a_still_with_its_sentence_and_its_frames_beside(film):
    text = film._repr_html_()
    assert text.count("<img") == 1
    assert '<img alt="Five greys." src="data:image/webp;base64,' in text
    assert "<figcaption>Five greys.</figcaption>" in text
    data = json.loads(unescape(re.search('data-film="([^"]*)"', text)[1]))
    assert data["fps"] == 10
    assert len(data["frames"]) == 4  # the last is the still
    assert not re.search(r"https?:", text)
    assert text.endswith(f"<script>{player_script()}</script>")
    assert "innerHTML" not in text


def test_a_description_stays_text():
    hostile = '"><script>alert(1)</script>'
    text = Animation([np.zeros((8, 8, 3), np.uint8)], 1, hostile)._repr_html_()
    assert "<script>alert" not in text


@pytest.fixture
def show(open_page, tmp_path):
    """Open these films in one page, by default the width of a cell in a small window."""
    path = tmp_path / "films.html"

    def opener(*films, motion="no-preference", width=833, **options):
        outputs = "".join(f"<div>{each._repr_html_()}</div>" for each in films)
        path.write_text(f"<!doctype html><html lang=en><title>Films</title>{outputs}")
        ready = "document.querySelector('canvas') !== null"
        return open_page(path, motion=motion, width=width, ready=ready, **options)

    return opener


def grey(page):
    """The grey in the middle of the first film's picture."""
    return explorer_driver.pixels(page, "canvas")[30, 45, 0]


def place(page):
    return int(page.locator("input").input_value())


@pytest.mark.browser
def test_it_plays_pauses_and_is_scrubbed_by_mouse_and_keys(show, film):
    page = show(film)
    seen = set()
    eventually(lambda: seen.add(place(page)) or seen == set(range(5)))
    page.get_by_role("button", name="Pause").click()
    at = place(page)
    assert abs(int(grey(page)) - GREYS[at]) < 4
    page.wait_for_timeout(500)  # five frames
    assert place(page) == at
    slider = page.get_by_role("slider", name="frame")
    slider.press("Home")
    slider.press("ArrowRight")
    assert (place(page), slider.get_attribute("aria-valuetext")) == (1, "2 of 5")
    assert abs(int(grey(page)) - GREYS[1]) < 4
    slider.press("Space")
    eventually(lambda: page.get_by_role("button", name="Pause").count() == 1)
    eventually(lambda: place(page) != 1)
    slider.press("End")  # whoever scrubs looks: it stands still
    assert page.get_by_role("button", name="Play").count() == 1
    page.get_by_role("button", name="Play").press("Enter")
    slider.dispatch_event("pointerdown")  # also where it stands already
    assert page.get_by_role("button", name="Play").count() == 1
    page.get_by_role("button", name="Play").press("Enter")
    slider.click()  # its middle, by mouse
    assert page.get_by_role("button", name="Play").count() == 1
    assert place(page) == 2
    page.get_by_role("button", name="Play").press("Enter")
    page.get_by_role("button", name="Pause").press("Space")
    assert page.get_by_role("button", name="Play").count() == 1


@pytest.mark.browser
def test_speed_is_chosen_and_each_film_has_its_own_player(show, film):
    page = show(film, film)
    eventually(lambda: page.locator("canvas").count() == page.locator("input").count() == 2)
    page.get_by_role("button", name="Pause").first.click()
    assert page.get_by_role("button", name="Pause").count() == 1
    speed = page.get_by_role("button", name="×").first
    names = []
    for _ in range(4):
        names.append(speed.inner_text())
        speed.click()
    assert names == ["1×", "2×", "0.25×", "0.5×"]
    page.evaluate(player_script())  # as when another cell shows a film
    assert page.locator("canvas").count() == 2


@pytest.mark.browser
def test_who_asks_for_less_motion_begins_with_the_still(show, film):
    page = show(film, motion="reduce")
    page.wait_for_timeout(500)
    assert place(page) == 4
    assert abs(int(grey(page)) - GREYS[4]) < 4
    page.get_by_role("button", name="Play").click()
    eventually(lambda: place(page) != 4)


@pytest.mark.browser
def test_without_javascript_there_are_the_still_and_the_sentence(show, film):
    page = show(film, script=False)
    assert page.locator("figcaption").inner_text() == "Five greys."
    assert page.locator("img").evaluate("image => image.naturalWidth") == 90
    assert page.locator("button").count() == 0


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_page_and_takes_the_pages_ink(show, scheme):
    wide = Animation([np.zeros((60, 900, 3), np.uint8)] * 2, 10, "Two wide tiles.")
    page = show(wide, scheme=scheme, width=400)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert page.locator("button").first.evaluate("each => getComputedStyle(each).color") == ink


@pytest.mark.browser
def test_it_fetches_nothing(show, film):
    film._repr_html_, text = None, film._repr_html_()
    film._repr_html_ = lambda: text.replace("data:image/webp", "https://example.org/", 1)
    page = show(Animation(film.frames, 10, "Five greys."), film)
    assert page.locator("canvas").count() == 1
