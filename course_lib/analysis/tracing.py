"""Who asks whom: where queries and keys come from, and what becomes of a softmax, followed through
one forward.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from .dispatch import (
    Attention,
    WeakTensorKeyDictionary,
    encoder_layer,
    flex,
    fused,
    native,
    of_weights,
    role_of,
)

__all__ = ["Tracer", "heads_of"]

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
    projection of.
    """

    identity: int | None  # None for parameters: two projections with the same weights are no kin
    sources: frozenset = frozenset()
    kind: str = ""  # for scores and weights: whether queries ask their own tokens
    softmax: Softmax | None = None


class Tracer:
    """Follows tensors through one forward, and says of each operator which attention it is."""

    def __init__(self, owner: Callable[[], Owner]):
        self.owner, self.traces, self.serial = owner, WeakTensorKeyDictionary(), itertools.count()
        self.softmaxes: list[Softmax] = []

    def trace(self, tensor: Tensor) -> Trace:
        if (known := self.traces.get(tensor)) is None:
            known = Trace(None if isinstance(tensor, nn.Parameter) else next(self.serial))
            self.traces[tensor] = known
        return known

    def kind(self, query: Tensor, key: Tensor) -> str:
        """ "self" if queries and keys are projections of the same tensor, else "cross"."""
        asking, asked = self.trace(query), self.trace(key)
        kin = (asking.sources or {asking.identity}) & (asked.sources or {asked.identity})
        return "self" if kin or asking.identity == asked.identity else "cross"

    def follow(
        self, operator, args: tuple, kwargs: dict, output
    ) -> Iterator[tuple[Attention, Owner]]:
        """Yield the attention in this call, with its owner, and remember where its output comes
        from.
        """
        role = role_of(operator)
        if role == "fused":
            owner = self.owner()
            yield (
                fused(operator, args, kwargs, output, self.kind(*args[:2]), heads_of(owner[1])),
                owner,
            )
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
            self._note(output, self.trace(args[0]))
        elif role == "noise":
            self._note(output, Trace(next(self.serial)))
        else:
            self._pass_on(role, args, output)
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
        for trace in traces:
            softmax = trace.softmax
            if softmax and not softmax.consumed and softmax.is_map:
                softmax.consumed, weights, softmax.weights = True, softmax.weights, None
                heads = heads_of(softmax.owner[1])
                yield of_weights(weights, "softmax", trace.kind or "unknown", heads), softmax.owner
        if any(trace.softmax for trace in traces):  # what the queries heard
            kind = ""
        else:  # scores; or a projection, perhaps of scores
            kind = (
                self.kind(*active[-2:])
                if len(active) > 1
                else "".join(trace.kind for trace in traces)
            )
        self._note(
            output, Trace(next(self.serial), frozenset(trace.identity for trace in traces), kind)
        )

    def _pass_on(self, role: str, args: tuple, output) -> None:
        """What is computed from one projection stays its projection; what mixes several is a new
        thing.
        """
        known = [
            trace
            for trace in map(self.traces.get, tensors(args))
            if trace and trace.identity is not None
        ]
        sources = {trace.sources for trace in known if trace.sources}
        kind = next((trace.kind for trace in known if trace.kind), "")
        # Weights stay weights when they are scaled, masked or dropped, but not when they gate an activation.
        scaled = role == "scale" and not any(trace.sources and not trace.softmax for trace in known)
        softmax = next((trace.softmax for trace in known if trace.softmax and scaled), None)
        if sources or kind or softmax:
            joined = (
                frozenset().union(*sources) if role == "join" or len(sources) == 1 else frozenset()
            )
            self._note(output, Trace(next(self.serial), joined, kind, softmax))

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


def heads_of(module: nn.Module | None) -> int:
    """How many heads a module says it has, under the names in use; 1 if it does not say."""
    names = ("num_heads", "heads", "n_heads", "num_attention_heads", "n_head", "nhead")
    return next(
        (
            value
            for name in names
            if isinstance(value := getattr(module, name, None), int) and value > 0
        ),
        1,
    )
