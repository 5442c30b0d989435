"""The training loop, small enough to keep in your head. Everything else is a callback
(`callbacks.py`).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import patch_environment, set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader

__all__ = ["Run", "fit", "validate"]


@dataclass
class Run:
    """What callbacks see and may change: the state of one training run.

    A callback is any object with some of the methods `start`, `before_epoch`, `batch_ready`,
    `after_forward`, `after_backward`, `after_step`, `after_epoch` (add to the log, or stop), `save`
    (when all have seen the step, or the epoch: then `batch` is 0) and `finish` (however the run
    ends); each is called with the run. One with a state of its own has `state_dict` (tensors and
    plain values by name) and `load_state_dict`, so that checkpoints keep it.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    train: DataLoader
    valid: DataLoader | None
    loss_function: Callable[[Tensor, Tensor], Tensor]
    metrics: dict[str, Callable[[Tensor, Tensor], Tensor]]
    callbacks: list[Any]
    accelerator: Accelerator
    epochs: int
    seed: int
    epoch: int = 0  # epochs that are complete
    batch: int = 0  # batches of the current epoch that are complete
    step: int = 0  # optimizer steps
    loss: float = 0.0  # of the last batch
    total_loss: float = 0.0  # of the epoch's batches so far
    log: dict[str, float] = field(default_factory=dict)  # of the last epoch
    stop: str = ""  # a callback that ends the run says why

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all epochs."""
        return self.epochs * -(-len(self.train) // self.accelerator.gradient_accumulation_steps)

    def call(self, event: str) -> None:
        """Tell every callback that has a method of this name."""
        for callback in self.callbacks:
            getattr(callback, event, lambda run: None)(self)


def fit(
    model: nn.Module,
    train: DataLoader,
    valid: DataLoader | None = None,
    *,
    epochs: int = 50,
    loss_function: Callable[[Tensor, Tensor], Tensor] = F.mse_loss,
    optimizer: torch.optim.Optimizer | None = None,
    metrics: dict[str, Callable[[Tensor, Tensor], Tensor]] | None = None,
    callbacks: Iterable[Any] = (),
    accumulate: int = 1,
    precision: str | None = None,
    seed: int = 0,
) -> Run:
    """Train `model`, where it is, on batches `(*inputs, target)`; after each epoch measure it on
    `valid`.

    `optimizer` is Adam with a learning rate of 1e-3 unless given; `metrics` are functions of all
    predictions and targets, by default the mean absolute and squared errors. `precision` is
    accelerate's ("no", "bf16", "fp16"). Batches are moved to the model's device. Samplers and
    losses that have `set_epoch` are told the epoch. Batches, augmentation and dropout depend on
    `seed` alone, so a run that goes on from a checkpoint ends with the same weights, on the CPU, as
    one that was never cut off. (Augmentation in workers also depends on their number, and with
    `persistent_workers` on their past; without workers, nothing but the data set may draw from
    NumPy's or Python's generator.)

    Raises ValueError for a loader without a batch, for less than one epoch and for a loss that is not finite (naming the
    layer where it began), RuntimeError when memory is short (naming a batch size to try; it is
    never changed silently, since batch norm would notice). Derived in lesson 07.
    """
    for name, value in (("epochs", epochs), ("accumulate", accumulate)):
        if value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")
    for name, loader in (("train", train), ("valid", valid)):
        if loader is not None and not len(loader):
            raise ValueError(
                f"the {name} loader has no batch: it has {len(loader.dataset)} items in batches of "
                f"{loader.batch_size}; check the split, and drop_last"
            )
    accelerator = _accelerator(model, precision, accumulate)
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=1e-3)
    sampler = getattr(train.batch_sampler, "sampler", None)
    if getattr(sampler, "generator", ...) is None:
        sampler.generator = torch.Generator()  # an order of its own, the same on several processes
    changing = [train, sampler, train.batch_sampler, loss_function]  # before accelerate wraps them
    model, optimizer, train, valid = accelerator.prepare(model, optimizer, train, valid)
    if isinstance(loss_function, nn.Module):
        loss_function.to(accelerator.device)
    metrics = metrics or {"mae": F.l1_loss, "mse": F.mse_loss}
    run = Run(
        model,
        optimizer,
        train,
        valid,
        loss_function,
        metrics,
        list(callbacks),
        accelerator,
        epochs,
        seed,
    )
    try:
        run.call("start")  # a checkpoint moves the run on
        while run.epoch < epochs and not run.stop:
            _begin_epoch(run, [train, *changing])
            for number, (*inputs, target) in enumerate(train):
                # Batches from before the cut are drawn again, because drawing takes random numbers.
                if number < run.batch:
                    continue
                with torch.random.fork_rng(devices=()):  # the step leaves those as they are
                    _step(run, inputs, target)
                if run.stop:
                    break
            else:
                run.epoch += 1
                run.log = {
                    "epoch": run.epoch,
                    "learning_rate": optimizer.param_groups[0]["lr"],
                    "loss": run.total_loss / run.batch,
                } | (validate(run) if valid else {})
                run.batch, run.total_loss = 0, 0.0
                run.call("after_epoch")
                run.call("save")
    finally:
        run.call("finish")
    return run


def _accelerator(model: nn.Module, precision: str | None, accumulate: int) -> Accelerator:
    """accelerate on the device of the model; of several processes each keeps the device that it was
    given.
    """
    alone = PartialState().num_processes == 1
    # accelerate keeps what the first run chose otherwise
    AcceleratorState._reset_state(reset_partial_state=alone)
    place = next((str(parameter.device) for parameter in model.parameters()), "cpu")
    with patch_environment(**{"accelerate_torch_device": place} if alone else {}):
        return Accelerator(mixed_precision=precision, gradient_accumulation_steps=accumulate)


def _begin_epoch(run: Run, changing: list[Any]) -> None:
    """Seed the order and the augmentation of the epoch's items; tell samplers and losses which
    epoch it is.
    """
    set_seed(run.seed + run.epoch)
    for part in changing:
        if hasattr(part, "set_epoch"):
            part.set_epoch(run.epoch)
        if getattr(part, "generator", None) is not None:
            part.generator.manual_seed(run.seed + run.epoch)
    run.call("before_epoch")


def _seed_step(run: Run) -> None:
    seed = (run.seed + run.epoch) * 1_000_003 + run.batch
    if run.accelerator.device.type == "cpu":
        # torch.manual_seed asks all kinds of devices: 0.5 ms
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _step(run: Run, inputs: list[Tensor], target: Tensor) -> None:
    """Forward, backward, and an optimizer step once enough batches are accumulated."""
    run.call("batch_ready")
    run.model.train()
    _seed_step(run)  # dropout
    accelerator = run.accelerator
    with _remedy_for_short_memory(len(target), accelerator), accelerator.accumulate(run.model):
        with accelerator.autocast():
            loss = run.loss_function(run.model(*inputs), target)
        if not loss.isfinite():
            raise ValueError(
                f"the loss of epoch {run.epoch + 1}, batch {run.batch + 1} is {loss.item()};"
                f" {_first_not_finite(run, inputs)}; lower the learning rate or clip gradients, and"
                " go on from the last checkpoint"
            )
        run.call("after_forward")
        accelerator.backward(loss)
        if accelerator.sync_gradients:
            run.call("after_backward")
        run.optimizer.step()
        run.optimizer.zero_grad()
    run.loss = accelerator.reduce(loss.detach(), "mean").item()  # over processes
    run.total_loss += run.loss
    run.batch += 1
    run.step += accelerator.sync_gradients
    run.call("after_step")
    run.call("save")


@contextmanager
def _remedy_for_short_memory(batch: int, learning: Accelerator | None = None) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(
            error
        ):
            raise
        remedy = "a smaller model (fewer heads, a smaller fusion width)"
        if learning and batch >= 4:  # batch norm needs two items
            remedy = (
                f"batch_size={batch // 2} with"
                f" accumulate={2 * learning.gradient_accumulation_steps}, which takes the same"
                f" steps (only batch norm sees smaller batches), or {remedy}"
            )
        elif batch > 1 and not learning:
            remedy = (
                f"batch_size={batch // 2} in the validation loader, which gives the same scores"
            )
        raise RuntimeError(f"memory is too short for a batch of {batch}; use {remedy}") from error


def _first_not_finite(run: Run, inputs: list[Tensor]) -> str:
    """Which layer is the first to make NaN or infinity from finite inputs."""
    if not _finite(inputs):
        return "the batch itself holds NaN or infinity"
    broken: list[str] = []
    model = run.accelerator.unwrap_model(run.model)
    hooks = [
        layer.register_forward_hook(
            lambda layer, given, made, name=name: (
                broken.append(name or type(layer).__name__)
                if _finite(given) and not _finite(made)
                else None
            )
        )
        for name, layer in model.named_modules()
    ]
    _seed_step(run)
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return (
        f"it began in layer {broken[0]!r}"
        if broken
        else "every layer is still finite, so it began in the loss"
    )


def _finite(values: Any) -> bool:
    values = values if isinstance(values, list | tuple) else [values]
    return all(value.isfinite().all() for value in values if isinstance(value, Tensor))


@torch.no_grad()
def validate(run: Run) -> dict[str, float]:
    """The loss and the metrics of the model on all of `valid`, in evaluation mode."""
    run.model.eval()
    outputs, targets = [], []
    for *inputs, target in run.valid:
        with _remedy_for_short_memory(len(target)), run.accelerator.autocast():
            output = run.model(*inputs)
        output, target = run.accelerator.gather_for_metrics((output.float(), target))
        outputs.append(output)
        targets.append(target)
    prediction, target = torch.cat(outputs), torch.cat(targets)
    return {"valid_loss": run.loss_function(prediction, target).item()} | {
        f"valid_{name}": metric(prediction, target).mean().item()
        for name, metric in run.metrics.items()
    }
