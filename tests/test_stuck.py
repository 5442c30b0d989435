"""The detector of a model that says no to everything: when it speaks, what it turns up, and what
survives a cut.
"""

import math

import pytest
import torch
from test_fit import Killed
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from course_lib.training import (
    AggressiveLoss,
    Checkpoints,
    FocalLoss,
    StuckDetector,
    WarmupCosine,
    calculate_aggressive_pos_weights,
    fit,
    prediction_diversity_penalty,
    red_flags,
)
from course_lib.training.stuck import REMEDIES

FREQUENCIES = [0.01, 0.05, 0.2, 0.5]
NAMES = ("Bald", "Gray_Hair", "Bangs", "Smiling")


class Stubborn(nn.Module):
    """Answers every image alike, whatever it is taught."""

    def __init__(self, logit: float):
        super().__init__()
        self.logit, self.parameter = logit, nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 0 * self.parameter + self.logit + torch.zeros(len(images), len(NAMES))


def loader() -> DataLoader:
    targets = torch.stack([torch.arange(40) < 40 * rate for rate in (0.1, 0.1, 0.2, 0.4)], 1)
    return DataLoader(TensorDataset(torch.randn(40, 6), targets.float()), 10)


def watch(
    detector, model, epochs=5, loss=None, callbacks=(), then=(), data=None, learning_rate=0.25
):
    """A run that the detector watches; `callbacks` come before it, `then` after it."""
    data = data or loader()
    optimizer = torch.optim.SGD(model.parameters(), learning_rate)
    loss = loss or nn.BCEWithLogitsLoss()
    callbacks = [*callbacks, detector, *then]
    return fit(
        model,
        data,
        data,
        epochs=epochs,
        loss_function=loss,
        optimizer=optimizer,
        callbacks=callbacks,
    )


def settings(loss: AggressiveLoss) -> tuple:
    return loss.cap, loss.diversity, loss.factor, loss.boldness, loss.gamma


def test_three_epochs_of_no_are_said_once(capsys):
    for epochs, said in ((2, 0), (3, 1), (5, 1), (6, 2)):
        detector = StuckDetector(NAMES)
        run = watch(detector, Stubborn(-3.0), epochs)
        spoken = capsys.readouterr().out
        assert spoken.count("stuck after epoch") == said
        assert detector.stuck
    assert spoken.startswith(
        "stuck after epoch 3: 0.0% of the predictions are positive, 20.0% of the labels; try, in "
        "this order: double the learning rate; raise the weight cap to 100; "
    )
    assert (run.log["valid_positive_rate"], run.log["valid_true_rate"]) == (0, pytest.approx(0.2))
    assert len(detector.history) == 6


def test_a_model_that_says_yes_is_not_stuck(capsys):
    detector = StuckDetector(NAMES)
    watch(detector, Stubborn(2.0))
    assert not detector.stuck
    assert "stuck" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rate", "truth", "stuck"),
    [
        (0.049, 0.225, True),
        (0.051, 0.225, False),
        (0.03, 0.04, False),
        (0.019, 0.04, True),
        (0.0, 0.01, True),
    ],
)
def test_what_counts_as_stuck(rate, truth, stuck):
    """Under 5 %, or under half of the truth where that is less: rare attributes alone are not stuck
    by being rare.
    """
    detector = StuckDetector(NAMES)
    assert not detector.stuck
    detector.history = [{"positive_rate": rate, "true_rate": truth}]
    assert detector.stuck is stuck


def test_remedies_come_in_order_when_asked(capsys):
    loss, rates = AggressiveLoss(FREQUENCIES, names=NAMES), []
    detector = StuckDetector(NAMES, patience=1, loss=loss)

    class Look:
        def after_epoch(self, run):
            rates.append((run.optimizer.param_groups[0]["lr"], *settings(loss)))

    watch(detector, Stubborn(-3.0), 7, loss, then=[Look()])
    assert rates == [
        (0.5, 50, 0.1, 1, 0, 2),
        (0.5, 100, 0.1, 1, 0, 2),
        (0.5, 100, 1, 1, 0, 2),
        (0.5, 100, 1, 2, 0, 2),
        (0.5, 100, 1, 2, 0.1, 2),
        (0.5, 100, 1, 2, 0.1, 3),
        (0.5, 100, 1, 2, 0.1, 3),
    ]
    spoken = capsys.readouterr().out.splitlines()[1:]  # the first line names critical attributes
    for number, (line, (what, _)) in enumerate(zip(spoken[:6], REMEDIES, strict=True), start=1):
        assert line.endswith(f"remedy {number} of 6: {what}")
    assert spoken[6].endswith("all remedies are applied: look at the data and the labels")


