"""Attention as PyTorch shows it: which operator is attention, what its exact weights are, and where
its tokens come from.

What differs between versions of PyTorch, and every private name of it that the recorder needs,
stands in this module.
"""

import itertools
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from types import CodeType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._higher_order_ops.flex_attention import _math_attention_inner, flex_attention
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    _get_current_dispatch_mode_stack,
    _pop_mode,
    _push_mode,
)
from torch.utils.weak import WeakTensorKeyDictionary

from ..shapes import Float

__all__ = [
    "ATTENDING",
    "Attention",
    "Observer",
    "Tracer",
    "call",
    "encoder_layer",
    "flex",
    "fused",
    "heads_of",
    "in_backward",
    "leave",
    "native",
    "of_weights",
    "role_of",
    "uncompiled",
    "unobserved",
]

unobserved = _disable_current_modes  # what a recorder computes for itself, no other recorder sees

TORCH = os.path.dirname(torch.__file__) + os.sep

LEAVES = (nn.Softmax, nn.Dropout, nn.Identity)  # never own attention: the module around them does

RECORD_IT = "call `record(weights)` where the model computes them"

# roles that may turn out to be attention
ATTENDING = {"fused", "native", "encoder layer", "flex", "product"}

ROLES = {
    "native": {"_native_multi_head_attention"},
    "encoder layer": {"_transformer_encoder_layer_fwd"},
    "softmax": {"_softmax", "_safe_softmax", "softmax"},
    "product": {
        "mm",
        "addmm",
        "bmm",
        "baddbmm",
        "matmul",
        "linear",
        "einsum",
        "convolution",
        "conv1d",
        "conv2d",
    },
    "same": {"_unsafe_view", "_to_copy", "clone"},  # and all views
    "join": {"cat", "concat", "stack"},
    "scale": {
        "native_dropout",
        "dropout",
        "mul",
        "div",
        "add",
        "where",
        "masked_fill",
        "nan_to_num",
    },
    "noise": {"bernoulli"},
}


def in_backward() -> bool:
    """True while gradients are computed: a forward that runs now repeats one that was recorded
    (checkpointing).
    """
    return torch._C._current_graph_task_id() != -1


def leave(mode: TorchDispatchMode) -> None:
    """End a mode, also one whose entry or exit was interrupted half way."""
    entered = any(other is mode for other in _get_current_dispatch_mode_stack())
    begun = bool(getattr(mode, "old_dispatch_mode_flags", entered))
    if begun and not entered:
        _push_mode(mode)
    if begun:
        mode.__exit__(None, None, None)
    elif entered:
        _pop_mode()


def uncompiled(module: nn.Module) -> nn.Module:
    """The module itself: torch.compile wraps it in another."""
    return module._orig_mod if type(module).__name__ == "OptimizedModule" else module


@cache
def role_of(operator) -> str:
    """What an operator means for attention; the same for its overloads and its in-place twin."""
    if operator is flex_attention:
        return "flex"
    if not isinstance(operator, torch._ops.OpOverload):
        return "other"
    namespace, name = operator._schema.name.split("::")
    name = name.rstrip("_") if operator._schema.is_mutable else name
    if "backward" in name:
        return "other"
    if namespace == "aten" and name.lstrip("_").startswith("scaled_dot_product"):
        return "fused"
    for role, names in ROLES.items():
        if name in names:
            return role
    if operator.is_view:
        return "same"
    return "opaque" if "attention" in name or "attn" in name else "other"


def call(operator, args: tuple, kwargs: dict):
    """Run an operator exactly as it runs when nobody watches.

    A mode sees operators after autograd and autocast have acted, and what an operator calls inside
    would go without them. Where an operator computes in several steps that shows in the last bits,
    or in mixed precision in the second digit: such a one runs in the dispatcher's state outside the
    mode.
    """
    with _as_outside() if _has_steps(operator) else nullcontext():
        return operator(*args, **kwargs)


