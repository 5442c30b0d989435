"""Calling a model that somebody gives: where it is, in its precision, in evaluation mode, piece by
piece.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

__all__ = ["evaluating", "in_chunks", "to_cpu", "to_model"]


def to_model(model: nn.Module, *inputs: Any) -> tuple:
    """The inputs as the model takes them: every tensor on its device, and floats in its precision.

    Tensors inside lists, tuples and dicts too; all else stays as it is. The inputs of
    a model without any tensor stay where they are.
    """
    tensors = [*model.parameters(), *model.buffers()]
    if not tensors:
        return inputs
    device = tensors[0].device
    dtype = next((one.dtype for one in tensors if one.is_floating_point()), torch.float32)

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)

    return tree_map_only(Tensor, moved, inputs)


def to_cpu(tensor: Tensor) -> Tensor:
    """A result on the CPU, in float32 at least: NumPy has no bfloat16."""
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.cpu().float() if half else tensor.cpu()


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is in the mode in which it was."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def in_chunks(
    model: nn.Module, compute: Callable[[Tensor], Tensor], batch: Tensor, chunk: int | None
) -> Tensor:
    """`compute(batch)`; with `chunk` so many items at a time, in evaluation mode and without
    gradients.

    Each chunk is moved to the model's device, and the result is on the CPU: the batch may be a
    whole data set.
    """
    if chunk is None:
        return compute(batch)
    with evaluating(model), torch.no_grad():
        return torch.cat([to_cpu(compute(*to_model(model, part))) for part in batch.split(chunk)])
