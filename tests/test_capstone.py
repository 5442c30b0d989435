"""Rows of the capstone and what is said of them: pairs, intervals, verdicts, files, rows that do not
compare, and a notebook whose model and loop are those of the stored study.
"""

import csv
import math
import re

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from assets.recipes import capstone as recipe
from course_lib import assets, files
from course_lib.data import TokenArrays
from course_lib.lessons.capstone import (
    DECIDES,
    Gain,
    attention_table,
    compare_with_baseline,
    deliver,
    is_rare,
    score_row,
)
from course_lib.looking import score_localisation
from course_lib.pictures import SECTIONS, Picture, Report, blank_axes
from course_lib.training import (
    best_thresholds,
    head_diversity_penalty,
    prior_logits,
    threshold_scores,
)
from course_lib.world import ATTRIBUTES

NOTEBOOK = nbformat.read(assets().parent / "notebooks" / "14_capstone.ipynb", as_version=4)
FREQUENCIES = {"Bald": 0.02, "Mustache": 0.04, "Smiling": 0.5}


# Comparing, on scores made by hand


def rows_of(arm, rare, seeds=None, faces="v", common=0.5):
    """Rows whose average precision is `rare`, a number a seed, for both rare attributes."""
    rows = []
    for seed, value in zip(range(len(rare)) if seeds is None else seeds, rare, strict=True):
        for split in ("valid", "test"):
            row = {"arm": arm, "seed": seed, "split": split, "faces": faces, DECIDES: value}
            row |= {"AP common": common, "F1 rare at 0.5": value / 2, "ROC-AUC": value}
            row |= {"calibration error": 1 - value, "AP each": [value, value, common]}
            rows.append(row | ({"F1 rare, tuned": value / 2} if split == "test" else {}))
    return rows


BASELINE = rows_of("baseline", [0.20, 0.30, 0.40])


def compared(rare, split="valid", baseline=BASELINE, **options):
    return compare_with_baseline(
        baseline + rows_of("mine", rare, **options), "mine", FREQUENCIES, split
    )


def test_gains_are_paired_over_seeds():
    gains = np.array([0.05, 0.06, 0.07])
    gain = compared([0.25, 0.36, 0.47]).gains[DECIDES]
    low, high = stats.t.interval(0.95, 2, loc=gains.mean(), scale=stats.sem(gains))
    assert (gain.baseline, gain.run, gain.gain) == pytest.approx((0.30, 0.36, 0.06), abs=1e-6)
    assert (gain.gain - gain.half, gain.gain + gain.half) == pytest.approx((low, high), abs=1e-6)
    unpaired = stats.ttest_ind([0.25, 0.36, 0.47], [0.20, 0.30, 0.40]).confidence_interval()
    assert unpaired.low < 0 < low  # seeds apart, nothing would be shown


@pytest.mark.parametrize(
    ("rare", "verdict"),
    [
        ([0.25, 0.36, 0.47], "better"),
        ([0.15, 0.24, 0.33], "worse"),
        ([0.25, 0.30, 0.38], "cannot be told apart"),
        ([0.20, 0.30, 0.40], "cannot be told apart"),
    ],
)
def test_the_verdict_is_in_words_with_its_number(rare, verdict):
    comparison = compared(rare)
    gain = comparison.gains[DECIDES]
    assert gain.verdict == verdict
    assert comparison.verdict.startswith(
        f"mine: {verdict}. AP rare goes from 0.300 to {np.mean(rare):.3f}"
    )
    assert f"{gain.gain:+.3f} ± {gain.half:.3f} on validation faces" in comparison.verdict
    assert "3 paired seeds" in comparison.verdict


def test_rounding_does_not_contradict_the_verdict():
    assert str(Gain(0.3, 0.3, -0.0021, 0.0019)) == "-0.0021 ± 0.0019"
    assert str(Gain(0.3, 0.3, -0.0021, 0.0024)) == "-0.002 ± 0.002"
    small = compared([0.2008, 0.3006, 0.4007])
    assert small.gains[DECIDES].verdict == "better"
    low, high = map(float, re.search(r"interval (\S+) to (\S+),", small.verdict).groups())
    assert 0 < low < high