@cache
def _has_steps(operator) -> bool:
    return role_of(operator) in ("native", "encoder layer") or (
        isinstance(operator, torch._ops.OpOverload)
        and not operator.is_view
        and torch._C._dispatch_has_kernel_for_dispatch_key(
            operator.name(), "CompositeImplicitAutograd"
        )
    )


def _as_outside():
    """The dispatcher's state before this call met the mode, without the mode."""
    with torch._C._RestorePythonTLSSnapshot():
        include, exclude = (
            torch._C._dispatch_tls_local_include_set(),
            torch._C._dispatch_tls_local_exclude_set(),
        )
    modes = torch._C.DispatchKeySet(torch._C.DispatchKey.Python).add(
        torch._C.DispatchKey.PythonTLSSnapshot
    )
    return torch._C._ForceDispatchKeyGuard(
        include - modes | torch._C._dispatch_tls_local_include_set(), exclude
    )


# --------------------------------------------------------------------------------------------------
# The weights
Rows = slice | list[int]


@dataclass
class Attention:
    """One attention operation: the shape of its map, and a way to compute any of its rows.

    `rows(chosen)` are exact weights, `batch heads queries keys`, at least float32; `check(chosen,
    weights)` says how far they are from what the kernel computed, or None. `result` is the tensor
    through which gradients reach the weights: weights @ value if there is a `value`, the weights
    themselves if not.
    """

    operator: str
    kind: str
    shape: tuple[int, ...]
    rows: Callable[[Rows], Tensor]
    result: Tensor
    value: Tensor | None = None
    check: Callable[[Rows, Tensor], float | None] = lambda chosen, weights: None

    def gradient(self) -> Callable[[Tensor, Rows], Tensor]:
        """What turns the gradient of the result into that of the weights: for result = weights @
        value it is gradient @ valueᵀ. It holds the value, and not the result.
        """
        shape, value = self.shape, None if self.value is None else self.value.detach()

        def of_weights(result_gradient: Tensor, chosen: Rows) -> Tensor:
            gradient = result_gradient.reshape(*shape[:3], -1)[:, :, chosen]
            return gradient if value is None else gradient @ value.to(gradient.dtype).mT

        return of_weights


def reproduces(
    result: Tensor, value: Float[Tensor, "batch heads keys dim"]
) -> Callable[[Rows, Tensor], float | None]:
    """A check: the largest difference between weights @ value and what the kernel returned."""

    def check(chosen, weights):
        output = four_axes(result, value.shape[1])[:, :, chosen].to(weights.dtype)
        if not output.numel():
            return None
        return float((weights @ value.to(weights.dtype) - output).abs().max())

    return check


def four_axes(tensor: Tensor, heads: int = 1) -> Float[Tensor, "batch heads queries keys"]:
    """Any layout of maps as `batch heads queries keys`; three axes are heads folded into the batch."""
    if tensor.dim() == 3:
        return tensor.unflatten(0, (-1, heads if tensor.shape[0] % heads == 0 else 1))
    return tensor.flatten(0, -4) if tensor.dim() > 4 else tensor[(None,) * (4 - tensor.dim())]


def named(operator, args: tuple, kwargs: dict) -> dict:
    """The arguments of a call by the names of the operator's schema."""
    names = [argument.name for argument in operator._schema.arguments]
    return dict(zip(names, args, strict=False)) | kwargs


