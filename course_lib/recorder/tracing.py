"""Where the tensors of a forward come from: which softmax meets the values as attention, in which
layout, and whose tokens ask whose.
"""

import itertools
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import CodeType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..shapes import Float
from .operators import (
    Attention,
    encoder_layer,
    flex,
    four_axes,
    fused,
    heads_of,
    name_of,
    native,
    of_weights,
    reproduces,
    tensors,
    unobserved,
)

__all__ = ["Axis", "Call", "Owner", "Softmax", "Trace", "Tracer", "Weights"]

Call = tuple[tuple[CodeType, int], ...]  # the places in Python from which PyTorch was called

Owner = tuple[str, nn.Module | None]  # the qualified name of a module, and the module

Found = Sequence[tuple[Attention, Owner]]

# The number of the tensor that tokens stem from, and which part of it they are: the steps in memory
# along which it was cut, counted in tokens, with start and stop.
Tokens = frozenset[tuple[int, tuple[tuple[int, int, int], ...]]]


class Axis(NamedTuple):
    """An axis of a tensor in memory, where no view moves it: neighbours lie `step` numbers apart."""

    step: int
    size: int

    def lies_in(self, step: int, size: int) -> bool:
        return step <= self.step < step * size


@dataclass
class Softmax:
    """A softmax that may turn out to be attention: it does when it is multiplied with values."""

    owner: Owner
    shape: tuple[int, ...]
    axis: int
    kind: str
    consumed: bool = False


@dataclass(frozen=True)
class Weights:
    """What a tensor made of softmaxes is to them: where in memory the axes of the first one lie
    (those longer than 1), and what it was before dropout or before values were multiplied with it.
    """

    softmaxes: tuple[Softmax, ...]
    axes: dict[int, Axis]
    before: tuple[Tensor, dict[int, Axis]] | None = None
    times_values: bool = False
    queries: int | None = None  # which axis of the softmax they are, if values told


@dataclass(frozen=True)
class Trace:
    """What is known of a tensor; views share it.

    `tokens` are those its vectors are computed from, without those that were only attended to;
    `features` are the axes of the vectors. `constant` are parameters, buffers and what is made of
    nothing else. `kind` is, for scores and weights, whether queries ask their own tokens. `lifted`
    is the call in which PyTorch gave the tensor its fourth axis.
    """

    tokens: Tokens = frozenset()
    constant: bool = False
    features: tuple[Axis, ...] = ()
    kind: str = ""
    weights: Weights | None = None
    noise: bool = False
    lifted: Call | None = None


