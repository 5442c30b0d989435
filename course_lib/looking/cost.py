"""What a model costs: parameters, operations, memory and time, layer by layer; how data flows
from layer to layer.
"""

import inspect
import math
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakTensorKeyDictionary

from .. import runtime
from ..models.inference import evaluating, to_model
from ..shapes import Float
from ..tables import aligned

__all__ = [
    "Comparison",
    "LayerProfile",
    "ModelProfile",
    "attention_flops",
    "blocks",
    "count_flops",
    "data_flow",
    "get_model_summary",
    "get_param_count",
    "layer_milliseconds",
    "milliseconds",
    "named_shapes",
    "peak_memory",
    "profile_model",
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
    softmax is left out, as there. Derived in lesson 06.
    """
    *batch_and_heads, queries, dim = query
    keys, value_dim = value[-2:]
    return 2 * math.prod(batch_and_heads) * queries * keys * (dim + value_dim)


def count_flops(model: nn.Module, inputs: Sequence[Tensor]) -> dict[str, int]:
    """Floating-point operations of one forward pass by the name of the module; `""` is the whole
    model.

    PyTorch's counter counts the fused attention of GPUs but not that of CPUs, so a formula is given
    here.
    """

    def formula(query, key, value, *others, **named):
        return attention_flops(query, key, value)

    inputs = to_model(model, *inputs)
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
    inputs = to_model(model, *inputs)

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
    parameters of its own.
    """
    for name, child in model.named_children():
        # a container: only its items are called
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


def get_param_count(model: nn.Module) -> int:
    """How many numbers a model stores: parameters and running statistics, shared ones once. Derived
    in lesson 06.

    Integers, such as a batch norm's count of batches, are left out, and so are constants that no
    file holds.
    """
    tensors = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}
    return sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())


def _trainable(model: nn.Module, recurse: bool = True) -> int:
    return sum(
        parameter.numel() for parameter in model.parameters(recurse) if parameter.requires_grad
    )


def get_model_summary(model: nn.Module) -> str:
    """A table of the layers that have parameters: kind, shape of the weight, how many numbers it
    stores, and how many of them are trained.

    Derived in lesson 06.
    """
    rows = [("layer", "kind", "weight", "parameters", "trained")]
    for name, layer in model.named_modules():
        parameters = [
            tensor
            for key, tensor in layer.state_dict(keep_vars=True).items()
            if "." not in key and tensor.is_floating_point()
        ]
        if parameters:
            rows.append(
                (
                    name or "(itself)",
                    type(layer).__name__,
                    _by(parameters[0].shape),
                    f"{sum(tensor.numel() for tensor in parameters):,}",
                    f"{_trainable(layer, recurse=False):,}",
                )
            )
    rows.append(
        ("all", type(model).__name__, "", f"{get_param_count(model):,}", f"{_trainable(model):,}")
    )
    return aligned(rows, left=3)