def fused(
    operator, args: tuple, kwargs: dict, output, kind: str, heads: int, lifted: bool = False
) -> Attention:
    """Scaled dot-product attention: softmax(q kᵀ · scale + mask), as PyTorch documents it.

    Of three axes the first holds `heads` folded into the batch; so do the last three of four if
    PyTorch itself `lifted` three to them.
    """
    given = named(operator, args, kwargs)
    query, key, value = given["query"], given["key"], given["value"]
    mask = given.get("attn_mask") if given.get("attn_mask") is not None else given.get("attn_bias")
    whole = result = output if isinstance(output, Tensor) else output[0]
    if lifted:
        result, query, key, value = (x.flatten(0, 1) for x in (result, query, key, value))
        mask = mask.flatten(0, 1) if mask is not None and mask.dim() == 4 else mask
    scale = 1 / math.sqrt(query.shape[-1]) if given.get("scale") is None else given["scale"]
    precise = torch.promote_types(query.dtype, torch.float32)
    if query.dim() > 3 and query.shape[-3] != key.shape[-3]:  # grouped heads share keys and values
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    queries, keys = query.shape[-2], key.shape[-2]

    def rows(chosen):
        scores = (query[..., chosen, :].to(precise) * scale) @ key.to(precise).mT
        if given.get("is_causal", False):
            row = torch.arange(queries, device=query.device)[chosen]
            column = torch.arange(keys, device=query.device)
            scores = scores.masked_fill(column > row[:, None], -math.inf)
        if mask is not None:
            part = mask if mask.shape[-2] == 1 else mask[..., chosen, :]
            if part.dtype == torch.bool:
                scores = scores.masked_fill(~part, -math.inf)
            else:
                scores = scores + part.to(precise)
        # a query that may look nowhere: zeros
        return four_axes(scores.softmax(-1).nan_to_num(0), heads)

    value = four_axes(value, heads)
    batch = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])
    shape = tuple(four_axes(torch.empty((*batch, queries, keys), device="meta"), heads).shape)
    attention = Attention(operator.__name__.split(".")[0], kind, shape, rows, whole, value)
    if not given.get("dropout_p"):  # with dropout the output is of other weights than these
        attention.check = reproduces(result, value)
    return attention


def native(operator, args: tuple, kwargs: dict, output, kind: str) -> Attention:
    """The fast path of `nn.MultiheadAttention`: when its weights are wanted, ask the same operator
    again for them.
    """
    given = named(operator, args, kwargs) | {"need_weights": True, "average_attn_weights": False}
    return of_native(operator, given, kind, output[0])


def encoder_layer(operator, args: tuple, kwargs: dict) -> Attention:
    """The fast path of `nn.TransformerEncoderLayer`: ask the native attention inside it."""
    given = named(operator, args, kwargs)
    tokens = given["src"]
    if given["norm_first"]:
        weight, bias = given["norm_weight_1"], given["norm_bias_1"]
        tokens = F.layer_norm(tokens, (given["embed_dim"],), weight, bias, given["eps"])
    shared = (
        "embed_dim",
        "qkv_weight",
        "qkv_bias",
        "proj_weight",
        "proj_bias",
        "mask",
        "mask_type",
    )
    inside = {name: given.get(name) for name in shared}
    inside |= {"query": tokens, "key": tokens, "value": tokens}
    inside |= {"num_head": given["num_heads"], "average_attn_weights": False}
    return of_native(torch.ops.aten._native_multi_head_attention.default, inside, "self")


def of_native(operator, given: dict, kind: str, output: Tensor | None = None) -> Attention:
    """Attention of a native operator that keeps its weights to itself unless asked."""
    query, key = given.pop("query"), given["key"]
    again = cache(lambda: call(operator, (query,), given))

    def check(chosen, weights):
        if output is None or output.is_nested:
            return None
        return float((again()[0] - output).abs().max())

    shape = (query.size(0), given["num_head"], sequence_length(query), sequence_length(key))
    precise = torch.promote_types(query.dtype, torch.float32)
    return Attention(
        "native_multi_head_attention",
        kind,
        shape,
        lambda chosen: again()[1][:, :, chosen].to(precise),
        query,
        check=check,
    )


def sequence_length(tokens: Tensor) -> int:
    """How many tokens the longest sequence of a batch has; the encoder's fast path packs them
    without padding.
    """
    return int(tokens._nested_tensor_size()[:, 0].max()) if tokens.is_nested else tokens.shape[1]


def flex(args: tuple, output, kind: str) -> Attention:
    """Flex attention: the scores after `score_mod` and `block_mask`, by PyTorch's own definition of
    them.
    """
    query, key, value, *rest = args
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    shape = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])

    @cache
    def weights():
        _, scores = _math_attention_inner(query, key, value, *rest)
        return scores.softmax(-1).nan_to_num(0)

    rows, check = lambda chosen: weights()[:, :, chosen], reproduces(output[0], value)
    return Attention("flex_attention", kind, shape, rows, output[0], value, check)