class Tracer:
    """Follows tensors through one forward, and says of each operator which attention it is."""

    def __init__(
        self,
        owner: Callable[[], Owner],
        call: Callable[[], Call],
        unclear: Callable[[Owner, str, str], None],
        buffers: Sequence[Tensor | None] = (),
    ):
        self.owner, self.call, self.unclear = owner, call, unclear
        self.traces: dict[int, tuple[weakref.ref, Trace]] = {}  # by `id`, which may be used again
        self.serial = itertools.count()
        self.attended: set[int] = set()  # the numbers of what attention returned
        self.softmaxes: list[Softmax] = []
        self.products = 0  # of two tensors that both depend on the model's input
        for buffer in tensors(buffers):
            self._note(buffer, Trace(self._new_tokens(), constant=True))

    def trace(self, tensor: Tensor) -> Trace:
        found = self.traces.get(id(tensor))
        if found is not None and found[0]() is tensor:
            return found[1]
        trace = Trace(self._new_tokens(), isinstance(tensor, nn.Parameter))
        self._note(tensor, trace)
        return trace

    def kind(self, query: Tensor, key: Tensor) -> str:
        """ "self" if queries ask the tokens they are made of, "cross" if others, "unknown" if some
        of them.
        """
        return _kind(self.trace(query).tokens, self.trace(key).tokens)

    def follow(self, operator, role: str, args: tuple, kwargs: dict, output) -> Found:
        """The attention in this call, with its owner; remembers where its output comes from."""
        if role == "same":
            return self._view(operator, args[0], output)
        if role == "product":
            return self._product(operator, args, output)
        if role == "softmax":
            return self._softmax(args, output)
        if role == "noise":
            return self._note(output, Trace(noise=True))
        if role == "encoder layer":
            name, layer = self.owner()
            inside = (f"{name}.self_attn".lstrip("."), getattr(layer, "self_attn", layer))
            self._note(output, Trace(self._new_tokens()))
            return [(encoder_layer(operator, args, kwargs), inside)]
        if role not in ("fused", "native", "flex"):
            return self._pass_on(operator, role, args, output)
        owner, kind = self.owner(), self.kind(*args[:2])
        result = output if isinstance(output, Tensor) else output[0]
        self._note(result, Trace(self._new_tokens(attended=True)))
        if role == "native":
            return [(native(operator, args, kwargs, output, kind), owner)]
        if role == "flex":
            return [(flex(args, output, kind), owner)]
        query, heads = args[0], heads_of(owner[1])
        lifted = query.dim() == 4 and self.trace(query).lifted == self.call()
        if (lifted or query.dim() == 3) and heads is None:
            self.unclear(
                owner,
                f"attention over three axes, {tuple(query.shape[-3:])}, taken as a batch without"
                f" heads: {type(owner[1]).__name__} does not say how many heads it has",
                "if heads are folded into the batch, give the module `num_heads`",
            )
        return [(fused(operator, args, kwargs, output, kind, heads or 1, lifted), owner)]

    def _view(self, operator, given: Tensor, output) -> Found:
        trace = self.trace(given)
        if operator is torch.ops.aten.unsqueeze.default and output.dim() == 4:
            trace = replace(trace, lifted=self.call())
        copied = torch.is_inference_mode_enabled()  # there a reshape comes as one operator
        if not copied and isinstance(output, Tensor) and output.numel() >= given.numel():
            return self._note(output, trace)
        for view in tensors((output,)):
            if copied and (trace.weights or trace.features) and not _share_memory(given, view):
                self._note(view, _recopied(trace, given, _contiguous(given.shape)))
            elif view.numel() < given.numel():
                self._note(view, replace(trace, tokens=_part(trace, given, view)))
            else:
                self._note(view, trace)
        return ()

    def _softmax(self, args: tuple, output: Tensor) -> Found:
        scores, axis = self.trace(args[0]), args[1] % output.dim()
        softmax = Softmax(self.owner(), tuple(output.shape), axis, scores.kind)
        self.softmaxes.append(softmax)
        # of scores it can always be attention, else it has to leave room for a batch
        may_be = scores.kind or output.dim() >= 3
        weights = Weights((softmax,), _axes(output)) if may_be else None
        return self._note(output, replace(scores, weights=weights))

    def _product(self, operator, args: tuple, output: Tensor) -> Found:
        """A matrix product: a projection leaves tokens where they are, two tensors give scores, and
        weights that are summed over the keys are attention.
        """
        name = name_of(operator)
        factors = tensors(args[1:] if name in ("addmm", "baddbmm", "einsum") else args)[:2]
        if len(factors) < 2:
            return self._pass_on(operator, "product", args, output)
        first, second = (self.trace(factor) for factor in factors)
        if (first.weights or second.weights) and output.dim():
            with unobserved():
                return self._weigh(name, args, factors, output)
        kind, active, axis = "", first, -1
        if not (first.constant or second.constant):
            self.products += 1
            kind = _kind(first.tokens, second.tokens)
            active = Trace(self._new_tokens(attended=True))
        elif first.constant and not second.constant:  # learned queries ask
            kind, active, axis = _kind(first.tokens, second.tokens), second, -2
        else:
            kind = first.kind
        if name.startswith("conv"):
            axis = 1
        features = ()
        if output.dim() >= 2:
            features = (Axis(output.stride(axis), output.shape[axis]),)
        return self._note(output, Trace(active.tokens, active.constant, features, kind))

    def _weigh(self, name: str, args: tuple, factors: list[Tensor], output: Tensor) -> Found:
        """A product with weights: attention if it sums over the keys, else weights that are mixed."""
        trace = self.trace(factors[0])
        weights = trace.weights or self.trace(factors[1]).weights
        softmax, axes = weights.softmaxes[0], weights.axes
        if name.startswith("conv"):  # over the axis of channels
            return self._mix(output, trace, factors[0], 1, output.stride(), output.shape[1])
        # as batch… queries keys @ batch… keys dim = batch… queries dim
        forms = _matrices(name, args, factors)
        if forms is None:
            return self._note(output, Trace(self._new_tokens()))
        if trace.weights is None:
            trace = self.trace(factors[1])
            forms = (_then_turned(forms[1]), _then_turned(forms[0]), _then_turned(forms[2]))
            factors = factors[::-1]
        left, right, result = (
            form(tensor) for form, tensor in zip(forms, (*factors, output), strict=True)
        )
        step, size, key = left.stride(-1), left.shape[-1], axes.get(softmax.axis)
        one_key = key is None and size == 1
        if one_key or (key and size > 1 and step == key.step and size <= key.size):
            self._note(output, Trace(self._new_tokens(attended=True)))
            return self._file(weights, trace.kind, factors[0], forms[0], (left, right, result))
        return self._mix(output, trace, left, -1, result.stride(), result.shape[-1])

    def _mix(
        self,
        output: Tensor,
        trace: Trace,
        given: Tensor,
        summed: int,
        steps: Sequence[int],
        size: int,
    ) -> Found:
        """Weights whose heads, or whatever lies along the dimension `summed`, are mixed; there it is
        `size` long then.
        """
        weights, axes = trace.weights, dict(trace.weights.axes)
        step, before = given.stride(summed), given.shape[summed]
        mixed = [place for place, axis in axes.items() if axis.lies_in(step, before)]
        if len(mixed) > 1 or weights.softmaxes[0].axis in mixed or weights.times_values:
            return self._note(output, Trace(self._new_tokens()))
        for place in mixed:
            del axes[place]
        axes = _moved(axes, given, steps)
        if mixed and size > 1:
            axes[mixed[0]] = Axis(steps[summed], size)
        return self._note_weights(output, trace, weights, axes)

    def _note_weights(
        self, output: Tensor, trace: Trace, weights: Weights, axes: dict[int, Axis]
    ) -> Found:
        return self._note(output, replace(trace, weights=Weights(weights.softmaxes, axes)))

    def _file(
        self,
        weights: Weights,
        kind: str,
        operand: Tensor,
        form: Callable[[Tensor], Tensor] = lambda tensor: tensor,
        matrices: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> Found:
        """The attention that these weights are, now that they have met values."""
        softmax = weights.softmaxes[0]
        known = softmax.consumed
        for one in weights.softmaxes:
            one.consumed = True
        if known:
            return ()
        queries = weights.queries
        if queries is None:
            matrix = None if matrices is None else matrices[0]
            queries = _queries(softmax, weights.axes, matrix)
        heads, check = heads_of(softmax.owner[1]) or 1, None
        if weights.before:
            operand, axes = weights.before
            form, layout = None, _places(operand, axes)
        else:
            layout = _places(matrices[0], weights.axes)
        arrange = layout and _arrangement(*layout, softmax, queries, heads, form)
        if not arrange:
            self.unclear(
                softmax.owner,
                "the layout of its weights could not be followed",
                "read the axes of this map with care",
            )
            attention = of_weights(
                operand, "softmax", kind or "unknown", lambda x: four_axes(x, heads)
            )
            return [(attention, softmax.owner)]
        if not weights.before:
            check = _check(matrices, *layout, softmax, queries, heads)
        attention = of_weights(operand, "softmax", kind or "unknown", arrange, check)
        return [(attention, softmax.owner)]

    def _pass_on(self, operator, role: str, args: tuple, output) -> Found:
        """What is computed from some tokens stays theirs; what attention adds makes new ones."""
        given = [(tensor, self.trace(tensor)) for tensor in tensors(args)]
        active = [one for one in given if not one[1].constant] or given
        if not active:
            return self._note(output, Trace(self._new_tokens(), constant=True))
        results = [output] if isinstance(output, Tensor) else tensors((output,))
        for tensor, trace in active:
            if trace.weights and results:
                self._note(results[1:], replace(trace, weights=None))
                return self._change(operator, role, args, results[0], tensor, trace, given)
        tensor, trace = active[0]
        if len(active) > 1:
            kind = next((trace.kind for _, trace in active if trace.kind), "")
            noise = all(trace.noise for _, trace in active)
            tokens = self._together(active, role)
            trace = Trace(tokens, trace.constant, trace.features, kind, noise=noise)
        if role == "join" and isinstance(output, Tensor) and output._base is not None:
            self._note(output._base, trace)  # a part of it was written
        elif trace.features and tensor.shape == getattr(output, "shape", None):
            trace = _recopied(trace, tensor, output.stride())
        return self._note(output, trace)

    def _together(self, active: list[tuple[Tensor, Trace]], role: str) -> Tokens:
        """Whose tokens the result of several tensors holds: those of all that are as large as it;
        smaller ones scale and shift it.
        """
        if role != "join":
            exact = [one for one in active if one[0].is_floating_point()] or active
            size = max(tensor.numel() for tensor, _ in exact)
            active = [one for one in exact if one[0].numel() == size]
        tokens = {trace.tokens for _, trace in active}
        together = frozenset().union(*tokens)
        # tokens and what they attended to: the next ones
        new = role != "join" and len(tokens) > 1
        if new and any(number in self.attended for number, _ in together):
            return self._new_tokens()
        return together

    def _change(
        self, operator, role: str, args: tuple, output: Tensor, tensor, trace, given
    ) -> Found:
        """Weights that are masked, scaled, added, summed, …: what becomes of them."""
        weights, others = trace.weights, [one for one in given if one[0] is not tensor]
        plain = replace(trace, weights=None)
        softmaxes = list(weights.softmaxes)
        for _, other in others:
            more = other.weights.softmaxes if other.weights else ()
            softmaxes += [one for one in more if all(one is not known for known in softmaxes)]
        # what gates its own activation is no attention
        if not trace.kind and any(
            other.tokens & trace.tokens and not other.weights for _, other in others
        ):
            return self._note(output, plain)
        if role == "reduction":
            return self._reduce(args, output, tensor, trace)
        if output.dim() < tensor.dim() or output.numel() < tensor.numel() or weights.times_values:
            return self._note(output, plain)
        changed = replace(
            weights, softmaxes=tuple(softmaxes), axes=_moved(weights.axes, tensor, output.stride())
        )
        before = weights.before or (tensor, weights.axes)
        values = [other for other, of_other in others if not of_other.constant]
        if "dropout" in name_of(operator) or any(other.noise for _, other in others):
            changed = replace(changed, before=before)
        elif role == "times" and values and output.numel() > tensor.numel():
            queries = _left_alone(changed.axes, output, values[0])
            changed = replace(changed, before=before, times_values=True, queries=queries)
            if weights.softmaxes[0].axis not in weights.axes:  # one key: nothing to sum
                self._note(output, Trace(self._new_tokens(attended=True)))
                return self._file(changed, trace.kind, tensor)
        return self._note(output, replace(trace, weights=changed))

    def _reduce(self, args: tuple, output: Tensor, tensor: Tensor, trace: Trace) -> Found:
        """A sum or mean of weights over some axes: over heads they stay weights, and over keys,
        times values, they are attention.
        """
        weights, places = trace.weights, args[1] if len(args) > 1 else None
        plain = replace(trace, weights=None)
        if not isinstance(places, list | tuple | int):
            return self._note(output, plain)
        places = [
            place % tensor.dim() for place in ([places] if isinstance(places, int) else places)
        ]
        gone = {
            place
            for place, axis in weights.axes.items()
            if any(axis.lies_in(tensor.stride(one), tensor.shape[one]) for one in places)
        }
        if weights.softmaxes[0].axis in gone:
            if not weights.times_values:
                return self._note(output, plain)
            self._note(output, Trace(self._new_tokens(attended=True)))
            return self._file(weights, trace.kind, tensor)
        if weights.times_values:
            return self._note(output, plain)
        steps = list(output.stride())
        if output.dim() < tensor.dim():
            for place in sorted(places):
                steps.insert(place, 0)
        left = {place: axis for place, axis in weights.axes.items() if place not in gone}
        return self._note_weights(output, trace, weights, _moved(left, tensor, steps))

    def _new_tokens(self, attended: bool = False) -> Tokens:
        number = next(self.serial)
        if attended:
            self.attended.add(number)
        return frozenset([(number, ())])

    def _note(self, output, trace: Trace) -> Found:
        if isinstance(output, Tensor):
            self.traces[id(output)] = weakref.ref(output), trace
        else:
            for tensor in tensors((output,)):
                self.traces[id(tensor)] = weakref.ref(tensor), trace
        return ()


# --------------------------------------------------------------------------------------------------
# Tokens


def _kind(queries: Tokens, keys: Tokens) -> str:
    shared = [[_meet(query, key) for key in keys] for query in queries]
    if not any(any(row) for row in shared):
        return "cross"
    all_queries = all(any(row) for row in shared)
    all_keys = all(any(column) for column in zip(*shared, strict=True))
    return "self" if all_queries or all_keys else "unknown"


def _meet(one, other) -> bool:
    """Whether two parts of tensors have tokens in common."""
    if one[0] != other[0]:
        return False
    return not any(
        step == other_step and (stop <= other_start or other_stop <= start)
        for step, start, stop in one[1]
        for other_step, other_start, other_stop in other[1]
    )


def _part(trace: Trace, given: Tensor, view: Tensor) -> Tokens:
    """Which tokens a view holds that leaves some out; all, if it only leaves out features."""
    before, after = _lengths(given), _lengths(view)
    cut = [axis for axis in before if axis not in after]
    if len(cut) != 1:
        return trace.tokens
    (step, _), count = cut[0], next((size for step, size in after if step == cut[0].step), 1)
    start = (view.storage_offset() - given.storage_offset()) // step
    features = trace.features
    if not features and given.dim() in (2, 3):
        features = (Axis(given.stride(-1), given.shape[-1]),)
    if any(cut[0].lies_in(*axis) for axis in features):
        return trace.tokens
    step //= math.prod(axis.size for axis in features if axis.step < step)
    parts = set()
    for number, cuts in trace.tokens:
        cuts = {cut[0]: cut[1:] for cut in cuts}
        first = start + cuts.get(step, (0,))[0]
        cuts[step] = first, first + count
        parts.add((number, tuple((step, *cut) for step, cut in sorted(cuts.items()))))
    return frozenset(parts)


# --------------------------------------------------------------------------------------------------
# Layouts


def _lengths(tensor: Tensor) -> list[Axis]:
    return [
        Axis(step, size)
        for step, size in zip(tensor.stride(), tensor.shape, strict=True)
        if size > 1 and step
    ]


def _axes(tensor: Tensor) -> dict[int, Axis]:
    axes = enumerate(zip(tensor.stride(), tensor.shape, strict=True))
    return {place: Axis(*axis) for place, axis in axes if axis[1] > 1}


def _contiguous(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[place + 1 :]) for place in range(len(shape))]


