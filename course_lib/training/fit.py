"""Training that survives a kill: one loop that goes on exactly where it was cut off."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .. import files

__all__ = ["fit_steps"]


def fit_steps(model: nn.Module, loss_at: Callable[[int], Tensor], steps: int, learning_rate: float, checkpoint: Path,
              seed: int = 0, checkpoint_seconds: float = 120) -> None:
    """AdamW on one learning-rate cycle; `loss_at(step)` draws its own batch and returns the loss to lower.

    The state is kept in `checkpoint` every `checkpoint_seconds` and at the end. Each step has a seed of its own, so a
    run that is cut off and started again ends, on the CPU, with the same weights as one that was not.
    Raises ValueError for a loss that is not finite. Derived in lesson 06.
    """
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.15)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    start, saved, smooth = 0, time.time(), None
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        start = state["step"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    progress = tqdm(range(start, steps), checkpoint.stem, total=steps, initial=start, mininterval=20)
    for step in progress:
        torch.manual_seed(seed + step)
        loss = loss_at(step)
        if not loss.isfinite():
            raise ValueError(f"the loss of step {step} is {loss.item()}; lower the learning rate ({learning_rate}) and "
                             f"start again from {checkpoint}, which holds the last good state")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        progress.set_postfix(loss=f"{smooth:.3f}", refresh=False)
        if time.time() - saved > checkpoint_seconds or step + 1 == steps:
            with files.atomic(checkpoint) as temporary:
                torch.save({"step": step + 1} | {name: part.state_dict() for name, part in parts.items()}, temporary)
            saved = time.time()
