"""The dashboard: what is drawn is what sklearn counts, what is said is what is drawn, and bad
results are refused.
"""

import json
import math
import re
from html import unescape

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    auc,
    average_precision_score,
    f1_score,
    recall_score,
    roc_auc_score,
)

from course_lib.pictures import AttributeResults, performance_dashboard

NAMES = ["Bald", "Hat", "Smile", "Young", "Male"]
SHARES = np.array([0.04, 0.08, 0.3, 0.75, 0.5])


def results(items=600, seed=0, **settings):
    """Calibrated probabilities: each label is drawn with the probability that is predicted."""
    random = np.random.default_rng(seed)
    probabilities = random.beta(3 * SHARES, 3 * (1 - SHARES), (items, 5))
    targets = (random.random((items, 5)) < probabilities).astype(np.float32)
    return AttributeResults(
        torch.tensor(probabilities), torch.tensor(targets), NAMES, torch.tensor(SHARES), **settings
    )


def panel(dashboard, title):
    """The traces of the panel of this title, and its axes."""
    figure = dashboard.figure
    place = next(
        index
        for index, note in enumerate(figure.layout.annotations)
        if note.text.startswith(f"<b>{title}</b>")
    )
    suffix = "" if place == 0 else str(place + 1)
    traces = [
        trace
        for trace in figure.data
        if (trace.xaxis or "x") == f"x{suffix}" and trace.x != (None,)
    ]
    return traces, figure.layout[f"xaxis{suffix}"], figure.layout[f"yaxis{suffix}"]


def titles(dashboard):
    return [note.text.split("</b>")[0][3:] for note in dashboard.figure.layout.annotations]


def sentence(dashboard, start):
    return next(line for line in str(dashboard).split("\n") if line.startswith(start))


@pytest.fixture(scope="module")
def one():
    return results(), performance_dashboard(results())


@pytest.fixture(scope="module")
def two():
    plain = results()
    odds = plain.probabilities.logit() + torch.tensor([2.0, 1.5, 0.5, 0.1, 0.0])
    heavy = AttributeResults(
        odds.sigmoid(),
        plain.targets,
        NAMES,
        plain.frequencies,
        torch.tensor([0.6, 0.5, 0.4, 0.5, 0.5], dtype=torch.float64),
        torch.tensor([7.4, 4.5, 1.6, 1.1, 1.0]),
    )
    return plain, heavy, performance_dashboard({"plain": plain, "heavy": heavy})


def group(dashboard, kind, name):
    """The drawing of a measure's rows, or of one attribute's curves."""
    pattern = rf'<g class="{kind}[^>]*data-name="{name}"[^>]*>(.*?)(?=<g class="{kind}|</svg>)'
    return re.search(pattern, dashboard.above, re.DOTALL)


def marks(dashboard, measure):
    """For each row of a measure its attribute, and where the floor and the dots of the runs stand."""
    rows = re.findall(r'<g class="row.*?</g>', group(dashboard, "measure", measure)[1])
    places = []
    for row in rows:
        name = re.search(r"<text[^>]*>(.*?)</text>", row)[1]
        dots = re.findall(r'<circle cx="([\d.]+)|<path d="M([\d.]+) [\d.]+l6', row)
        floor = re.search(r'<path d="M([\d.]+) [\d.]+v12', row)[1]
        places.append((name, float(floor), [float(one or other) for one, other in dots]))
    return places


def test_one_run_has_five_panels_and_a_sentence_for_each(one):
    _, dashboard = one
    assert titles(dashboard) == [
        "F1 at the thresholds",
        "Accuracy over saying no to everything",
        "Positive predictions",
        "Calibration",
        "Thresholds",
    ]
    lines = str(dashboard).split("\n")
    assert (
        lines[0]
        == "600 images and 5 attributes, 2 of them rare (in under 10% of the training images)."
    )
    first_look = ["Headlines", "Attributes", "ROC"]
    assert [line.split(":")[0] for line in lines[1:]] == first_look + titles(dashboard)


def test_headlines_stand_beside_what_is_had_without_a_model(two):
    plain, heavy, dashboard = two
    truth = plain.targets.numpy()
    precision = [
        np.mean([average_precision_score(*c) for c in zip(truth.T, run.T, strict=True)])
        for run in (plain.probabilities.numpy(), heavy.probabilities.numpy())
    ]
    floor = truth.mean()
    words = f"all 5 attributes) {precision[0]:.3f} → {precision[1]:.3f}, random order: {floor:.3f}"
    assert words in sentence(dashboard, "Headlines")
    yes = np.mean([f1_score(labels, np.ones(600)) for labels in truth.T])
    assert f"always yes: {yes:.3f}" in sentence(dashboard, "Headlines")
    assert f"<strong>{precision[0]:.3f} → {precision[1]:.3f}</strong>" in dashboard.above
    assert dashboard.above.count('class="tile"') == 4