def test_only_seeds_that_both_have_count_whatever_their_order():
    comparison = compared([0.47, 0.25], seeds=[2, 0])
    assert comparison.seeds == (0, 2)
    assert comparison.gains[DECIDES].gain == pytest.approx(0.06)
    assert comparison.each[:, 0].tolist() == pytest.approx([0.05, 0.07])


def test_less_error_is_a_gain():
    error = compared([0.25, 0.36, 0.47]).gains["calibration error"]
    assert error.run < error.baseline
    assert error.gain > 0
    assert error.verdict == "better"


def test_one_seed_has_no_interval_and_says_so():
    comparison = compared([0.4])
    assert math.isnan(comparison.gains[DECIDES].half)
    assert "unknown. AP rare goes from 0.200 to 0.400, +0.200 ± ?" in comparison.verdict
    assert "one seed has no interval" in comparison.verdict
    assert "unknown: one seed has no interval" in str(comparison.table())
    assert comparison.picture()


def test_validation_and_test_are_kept_apart():
    rows = rows_of("mine", [0.25, 0.36, 0.47])
    for row in rows:
        row[DECIDES] -= 0.5 * (row["split"] == "test")
    valid, test = (
        compare_with_baseline(BASELINE + rows, "mine", FREQUENCIES, split)
        for split in ("valid", "test")
    )
    assert valid.gains[DECIDES].verdict == "better"
    assert test.gains[DECIDES].verdict == "worse"
    assert "validation faces" in valid.verdict
    assert "test faces" in test.verdict
    assert "F1 rare, tuned" not in valid.gains  # thresholds were chosen on these faces
    assert "F1 rare, tuned" in test.gains


def test_a_comparison_shows_verdict_table_and_picture():
    rows = BASELINE + rows_of("<b>mine</b>", [0.25, 0.36, 0.47])
    comparison = compare_with_baseline(rows, "<b>mine</b>", FREQUENCIES)
    page = comparison._repr_html_()
    assert "<b>" not in page
    assert "&lt;b&gt;mine&lt;/b&gt;: better." in page
    assert '<img alt="' in page
    assert repr(comparison).startswith("<b>mine</b>: better.")
    assert "AP common" in repr(comparison)


def test_the_picture_shows_each_attributes_gain_over_seeds():
    picture = compared([0.25, 0.36, 0.47]).picture()
    drawn = [line.get_ydata() for line in picture.figure.axes[0].lines[:-1]]
    assert sorted(np.concatenate(drawn)) == pytest.approx([0, 0.06, 0.06])
    assert "+0.060 for the 2 rare" in picture.description


@pytest.mark.parametrize(
    ("rows", "split", "words"),
    [
        ([], "valid", "no run 'mine' on validation faces; run it, or choose one of those you run"),
        (rows_of("other", [0.2]), "test", "no run 'mine' on test faces.*choose one of 'other'"),
        (rows_of("mine", [0.2]), "train", "there is no split 'train'; choose \"valid\" while you"),
        (rows_of("mine", [0.2], seeds=[7]), "test", r"seeds \[7\] on test faces.*the same seeds"),
        (
            rows_of("mine", [0.2], faces="x"),
            "valid",
            r"were scored on other validation faces \(x and v\); train the baseline here",
        ),
    ],
)
def test_rows_that_do_not_compare_say_why(rows, split, words):
    with pytest.raises(ValueError, match=words):
        compare_with_baseline(BASELINE + rows, "mine", FREQUENCIES, split)


# One row of scores


def one_model(images=60):
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(images, 3, generator=generator) < 0.4).float()
    probabilities = torch.rand(images, 3, generator=generator).double()
    weights = (4 * torch.randn(20, 2, 3, 49, generator=generator)).softmax(-1)
    regions = torch.zeros(20, 3, 14, 14, dtype=torch.bool)
    regions[:, :, 2:4, 6:8] = True  # the pixels of token 10
    return probabilities, targets, weights, regions & targets[:20].bool()[:, :, None, None]