def _share_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _recopied(trace: Trace, tensor: Tensor, steps: Sequence[int]) -> Trace:
    """The trace of a tensor, for a copy that lies in memory with other steps."""
    if tensor.stride() == tuple(steps):
        return trace
    features = tuple(
        Axis(new, size)
        for step, size, new in zip(tensor.stride(), tensor.shape, steps, strict=True)
        if any(Axis(step, size).lies_in(*axis) for axis in trace.features)
    )
    weights = trace.weights
    if weights is not None:
        weights = replace(weights, axes=_moved(weights.axes, tensor, steps))
    return replace(trace, features=features, weights=weights)


def _moved(axes: dict[int, Axis], tensor: Tensor, steps: Sequence[int]) -> dict[int, Axis]:
    """Where the axes lie in a result whose dimensions are those of `tensor`, with other steps."""
    moved = {}
    for place, axis in axes.items():
        for step, size, new in zip(
            tensor.stride()[::-1], tensor.shape[::-1], steps[::-1], strict=False
        ):
            if axis.lies_in(step, size):
                moved[place] = Axis(new * (axis.step // step), axis.size)
                break
    return moved


def _matrices(
    name: str, args: tuple, factors: list[Tensor]
) -> tuple[Callable, Callable, Callable] | None:
    """What brings the factors of a product, and the product, into the form of a batched matrix
    product.
    """

    def same(tensor):
        return tensor

    if name == "linear":
        return same, lambda weight: weight.mT, same
    if name == "einsum":
        return _einsum_matrices(args[0], factors)
    if factors[0].dim() == 1:
        return (lambda row: row[None]), same, (lambda product: product[..., None, :])
    if factors[1].dim() == 1:
        return same, (lambda column: column[:, None]), (lambda product: product[..., None])
    return same, same, same


def _einsum_matrices(
    equation: str, factors: list[Tensor]
) -> tuple[Callable, Callable, Callable] | None:
    """For an einsum of two factors that sums over one axis: batch… rows summed, batch… summed
    columns.
    """
    names, arrow, result = equation.replace(" ", "").partition("->")
    first, second = names.split(",")
    if not arrow:  # what is named once, in alphabetical order
        once = sorted(letter for letter in names if letter.isalpha() and names.count(letter) == 1)
        result = "".join(["..." * ("." in names), *once])
    dots = [
        factor.dim() - len(one) + 3 for factor, one in zip(factors, (first, second), strict=True)
    ]
    result = result.replace("...", "ABCDEFGH"[8 - max(dots) :] if "." in names else "")
    first, second = (
        one.replace("...", "ABCDEFGH"[8 - count :])
        for one, count in zip((first, second), dots, strict=True)
    )
    summed = [letter for letter in first if letter in second and letter not in result]
    columns = [letter for letter in second if letter not in first]
    if len(summed) != 1 or len(columns) > 1 or set(first + second) - set(result) != set(summed):
        return None
    rows = [letter for letter in first if letter not in second]
    batch = [letter for letter in result if letter not in (*rows[-1:], *columns)]
    row, column = rows[-1:] or ["row"], columns or ["column"]

    def to(names: str, *letters: str) -> Callable:
        def form(tensor):
            tensor = tensor.permute([names.index(letter) for letter in letters if letter in names])
            for place, letter in enumerate(letters):
                if letter not in names:
                    tensor = tensor.unsqueeze(place)
            return tensor

        return form

    return (
        to(first, *batch, *row, *summed),
        to(second, *batch, *summed, *column),
        to(result, *batch, *row, *column),
    )


def _then_turned(form: Callable) -> Callable:
    return lambda tensor: form(tensor).mT


def _queries(softmax: Softmax, axes: dict[int, Axis], matrix: Tensor | None) -> int | None:
    """Which axis of a softmax are the queries: the rows of the matrix that its weights are."""
    places = [place for place in range(len(softmax.shape)) if place != softmax.axis]
    if matrix is not None and matrix.shape[-2] > 1:
        step, size = matrix.stride(-2), matrix.shape[-2]
        rows = [place for place, axis in axes.items() if axis.lies_in(step, size)]
        rows = [place for place in rows if place != softmax.axis]
        return max(rows, default=None)
    if matrix is not None:
        places = [place for place in places if place not in axes]
    return places[-1] if places else None


def _left_alone(axes: dict[int, Axis], product: Tensor, values: Tensor) -> int | None:
    """Which axis of a softmax the values do not have: the queries."""
    lengths = zip(product.stride()[::-1], product.shape[::-1], strict=True)
    alone = []
    for index, (step, size) in enumerate(lengths):
        if index >= values.dim() or values.shape[-1 - index] == 1:
            alone += [place for place, axis in axes.items() if axis.lies_in(step, size)]
    return max(alone, default=None)


def _places(
    tensor: Tensor, axes: dict[int, Axis]
) -> tuple[list[list[int]], list[list[int | None]]] | None:
    """For each dimension of a tensor the lengths of the axes that are folded into it, and which they
    are (None is an axis that the softmax had not); None if they do not fit.
    """
    sizes, places = [], []
    for step, size in zip(tensor.stride(), tensor.shape, strict=True):
        inside = {place: axis for place, axis in axes.items() if axis.lies_in(step, size)}
        groups, rest = [], size
        for place, axis in sorted(inside.items(), key=lambda one: -one[1].step):
            width = axis.step // step
            length = size if width == 1 and size < axis.size else axis.size  # it may be cut
            groups += [(rest // (length * width), None), (length, place)]
            rest = width
        groups = [group for group in [*groups, (rest, None)] if group[0] != 1]
        if math.prod(length for length, _ in groups) != size:
            return None
        sizes.append([length for length, _ in groups])
        places.append([place for _, place in groups])
    return sizes, places


def _arrangement(
    sizes: list[list[int]],
    places: list[list[int | None]],
    softmax: Softmax,
    queries: int | None,
    heads: int,
    form: Callable[[Tensor], Tensor] | None = None,
) -> Callable[[Tensor], Float[Tensor, "batch heads queries keys"]] | None:
    """What brings a tensor of these axes into `batch heads queries keys`; None if they do not fit."""
    sizes = [size for group in sizes for size in group]
    places = [place for group in places for place in group]
    if len(set(places) - {None}) != len([place for place in places if place is not None]):
        return None
    others = [place for place in range(len(softmax.shape)) if place not in (softmax.axis, queries)]
    of_heads = others[-1:] if len(softmax.shape) > 3 else []

    def group(place: int | None) -> int:
        if place is None or place in of_heads:
            return 1
        return {softmax.axis: 3, queries: 2}.get(place, 0)

    order = sorted(range(len(places)), key=lambda index: (group(places[index]), places[index] or 0))
    shape = [1, 1, 1, 1]
    for size, place in zip(sizes, places, strict=True):
        shape[group(place)] *= size
    if len(softmax.shape) == 3 and shape[1] == 1 and shape[0] % heads == 0:
        shape[:2] = shape[0] // heads, heads

    def arrange(tensor):
        tensor = form(tensor) if form else tensor
        return tensor.reshape(sizes).permute(order).reshape(shape)

    return arrange


def _check(matrices, sizes, places, softmax: Softmax, queries: int | None, heads: int):
    """Compares weights @ values with what the model got, all brought into the layout of the map."""
    weights, values, result = matrices
    columns, keys = result.shape[-1], weights.shape[-1]
    lead = values.shape[:-2]
    lead = (1,) * (weights.dim() - 2 - len(lead)) + tuple(lead)
    of_values = [
        group if size == weights.shape[place] else [1] * len(group)
        for place, (size, group) in enumerate(zip(lead, sizes[:-2], strict=True))
    ]
    arrange_values = _arrangement(
        [*of_values, [keys], [columns]],
        [*places[:-2], [queries], [softmax.axis]],
        softmax,
        queries,
        heads,
    )
    arrange_result = _arrangement(
        [*sizes[:-1], [columns]], [*places[:-1], [softmax.axis]], softmax, queries, heads
    )
    if arrange_values is None or arrange_result is None or queries is None:
        return lambda chosen, weights: None
    return reproduces(arrange_result(result), arrange_values(values))
