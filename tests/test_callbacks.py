"""Training: the loop against one written by hand, callbacks one by one, and runs that are cut off and go on."""

import csv
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from course_lib import files
from course_lib.training.callbacks import (
    Checkpoints,
    ClipGradients,
    EarlyStopping,
    MetricLog,
    Plateau,
    Progress,
    Timing,
    WarmupCosine,
    cosine_factor,
)
from course_lib.training.fit import fit


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))


def loaders(items: int = 40, batch: int = 8) -> tuple[DataLoader, DataLoader]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(items, 4, generator=generator)
    data = TensorDataset(inputs, inputs[:, :2] * 2 + 1)
    return DataLoader(data, batch, shuffle=True), DataLoader(data, 16)


class Cut:
    """Kills the run after some batches."""

    def __init__(self, batches: int):
        self.left = batches

    def after_step(self, run):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


class Saving(Checkpoints):
    """Saves after every step."""

    def after_step(self, run):
        self.save(run)


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(),
                                                 strict=True))


def test_the_loop_is_the_one_everybody_writes():
    train, valid = loaders()
    ours, bare = model(), model()
    run = fit(ours, train, valid, epochs=3, seed=5)
    optimizer = torch.optim.Adam(bare.parameters(), 1e-3)
    for epoch in range(3):
        torch.manual_seed(5 + epoch)
        for number, (inputs, target) in enumerate(train):
            bare.train()
            torch.manual_seed((5 + epoch) * 1_000_003 + number)
            optimizer.zero_grad()
            F.mse_loss(bare(inputs), target).backward()
            optimizer.step()
    assert same(ours, bare)
    bare.eval()
    with torch.no_grad():
        inputs, target = valid.dataset.tensors
        assert run.log["valid_mae"] == pytest.approx(F.l1_loss(bare(inputs), target).item(), rel=1e-5)
        assert run.log["valid_loss"] == pytest.approx(F.mse_loss(bare(inputs), target).item(), rel=1e-5)
    assert (run.epoch, run.step, run.total_steps) == (3, 15, 15)


def test_accumulated_batches_take_the_step_of_one_large_batch():
    data = TensorDataset(torch.randn(16, 4), torch.randn(16, 2))
    small, large = nn.Linear(4, 2), nn.Linear(4, 2)
    large.load_state_dict(small.state_dict())
    for network, batch, accumulate in ((small, 4, 4), (large, 16, 1)):
        run = fit(network, DataLoader(data, batch), epochs=2, accumulate=accumulate,
                  optimizer=torch.optim.SGD(network.parameters(), 0.1))
        assert run.step == run.total_steps == 2
    assert torch.allclose(small.weight, large.weight, atol=1e-6)