def test_every_attribute_has_a_row_and_its_dots_are_where_sklearn_puts_them(two):
    plain, heavy, dashboard = two
    rows = marks(dashboard, "F1 at the thresholds")
    assert [name for name, *_ in rows] == ["Bald", "Hat", "Smile", "Male", "Young"]  # rarest first
    places, scores, floors = [], [], []
    for name, floor, dots in rows:
        column = NAMES.index(name)
        labels = plain.targets[:, column].numpy()
        for run, threshold in ((plain, 0.5), (heavy, float(heavy.thresholds[column]))):
            scores.append(f1_score(labels, run.probabilities[:, column].numpy() >= threshold))
        places += dots
        floors.append((floor, f1_score(labels, np.ones(600))))
    slope, start = np.polyfit(scores, places, 1)
    assert slope > 0
    assert places == pytest.approx([start + slope * score for score in scores], abs=0.2)
    for floor, score in floors:
        assert floor == pytest.approx(start + slope * score, abs=0.2)


def test_rows_open_on_a_measure_in_which_the_runs_differ(one, two):
    def visible(dashboard):
        found = re.findall(r'<g class="measure" data-name="([^"]+)">', dashboard.above)
        assert dashboard.above.count('<g class="measure"') == 3
        return found

    assert visible(one[1]) == ["average precision"]
    assert visible(two[2]) == ["F1 at the thresholds"]  # adding to logits moves no ranking


def test_curves_are_those_of_sklearn_and_hold_the_area_that_is_said(one):
    run, dashboard = one
    areas = []
    for column, name in enumerate(NAMES):
        labels, answers = run.targets[:, column].numpy(), run.probabilities[:, column].numpy()
        roc, precision = re.findall(r' d="M([^"]+)"', group(dashboard, "one", name)[1])
        x, y = np.array([point.split() for point in roc.split("L")], float).T
        x, y = (x - x[0]) / (x[-1] - x[0]), (y - y[0]) / (y[-1] - y[0])
        areas.append(roc_auc_score(labels, answers))
        assert auc(x, y) == pytest.approx(areas[-1], abs=0.01)
        assert len(precision.split("L")) > 10
        says = unescape(re.search(r'data-says="([^"]+)"', group(dashboard, "one", name)[0])[1])
        assert f"average precision {average_precision_score(labels, answers):.3f} (" in says
        assert f"ROC curve {areas[-1]:.3f}." in says
    text = f"area mean {np.mean(areas):.3f}, rare {np.mean(areas[:2]):.3f}"
    assert text in sentence(dashboard, "ROC")
    assert f"lowest {NAMES[np.argmin(areas)]}, {min(areas):.3f}" in sentence(dashboard, "ROC")


def test_two_runs_have_two_curves_only_where_they_differ(two):
    plain, _, dashboard = two
    assert "both runs have the same curves for 5 of 5" in sentence(dashboard, "ROC")
    assert 'class="run1"' not in dashboard.above
    probabilities = plain.probabilities.clone()
    probabilities[:, 2] = probabilities[:, 2].flip(0)
    other = AttributeResults(probabilities, plain.targets, NAMES, plain.frequencies)
    changed = performance_dashboard({"plain": plain, "other": other})
    assert "the same curves for 4 of 5" in sentence(changed, "ROC")
    assert (
        changed.above.count('class="run1"') == group(changed, "one", "Smile")[1].count("run1") == 2
    )


def test_hostile_names_of_attributes_and_runs_stay_text():
    run = results()
    text = '"><script>alert(1)</script>'
    hostile = AttributeResults(run.probabilities, run.targets, [text, *NAMES[1:]], run.frequencies)
    above = performance_dashboard({text: hostile, "b": hostile}).above
    assert above.count("<script") == 1
    assert "<script>alert" not in above


def test_points_are_where_sklearn_puts_them(two):
    plain, heavy, dashboard = two
    for run, name in ((plain, "plain"), (heavy, "heavy")):
        truth, positive = run.targets.numpy(), (run.probabilities >= run.thresholds).numpy()
        each = {
            "F1 at the thresholds": (
                SHARES,
                [f1_score(*c) for c in zip(truth.T, positive.T, strict=True)],
            ),
            "Accuracy over saying no to everything": (
                SHARES,
                [
                    accuracy_score(*c) - accuracy_score(c[0], 0 * c[0])
                    for c in zip(truth.T, positive.T, strict=True)
                ],
            ),
            "Positive predictions": (truth.mean(0), positive.mean(0).clip(0.5 / 600)),
        }
        for title, (x, y) in each.items():
            trace = next(trace for trace in panel(dashboard, title)[0] if trace.name == name)
            assert list(trace.text) == NAMES
            assert list(trace.x) == pytest.approx(x, abs=1e-4)
            assert list(trace.y) == pytest.approx(y, abs=1e-4)
        rate = f"{name}: {positive.mean():.1%} are predicted, {truth.mean():.1%} are there"
        assert rate in sentence(dashboard, "Positive predictions")