def test_a_row_holds_the_scores_of_its_groups():
    from sklearn.metrics import average_precision_score

    probabilities, targets, weights, regions = one_model()
    thresholds = best_thresholds(probabilities[:30], targets[:30])
    row = score_row(probabilities, targets, list(FREQUENCIES), weights, regions, thresholds)
    each = [average_precision_score(y, p) for y, p in zip(targets.T, probabilities.T, strict=True)]
    assert row["AP each"] == pytest.approx(each, abs=1e-3)
    assert row[DECIDES] == pytest.approx(np.mean(each[:2]), abs=1e-4)
    assert row["AP common"] == pytest.approx(each[2], abs=1e-4)
    tuned = threshold_scores(probabilities, targets, thresholds)["f1"][:2].mean()
    assert row["F1 rare, tuned"] == pytest.approx(float(tuned), abs=1e-4)
    assert row["head overlap"] == pytest.approx(float(head_diversity_penalty(weights)), abs=1e-4)
    there = targets[:20] > 0
    hit = (weights.mean(1).argmax(-1) == 10).float()
    expected = [hit[there[:, k], k].mean() for k in range(3)]
    assert row["pointing rare"] == pytest.approx(float(sum(expected[:2]) / 2), abs=1e-4)
    assert row["pointing common"] == pytest.approx(float(expected[2]), abs=1e-4)
    maps = weights.mean(1).unflatten(-1, (7, 7))
    mean_map = score_localisation(maps, regions).table["pointing"]["mean map"]
    assert row["mean map rare"] == pytest.approx(float(mean_map[:2].mean()), abs=1e-4)
    assert row["mean map common"] == pytest.approx(float(mean_map[2]), abs=1e-4)
    table = str(attention_table([{"arm": "mine", "split": "test", "seed": 0} | row], ["mine"]))
    assert "test faces, 1 seed." in table
    assert "mean map rare" in table


def test_a_row_without_regions_and_thresholds_has_no_such_scores():
    probabilities, targets, weights, _ = one_model()
    row = score_row(probabilities, targets, list(FREQUENCIES), weights)
    assert not {"pointing rare", "F1 rare, tuned"} & set(row)
    other = score_row(probabilities, 1 - targets, list(FREQUENCIES), weights)
    assert row["faces"] != other["faces"]
    table = str(attention_table([{"arm": "mine", "split": "test", "seed": 0} | row], ["mine"]))
    assert "pointing" not in table.split("mean map is")[-1]


def looking_rows(arm, seeds):
    """Rows in which pointing is the number of the seed."""
    return [
        {"arm": arm, "seed": seed, "split": "test", "pointing rare": seed, "pointing common": seed}
        for seed in seeds
    ]


def test_attention_is_compared_over_the_same_seeds_and_beside_chance():
    rows = looking_rows("baseline", range(8)) + looking_rows("mine", [1, 3])
    regions = torch.zeros(2, 33, 14, 14, dtype=torch.bool)
    regions[0, :, 2:4, 6:8] = True  # the pixels of one of 49 tokens; the other face shows nothing
    table = attention_table(rows, ["baseline", "mine"], regions=regions)
    assert [line[1:] for line in table.rows[1:3]] == [("2.000", "2.000")] * 2
    assert table.rows[3] == ("chance", f"{1 / 49:.3f}", f"{1 / 49:.3f}")
    assert "2 paired seeds" in str(table)
    with pytest.raises(ValueError, match="no seed in common on test faces"):
        attention_table(rows + looking_rows("other", [9]), ["mine", "other"])


def test_the_rare_are_those_of_lesson_08():
    assert is_rare(["Bald", "Attractive", "Smiling"]).tolist() == [True, False, False]
    assert int(is_rare(ATTRIBUTES).sum()) == 6


# What is handed in


