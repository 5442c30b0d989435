"""What one pass through a model costs: operations, memory, time; and how data flows from layer to
layer.
"""

import inspect
import math
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakTensorKeyDictionary

from .. import runtime
from ..shapes import Float

__all__ = [
    "attention_flops",
    "blocks",
    "count_flops",
    "data_flow",
    "layer_milliseconds",
    "milliseconds",
    "named_shapes",
    "peak_memory",
]


def named_shapes(model: nn.Module, inputs: Sequence[Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's inputs, under the names that its `forward` has for them."""
    names = [*inspect.signature(model.forward).parameters][: len(inputs)]
    names += [f"input {index}" for index in range(len(names), len(inputs))]
    return {name: tuple(tensor.shape) for name, tensor in zip(names, inputs, strict=True)}


# --------------------------------------------------------------------------------------------------
# Operations


def attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int]) -> int:
    """Multiplications and additions of softmax(q kᵀ) v, for tensors of these shapes: `… heads
    tokens dim`.

    A product of matrices `n × k` and `k × m` is 2 · n · k · m, as PyTorch's counter has it. The
    softmax is left out, as there. Derived in lesson 05.
    """
    *batch_and_heads, queries, dim = query
    keys, value_dim = value[-2:]
    return 2 * math.prod(batch_and_heads) * queries * keys * (dim + value_dim)


def count_flops(model: nn.Module, inputs: Sequence[Tensor]) -> dict[str, int]:
    """Floating-point operations of one forward pass by the name of the module; `""` is the whole
    model.

    PyTorch's counter knows the fused attention of GPUs and takes that of CPUs for nothing, so here
    it is told.
    """

    def formula(query, key, value, *others, **named):
        return attention_flops(query, key, value)

    fused_on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={fused_on_cpu: formula}) as counter:
        model(*inputs)
    root = type(model).__name__
    counts = {root: {}, **counter.get_flop_counts()}
    return {
        name.removeprefix(root).removeprefix("."): sum(by_operator.values())
        for name, by_operator in counts.items()
        if name != "Global"
    }


# --------------------------------------------------------------------------------------------------
# Memory


def peak_memory(model: nn.Module, inputs: Sequence[Tensor], training: bool) -> int:
    """The most bytes alive at once beside model and inputs, in a forward pass or, training, in one
    with its gradients.

    On CUDA the allocator says it. Elsewhere the storages that operators return are added up for as
    long as they live; what a kernel needs for itself in between is not seen.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step():
        with torch.set_grad_enabled(training):
            outputs = [
                leaf
                for leaf in tree_leaves(model(*inputs))
                if isinstance(leaf, Tensor) and leaf.requires_grad
            ]
            if outputs:
                torch.autograd.grad(
                    sum(output.sum() for output in outputs), parameters, allow_unused=True
                )

    step()  # what is allocated once and for all
    if inputs[0].is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    with _LiveStorages([*inputs, *model.parameters(), *model.buffers()]) as live:
        step()
    return live.peak


class _LiveStorages(TorchDispatchMode):
    """Adds up the storages that operators return, for as long as they live."""

    def __init__(self, known: Sequence[Tensor]):
        super().__init__()
        self.now = self.peak = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.known:
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        return result

    def _forget(self, identity: int, size: int) -> None:
        self.known.discard(identity)
        self.now -= size


def _tensors(values) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


# --------------------------------------------------------------------------------------------------
# Time


def milliseconds(
    actions: Sequence[Callable[[], object]], rounds: int
) -> list[Float[np.ndarray, " rounds"]]:
    """The time of each action, in turns, after three rounds of warming up."""
    times = np.empty((3 + rounds, len(actions)))
    for spent in times:
        for index, action in enumerate(actions):
            started = _now()
            action()
            spent[index] = 1000 * (_now() - started)
    return list(times[3:].T)


def _now() -> float:
    runtime.synchronize()  # kernels run behind the program's back
    return time.perf_counter()


# --------------------------------------------------------------------------------------------------
# Layer by layer


def blocks(model: nn.Module, depth: int = 2, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """What is read as one layer: modules two levels down, or higher up where one has no parts or
    values of its own.
    """
    for name, child in model.named_children():
        # a shelf: nobody calls it, only what stands on it
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from blocks(child, depth, f"{prefix}{name}.")
        elif depth == 1 or not [*child.children()] or [*child.parameters(recurse=False)]:
            yield prefix + name, child
        else:
            yield from blocks(child, depth - 1, f"{prefix}{name}.")


def layer_milliseconds(
    model: nn.Module, layers: Mapping[str, nn.Module], inputs: Sequence[Tensor], rounds: int
) -> dict[str, float]:
    """The median time of each layer that runs, all its calls in one pass together."""
    started, spent = {}, {name: [] for name in layers}

    def begin(name):
        return lambda *_: started.update({name: _now()})

    def end(name):
        return lambda *_: spent[name].append(1000 * (_now() - started[name]))

    hooks = [
        hook
        for name, layer in layers.items()
        for hook in (
            layer.register_forward_pre_hook(begin(name)),
            layer.register_forward_hook(end(name)),
        )
    ]
    try:
        for _ in range(rounds):
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        name: float(np.median(np.reshape(times, (rounds, -1)).sum(1)))
        for name, times in spent.items()
        if times
    }


def data_flow(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    inputs: Sequence[Tensor],
) -> dict[str, tuple[tuple[int, ...], tuple[str, ...]]]:
    """For each layer, in the order in which they run: the shape it puts out, and the layers or
    inputs that feed it.
    """
    flow, origins = {}, _Origins()
    for name, tensor in zip(named_shapes(model, inputs), inputs, strict=True):
        origins.set(tensor, {name})

    def after(name):
        def hook(layer, args, kwargs, output):
            sources = origins.of(args, kwargs).union(flow[name][1] if name in flow else ())
            flow[name] = (
                next((tuple(tensor.shape) for tensor in _tensors(output)), ()),
                tuple(sorted(sources)),
            )
            origins.set(output, {name})

        return hook

    hooks = [
        layer.register_forward_hook(after(name), with_kwargs=True) for name, layer in layers.items()
    ]
    try:
        with origins:
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return flow


class _Origins(TorchDispatchMode):
    """Remembers of every tensor which layers or inputs it was computed from."""

    def __init__(self):
        super().__init__()
        self.known = WeakTensorKeyDictionary()

    def of(self, *values) -> set[str]:
        return set().union(*(self.known.get(tensor, ()) for tensor in _tensors(values)))

    def set(self, values, origins) -> None:
        for tensor in _tensors(values):
            self.known[tensor] = origins

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        self.set(result, self.of(args, kwargs))
        return result
