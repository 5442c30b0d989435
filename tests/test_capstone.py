"""Runs of the capstone and what is said of them: pairs, intervals, verdicts, files, and runs that
do not compare.
"""

import csv
import math
from dataclasses import replace

import nbformat
import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from course_lib.data import BalancedSampler, TokenArrays
from course_lib.lessons import capstone
from course_lib.lessons.capstone import (
    DECIDES,
    FaceSplits,
    Run,
    attention_maps,
    attention_table,
    compare_with_baseline,
    deliver,
    image_losses,
    train_runs,
)
from course_lib.pictures import SECTIONS, Picture, Report, blank_axes
from course_lib.training import LDAMLoss, best_thresholds, head_diversity_penalty, threshold_scores

NAMES = ("Bald", "Goatee", "Smiling")
FREQUENCIES = torch.tensor([0.02, 0.04, 0.5])


# Comparing, on scores made by hand


def run_of(name, rare, common=0.5, seeds=(0, 1, 2), baseline=None, **changes):
    """A run whose average precision is `rare`, a number a seed, for both rare attributes."""
    columns = torch.tensor([[value, value, common] for value in rare])
    scores = {
        split: {
            "average_precision": columns + 0.01 * (split == "test"),
            "f1": columns / 2,
            "roc_auc": columns,
            "calibration_error": 1 - columns,
        }
        for split in ("valid", "test")
    }
    scores["test"]["f1_tuned"] = columns / 2
    values = {
        "names": NAMES,
        "frequencies": FREQUENCIES,
        "scores": scores,
        "faces": {"valid": "v", "test": "t"},
    }
    return Run(name, seeds=tuple(seeds), baseline=baseline, **values | changes)


BASELINE = run_of("baseline", [0.20, 0.30, 0.40])


def test_gains_are_paired_over_seeds():
    gains = np.array([0.05, 0.06, 0.07])
    ours = run_of("mine", [0.25, 0.36, 0.47], baseline=BASELINE)
    gain = compare_with_baseline(ours).gains[DECIDES]
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
    comparison = compare_with_baseline(run_of("mine", rare, baseline=BASELINE))
    gain = comparison.gains[DECIDES]
    assert gain.verdict == verdict
    assert comparison.verdict.startswith(
        f"mine: {verdict}. AP rare goes from 0.300 to {np.mean(rare):.3f}"
    )
    assert f"{gain.gain:+.3f} ± {gain.half:.3f} on validation faces" in comparison.verdict
    assert "3 paired seeds" in comparison.verdict


def test_less_error_is_a_gain():
    gains = compare_with_baseline(run_of("mine", [0.25, 0.36, 0.47], baseline=BASELINE)).gains
    error = gains["calibration error"]
    assert error.run < error.baseline
    assert error.gain > 0
    assert error.verdict == "better"


def test_one_seed_has_no_interval_and_says_so():
    one = run_of("baseline", [0.2], seeds=[0])
    comparison = compare_with_baseline(run_of("mine", [0.4], seeds=[0], baseline=one))
    assert math.isnan(comparison.gains[DECIDES].half)
    assert "unknown. AP rare goes from 0.200 to 0.400, +0.200 ± ?" in comparison.verdict
    assert "one seed has no interval" in comparison.verdict
    assert "unknown: one seed has no interval" in str(comparison.table())
    assert comparison.picture()


def test_validation_and_test_are_kept_apart():
    ours = run_of("mine", [0.25, 0.36, 0.47], baseline=BASELINE)
    ours.scores["test"]["average_precision"] = ours.scores["test"]["average_precision"] - 0.5
    valid, test = (compare_with_baseline(ours, split) for split in ("valid", "test"))
    assert valid.gains[DECIDES].verdict == "better"
    assert test.gains[DECIDES].verdict == "worse"
    assert "validation faces" in valid.verdict
    assert "test faces" in test.verdict
    assert "F1 rare, tuned" not in valid.gains  # thresholds were chosen on these faces
    assert "F1 rare, tuned" in test.gains


def test_a_comparison_shows_verdict_table_and_picture():
    comparison = compare_with_baseline(run_of("<b>mine</b>", [0.25, 0.36, 0.47], baseline=BASELINE))
    page = comparison._repr_html_()
    assert "<b>" not in page
    assert "&lt;b&gt;mine&lt;/b&gt;: better." in page
    assert '<img alt="' in page
    assert repr(comparison).startswith("<b>mine</b>: better.")
    assert "AP common" in repr(comparison)


