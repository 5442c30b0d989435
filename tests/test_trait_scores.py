"""Scores and intervals against slow, independent ones; leaks; models over batches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.metrics import mean_absolute_error, r2_score
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from course_lib.models import CompletePersonalityModel, TokenPersonalityModel
from course_lib.training import (
    SCORES,
    compare_answers,
    concordance,
    evaluate,
    floor_prediction,
    leak_report,
    leaked_share,
    mean_accuracy,
    score_traits,
    speaker_lookup,
)
from course_lib.training.trait_scores import trait_table

TRAITS = ["O", "C", "E", "A", "N"]


def slow_scores(prediction, target):
    """Libraries' answers, a trait at a time: `scores traits`."""
    columns = list(zip(np.asarray(prediction).T, np.asarray(target).T, strict=True))
    return np.array(
        [
            [1 - mean_absolute_error(t, p) for p, t in columns],
            concordance(prediction, target).tolist(),
            [np.corrcoef(p, t)[0, 1] for p, t in columns],
            [r2_score(t, p) for p, t in columns],
            [p.std() / t.std() for p, t in columns],
        ]
    )


def by_speaker(speakers, clips, traits=5, seed=0, own=0.15, shared=0.7):
    """Predictions and labels of clips: a part of the label, and of the error, is the speaker's."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*size):
        return torch.randn(*size, generator=generator).double()

    who = torch.arange(speakers).repeat_interleave(clips)
    target = 0.5 + own * (
        noise(speakers, traits)[who] * shared + noise(len(who), traits) * (1 - shared)
    )
    error = 0.1 * (noise(speakers, traits)[who] * shared + noise(len(who), traits) * (1 - shared))
    return target + error, target, who


@settings(max_examples=30)
@given(st.integers(3, 30), st.integers(1, 4), st.integers(0, 10_000))
def test_scores_agree_with_the_libraries(count, traits, seed):
    prediction, target = torch.rand(
        2, count, traits, generator=torch.Generator().manual_seed(seed)
    ).double()
    scores = score_traits(prediction, target, range(count))
    expected = slow_scores(prediction, target)
    assert_allclose(scores.value[:, :-1], expected, atol=1e-9)
    assert_allclose(scores.value[:, -1], expected.mean(1), atol=1e-9)


def test_the_bootstrap_is_that_of_a_loop_over_speakers():
    prediction, target, who = by_speaker(6, 3)
    who = who[torch.randperm(18)]  # clips of a speaker need not be neighbours
    names = np.array(["zoe", "-_x", "ada", "bob", "eve", "kim"])[who]
    scores = score_traits(prediction, target, names.tolist(), seed=3)
    ordered = sorted(set(names))
    times = np.random.default_rng(3).multinomial(6, np.full(6, 1 / 6), len(scores.resampled))
    for sample in (0, 7, 1999):
        drawn = [
            name for name, count in zip(ordered, times[sample], strict=True) for _ in range(count)
        ]
        clips = np.concatenate([np.flatnonzero(names == name) for name in drawn])
        assert_allclose(
            scores.resampled[sample, :, :-1],
            slow_scores(prediction[clips], target[clips]),
            atol=1e-9,
        )
    low, high = scores.interval
    assert_allclose(low, np.quantile(scores.resampled, 0.025, axis=0))
    assert_allclose(high, np.quantile(scores.resampled, 0.975, axis=0))


def test_intervals_hold_the_truth_about_as_often_as_they_say_and_item_intervals_do_not():
    """Pearson's true value follows from the construction; 5 traits of 60 data sets are 300 tries."""
    label, error, inside = 0.15**2, 0.1**2, {"speakers": [], "clips": []}
    # labels and errors have the same mix of speaker and clip
    truth = (label / (label + error)) ** 0.5
    for seed in range(60):
        prediction, target, who = by_speaker(40, 5, seed=seed)
        for name, speakers in (("speakers", who), ("clips", None)):
            low, high = score_traits(prediction, target, speakers).interval[
                :, SCORES.index("Pearson"), :-1
            ]
            inside[name] += ((low <= truth) & (truth <= high)).tolist()
    assert np.mean(inside["speakers"]) > 0.88
    assert np.mean(inside["clips"]) < np.mean(inside["speakers"]) - 0.1


def test_a_constant_scores_nothing_but_accuracy_and_shrinking_shows_in_the_spread():
    prediction, target, who = (
        part.float() if part.is_floating_point() else part for part in by_speaker(20, 3)
    )
    floor = score_traits(floor_prediction(target, 60), target, who)
    assert floor.value[0, 0] > 0.8
    assert (floor.value[1:3] == 0).all()
    assert (floor.value[4] == 0).all()
    assert floor.value[3].abs().max() < 1e-6  # the mean explains nothing of the variance
    assert floor.resampled.isfinite().all()
    shrunk = score_traits(target.mean(0) + 0.25 * (target - target.mean(0)), target, who)
    assert shrunk.value[4].tolist() == pytest.approx([0.25] * 6)
    assert shrunk.value[2].tolist() == pytest.approx([1] * 6)
    assert (shrunk.value[1] < 0.5).all()
    constant_labels = score_traits(prediction, torch.full_like(target, 0.5), who)
    assert (constant_labels.value[1:] == 0).all()