def of_weights(
    weights: Tensor,
    operator: str,
    kind: str,
    heads: int = 1,
    residual: float | None = None,
    shape: tuple[int, ...] | None = None,
) -> Attention:
    """Attention whose weights exist as a tensor, laid out as `shape` if that is given; the
    `residual` is 0 if these are the very weights that meet the values, and None if that is not
    known.
    """
    map_ = four_axes(weights.detach().reshape(shape or weights.shape), heads)
    precise = torch.promote_types(weights.dtype, torch.float32)

    def rows(chosen):
        return map_[:, :, chosen].to(precise, copy=True)  # the model may write over its own

    return Attention(
        operator, kind, tuple(map_.shape), rows, weights, check=lambda chosen, weights: residual
    )


Call = tuple[tuple[CodeType, int], ...]  # the places in Python from which PyTorch was called

Owner = tuple[str, nn.Module | None]  # the qualified name of a module, and the module


@dataclass
class Softmax:
    """A softmax that may turn out to be attention: it does when a matrix product consumes it."""

    weights: Tensor | None
    owner: Owner
    shape: tuple[int, ...]
    axis: int
    consumed: bool = False

    @property
    def is_map(self) -> bool:
        return len(self.shape) >= 3 and self.axis in (-1, len(self.shape) - 1)


class Trace(NamedTuple):
    """What is known of a tensor; views and copies share it. `sources` are the tensors it is a
    projection of, `change` is what became of a softmax: "dropout", or "edited" (masked, scaled,
    normalised again, …). `lifted` is the call in which PyTorch gave it its fourth axis.
    """

    identity: int | None  # None for parameters: two projections may share their weights
    sources: frozenset = frozenset()
    kind: str = ""  # for scores and weights: whether queries ask their own tokens
    softmax: Softmax | None = None
    change: str = ""
    noise: bool = False
    lifted: Call | None = None