def test_calibration_is_sklearns_and_calibrated_probabilities_lie_on_the_diagonal():
    run = results(6000)
    _, everything, rare = panel(performance_dashboard(run), "Calibration")[0]
    for line, use in ((everything, slice(None)), (rare, slice(0, 2))):
        share, mean = calibration_curve(
            run.targets[:, use].flatten(), run.probabilities[:, use].flatten(), n_bins=10
        )
        known = ~np.isnan(np.array(line.x, dtype=float))
        assert np.array(line.x)[known] == pytest.approx(mean, abs=1e-3)
        assert np.array(line.y)[known] == pytest.approx(share, abs=1e-3)
    assert np.abs(np.array(everything.x) - np.array(everything.y)).max() < 0.03
    assert rare.line.dash == "dash"


def test_one_threshold_for_all_is_swept(one):
    run, dashboard = one
    everything, rare, points = panel(dashboard, "Thresholds")[0]
    truth, at = run.targets.numpy(), everything.x.index(0.3)
    scores = [f1_score(*c) for c in zip(truth.T, (run.probabilities >= 0.3).numpy().T, strict=True)]
    assert everything.y[at] == pytest.approx(np.mean(scores), abs=1e-4)
    assert rare.y[at] == pytest.approx(np.mean(scores[:2]), abs=1e-4)
    assert set(points.x) == {0.5}
    best = everything.x[int(np.argmax(everything.y))]
    assert f"best at {best:g}, mean F1 {max(everything.y):.3f}" in sentence(dashboard, "Thresholds")


def test_a_second_run_stands_beside_and_its_weights_are_weighed(two):
    plain, heavy, dashboard = two
    assert titles(dashboard)[-1] == "Gain of heavy over plain"
    recall = next(
        trace
        for trace in panel(dashboard, "Gain of heavy over plain")[0]
        if trace.name == "gain in recall"
    )
    expected = [
        recall_score(heavy.targets[:, a], heavy.probabilities[:, a] >= heavy.thresholds[a])
        - recall_score(plain.targets[:, a], plain.probabilities[:, a] >= 0.5)
        for a in range(5)
    ]
    assert list(recall.y) == pytest.approx(expected, abs=1e-4)
    assert list(recall.x) == pytest.approx(heavy.weights.tolist(), abs=1e-4)
    said = sentence(dashboard, "Gain of heavy")
    assert f"mean gain {np.mean(expected):+.3f}" in said
    assert "average precision unchanged" in said  # adding to logits moves no ranking
    assert dashboard.figure.layout.showlegend


def test_without_weights_nothing_is_said_of_them(two):
    plain, *_ = two
    assert len(titles(performance_dashboard({"one": plain, "other": plain}))) == 5


def test_a_model_that_says_no_is_seen_through():
    run = results()
    silent = AttributeResults(0.1 * run.probabilities, run.targets, NAMES, run.frequencies)
    dashboard = performance_dashboard(silent)
    gained = panel(dashboard, "Accuracy over saying no to everything")[0][-1]
    assert list(gained.y) == [0] * 5
    assert "nan" not in str(dashboard)
    assert "rank correlation with frequency undefined" in sentence(dashboard, "F1")
    assert "balanced accuracy mean 0.500" in sentence(dashboard, "Accuracy")
    assert "0.0% are predicted" in sentence(dashboard, "Positive predictions")
    assert "less than half as often as there: 5 of 5 attributes (Bald, Hat" in sentence(
        dashboard, "Positive"
    )
    # on the bottom edge
    assert set(panel(dashboard, "Positive predictions")[0][-1].y) == {round(0.5 / 600, 4)}


def test_attributes_that_cannot_be_scored_are_named_and_left_out():
    run = results(thresholds=torch.full((5,), 0.4), weights=torch.ones(5))
    run.targets[:, 0], run.targets[:, 3] = 0, 1
    dashboard = performance_dashboard(run)
    assert "Left out, being in all of the images or in none: Bald, Young." in str(dashboard)
    assert list(panel(dashboard, "F1 at the thresholds")[0][0].text) == ["Hat", "Smile", "Male"]
    assert "and 3 attributes" in str(dashboard)
    lonely = AttributeResults(
        run.probabilities[:, 1:2], run.targets[:, 1:2], NAMES[1:2], run.frequencies[1:2]
    )
    assert "1 attributes" in str(performance_dashboard(lonely))
    with pytest.raises(ValueError, match="none of the 5 attributes"):
        performance_dashboard(
            AttributeResults(run.probabilities, torch.zeros(600, 5), NAMES, run.frequencies)
        )