@pytest.mark.parametrize("batches", [1, 4, 5, 6, 12])
def test_a_run_that_was_cut_off_ends_with_the_same_weights(tmp_path, batches):
    def callbacks(folder):
        return [WarmupCosine(), ClipGradients(0.5), EarlyStopping(9), Plateau(0.5, 1), MetricLog(folder),
                Saving(folder)]

    train, valid = loaders()
    whole = fit(model(), train, valid, epochs=4, callbacks=callbacks(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        fit(model(), train, valid, epochs=4, callbacks=[*callbacks(tmp_path / "cut"), Cut(batches)])
    resumed = fit(model(), train, valid, epochs=4, callbacks=callbacks(tmp_path / "cut"))
    assert same(whole.model, resumed.model)
    assert resumed.log["valid_loss"] == whole.log["valid_loss"]
    assert resumed.log["loss"] == pytest.approx(whole.log["loss"])
    rows = [list(csv.DictReader((tmp_path / name / "log.csv").open())) for name in ("whole", "cut")]
    assert [row["valid_loss"] for row in rows[0]] == [row["valid_loss"] for row in rows[1]]


def test_a_finished_run_is_not_run_again(tmp_path):
    train, valid = loaders()
    first = fit(model(), train, valid, epochs=2, callbacks=[Checkpoints(tmp_path)])
    again = fit(model(), train, valid, epochs=2, callbacks=[Checkpoints(tmp_path), Cut(1)])
    assert same(first.model, again.model)
    best, metadata = files.load_tensors(tmp_path / "best.safetensors")
    assert metadata["epoch"] in (1, 2)
    assert set(best) == set(first.model.state_dict())


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    train, valid = loaders()
    fit(model(), train, valid, epochs=1, callbacks=[Checkpoints(tmp_path)])
    with pytest.raises(ValueError, match="a run of another model; choose another folder"):
        fit(nn.Linear(4, 2), train, valid, epochs=1, callbacks=[Checkpoints(tmp_path)])


def test_the_schedule_rises_and_falls():
    factors = [cosine_factor(step, 100, 0.1) for step in range(101)]
    assert factors[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))


def test_the_schedule_sets_the_rate_of_every_step():
    seen = []

    class Watch:
        def after_step(self, run):
            seen.append(run.optimizer.param_groups[0]["lr"])

    train, _ = loaders()
    fit(model(), train, epochs=2, callbacks=[WarmupCosine(0.2), Watch()])
    assert seen == pytest.approx([1e-3 * cosine_factor(step, 10, 0.2) for step in range(10)])


class Losses:
    """Stands in for validation."""

    def __init__(self, losses):
        self.losses = iter(losses)

    def after_epoch(self, run):
        run.log["valid_loss"] = next(self.losses)


def test_early_stopping_waits_and_says_why(capsys):
    train, _ = loaders()
    run = fit(model(), train, epochs=9, callbacks=[Losses([3, 2, 2.5, 1.9, 2, 2, 2, 2, 2]), EarlyStopping(3),
                                                   Progress()])
    assert run.epoch == 7
    assert run.stop == "valid_loss has not improved for 3 epochs"
    assert "stopped after epoch 7: valid_loss has not improved" in capsys.readouterr().out


def test_a_plateau_lowers_the_rate():
    train, _ = loaders()
    run = fit(model(), train, epochs=6, callbacks=[Losses([3, 3, 3, 3, 3, 3]), Plateau(0.1, 2)])
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(1e-5)


def test_gradients_are_clipped_and_their_length_is_logged():
    train, _ = loaders()
    lengths = []

    class Watch:
        def after_backward(self, run):
            lengths.append(math.sqrt(sum(float(p.grad.square().sum()) for p in run.model.parameters())))

    run = fit(model(), train, epochs=1, callbacks=[ClipGradients(0.01), Watch()])
    assert lengths == pytest.approx([0.01] * 5, rel=1e-3)
    assert run.log["gradient_norm"] > 0.01


def test_timing_accounts_for_the_epoch():
    train, valid = loaders()
    run = fit(model(), train, valid, epochs=1, callbacks=[Timing()])
    parts = [run.log[f"seconds_{name}"] for name in ("data", "forward", "backward", "step", "validation")]
    assert all(part >= 0 for part in parts)
    assert sum(parts) > 0


def test_an_unknown_metric_is_named():
    train, _ = loaders()
    with pytest.raises(ValueError, match="no metric 'valid_ccc' in the log; choose one of loss"):
        fit(model(), train, epochs=1, callbacks=[EarlyStopping(metric="valid_ccc")])


def test_a_loss_that_is_not_finite_names_its_origin():
    train, _ = loaders()
    broken = model()
    with torch.no_grad():
        broken[4].weight.fill_(math.inf)
    with pytest.raises(ValueError, match=r"epoch 1, batch 1 is (nan|inf); it began in layer '4'; lower the learning"):
        fit(broken, train, epochs=1)
    data = TensorDataset(torch.full((8, 4), math.nan), torch.zeros(8, 2))
    with pytest.raises(ValueError, match="the batch itself holds NaN"):
        fit(model(), DataLoader(data, 8), epochs=1)


def test_short_memory_names_a_batch_that_fits():
    class Hungry(nn.Linear):
        def forward(self, inputs):
            raise torch.OutOfMemoryError("out of memory")

    train, _ = loaders()
    with pytest.raises(RuntimeError, match="batch of 8; use batch_size=4 with accumulate=2"):
        fit(Hungry(4, 2), train, epochs=1)


def test_precision_may_change_from_run_to_run():
    train, _ = loaders()
    for precision in ("bf16", None, "bf16"):
        run = fit(model(), train, epochs=1, precision=precision)
        assert math.isfinite(run.log["loss"])