class Tracer:
    """Follows tensors through one forward, and says of each operator which attention it is."""

    def __init__(
        self,
        owner: Callable[[], Owner],
        call: Callable[[], Call],
        unclear: Callable[[Owner, tuple[int, ...]], None],
    ):
        self.owner, self.call, self.unclear = owner, call, unclear
        self.traces, self.serial = WeakTensorKeyDictionary(), itertools.count()
        self.softmaxes: list[Softmax] = []

    def trace(self, tensor: Tensor) -> Trace:
        trace = self.traces.get(tensor)
        if trace is None:
            trace = Trace(None if isinstance(tensor, nn.Parameter) else next(self.serial))
            self.traces[tensor] = trace
        return trace

    def kind(self, query: Tensor, key: Tensor) -> str:
        """ "self" if queries and keys are projections of the same tensor, else "cross"."""
        one, other = self.trace(query), self.trace(key)
        common = (one.sources or {one.identity}) & (other.sources or {other.identity})
        return "self" if common or one.identity == other.identity else "cross"

    def follow(
        self, operator, args: tuple, kwargs: dict, output
    ) -> Iterator[tuple[Attention, Owner]]:
        """Yield the attention in this call, with its owner, and remember where its output comes
        from.
        """
        role = role_of(operator)
        if role == "fused":
            owner, query = self.owner(), args[0]
            lifted = query.dim() == 4 and self.trace(query).lifted == self.call()
            heads = heads_of(owner[1])
            if (lifted or query.dim() == 3) and heads is None:
                self.unclear(owner, tuple(query.shape[-3:]))
            attention = fused(
                operator, args, kwargs, output, self.kind(*args[:2]), heads or 1, lifted
            )
            yield attention, owner
        elif role == "native":
            yield native(operator, args, kwargs, output, self.kind(*args[:2])), self.owner()
        elif role == "encoder layer":
            name, layer = self.owner()
            inside = (f"{name}.self_attn".lstrip("."), getattr(layer, "self_attn", layer))
            yield encoder_layer(operator, args, kwargs), inside
        elif role == "flex":
            yield flex(args, output, self.kind(*args[:2])), self.owner()
        elif role == "product":
            yield from self._consume(args, output)
        elif role == "same":
            trace = self.trace(args[0])
            if operator is torch.ops.aten.unsqueeze.default and output.dim() == 4:
                trace = trace._replace(lifted=self.call())
            self._note(output, trace)
        elif role == "noise":
            self._note(output, Trace(next(self.serial), noise=True))
        else:
            self._pass_on(operator, role, args, output)
        if role == "softmax":
            softmax = Softmax(output, self.owner(), tuple(output.shape), args[1])
            self.softmaxes.append(softmax)
            self._note(output, self.trace(output)._replace(softmax=softmax))

    def _consume(self, args: tuple, output) -> Iterator[tuple[Attention, Owner]]:
        """A matrix product: what it projects it makes a source, and the softmax it reads it makes
        attention.
        """
        active = [operand for operand in tensors(args) if self.trace(operand).identity is not None]
        traces = [self.trace(operand) for operand in active]
        for operand, trace in zip(active, traces, strict=True):
            softmax = trace.softmax
            if softmax and not softmax.consumed and softmax.is_map:
                softmax.consumed, weights, softmax.weights = True, softmax.weights, None
                cut = operand.numel() != math.prod(softmax.shape)  # as a sink's column is
                shape = (*softmax.shape[:-2], *operand.shape[-2:])
                # with a parameter in the place of the values, heads may be mixed and values come later
                has_values = len(active) > 1
                met = (
                    has_values
                    and (cut or trace.change == "edited")
                    and operand is not active[-1]
                    and operand.numel() == math.prod(shape)
                )
                exact = has_values and (met or not (cut or trace.change))
                attention = of_weights(
                    operand if met else weights,
                    "softmax",
                    trace.kind or "unknown",
                    heads_of(softmax.owner[1]) or 1,
                    0.0 if exact else None,
                    shape if met else softmax.shape,
                )
                yield attention, softmax.owner
        if any(trace.softmax for trace in traces):  # weights @ value
            kind = ""
        elif len(active) > 1:  # scores
            kind = self.kind(*active[-2:])
        else:  # a projection, perhaps of scores
            kind = "".join(trace.kind for trace in traces)
        sources = frozenset(trace.identity for trace in traces)
        self._note(output, Trace(next(self.serial), sources, kind))

    def _pass_on(self, operator, role: str, args: tuple, output) -> None:
        """What is computed from one projection stays its projection; what mixes several is a new
        thing.
        """
        traces = [self.traces.get(tensor) for tensor in tensors(args)]
        traces = [trace for trace in traces if trace and trace.identity is not None]
        sources = {trace.sources for trace in traces if trace.sources}
        kind = next((trace.kind for trace in traces if trace.kind), "")
        # Weights stay weights when they are scaled, masked or dropped, but not when they gate an
        # activation.
        gates = any(trace.sources and not (trace.softmax or trace.kind) for trace in traces)
        softmax, change = None, ""
        if role == "scale" and not gates:
            softmax = next((trace.softmax for trace in traces if trace.softmax), None)
            drops = "dropout" in str(operator) or any(trace.noise for trace in traces)
            edited = any(trace.change == "edited" for trace in traces) or not drops
            change = "edited" if edited else "dropout"
        noise = bool(traces) and all(trace.noise for trace in traces)
        if sources or kind or softmax or noise:
            one_source = role == "join" or len(sources) == 1
            joined = frozenset().union(*sources) if one_source else frozenset()
            self._note(output, Trace(next(self.serial), joined, kind, softmax, change, noise))

    def _note(self, output, trace: Trace) -> None:
        for tensor in tensors((output,)):
            self.traces[tensor] = trace


