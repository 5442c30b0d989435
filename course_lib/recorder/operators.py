"""Attention as PyTorch shows it: which operator is attention, and what its exact weights are.

What differs between versions of PyTorch, and every private name of it that the recorder needs,
stands in this module.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

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

from ..shapes import Float

__all__ = [
    "ATTENDING",
    "Attention",
    "call",
    "encoder_layer",
    "flex",
    "four_axes",
    "fused",
    "heads_of",
    "in_backward",
    "leave",
    "meaning",
    "name_of",
    "names_of",
    "native",
    "of_weights",
    "reproduces",
    "role_of",
    "tensors",
    "uncompiled",
    "unobserved",
]

unobserved = _disable_current_modes  # what a recorder computes for itself, no other recorder sees

RECORD_IT = "call `record(weights)` where the model computes them"

# roles that may turn out to be attention
ATTENDING = {"fused", "native", "encoder layer", "flex"}

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
    "same": {"_unsafe_view"},  # and all views
    "join": {"cat", "concat", "stack", "copy", "index_copy", "index_put", "slice_scatter"},
    "times": {"mul"},
    "reduction": {"sum", "mean"},
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


def names_of(root: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules with the names they have before torch.compile wraps some of them."""
    return [
        (".".join(part for part in name.split(".") if part != "_orig_mod"), module)
        for name, module in root.named_modules()
    ]


@cache
def name_of(operator) -> str:
    """The name of an operator; the same for its overloads and its in-place twin."""
    name = operator._schema.name.split("::")[1]
    return name.rstrip("_") if operator._schema.is_mutable else name


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
    if not meaning(operator)[1]:
        return operator(*args, **kwargs)
    with _as_outside():
        return operator(*args, **kwargs)


@cache
def meaning(operator) -> tuple[str, bool]:
    """What an operator means for attention, and whether it computes in several steps."""
    role = role_of(operator)
    if role in ("native", "encoder layer"):
        return role, True
    if not isinstance(operator, torch._ops.OpOverload) or operator.is_view:
        return role, False
    name, key = operator.name(), "CompositeImplicitAutograd"
    try:
        return role, torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
    except RuntimeError:  # it exists in Python only
        return role, False


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
    arrange: Callable[[Tensor], Tensor] | None = None

    def gradient(self) -> Callable[[Tensor, Rows], Tensor]:
        """What turns the gradient of the result into that of the weights: for result = weights @
        value it is gradient @ valueᵀ. It holds the value, and not the result.
        """
        shape, value = self.shape, None if self.value is None else self.value.detach()
        arrange = self.arrange or (lambda result: result.reshape(*shape[:3], -1))

        def of_weights(result_gradient: Tensor, chosen: Rows) -> Tensor:
            gradient = arrange(result_gradient)[:, :, chosen]
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
        weights = scores.softmax(-1)
        if mask is not None:  # a query that may look nowhere: zeros
            weights = weights.nan_to_num(0)
        return four_axes(weights, heads)

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
    arrange: Callable[[Tensor], Tensor],
    check: Callable[[Rows, Tensor], float | None] | None = None,
) -> Attention:
    """Attention whose weights exist as a tensor, which `arrange` brings into `batch heads queries
    keys`.
    """
    map_ = arrange(weights.detach())
    precise = torch.promote_types(weights.dtype, torch.float32)

    def rows(chosen):
        return map_[:, :, chosen].to(precise, copy=True)  # the model may write over its own

    attention = Attention(operator, kind, tuple(map_.shape), rows, weights, arrange=arrange)
    attention.check = check or attention.check
    return attention


def tensors(values: Sequence) -> list[Tensor]:
    """The tensors among the arguments of an operator, also those in lists."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, _LISTS):
            found += tensors(value)
    return found


_LISTS = (list, tuple)


def heads_of(module: nn.Module | None) -> int | None:
    """How many heads a module says it has, under the names in use; None if it does not say."""
    for name in ("num_heads", "heads", "n_heads", "num_attention_heads", "n_head", "nhead"):
        heads = getattr(module, name, None)
        if isinstance(heads, int) and heads > 0:
            return heads
    return None
