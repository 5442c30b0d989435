"""What the recipes share: training on steps, and faces that are drawn once."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from course_lib import files, runtime
from course_lib.data import FaceDataset, ImageArrays, gather, load_images
from course_lib.shapes import Bool
from course_lib.training import Checkpoints, ClipGradients, Run, fit

__all__ = ["Steps", "cached_images", "known_regions", "train_steps", "workplace"]


def workplace(name: str) -> Path:
    """Where a recipe keeps what lets it go on after a cut."""
    return runtime.cache_dir("recipes") / name


MINUTES = 2  # between checkpoints


# ---- training on steps instead of epochs ---------------------------------------------------------


class Steps(Dataset):
    """A data set of `steps` items, each a whole batch: `draw(generator, step)` gives
    `(*inputs, target)`.

    The generator has a seed of the step's own, so no batch depends on the ones before it.
    """

    def __init__(self, draw: Callable[[torch.Generator, int], tuple], steps: int, seed: int):
        self.draw, self.steps, self.seed = draw, steps, seed

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, ...]:
        return self.draw(torch.Generator().manual_seed(self.seed + step), step)


class OneCycle:
    """The one-cycle schedule: the learning rate rises over 15 % of the steps, then falls to zero.

    Smith and Topin, arXiv 1708.07120.
    """

    def start(self, run: Run) -> None:
        optimizer = run.optimizer.optimizer  # accelerate's is around it
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, optimizer.defaults["lr"], total_steps=run.total_steps, pct_start=0.15
        )

    def after_step(self, run: Run) -> None:
        self.schedule.step()

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.schedule.last_epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.schedule.last_epoch = state["steps"]


class StepProgress:
    """A bar of steps with a smoothed loss."""

    def __init__(self, name: str):
        self.name, self.bar, self.loss = name, None, None

    def after_step(self, run: Run) -> None:
        if self.bar is None:  # not at the start: a checkpoint may still move the run on
            self.bar = tqdm(
                desc=self.name, total=run.total_steps, initial=run.step - 1, mininterval=20
            )
        self.loss = run.loss if self.loss is None else 0.98 * self.loss + 0.02 * run.loss
        self.bar.set_postfix(loss=f"{self.loss:.3f}", refresh=False)
        self.bar.update()

    def finish(self, run: Run) -> None:
        if self.bar is not None:
            self.bar.close()


def train_steps(
    model: nn.Module,
    draw: Callable[[torch.Generator, int], tuple],
    loss: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    learning_rate: float,
    folder: Path,
    seed: int,
    precision: str | None = None,
) -> None:
    """Train `model`, where it is, on `steps` batches: AdamW, one cycle, gradients clipped at 5, half
    precision unless `precision` says otherwise.

    The state is kept in `folder` every two minutes and at the end, so a run that was cut off goes on
    there and ends, on the CPU, with the same weights. (The weights that ship were trained by an
    earlier loop: same batches, but dropout drew other numbers, so the last digits differ.)
    """
    run = fit(
        model,
        DataLoader(Steps(draw, steps, seed), batch_size=None),
        epochs=1,
        loss_function=loss,
        optimizer=torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.05),
        callbacks=[
            OneCycle(),
            ClipGradients(5.0),
            StepProgress(folder.name),
            Checkpoints(folder, MINUTES),
        ],
        precision=precision or _quick_precision(next(model.parameters()).device),
        seed=seed,
    )
    run.accelerator.unwrap_model(run.model, keep_fp32_wrapper=False)  # single precision again


def _quick_precision(device: torch.device) -> str:
    """bf16 on the CPU, at half the time where it has that; elsewhere what the device is quick in."""
    precision = "bf16" if device.type == "cpu" else runtime.precision_of(device)
    return "no" if precision == "fp32" else precision


# ---- faces in memory -----------------------------------------------------------------------------


def cached_images(path: Path, draw: Callable[[], Dataset], flip: bool) -> ImageArrays:
    """The images of a data set in memory: drawn once, then read from `path`."""
    if not path.exists():
        arrays = load_images(draw())
        files.save_tensors(path, {"images": arrays.images, "targets": arrays.targets})
    tensors, _ = files.load_tensors(path)
    return ImageArrays(tensors["images"], tensors["targets"], flip)


def known_regions(faces: FaceDataset) -> Bool[Tensor, "n attributes height width"]:
    """Where each attribute that is present is decided."""
    items = gather(faces, "regions", "target")
    return items["regions"] & items["target"].bool()[:, :, None, None]