def tensors(values: Sequence) -> Iterator[Tensor]:
    """The tensors among the arguments of an operator, also those in lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors(value)


def heads_of(module: nn.Module | None) -> int | None:
    """How many heads a module says it has, under the names in use; None if it does not say."""
    for name in ("num_heads", "heads", "n_heads", "num_attention_heads", "n_head", "nhead"):
        heads = getattr(module, name, None)
        if isinstance(heads, int) and heads > 0:
            return heads
    return None


@cache
def _is_inside(file: str) -> bool:
    """Whether a file's frames stand between the operators of a call and the call: this module, and
    PyTorch without its layers.
    """
    return file == __file__ or (
        file.startswith(TORCH) and not file.startswith(f"{TORCH}nn{os.sep}")
    )


class Observer(TorchDispatchMode):
    """Sees every operator of one forward of a model, in one thread.

    `names` are those of the model's modules, by `id`. Each attention goes to `keep`; what could not
    be recorded goes to `miss`; `add_gradient` gets what a backward pass delivers for what was put
    into `fresh`.
    """

    supports_higher_order_operators = True  # flex attention refuses to run under a mode without it

    def __init__(self, root: nn.Module, names: dict[int, str]):
        super().__init__()
        self.root, self.names = root, names
        self.tracer = Tracer(self.owner, self.call, self.unclear)
        self.fresh: list[tuple] = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # autograd may detach an output, to keep it, before it joins the graph
        if self.fresh and operator is not torch.ops.aten.detach.default:
            self.attempt(operator, self.await_gradients)
        output = call(operator, args, kwargs)
        if not in_backward():
            self.attempt(operator, self.see, operator, args, kwargs, output)
        return output

    def attempt(self, operator, action, *args) -> None:
        """Nothing that goes wrong here may reach the model."""
        try:
            action(*args)
        except Exception as error:
            reason = f"recording {operator} failed ({type(error).__name__}: {error})"
            self.miss(self.owner()[0], reason, RECORD_IT)

    def see(self, operator, args: tuple, kwargs: dict, output) -> None:
        if role_of(operator) == "opaque":
            self.miss(
                self.owner()[0],
                f"{operator} is a kernel of its own, which shows no weights",
                f"switch to PyTorch's scaled_dot_product_attention, or {RECORD_IT}",
            )
        with unobserved() if role_of(operator) in ATTENDING else nullcontext():
            for attention, owner in self.tracer.follow(operator, args, kwargs, output):
                self.keep(attention, *owner)

    def await_gradients(self) -> None:
        """Ask for the gradients of the last attention: its output joins the graph only after its
        operator returned.

        The hook must not hold the result it is placed on: nothing would ever free the two.
        """
        while self.fresh:
            record, attention = self.fresh.pop()
            if attention.result.requires_grad:
                gradient = attention.gradient()
                deliver = partial(self.attempt, "backward", self.add_gradient, record, gradient)
                attention.result.register_hook(deliver)

    def call(self) -> Call:
        """Where in the running module PyTorch was called: the operators of one call share it."""
        frame, places = sys._getframe(1), []
        while frame is not None and frame.f_code.co_name != "_call_impl":
            if not _is_inside(frame.f_code.co_filename):
                places.append((frame.f_code, frame.f_lasti))
            frame = frame.f_back
        return tuple(places)

    def unclear(self, owner: Owner, shape: tuple[int, ...]) -> None:
        """Note that three axes may be heads folded into the batch, or a batch without heads."""
        self.miss(
            owner[0],
            f"attention over three axes, {shape}, taken as a batch without heads:"
            f" {type(owner[1]).__name__} does not say how many heads it has",
            "if heads are folded into the batch, give the module `num_heads`",
            grave=False,
        )

    def owner(self) -> Owner:
        """The innermost module of the model that is running: the first one among the arguments of
        Python's frames.
        """
        frame = sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            for argument in code.co_varnames[: code.co_argcount]:
                module = frame.f_locals.get(argument)
                known = isinstance(module, nn.Module) and id(module) in self.names
                if known and not isinstance(module, LEAVES):
                    return self.names[id(module)], module
            frame = frame.f_back
        return "", self.root