def test_the_same_seed_gives_the_same_interval_and_another_another():
    data = by_speaker(20, 3)
    assert torch.equal(score_traits(*data).resampled, score_traits(*data).resampled)
    assert not torch.equal(score_traits(*data).resampled, score_traits(*data, seed=1).resampled)


def test_a_paired_difference_is_surer_than_two_intervals():
    prediction, target, who = by_speaker(30, 4)
    better = target + 0.9 * (prediction - target)
    difference = compare_answers(better, prediction, target, who)
    assert (difference.value[0] > 0).all()
    assert (difference.interval[0, 0] > 0).all()
    apart = [score_traits(answer, target, who).interval[:, 0] for answer in (better, prediction)]
    assert (apart[0][0] < apart[1][1]).all()  # unpaired, the intervals overlap
    same = compare_answers(prediction, prediction, target, who)
    assert (same.value == 0).all()
    assert (same.resampled == 0).all()
    back = compare_answers(prediction, better, target, who).interval
    assert_close(back, -difference.interval.flip(0))


def test_the_tables_hold_the_numbers():
    prediction, target, who = by_speaker(20, 3)
    scores = score_traits(prediction, target, who)
    header, *rows = scores.table(TRAITS).rows
    assert header == ("", *SCORES)
    assert [row[0] for row in rows] == [*TRAITS, "mean"]
    value, (low, high) = scores.value[1, 2], scores.interval[:, 1, 2]
    assert rows[2][2] == f"{value:.3f} [{low:.3f}, {high:.3f}]"
    table = trait_table(
        {"floor": floor_prediction(target, 60), "model": prediction, "ceiling": target}, target, who
    )
    assert [row[0] for row in table.rows] == ["", "floor", "model", "ceiling"]
    assert table.rows[-1].count("1.000 [1.000, 1.000]") == 5
    assert table.caption == ""
    for unknown in (None, ["a", None] * 30, ["a", ""] * 30):
        assert score_traits(prediction, target, unknown).table(TRAITS).caption.endswith("narrow")
        table = trait_table({"model": prediction}, target, unknown)
        assert str(table).endswith("too narrow")


# ---- the leak ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test", "share"),
    [
        (["a", "b"], ["c", "d"], 0),
        (["a", "b"], ["b", "c", "b", "b"], 0.75),
        (torch.arange(4), torch.tensor([3, 3]), 1),
    ],
)
def test_the_leak_is_counted_in_test_items(train, test, share):
    assert leaked_share(train, test) == share
    assert leak_report(train, test).startswith(
        f"{share:.0%} of the test items" if share else "no speaker is on both"
    )


@pytest.mark.parametrize(
    ("train", "test"), [(None, ["a"]), (["a"], None), (["a", None], ["b"]), (["a"], ["b", ""])]
)
def test_a_missing_speaker_id_is_said(train, test):
    assert leak_report(train, test).startswith("speaker ids are missing: a split by clip leaks")


# ---- a model -------------------------------------------------------------------------------------


def token_batches(items=10, batch=4, shuffle=False):
    data = TensorDataset(
        torch.rand(items, 7, 12).half(), torch.rand(items, 4, 6).half(), torch.rand(items, 5)
    )
    return data, DataLoader(data, batch, shuffle=shuffle)


def test_evaluate_predicts_every_item_in_order_and_leaves_the_model_as_it_was():
    model = TokenPersonalityModel(12, 6, 8, 2).train()
    data, loader = token_batches()
    before = [tensor.clone() for tensor in model.state_dict().values()]
    result = evaluate(model, loader, speakers=list("aabbccddee"), attention=True)
    assert model.training
    assert not model.cross_attention.attention.record
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
    face, motion, traits = data.tensors
    model.eval()
    model.cross_attention.attention.record = True
    assert_close(result.prediction, model(face.float(), motion.float()).detach())
    assert_close(result.attention, model.cross_attention.attention.last_attn_weights)
    assert torch.equal(result.target, traits)
    assert_close(result.residuals, result.prediction - traits)
    expected = score_traits(result.prediction, traits, list("aabbccddee"))
    assert torch.equal(result.scores.resampled, expected.resampled)


def test_evaluate_takes_any_model_and_records_nothing_unasked():
    features = TensorDataset(torch.rand(6, 512), torch.rand(6, 256), torch.rand(6, 5))
    result = evaluate(CompletePersonalityModel(), DataLoader(features, 6))
    assert result.attention is None
    assert "too narrow" in result.scores.note
    linear = torch.nn.Linear(3, 5).eval()
    result = evaluate(linear, [(torch.rand(2, 3), torch.rand(2, 5))])
    assert not linear.training
    assert result.prediction.shape == (2, 5)