@dataclass(frozen=True)
class LayerProfile:
    """One layer, or a group read as one: what it holds, what one pass through it costs, and who
    feeds it.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    flops: int
    milliseconds: float
    sources: tuple[str, ...]


@dataclass(frozen=True)
class ModelProfile:
    """What a model holds, and what one pass over these inputs costs. Memory is what is alive beside
    the model.
    """

    inputs: dict[str, tuple[int, ...]]
    parameters: int
    trainable: int
    flops: int
    inference_bytes: int
    training_bytes: int
    milliseconds: Float[np.ndarray, " rounds"]
    layers: tuple[LayerProfile, ...]

    @property
    def latency(self) -> tuple[float, float, float]:
        """Milliseconds of a forward pass: the median, the 5th and the 95th percentile."""
        return tuple(np.percentile(self.milliseconds, (50, 5, 95)).tolist())


@dataclass(frozen=True)
class Comparison:
    """The profiles of two models by name; printed, a table of totals and one of layers for each."""

    profiles: dict[str, ModelProfile]

    def __str__(self) -> str:
        (name_a, a), (name_b, b) = self.profiles.items()
        rows = [("", name_a, name_b, f"{name_b} / {name_a}")]
        for what, field, write in (
            ("parameters", "parameters", "{:,}".format),
            ("trained", "trainable", "{:,}".format),
            ("FLOPs", "flops", "{:,}".format),
            ("memory, inference", "inference_bytes", _bytes),
            ("memory, training step", "training_bytes", _bytes),
        ):
            first, second = getattr(a, field), getattr(b, field)
            rows.append(
                (what, write(first), write(second), f"{second / first:.2f}" if first else "")
            )
        slower = f"{b.latency[0] / a.latency[0]:.2f}"
        rows.append(("latency, median", f"{a.latency[0]:.2f} ms", f"{b.latency[0]:.2f} ms", slower))
        rows.append(
            (
                "latency, 5 to 95 %",
                *("{:.2f} to {:.2f} ms".format(*p.latency[1:]) for p in (a, b)),
                "",
            )
        )
        return "\n\n".join(
            [aligned(rows), *(_layer_table(*pair) for pair in self.profiles.items())]
        )

    __repr__ = __str__


def profile_model(
    model: nn.Module, inputs: Tensor | Sequence[Tensor] | None = None, rounds: int = 30
) -> ModelProfile:
    """Measure one model in evaluation mode, on `inputs` or its own `example_inputs()`. Derived in
    lesson 06.
    """
    return _profiles([model], [_inputs(model, inputs, "inputs")], rounds)[0]


def _inputs(
    model: nn.Module, inputs: Tensor | Sequence[Tensor] | None, argument: str
) -> tuple[Tensor, ...]:
    if inputs is None and not hasattr(model, "example_inputs"):
        raise ValueError(
            f"nobody knows what a {type(model).__name__} takes; give {argument}=(tensor, …), the"
            " tensors of one forward pass, or give the model a method example_inputs()"
        )
    inputs = model.example_inputs() if inputs is None else inputs
    return to_model(model, *((inputs,) if isinstance(inputs, Tensor) else inputs))


def _profiles(
    models: Sequence[nn.Module], inputs: Sequence[tuple[Tensor, ...]], rounds: int
) -> list[ModelProfile]:
    pairs = list(zip(models, inputs, strict=True))
    with evaluating(*models), torch.no_grad():
        latencies = milliseconds(
            [lambda model=model, given=given: model(*given) for model, given in pairs], rounds
        )
        return [
            _profile(*pair, latency, rounds) for pair, latency in zip(pairs, latencies, strict=True)
        ]


def _profile(
    model: nn.Module, inputs: tuple[Tensor, ...], latency: np.ndarray, rounds: int
) -> ModelProfile:
    flops, layers = count_flops(model, inputs), dict(blocks(model)) or {"": model}
    times, flow = (
        layer_milliseconds(model, layers, inputs, rounds),
        data_flow(model, layers, inputs),
    )
    profiles = [
        LayerProfile(
            name or "(itself)",
            type(layers[name]).__name__,
            shape,
            get_param_count(layers[name]),
            flops.get(name, 0),
            times[name],
            sources,
        )
        for name, (shape, sources) in flow.items()
    ]
    remainder = LayerProfile(
        "(elsewhere)",
        type(model).__name__,
        (),
        get_param_count(model) - sum(layer.parameters for layer in profiles),
        flops[""] - sum(layer.flops for layer in profiles),
        math.nan,
        (),
    )
    if remainder.parameters > 0 or remainder.flops > 0:
        profiles.append(remainder)
    return ModelProfile(
        named_shapes(model, inputs),
        get_param_count(model),
        _trainable(model),
        flops[""],
        peak_memory(model, inputs, training=False),
        peak_memory(model, inputs, training=True),
        latency,
        tuple(profiles),
    )


def _layer_table(name: str, profile: ModelProfile) -> str:
    rows = [(name, "puts out", "parameters", "FLOPs", "ms")]
    for layer in profile.layers:
        counts = (f"{layer.parameters:,}", f"{layer.flops:,}", f"{layer.milliseconds:.3f}")
        rows.append((layer.name, _by(layer.shape), *counts))
    return aligned(rows)


def _by(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _bytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
