import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from course_lib.training import concordance, floor_prediction, mean_accuracy, speaker_lookup

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


NAN = torch.tensor([[0.1, float("nan")]])


@pytest.mark.parametrize("metric", [mean_accuracy, concordance])
@pytest.mark.parametrize(
    ("prediction", "target", "sentence"),
    [
        (torch.rand(3, 5), torch.rand(3, 4), r"prediction has shape \(3, 5\) and target \(3, 4\)"),
        (torch.rand(1, 5), torch.rand(3, 5), "broadcasting would compare the wrong items"),
        (torch.rand(5), torch.rand(5), r"prediction has shape \(5,\); expected \(batch, traits\)"),
        (torch.rand(0, 5), torch.rand(0, 5), "at least one row"),
        (NAN, torch.rand(1, 2), r"prediction\[0, 1\] is nan"),
        (torch.rand(1, 2), NAN, r"target\[0, 1\] is nan"),
    ],
)
def test_bad_input_gets_one_sentence(metric, prediction, target, sentence):
    with pytest.raises(ValueError, match=sentence):
        metric(prediction, target)


@pytest.mark.parametrize(
    ("targets", "count", "sentence"),
    [
        (torch.rand(0, 5), 2, "at least one row"),
        (torch.rand(5), 2, "expected .batch, traits."),
        (NAN, 2, "nan"),
        (torch.rand(3, 5), -1, "count is -1"),
    ],
)
def test_the_floor_refuses_what_has_no_mean(targets, count, sentence):
    with pytest.raises(ValueError, match=sentence):
        floor_prediction(targets, count)


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


def test_the_look_up_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="2 train_speakers for 3 train_targets"):
        speaker_lookup(torch.rand(3, 5), ["a", "b"], ["a"])
    with pytest.raises(ValueError, match="nan"):
        speaker_lookup(NAN, ["a"], ["a"])
    with pytest.raises(ValueError, match="at least one row"):
        speaker_lookup(torch.rand(0, 5), [], ["a"])