def test_evaluate_refuses_what_would_mislead():
    model = TokenPersonalityModel(12, 6, 8, 2)
    with pytest.raises(ValueError, match="use shuffle=False"):
        evaluate(model, token_batches(shuffle=True)[1], speakers=list("aabbccddee"))
    assert evaluate(model, token_batches(shuffle=True)[1]).prediction.shape == (10, 5)
    with pytest.raises(ValueError, match=r"prediction\[0, 0\] is nan"):
        evaluate(
            model, [(torch.full((2, 7, 12), float("nan")), torch.rand(2, 4, 6), torch.rand(2, 5))]
        )
    assert model.training
    assert not model.cross_attention.attention.record


sizes = st.tuples(st.integers(1, 12), st.integers(1, 6))
seeds = st.integers(0, 10_000)


def slow_concordance(x: list[float], y: list[float]) -> float:
    """Lin's formula, letter by letter."""
    count = len(x)
    mean_x, mean_y = sum(x) / count, sum(y) / count
    if len(set(x)) == 1 or len(set(y)) == 1:
        return 0.0
    variance_x = sum((value - mean_x) ** 2 for value in x) / count
    variance_y = sum((value - mean_y) ** 2 for value in y) / count
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / count
    return 2 * covariance / (variance_x + variance_y + (mean_x - mean_y) ** 2)


@given(sizes, seeds)
def test_the_metrics_agree_with_their_formulas(size, seed):
    prediction, target = torch.rand(2, *size, generator=torch.Generator().manual_seed(seed))
    columns = list(zip(prediction.T.tolist(), target.T.tolist(), strict=True))
    accuracy = [
        1 - sum(abs(a - b) for a, b in zip(*column, strict=True)) / size[0] for column in columns
    ]
    assert_close(mean_accuracy(prediction, target), torch.tensor(accuracy))
    expected = torch.tensor([slow_concordance(*column) for column in columns])
    assert_close(concordance(prediction, target), expected, atol=1e-4, rtol=1e-4)


@given(sizes.filter(lambda size: size[0] > 1), seeds)
def test_concordance_is_one_only_on_the_diagonal(size, seed):
    target = torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert_close(concordance(target, target), torch.ones(size[1], dtype=torch.float64))
    assert_close(concordance(-target, target - 2 * target.mean(0)), -torch.ones(size[1]).double())
    assert (concordance(target + 0.5, target) < 0.999).all()  # correlation would say 1
    assert (concordance(target * 0.1, target) < 0.999).all()


def test_a_constant_has_no_concordance_whatever_its_rounding():
    constant = torch.full((7, 5), 0.3)  # its mean in float32 is not exactly 0.3
    assert (concordance(constant, constant) == 0).all()
    assert (concordance(constant, torch.rand(7, 5)) == 0).all()
    assert (concordance(torch.rand(1, 5), torch.rand(1, 5)) == 0).all()


def test_concordance_can_be_trained_even_beside_a_constant_trait():
    prediction, target = torch.rand(2, 6, 2)
    prediction[:, 1] = target[:, 1] = 0.5
    prediction.requires_grad_()
    concordance(prediction, target).sum().backward()
    assert prediction.grad.isfinite().all()
    assert prediction.grad[:, 0].abs().sum() > 0


@given(sizes, st.integers(0, 9), seeds)
def test_no_constant_beats_the_floor_in_squared_error_on_its_own_targets(size, count, seed):
    targets = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    floor = floor_prediction(targets, count)
    assert floor.shape == (count, size[1])
    if count:
        error = (targets - floor[0]).square().mean(dim=0)
        assert (error <= (targets - floor[0] - 0.01).square().mean(dim=0)).all()
        assert (error <= (targets - floor[0] + 0.01).square().mean(dim=0)).all()
        assert (floor == floor[0]).all()


@given(st.integers(1, 12), st.integers(1, 4), seeds)
def test_the_look_up_says_each_speaker_s_mean_and_the_floor_for_strangers(count, traits, seed):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.rand(count, traits, generator=generator)
    who, asked = (torch.randint(0, 5, (count,), generator=generator) for _ in range(2))
    answers = speaker_lookup(targets, who, asked)
    for answer, speaker in zip(answers, asked.tolist(), strict=True):
        own = [row for row, name in zip(targets, who.tolist(), strict=True) if name == speaker]
        assert_close(answer, torch.stack(own or list(targets)).mean(dim=0))
    names = (
        [f"-_{speaker}" for speaker in who.tolist()],
        [f"-_{speaker}" for speaker in asked.tolist()],
    )
    assert torch.equal(speaker_lookup(targets, *names), answers)  # names do as well as numbers