def test_all_four_are_written_and_where_is_said(tmp_path, capsys):
    rows = BASELINE + rows_of("mine, =1+1", [0.25, 0.36, 0.47])
    comparison = compare_with_baseline(rows, "mine, =1+1", FREQUENCIES)
    report = Report("What helps?", "Me", {name: ["words"] for name in list(SECTIONS)[:4]})
    picture = Picture(blank_axes(1, 1, 2, 1)[0], "blank")
    cells = ["", "x = 1", "  \n", "print(x + 1)"]
    paths = deliver(tmp_path / "capstone", report, picture, [comparison], cells)
    said = capsys.readouterr().out
    assert (
        sorted(path.name for path in (tmp_path / "capstone").iterdir())
        == sorted(path.name for path in paths.values())
        == ["comparison.png", "metrics.csv", "notebook.ipynb", "report.html"]
    )
    assert all(str(path) in said for path in paths.values())
    assert "the report is a draft; not written yet: Limits and ethics" in said
    assert paths["picture"].read_bytes().startswith(b"\x89PNG")
    notebook = nbformat.read(paths["notebook"], as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert [cell.source for cell in notebook.cells if cell.cell_type == "code"] == [
        "x = 1",
        "print(x + 1)",
    ]
    with paths["metrics"].open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [row["score"] for row in written] == list(comparison.gains)
    gain = comparison.gains[DECIDES]
    assert float(written[0]["gain"]) == pytest.approx(gain.gain, abs=1e-6)
    said = tuple(written[0][name] for name in ("run", "split", "seeds", "verdict"))
    assert said == ("mine, =1+1", "valid", "3", "better")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    picture = Picture(blank_axes(1, 1, 2, 1)[0], "blank")
    with pytest.raises(OSError, match="choose a folder you may write to"):
        deliver(tmp_path / "file", Report("t", "a", {}), picture, [], [])


# The notebook and the stored study


@pytest.fixture
def small(monkeypatch):
    """Few faces and steps for the recipe, and the notebook's model and loop with the same."""
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(120, 33, generator=generator) < 0.3).float()
    data = TokenArrays(torch.randn(120, 49, 96, generator=generator), targets)
    for name, value in {"EPOCHS": 2, "STEPS": 3, "BATCH": 16, "DRAWS": 48}.items():
        monkeypatch.setattr(recipe, name, value)
    monkeypatch.setattr(recipe, "faces", lambda part: data)
    cells = {cell.id: cell.source for cell in NOTEBOOK.cells}

    class Runtime:
        device = torch.device("cpu")

    names = {"torch": torch, "nn": nn, "F": F, "rt": Runtime, "NAMES": ATTRIBUTES}
    names |= {"faces": {"train": data}, "frequencies": targets.mean(0)}
    exec(cells["model"], names)
    exec(re.sub(r"= 5, 32, 64,", "= 2, 3, 16,", cells["loop"]), names)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the lesson; on a busy machine two threads wait for each other
    yield data, names
    torch.set_num_threads(threads)


def test_the_notebooks_loop_is_that_of_the_stored_study(small):
    data, names = small
    changes = [
        {},
        {"penalty": head_diversity_penalty},
        {"data": TokenArrays(data.tokens[:70], data.targets[:70])},
        {"sampler": lambda data, epoch, seed: names["drawn_by"](data.targets[:, 0], epoch, seed)},
    ]
    answers = []
    for change in changes:
        ours, theirs = names["train"](**change, seed=3), recipe.train(**change, seed=3)
        for (logits, weights), (other, others) in [
            (ours(data.tokens.float()), theirs(data.tokens.float()))
        ]:
            assert torch.equal(logits, other)
            assert torch.equal(weights, others)
        answers.append(logits)
    assert not any(torch.equal(answers[0], other) for other in answers[1:])  # each change arrives
    assert not torch.equal(names["train"](seed=4).queries, names["train"](seed=3).queries)


def test_training_starts_at_the_prior(small, monkeypatch):
    data, _ = small
    monkeypatch.setattr(recipe, "RATE", 0.0)
    torch.testing.assert_close(recipe.train().bias.detach(), prior_logits(data.targets.mean(0)))


def test_what_the_lesson_says_of_the_stored_study_is_so():
    rows = files.read_json(assets("results/capstone.json"))["rows"]
    frequencies = dict.fromkeys(ATTRIBUTES, 0.1)
    verdicts = {
        arm: compare_with_baseline(rows, arm, frequencies, "test").gains[DECIDES].verdict
        for arm in recipe.ARMS
        if arm != "baseline"
    }
    assert {row["seed"] for row in rows} == set(range(8))
    text = next(cell.source for cell in NOTEBOOK.cells if cell.id == "reach-after")
    said = re.findall(r"^- \*([^*]+)\*: \*\*([^*]+)\*\*", text, re.MULTILINE)
    assert dict(said) == verdicts
    assert "better" in verdicts.values()
