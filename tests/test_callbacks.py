"""Callbacks, one by one."""

import itertools
import math

import pytest
import torch
from test_fit import Losses, loaders, small_model
from test_hostile_files import MUTATIONS, mutated, only_sentences
from torch import nn

from course_lib.training import (
    ClipGradients,
    EarlyStopping,
    MetricLog,
    Progress,
    Timing,
    WarmupCosine,
    cosine_factor,
    fit,
    read_log,
)


def test_the_schedule_rises_and_falls():
    factors = [cosine_factor(step, 100, 0.1) for step in range(101)]
    assert factors[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))


def test_the_schedule_sets_the_rate_of_every_step():
    seen = []

    class Rates:
        def after_step(self, run):
            seen.append(run.optimizer.param_groups[0]["lr"])

    run = fit(small_model(), loaders()[0], epochs=2, callbacks=[WarmupCosine(0.2), Rates()])
    assert seen == pytest.approx([1e-3 * cosine_factor(step, 10, 0.2) for step in range(10)])
    assert run.log["learning_rate"] == seen[-1]


def test_early_stopping_waits_and_says_why(capsys):
    callbacks = [Losses(3, 2, 2.5, 1.9, 2, 2, 2, 2, 2), EarlyStopping(3), Progress()]
    run = fit(small_model(), loaders()[0], epochs=9, callbacks=callbacks)
    assert run.epoch == 7
    assert run.stop == "valid_loss has not improved for 3 epochs"
    assert "stopped after epoch 7: valid_loss has not improved" in capsys.readouterr().out


def test_a_higher_metric_may_be_better():
    callbacks = [Losses(1, 2, 3, 3, 3, 4), EarlyStopping(2, higher_is_better=True)]
    run = fit(small_model(), loaders()[0], epochs=9, callbacks=callbacks)
    assert run.epoch == 5


def test_gradients_are_clipped_and_their_length_is_logged():
    lengths = []

    class Lengths:
        def after_backward(self, run):
            lengths.append(
                math.sqrt(sum(float(p.grad.square().sum()) for p in run.model.parameters()))
            )

    run = fit(small_model(), loaders()[0], epochs=1, callbacks=[ClipGradients(0.01), Lengths()])
    assert lengths == pytest.approx([0.01] * 5, rel=1e-3)
    assert run.log["gradient_norm"] > 0.01


class Clock:
    """A clock that each part of the loop moves on by a time of its own."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("course_lib.training.callbacks.time.perf_counter", lambda: self.now)

    def spend(self, seconds: float):
        def hook(*_):
            self.now += seconds

        return hook


@pytest.mark.parametrize("accumulate", [1, 5])
def test_timing_accounts_for_every_second(monkeypatch, accumulate):
    clock, model = Clock(monkeypatch), nn.Linear(4, 2)
    train, valid = loaders()
    model.register_forward_hook(lambda *_: clock.spend(2 if model.training else 7)())
    model.weight.register_hook(clock.spend(3))
    collate = train.collate_fn
    train.collate_fn = lambda items: (clock.spend(1)(), collate(items))[1]

    class Slow:
        def save(self, run):
            clock.spend(0 if run.batch else 11)()

    class Steps(torch.optim.SGD):
        def step(self, closure=None):
            clock.spend(5)()

    run = fit(
        model,
        train,
        valid,
        epochs=2,
        callbacks=[Timing(), Slow()],
        accumulate=accumulate,
        optimizer=Steps(model.parameters(), 0.1),
    )
    assert run.log["batches"] == 5
    assert (run.log["gpu"], run.log["mixed_precision"]) == (0, 0)
    spent = {
        name: run.log[f"seconds_{name}"]
        for name in ("data", "forward", "backward", "step", "validation", "callbacks")
    }
    assert spent == {
        "data": 5,
        "forward": 10,
        "backward": 15,
        "step": 25 / accumulate,
        "validation": 3 * 7,
        "callbacks": 11,
    }


def test_progress_tells_the_epochs_that_are_left(capsys):
    fit(small_model(), *loaders(), epochs=2, callbacks=[Progress()])
    assert "2/2" in capsys.readouterr().err


def test_tensorboard_gets_every_number_of_every_epoch(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = fit(
        small_model(), *loaders(), epochs=2, callbacks=[MetricLog(tmp_path, tensorboard=True)]
    )
    kept = EventAccumulator(str(tmp_path)).Reload()
    assert set(kept.Tags()["scalars"]) == set(run.log)
    assert [event.step for event in kept.Scalars("valid_loss")] == [1, 2]
    assert kept.Scalars("valid_loss")[-1].value == pytest.approx(run.log["valid_loss"])


def test_mutated_logs_are_read_or_refused_in_one_sentence(tmp_path):
    rows = [f"{epoch},0.001,0.{9 - epoch},{0.8 - epoch / 10:.2f},1.25,3" for epoch in range(1, 6)]
    header = "epoch,learning_rate,loss,valid_loss,seconds_data,batches"
    content = "\r\n".join([header, *rows]).encode()
    (tmp_path / "log.csv").write_bytes(content)
    whole = read_log(tmp_path)
    assert [row["epoch"] for row in whole] == [1, 2, 3, 4, 5]
    assert whole[4]["valid_loss"] == 0.3
    for seed in range(MUTATIONS):
        (tmp_path / "log.csv").write_bytes(mutated(content, seed))
        with only_sentences():
            assert all({"epoch", "loss"} <= row.keys() for row in read_log(tmp_path))