def test_the_picture_shows_each_attributes_gain_over_seeds():
    comparison = compare_with_baseline(run_of("mine", [0.25, 0.36, 0.47], baseline=BASELINE))
    picture = comparison.picture()
    ours, theirs = (run.scores["valid"]["average_precision"] for run in (comparison.run, BASELINE))
    drawn = [line.get_ydata() for line in picture.figure.axes[0].lines[:-1]]
    gains = (ours - theirs).mean(0)
    assert sorted(np.concatenate(drawn)) == pytest.approx(sorted(gains.tolist()))
    assert (
        f"{gains[comparison.run.frequencies < capstone.RARE].mean():+.3f} for the"
        in picture.description
    )


def other(**changes):
    return run_of("mine", [0.2, 0.3, 0.4], baseline=BASELINE, **changes)


@pytest.mark.parametrize(
    ("run", "split", "words"),
    [
        (BASELINE, "valid", "the run 'baseline' has no baseline; train it with train_runs"),
        (other(), "train", "there is no split 'train'; choose \"valid\" while you try"),
        (
            other(seeds=(0, 1, 3)),
            "valid",
            r"'mine' and 'baseline' have other seeds \(\(0, 1, 3\) and \(0, 1, 2\)\); only",
        ),
        (other(names=("Bald", "Beard", "Smiling")), "valid", "have other attributes"),
        (
            other(faces={"valid": "x", "test": "t"}),
            "valid",
            r"have other validation faces \(x and v\)",
        ),
        (other(faces={"valid": "v"}), "test", r"have other test faces \(None and t\)"),
        (
            other(scores={"valid": {}}),
            "valid",
            "the run 'mine' has no scores on the validation faces",
        ),
        (other(scores={}), "test", "the run 'mine' has no scores on the test faces"),
        (
            replace(other(), baseline=replace(BASELINE, scores={})),
            "valid",
            "the run 'baseline' has no scores",
        ),
        (other(frequencies=FREQUENCIES + 0.1), "valid", "none of the 3 attributes is in under 5%"),
    ],
)
def test_runs_that_do_not_compare_say_why(run, split, words):
    with pytest.raises(ValueError, match=words):
        compare_with_baseline(run, split)


def test_faces_that_differ_on_test_still_compare_on_validation():
    assert compare_with_baseline(other(faces={"valid": "v", "test": "x"}), "valid").gains


# What is handed in


def test_all_four_are_written_and_where_is_said(tmp_path, capsys):
    comparison = compare_with_baseline(run_of("mine, =1+1", [0.25, 0.36, 0.47], baseline=BASELINE))
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
        rows = list(csv.DictReader(file))
    assert [row["score"] for row in rows] == list(comparison.gains)
    gain = comparison.gains[DECIDES]
    assert float(rows[0]["gain"]) == pytest.approx(gain.gain, abs=1e-6)
    assert (rows[0]["run"], rows[0]["split"], rows[0]["seeds"], rows[0]["verdict"]) == (
        "mine, =1+1",
        "valid",
        "3",
        "better",
    )


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="choose a folder you may write to"):
        deliver(
            tmp_path / "file",
            Report("t", "a", {}),
            Picture(blank_axes(1, 1, 2, 1)[0], "blank"),
            [],
            [],
        )


# Training, on tokens that hold the answer


@pytest.fixture(scope="module")
def faces():
    torch.manual_seed(0)

    def part(images):
        targets = (torch.rand(images, 3) < torch.tensor([0.04, 0.3, 0.5])).float()
        targets[0], targets[1] = 1, 0
        tokens = 0.3 * torch.randn(images, 49, 6)
        tokens[:, 10, :3] += 2 * targets  # all is decided in one token
        return TokenArrays(tokens, targets)

    regions = torch.zeros(20, 3, 14, 14, dtype=torch.bool)
    regions[:, :, 2:4, 6:8] = True  # the pixels of token 10
    return FaceSplits(part(160), part(80), part(90), NAMES, {"test": regions})


@pytest.fixture(scope="module", autouse=True)
def short():
    patch = pytest.MonkeyPatch()
    for name, value in {"EPOCHS": 2, "STEPS": 8, "DRAWS": 128, "BATCH": 16, "WIDTH": 8}.items():
        patch.setattr(capstone, name, value)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def baseline(faces):
    return train_runs("baseline", faces, seeds=(0, 1))


def test_a_run_repeats_to_the_bit_and_seeds_differ(faces, baseline):
    again = train_runs("again", faces, baseline)
    assert again.seeds == baseline.seeds
    assert again.faces == baseline.faces
    for split in ("valid", "test"):
        for key, values in baseline.scores[split].items():
            assert values.shape == (2, 3), key
            torch.testing.assert_close(
                again.scores[split][key], values, rtol=0, atol=0, equal_nan=True
            )
    assert not torch.equal(baseline.models[0].queries, baseline.models[1].queries)
    gain = compare_with_baseline(again).gains[DECIDES]
    assert (gain.gain, gain.half) == (0, 0)
    assert gain.verdict == "cannot be told apart"


