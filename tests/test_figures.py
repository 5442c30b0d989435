"""Figures to explore: offline as a file, light in a notebook, with a sentence for whoever cannot
turn them.
"""

import json
import re

import plotly.graph_objects as go
import pytest
from IPython.core.formatters import DisplayFormatter

from course_lib.pictures import ExplorableFigure

MIME = "application/vnd.plotly.v1+json"


SENTENCE = "Two traces, of which the menu shows one: quiet is highest at 2, busy at 0."


@pytest.fixture
def figure():
    """Two traces and a menu that shows one at a time."""
    shown = [{"visible": [True, False]}], [{"visible": [False, True]}]
    buttons = [
        {"label": name, "method": "update", "args": args}
        for name, args in zip(("quiet", "busy"), shown, strict=True)
    ]
    traces = [go.Scatter(y=[0, 1, 3], visible=True), go.Scatter(y=[5, 4, 2], visible=False)]
    plot = go.Figure(traces, {"updatemenus": [{"buttons": buttons}]})
    return ExplorableFigure(plot, SENTENCE)


@pytest.fixture
def shown(figure, monkeypatch):
    """The outputs that a notebook gets, as MIME bundles."""
    bundles = []

    def display(content, raw=False):
        bundles.append(content if raw else DisplayFormatter().format(content)[0])

    monkeypatch.setattr("IPython.display.display", display)
    figure._ipython_display_()
    return bundles


def test_a_saved_figure_needs_no_network(figure, tmp_path):
    page = figure.save(tmp_path / "figure.html").read_text(encoding="utf-8")
    assert not re.search(r"<script[^>]*\ssrc=|<link|@import", page.split("plotly.js")[0])
    assert len(page) > 3_000_000  # plotly.js is inside
    assert f'<figcaption style="margin:8px">{figure.description}</figcaption>' in page
    assert '"showSendToCloud": false' in page
    assert page.startswith('<!doctype html>\n<html lang="en">')
    assert [path.name for path in tmp_path.iterdir()] == ["figure.html"]


def test_a_notebook_gets_data_and_a_sentence_and_no_plotly(shown):
    figure, sentence = shown
    assert json.loads(json.dumps(figure[MIME]))["config"]["showSendToCloud"] is False
    assert len(figure[MIME]["data"]) == 2
    assert figure["text/plain"] == SENTENCE
    assert SENTENCE in sentence["text/html"]
    assert len(json.dumps(shown)) < 100_000  # plotly.js alone has 5 MB


def test_elsewhere_the_figure_lives_in_a_frame_of_its_own(shown):
    frame = shown[0]["text/html"]
    assert frame.startswith("<iframe srcdoc=")
    assert frame.count("<") == 2  # all of the page is escaped
    assert 'title="Two traces' in frame


def test_hostile_names_stay_text(tmp_path):
    text = '"><script>alert(1)</script>'
    figure = ExplorableFigure(go.Figure(go.Scatter(y=[1, 2], name=text)), text)
    page = figure.save(tmp_path / "figure.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page


def test_any_plotly_figure_can_be_shown():
    figure = ExplorableFigure(
        go.Figure(go.Scatter(y=[1, 3, 2])), "Three points; the second is highest, 3."
    )
    assert figure.figure.layout.height is None  # then plotly's own default is assumed
    figure._ipython_display_()


@pytest.mark.browser
def test_the_saved_figure_draws_offline_and_its_menu_works(browser, figure, tmp_path):
    page = browser.new_page()
    errors, asked = [], []
    page.on("pageerror", lambda error: errors.append(error))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(figure.save(tmp_path / "figure.html").as_uri())
    page.wait_for_selector(".js-plotly-plot .updatemenu-header")
    assert page.evaluate(
        "document.querySelector('.js-plotly-plot').data.map(trace => trace.visible)"
    ) == [True, False]
    page.locator(".updatemenu-header").click()
    page.locator(".updatemenu-dropdown-button", has_text="busy").click()
    page.wait_for_function("document.querySelector('.js-plotly-plot').data[1].visible === true")
    assert page.evaluate(
        "document.querySelector('.js-plotly-plot').data.map(trace => trace.visible)"
    ) == [False, True]
    assert page.locator("figcaption").inner_text().startswith("Two traces")
    assert errors == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    page.close()
