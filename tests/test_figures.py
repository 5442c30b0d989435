"""Figures to explore: offline as a file, light in a notebook, with a sentence for whoever cannot
turn them.
"""

import json
import re

import numpy as np
import pytest
from chromium import PATIENCE
from IPython.core.formatters import DisplayFormatter

from course_lib.pictures import ExplorableFigure, space_time_figure

MIME = "application/vnd.plotly.v1+json"


@pytest.fixture
def volumes():
    quiet, busy = np.zeros((2, 4, 3, 5))
    quiet[2, 1, 4], quiet[0, 2, 0] = 3, 1.5
    busy[:] = np.random.default_rng(0).random(busy.shape)
    return {"quiet": quiet, "busy": busy}


@pytest.fixture
def shown(volumes, monkeypatch):
    """The outputs that a notebook gets, as MIME bundles."""
    bundles = []

    def display(content, raw=False):
        bundles.append(content if raw else DisplayFormatter().format(content)[0])

    monkeypatch.setattr("IPython.display.display", display)
    space_time_figure(volumes)._ipython_display_()
    return bundles


def test_points_are_where_the_activation_is(volumes):
    quiet, busy = space_time_figure(volumes, strongest=10).figure.data
    # step, row, column
    assert (list(quiet.x), list(quiet.z), list(quiet.y)) == ([2, 0], [1, 2], [4, 0])
    assert list(quiet.marker.color) == [1, 0.5]
    assert quiet.marker.size[0] > quiet.marker.size[1]
    assert len(busy.x) == 10
    assert min(
        volumes["busy"][t, r, c] for t, r, c in zip(busy.x, busy.z, busy.y, strict=True)
    ) == pytest.approx(np.sort(volumes["busy"], axis=None)[-10])


def test_the_menu_shows_one_volume_at_a_time(volumes):
    figure = space_time_figure(volumes).figure
    assert [trace.visible for trace in figure.data] == [True, False]
    buttons = figure.layout.updatemenus[0].buttons
    assert [button.label for button in buttons] == ["quiet", "busy"]
    assert [button.args[0]["visible"] for button in buttons] == [[True, False], [False, True]]


def test_rows_run_down_and_the_sentence_says_where_it_is_strongest(volumes):
    found = space_time_figure(volumes | {"silent": np.zeros((4, 3, 5))})
    low, high = found.figure.layout.scene.zaxis.range
    assert low > high
    assert "quiet: strongest at step 2, row 1, column 4" in found.description
    assert "silent: strongest nowhere" in found.description
    assert repr(found) == found.description
    assert found.description.endswith(".")


def test_a_saved_figure_needs_no_network(volumes, tmp_path):
    figure = space_time_figure(volumes)
    page = figure.save(tmp_path / "figure.html").read_text(encoding="utf-8")
    assert not re.search(r"<script[^>]*\ssrc=|<link|@import", page.split("plotly.js")[0])
    assert len(page) > 3_000_000  # plotly.js is inside
    assert f'<figcaption style="margin:8px">{figure.description}</figcaption>' in page
    assert '"showSendToCloud": false' in page
    assert page.startswith('<!doctype html>\n<html lang="en">')
    assert [path.name for path in tmp_path.iterdir()] == ["figure.html"]


def test_a_notebook_gets_data_and_a_sentence_and_no_plotly(shown, volumes):
    figure, sentence = shown
    assert json.loads(json.dumps(figure[MIME]))["config"]["showSendToCloud"] is False
    assert len(figure[MIME]["data"]) == 2
    assert figure["text/plain"] == space_time_figure(volumes).description
    assert "quiet: strongest at step 2" in sentence["text/html"]
    assert len(json.dumps(shown)) < 100_000  # plotly.js alone has 5 MB


def test_elsewhere_the_figure_lives_in_a_frame_of_its_own(shown):
    frame = shown[0]["text/html"]
    assert frame.startswith("<iframe srcdoc=")
    assert frame.count("<") == 2  # all of the page is escaped
    assert 'title="Activations over 4 steps' in frame


def test_hostile_names_stay_text(volumes, tmp_path):
    text = '"><script>alert(1)</script>'
    figure = space_time_figure({text: volumes["quiet"]})
    page = figure.save(tmp_path / "figure.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page


@pytest.mark.parametrize(
    ("volumes", "words"),
    [
        ({}, "no volume"),
        ({"flat": np.zeros((4, 3))}, "'flat' of shape"),
        ({"empty": np.zeros((0, 3, 3))}, "is empty"),
        ({"broken": np.full((2, 2, 2), np.nan)}, "not finite"),
        ({"a": np.zeros((2, 2, 2)), "b": np.zeros((4, 2, 2))}, "unlike the first"),
    ],
)
def test_what_cannot_be_drawn_gets_one_sentence(volumes, words):
    with pytest.raises(ValueError, match=words) as error:
        space_time_figure(volumes)
    assert "\n" not in str(error.value)


def test_any_plotly_figure_can_be_shown():
    import plotly.graph_objects as go

    figure = ExplorableFigure(
        go.Figure(go.Scatter(y=[1, 3, 2])), "Three points; the second is highest, 3."
    )
    assert figure.figure.layout.height is None  # then plotly's own default is assumed
    figure._ipython_display_()


@pytest.mark.browser
def test_the_saved_figure_draws_offline_and_its_menu_works(browser, volumes, tmp_path):
    page = browser.new_page()
    errors, asked = [], []
    page.on("pageerror", lambda error: errors.append(error))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(space_time_figure(volumes).save(tmp_path / "figure.html").as_uri(), timeout=PATIENCE)
    page.wait_for_selector(".js-plotly-plot .updatemenu-header", timeout=PATIENCE)
    assert page.evaluate(
        "document.querySelector('.js-plotly-plot').data.map(trace => trace.visible)"
    ) == [True, False]
    page.locator(".updatemenu-header").click()
    page.locator(".updatemenu-dropdown-button", has_text="busy").click()
    page.wait_for_function("document.querySelector('.js-plotly-plot').data[1].visible === true")
    assert page.evaluate(
        "document.querySelector('.js-plotly-plot').data.map(trace => trace.visible)"
    ) == [False, True]
    assert page.locator("figcaption").inner_text().startswith("Activations over 4 steps")
    assert errors == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    page.close()