def test_scores_are_those_of_the_models(faces, baseline):
    from sklearn.metrics import average_precision_score

    with torch.no_grad():
        said = baseline.models[1](faces.test.tokens.float()).sigmoid()
    expected = average_precision_score(faces.test.targets[:, 2].numpy(), said[:, 2].numpy())
    assert baseline.scores["test"]["average_precision"][1, 2].item() == pytest.approx(
        expected, abs=1e-5
    )
    with torch.no_grad():
        thresholds = best_thresholds(
            baseline.models[1](faces.valid.tokens.float()).sigmoid(), faces.valid.targets
        )
    tuned = threshold_scores(said, faces.test.targets, thresholds)["f1"]
    # chosen on validation, used on test
    torch.testing.assert_close(baseline.scores["test"]["f1_tuned"][1], tuned)
    maps = attention_maps(baseline.models[1], faces.test, 20)
    assert maps.shape == (20, 3, 7, 7)
    hit = (maps.flatten(2).argmax(-1) == 10).float().mean(0)
    torch.testing.assert_close(baseline.scores["test"]["pointing"][1], hit)
    assert "pointing" not in baseline.scores["valid"]  # no regions are known there
    losses = image_losses(baseline.models[1], faces.test)
    expected = nn.functional.binary_cross_entropy(
        said.double(), faces.test.targets.double(), reduction="none"
    ).mean(1)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)


def test_the_attention_table_needs_regions(baseline):
    said = str(attention_table(baseline))
    assert "baseline, rare" in said
    assert "baseline, common" in said
    with pytest.raises(
        ValueError, match="nothing is known of where 'baseline' should look on 'valid' faces"
    ):
        attention_table(baseline, "valid")


def test_only_what_is_given_differs(faces, baseline):
    """Each change reaches the training, and the weights begin the same."""
    seen = []

    def penalty(weights):
        seen.append(weights)
        return 5 * head_diversity_penalty(weights)

    uniform = torch.ones(len(faces.train))
    half = TokenArrays(faces.train.tokens[:80], faces.train.targets[:80])
    changes = {
        "penalty": {"penalty": penalty},
        "train": {"train": half},
        "sampler": {"sampler": lambda seed: BalancedSampler(uniform, 128, seed)},
        "loss": {"loss": nn.BCEWithLogitsLoss(reduction="sum")},
        "LDAM": {"loss": LDAMLoss(faces.train.targets.mean(0), 2.0, weight_from=1), "cosine": True},
    }
    for name, change in changes.items():
        run = train_runs(name, faces, baseline, **change)
        assert not torch.equal(run.models[0].queries, baseline.models[0].queries), name
        # those of the natural faces
        torch.testing.assert_close(run.frequencies, baseline.frequencies)
        assert compare_with_baseline(run, "test").gains
    assert changes["LDAM"]["loss"].epoch == 1  # was told the epochs
    assert seen[0].shape == (16, 2, 3, 49)
    assert seen[0].requires_grad
    torch.testing.assert_close(seen[0].sum(-1), torch.ones(16, 2, 3))


def test_charged_weights_are_those_that_the_model_attends_with(faces, baseline):
    decoder = baseline.models[0]
    tokens = faces.test.tokens[:5].float()
    logits, weights = capstone._WithAttention(decoder)(tokens)
    torch.testing.assert_close(logits, decoder(tokens, record=True))
    torch.testing.assert_close(weights, decoder.layers[-1].attention.last_attn_weights)
    assert not decoder.layers[-1].attention._forward_pre_hooks
    head_diversity_penalty(weights).backward()
    assert decoder.layers[-1].attention.to_query.weight.grad.abs().sum() > 0


def test_a_penalty_is_paid_and_a_loss_still_told_the_epoch(faces, baseline):
    free, charged = (
        train_runs(
            f"{price} an overlap",
            faces,
            baseline,
            penalty=lambda weights, price=price: price * head_diversity_penalty(weights),
        )
        for price in (0.0, 20.0)
    )
    overlap = [
        head_diversity_penalty(
            capstone._WithAttention(run.models[0])(faces.test.tokens.float())[1]
        ).item()
        for run in (free, charged)
    ]
    assert overlap[1] < overlap[0]
    loss = LDAMLoss(faces.train.targets.mean(0))
    train_runs("both", faces, baseline, loss=loss, cosine=True, penalty=lambda w: 0 * w.sum())
    assert loss.epoch == 1