def test_without_rare_attributes_nothing_is_said_of_them():
    run = results()
    common = AttributeResults(
        run.probabilities[:, 2:], run.targets[:, 2:], NAMES[2:], run.frequencies[2:]
    )
    dashboard = performance_dashboard(common)
    assert "mean 0." in sentence(dashboard, "ROC")
    assert "rare 0" not in str(dashboard)
    assert "nan" not in str(dashboard)
    assert len(panel(dashboard, "Calibration")[0]) == 2


def test_an_attribute_that_training_never_saw_is_drawn_at_the_edge():
    run = results()
    frequencies = run.frequencies.clone()
    frequencies[0] = 0
    dashboard = performance_dashboard(
        AttributeResults(run.probabilities, run.targets, NAMES, frequencies)
    )
    assert panel(dashboard, "F1 at the thresholds")[0][0].x[0] == 0.001


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"probabilities": torch.rand(599, 5)}, "expected the same"),
        ({"probabilities": torch.full((600, 5), math.nan)}, "NaN"),
        ({"names": NAMES[:4]}, "4 names for 5 attributes"),
        ({"frequencies": torch.rand(4)}, r"frequencies have the shape \(4,\)"),
        ({"frequencies": torch.full((5,), 30.0)}, "at most 1"),
        ({"thresholds": torch.full((5,), math.nan)}, "thresholds have"),
        ({"weights": -torch.ones(5)}, "weights have the shape"),
        ({"targets": torch.full((600, 5), 0.5)}, "other values"),
    ],
)
def test_bad_results_get_one_sentence(change, words):
    run = results()
    fields = {
        name: getattr(run, name) for name in ("probabilities", "targets", "names", "frequencies")
    }
    with pytest.raises(ValueError, match=words) as error:
        AttributeResults(**fields | change)
    assert "\n" not in str(error.value)


def test_runs_that_cannot_be_compared_are_refused():
    run = results()
    with pytest.raises(ValueError, match="there are 0 runs"):
        performance_dashboard({})
    with pytest.raises(ValueError, match="there are 3 runs"):
        performance_dashboard(dict.fromkeys("abc", run))
    with pytest.raises(ValueError, match="other names or targets"):
        performance_dashboard({"a": run, "b": results(seed=1)})
    other = AttributeResults(run.probabilities, run.targets, NAMES[::-1], run.frequencies)
    with pytest.raises(ValueError, match="other names or targets"):
        performance_dashboard({"a": run, "b": other})


def test_it_is_light_and_one_offline_page(two, tmp_path):
    *_, dashboard = two
    assert len(dashboard.figure.to_json()) + len(dashboard.above) < 400_000
    json.loads(dashboard.figure.to_json())
    page = dashboard.save(tmp_path / "dashboard.html").read_text(encoding="utf-8")
    assert '"showSendToCloud": false' in page
    assert "balanced accuracy" in page.split("<figcaption")[1]


@pytest.mark.browser
def test_the_page_draws_every_panel_offline(browser, two, tmp_path):
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    errors, asked = [], []
    page.on("pageerror", lambda error: errors.append(error))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(two[2].save(tmp_path / "dashboard.html").as_uri(), wait_until="commit")
    # all is drawn in one go
    page.wait_for_selector(".js-plotly-plot .annotation-text")
    assert page.locator(".js-plotly-plot .cartesianlayer .subplot").count() == 6
    assert page.locator(".js-plotly-plot .scatterlayer .trace").count() == len(two[2].figure.data)
    assert page.locator(".annotation-text").first.text_content().startswith("F1")
    assert errors == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    page.close()


@pytest.mark.browser
def test_a_row_or_the_menu_chooses_the_curves(browser, two):
    page = browser.new_page(viewport={"width": 833, "height": 680})
    errors = []
    page.on("pageerror", lambda error: errors.append(error))
    page.set_content(f"<!doctype html>{two[2].above}")
    chosen = page.locator(".curves .one.chosen")
    assert chosen.get_attribute("data-name") == "Bald"
    assert page.locator(".row:visible").count() == 5
    page.locator(".measure:visible .row").nth(2).click()
    assert chosen.get_attribute("data-name") == "Smile"
    assert page.locator(".says").inner_text().startswith("Smile, in 30.0%")
    attribute = page.get_by_label("curves of")
    assert attribute.evaluate("menu => menu.selectedOptions[0].text") == "Smile"
    attribute.focus()
    page.keyboard.press("ArrowDown")
    assert chosen.get_attribute("data-name") == "Male"
    assert page.locator(".row.chosen").count() == 3  # one for each measure
    page.get_by_label("rows show").select_option("calibration error")
    assert page.locator(".measure:visible").get_attribute("data-name") == "calibration error"
    assert errors == []
    page.close()