def test_patience_begins_anew_with_each_remedy():
    detector = StuckDetector(NAMES, loss=AggressiveLoss(FREQUENCIES))
    watch(detector, Stubborn(-3.0), epochs=8, loss=detector.loss)
    assert detector.applied == 2


def test_nothing_is_touched_unless_asked():
    loss = AggressiveLoss(FREQUENCIES)
    run = watch(StuckDetector(NAMES, patience=1), Stubborn(-3.0), epochs=4, loss=loss)
    assert run.optimizer.param_groups[0]["lr"] == 0.25
    assert settings(loss) == (50, 0.1, 1, 0, 2)


def test_a_schedule_starts_from_the_doubled_rate():
    detector = StuckDetector(NAMES, patience=1, loss=AggressiveLoss(FREQUENCIES))
    run = watch(detector, Stubborn(-3.0), epochs=2, loss=detector.loss, callbacks=[WarmupCosine()])
    assert run.optimizer.param_groups[0]["initial_lr"] == 0.5


def imbalanced(items: int = 400) -> TensorDataset:
    """Two attributes at 10 %, which what is seen makes likelier and never likely."""
    generator = torch.Generator().manual_seed(2)
    seen = torch.randn(items, 6, generator=generator)
    return TensorDataset(
        seen, (torch.rand(items, 2, generator=generator) < torch.sigmoid(seen[:, :2] - 2.7)).float()
    )


def test_remedies_free_a_model_that_is_stuck():
    data, outcomes = DataLoader(imbalanced(), 50), []
    for apply in (False, True):
        torch.manual_seed(0)
        model, loss = nn.Linear(6, 2), AggressiveLoss([0.1, 0.1], cap=1, gamma=0, diversity=0)
        detector = StuckDetector(NAMES[:2], loss=loss if apply else None)
        watch(detector, model, 14, loss, data=data, learning_rate=0.5)
        outcomes.append(
            (detector.stuck, detector.applied > 1, detector.history[-1]["positive_rate"])
        )
    assert outcomes[0][:2] == (True, False)
    assert outcomes[1][:2] == (False, True)
    assert outcomes[1][2] > 0.05 > outcomes[0][2]


class Cut:
    """Kills the run in an epoch."""

    def __init__(self, epoch: int):
        self.epoch = epoch

    def before_epoch(self, run):
        if run.epoch == self.epoch:
            raise Killed


def test_a_run_that_is_cut_off_goes_on_with_the_same_remedies(tmp_path):
    def train(folder, cut):
        torch.manual_seed(0)
        model, loss = nn.Linear(6, 2), AggressiveLoss([0.1, 0.1], cap=1, gamma=0, diversity=0)
        nn.init.constant_(model.bias, -9.0)
        data = DataLoader(imbalanced(), 50, shuffle=True)
        detector = StuckDetector(NAMES[:2], patience=1, loss=loss)
        then = [Checkpoints(folder), Cut(cut)]
        watch(detector, model, 6, loss, then=then, data=data, learning_rate=0.01)
        return model, detector

    whole, detector = train(tmp_path / "whole", cut=99)
    with pytest.raises(Killed):
        train(tmp_path / "cut", cut=4)
    resumed, other = train(tmp_path / "cut", cut=99)
    assert detector.applied == other.applied >= 5
    assert vars(detector.loss)["factor"] == other.loss.factor == 2
    assert detector.history == other.history
    assert torch.equal(whole.weight, resumed.weight)


