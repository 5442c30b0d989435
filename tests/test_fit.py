"""The training loop: beside one written by hand, told of its epochs, cut off anywhere, out of
memory, diverged.
"""

import csv
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset

from course_lib.training import (
    Checkpoints,
    ClipGradients,
    EarlyStopping,
    MetricLog,
    WarmupCosine,
    fit,
)


def small_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2)
    )


def small_data(items: int = 40) -> TensorDataset:
    inputs = torch.randn(items, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(inputs, inputs[:, :2] * 2 + 1)


def loaders(items: int = 40, batch: int = 8) -> tuple[DataLoader, DataLoader]:
    return DataLoader(small_data(items), batch, shuffle=True), DataLoader(small_data(items), 16)


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


class Killed(BaseException):
    """No error that anybody catches."""


class Cut:
    """Kills the run after some batches."""

    def __init__(self, batches: int):
        self.left = batches

    def after_step(self, run):
        self.left -= 1
        if not self.left:
            raise Killed


def test_the_loop_is_the_one_everybody_writes():
    train, valid = loaders()
    ours, bare = small_model(), small_model()
    run = fit(ours, train, valid, epochs=3, seed=5)
    optimizer, order = torch.optim.Adam(bare.parameters(), 1e-3), torch.Generator()
    for epoch in range(3):
        order.manual_seed(5 + epoch)
        for number, (inputs, target) in enumerate(
            DataLoader(small_data(), 8, sampler=RandomSampler(small_data(), generator=order))
        ):
            bare.train()
            torch.manual_seed((5 + epoch) * 1_000_003 + number)
            optimizer.zero_grad()
            F.mse_loss(bare(inputs), target).backward()
            optimizer.step()
    assert same(ours, bare)
    bare.eval()
    with torch.no_grad():
        inputs, target = valid.dataset.tensors
        assert run.log["valid_mae"] == pytest.approx(
            F.l1_loss(bare(inputs), target).item(), rel=1e-5
        )
        assert run.log["valid_loss"] == pytest.approx(
            F.mse_loss(bare(inputs), target).item(), rel=1e-5
        )
    assert (run.epoch, run.step, run.total_steps) == (3, 15, 15)
    assert (run.log["epoch"], run.log["learning_rate"]) == (3, 1e-3)


def test_accumulated_batches_take_the_step_of_one_large_batch():
    data = TensorDataset(torch.randn(16, 4), torch.randn(16, 2))
    small, large = nn.Linear(4, 2), nn.Linear(4, 2)
    large.load_state_dict(small.state_dict())
    for network, batch, accumulate in ((small, 4, 4), (large, 16, 1)):
        run = fit(
            network,
            DataLoader(data, batch),
            epochs=2,
            accumulate=accumulate,
            optimizer=torch.optim.SGD(network.parameters(), 0.1),
        )
        assert run.step == run.total_steps == 2
    assert torch.allclose(small.weight, large.weight, atol=1e-6)


# ---- epochs that differ --------------------------------------------------------------------------


class Curriculum(torch.utils.data.Sampler):
    """The easy half first, in an order that the epoch alone decides."""

    def __init__(self, items: int):
        self.items, self.epoch, self.told = items, 0, []

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.told.append(epoch)

    def __len__(self):
        return self.items

    def __iter__(self):
        order = torch.randperm(
            self.items // (2 if self.epoch < 2 else 1),
            generator=torch.Generator().manual_seed(self.epoch),
        )
        yield from order.repeat(2)[: self.items].tolist()


class Deferred(nn.Module):
    """A loss that weighs its second half from epoch 2 on; it lives on the model's device."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weights", torch.tensor([1.0, 1.0]))
        self.told = []

    def set_epoch(self, epoch):
        self.told.append(epoch)
        self.weights[1] = 1.0 if epoch < 2 else 3.0

    def forward(self, prediction, target):
        return ((prediction - target).square() * self.weights).mean()


class Batches(BatchSampler):
    def __init__(self, items: int):
        super().__init__(range(items), 8, False)
        self.told = []

    def set_epoch(self, epoch):
        self.told.append(epoch)


def test_samplers_batch_samplers_and_losses_are_told_the_epoch():
    data = small_data()
    sampler, batches, loss = Curriculum(40), Batches(40), Deferred()
    fit(small_model(), DataLoader(data, 8, sampler=sampler), epochs=3, loss_function=loss)
    fit(small_model(), DataLoader(data, batch_sampler=batches), epochs=3)
    for told in (sampler.told, batches.told, loss.told):
        assert sorted(set(told)) == [0, 1, 2]
        assert told == sorted(told)
    assert loss.weights.tolist() == [1, 3]


# ---- cut off anywhere ----------------------------------------------------------------------------


class Augmented(Dataset):
    """Noise as people's own data sets draw it; not from `random`, from which the type checker of
    the tests draws.
    """

    def __init__(self):
        self.data = small_data()

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        inputs, target = self.data[index]
        return inputs + 0.1 * torch.randn(4) + 0.1 * float(np.random.rand()), target


def everything(folder) -> list:
    return [
        MetricLog(folder),
        WarmupCosine(),
        ClipGradients(0.5),
        EarlyStopping(9),
        Checkpoints(folder, minutes=0),
    ]


def logged(folder) -> str:
    return (folder / "log.csv").read_text()


def check_resuming(tmp_path, batches: int, make_train, callbacks=everything, **settings) -> None:
    """A run that is cut off after some batches, and one that is not, end alike."""
    valid = loaders()[1]
    settings = {"epochs": 4, **settings}
    whole = fit(
        small_model(), make_train(), valid, callbacks=callbacks(tmp_path / "whole"), **settings
    )
    with pytest.raises(Killed):
        fit(
            small_model(),
            make_train(),
            valid,
            callbacks=[*callbacks(tmp_path / "cut"), Cut(batches)],
            **settings,
        )
    resumed = fit(
        small_model(), make_train(), valid, callbacks=callbacks(tmp_path / "cut"), **settings
    )
    assert same(whole.model, resumed.model)
    assert resumed.log == whole.log
    assert (resumed.epoch, resumed.step, resumed.stop) == (whole.epoch, whole.step, whole.stop)
    assert logged(tmp_path / "whole") == logged(tmp_path / "cut")


@pytest.mark.parametrize("batches", [1, 4, 5, 6, 12])
def test_a_run_that_was_cut_off_ends_alike(tmp_path, batches):
    check_resuming(tmp_path, batches, lambda: loaders()[0])


@pytest.mark.parametrize("batches", [1, 2, 5, 7, 9])
def test_and_within_accumulated_batches(tmp_path, batches):
    check_resuming(tmp_path, batches, lambda: loaders()[0], accumulate=3)


@pytest.mark.parametrize("batches", [3, 8, 11])
def test_and_with_augmentation(tmp_path, batches):
    check_resuming(tmp_path, batches, lambda: DataLoader(Augmented(), 8, shuffle=True))


def test_and_with_augmentation_in_workers(tmp_path):
    check_resuming(
        tmp_path, 8, lambda: DataLoader(Augmented(), 8, shuffle=True, num_workers=2), epochs=2
    )


def test_and_with_workers_that_stay_if_only_the_order_is_random(tmp_path):
    check_resuming(
        tmp_path,
        8,
        lambda: DataLoader(small_data(), 8, shuffle=True, num_workers=1, persistent_workers=True),
        epochs=2,
    )


@pytest.mark.parametrize("batches", [2, 7, 13])
def test_and_with_a_curriculum_and_a_loss_that_changes(tmp_path, batches):
    check_resuming(
        tmp_path,
        batches,
        lambda: DataLoader(small_data(), 8, sampler=Curriculum(40)),
        loss_function=Deferred(),
    )


def test_and_with_a_generator_of_the_loaders_own(tmp_path):
    check_resuming(
        tmp_path,
        12,
        lambda: DataLoader(
            small_data(), 8, shuffle=True, generator=torch.Generator().manual_seed(3)
        ),
    )


class Losses:
    """Stands in for validation."""

    def __init__(self, *losses):
        self.losses = losses

    def after_epoch(self, run):
        run.log["valid_loss"] = self.losses[run.epoch - 1]


@pytest.mark.parametrize("batches", [3, 10, 14])
def test_and_when_it_stops_early(tmp_path, batches):
    def callbacks(folder):
        return [
            Losses(3, 4, 5, 6),
            MetricLog(folder),
            EarlyStopping(2),
            Checkpoints(folder, minutes=0),
        ]

    check_resuming(tmp_path, batches, lambda: loaders()[0], callbacks)
    assert logged(tmp_path / "cut").count("\n") == 1 + 3


class StopAt:
    """Ends the run in the middle of an epoch."""

    def __init__(self, step: int):
        self.step = step

    def after_step(self, run):
        if run.step == self.step:
            run.stop = "enough"


@pytest.mark.parametrize("batches", [2, 7])
def test_and_when_a_callback_ends_it_within_an_epoch(tmp_path, batches):
    def callbacks(folder, minutes=0):
        return [MetricLog(folder), StopAt(8), Checkpoints(folder, minutes=minutes)]

    check_resuming(tmp_path, batches, lambda: loaders()[0], callbacks)
    for cut in (Cut(99), Cut(1)):  # once it has ended, it is not run again
        run = fit(
            small_model(), *loaders(), epochs=4, callbacks=[*callbacks(tmp_path / "rare", 9), cut]
        )
        assert (run.stop, run.step, run.batch) == ("enough", 8, 3)


def test_the_order_of_callbacks_does_not_change_the_log(tmp_path):
    for name, turn in (("forth", 1), ("back", -1)):
        callbacks = [
            MetricLog(tmp_path / name),
            ClipGradients(0.5),
            Checkpoints(tmp_path / name, minutes=0),
        ]
        fit(small_model(), *loaders(), epochs=2, callbacks=callbacks[::turn])
    rows = list(csv.DictReader((tmp_path / "forth" / "log.csv").open()))
    assert logged(tmp_path / "forth") == logged(tmp_path / "back")
    assert [float(row["gradient_norm"]) > 0 for row in rows] == [True, True]


def test_callbacks_finish_however_the_run_ends():
    class Finishes:
        finished = 0

        def finish(self, run):
            self.finished += 1

    callback = Finishes()
    for cut in (Cut(3), Cut(99)):
        try:
            fit(small_model(), loaders()[0], epochs=1, callbacks=[callback, cut])
        except Killed:
            assert callback.finished == 1
    assert callback.finished == 2


# ---- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["0", "1", "4"])
def test_a_loss_that_is_not_finite_names_its_origin(layer):
    broken = small_model()
    with torch.no_grad():
        broken[int(layer)].weight[0] = math.nan
    with pytest.raises(
        ValueError,
        match=rf"epoch 1, batch 1 is nan; it began in layer '{layer}'; lower the learning",
    ):
        fit(broken, loaders()[0], epochs=1)


class Overflows(nn.Module):
    """Makes infinity between its layers, where no layer of its own is to blame."""

    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Linear(4, 2), nn.BatchNorm1d(2)

    def forward(self, inputs):
        return self.after(self.before(inputs) / 0)


def test_what_breaks_between_layers_is_laid_to_the_module_around_them():
    with pytest.raises(ValueError, match="it began in layer 'Overflows'"):
        fit(Overflows(), loaders()[0], epochs=1)
    with pytest.raises(ValueError, match="it began in layer '1'"):
        fit(nn.Sequential(nn.Linear(4, 4), Overflows()), loaders()[0], epochs=1)


def test_a_broken_batch_and_a_broken_loss_are_told_apart():
    data = TensorDataset(torch.full((8, 4), math.nan), torch.zeros(8, 2))
    with pytest.raises(ValueError, match="the batch itself holds NaN"):
        fit(small_model(), DataLoader(data, 8), epochs=1)
    with pytest.raises(
        ValueError, match=r"is inf; every layer is still finite, so it began in the loss"
    ):
        fit(
            small_model(),
            loaders()[0],
            epochs=1,
            loss_function=lambda prediction, target: prediction.sum().abs() / 0,
        )


class Hungry(nn.Linear):
    """Runs out of memory in training or in validation, on a GPU or really here."""

    def __init__(self, when: bool, really: bool):
        super().__init__(4, 2)
        self.when, self.really = when, really

    def forward(self, inputs):
        if self.training == self.when:
            if not self.really:
                raise torch.OutOfMemoryError("CUDA out of memory")
            torch.empty(1 << 60)
        return super().forward(inputs)


@pytest.mark.parametrize("really", [False, True])
def test_short_memory_names_a_batch_that_fits(really):
    train, valid = loaders()
    with pytest.raises(
        RuntimeError, match="batch of 8; use batch_size=4 with accumulate=4, which takes the same"
    ):
        fit(Hungry(True, really), train, epochs=1, accumulate=2)
    with pytest.raises(
        RuntimeError, match="batch of 16; use batch_size=8 in the validation loader"
    ):
        fit(Hungry(False, really), train, valid, epochs=1)
    with pytest.raises(RuntimeError, match=r"batch of 2; use a smaller model \(fewer heads"):
        fit(Hungry(True, really), loaders(batch=2)[0], epochs=1)


def test_other_errors_of_a_model_stay_what_they_are():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        fit(nn.Linear(5, 2), loaders()[0], epochs=1)


def test_a_loader_without_a_batch_is_refused():
    with pytest.raises(
        ValueError, match="the train loader has no batch: it has 4 items in batches of 8"
    ):
        fit(small_model(), DataLoader(small_data(4), 8, drop_last=True), epochs=1)
    with pytest.raises(ValueError, match="the valid loader has no batch: it has 0 items"):
        fit(
            small_model(),
            loaders()[0],
            DataLoader(TensorDataset(torch.zeros(0, 4), torch.zeros(0, 2)), 8),
            epochs=1,
        )


def test_precision_may_change_from_run_to_run():
    for precision in ("bf16", None, "bf16"):
        run = fit(small_model(), loaders()[0], epochs=1, precision=precision)
        assert math.isfinite(run.log["loss"])