def test_the_aggressive_loss_is_the_sum_of_its_parts():
    logits = torch.randn(50, 4, requires_grad=True)
    targets = (torch.rand(50, 4) < 0.3).float()
    loss = AggressiveLoss(FREQUENCIES, cap=30, gamma=1.5, diversity=0.7)
    weights = calculate_aggressive_pos_weights(FREQUENCIES, 30)
    parts = FocalLoss(1.5, weights)(logits, targets) + 0.7 * prediction_diversity_penalty(
        logits, FREQUENCIES
    )
    assert_close(loss(logits, targets), parts)
    loss.factor, loss.boldness = 2, 0.3
    bold = -logits.sigmoid().mean(0).log().mean()
    parts = (
        FocalLoss(1.5, 2 * weights)(logits, targets)
        + 0.7 * prediction_diversity_penalty(logits, FREQUENCIES)
        + 0.3 * bold
    )
    assert_close(loss(logits, targets), parts)
    assert torch.equal(loss.pos_weight(), 2 * weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_aggressive_loss_is_stable_where_the_model_is_sure(dtype):
    """A sure no must still be pulled up."""
    loss = AggressiveLoss(FREQUENCIES)
    loss.boldness = 1.0
    logits = torch.full((6, 4), -100.0, dtype=dtype, requires_grad=True)
    value = loss(logits, torch.zeros(6, 4))
    assert 100 < value < math.inf
    value.backward()
    assert (logits.grad < 0).all()


def test_it_names_what_is_critical_once(capsys):
    loss = AggressiveLoss(FREQUENCIES, names=NAMES)
    assert capsys.readouterr().out.startswith(
        "1 of 4 attributes are critical (under 5%): Bald (1.00%"
    )
    loss(torch.zeros(3, 4), torch.zeros(3, 4))
    assert capsys.readouterr().out == ""


FINE = {
    "positive_rate": 0.2,
    "true_rate": 0.22,
    "accuracy": 0.9,
    "f1": [0.3, 0.4, 0.6, 0.8],
    "loss": 0.3,
}


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        (
            {"positive_rate": 0.01, "accuracy": 0.79},
            "accuracy is 79.0% and 1.0% of the predictions are positive",
        ),
        ({"f1": [0.04, 0.4, 0.0, 0.8]}, "F1 is under .05 for 2 of 4 attributes: Bald, Bangs"),
        ({"accuracy": 0.77}, "accuracy is 77.0%, below the 78.0% of saying no to everything"),
    ],
)
def test_each_red_flag_alone(changes, flag):
    flags = red_flags([FINE, FINE | changes], NAMES)
    assert len(flags) == 1
    assert flags[0].startswith(flag)


def test_a_falling_loss_with_a_standing_positive_rate():
    def epochs(rates, losses):
        return [
            FINE | {"positive_rate": rate, "loss": loss}
            for rate, loss in zip(rates, losses, strict=True)
        ]

    falling = [0.5, 0.45, 0.4, 0.38]
    flags = red_flags(epochs([0.08] * 4, falling), NAMES)
    assert flags == [
        "the loss fell from 0.500 to 0.380 in three epochs and the positive rate stands at 8.0%: it"
        " learns to be surer of its no"
    ]
    assert not red_flags(epochs([0.08] * 3, falling[:3]), NAMES)  # too early to say
    assert not red_flags(epochs([0.08] * 4, [0.5] * 4), NAMES)  # the loss stands too
    assert not red_flags(epochs([0.06, 0.07, 0.08, 0.09], falling), NAMES)  # it moves
    assert not red_flags(epochs([0.2] * 4, falling), NAMES)  # it stands where it should


def test_no_flags_and_the_box():
    assert red_flags([], NAMES) == red_flags([FINE], NAMES) == []
    detector = StuckDetector(NAMES)
    assert str(detector) == "0 red flags"
    watch(detector, Stubborn(-3.0))
    lines = str(detector).splitlines()
    assert lines[0] == "2 red flags"
    assert lines[1].startswith("⚑ accuracy is 80.0% and 0.0% of")
    assert lines[2].startswith("⚑ F1 is under .05 for 4 of 4")
