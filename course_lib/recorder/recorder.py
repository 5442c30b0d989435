"""Record the attention of any model, exactly, without changing a bit of what it computes.

    with AttentionRecorder(model) as recording:
        model(x)
    print(recording)
    recording.records[0].weights

Every model ends up at PyTorch's operators, so that is where attention is observed: no hook is
placed on a model, no kernel is exchanged. What an operator means, and who asks whom, stands in
`operators.py`; what is kept of a map, and the maps and their files, in `recording.py`.
"""

import math
import operator
import re
import reprlib
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial, wraps
from numbers import Real
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from ..models.inference import evaluating, to_model
from .observer import Observer
from .operators import (
    RECORD_IT,
    Attention,
    four_axes,
    heads_of,
    in_backward,
    leave,
    names_of,
    of_weights,
    uncompiled,
    unobserved,
)
from .recording import BUDGET, KEEP, Plan, Record, Recording

__all__ = ["AttentionRecorder", "record"]

LOOKS_LIKE_ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)


class AttentionRecorder:
    """Record every attention map of `model` while it runs inside the block, in any thread.

    A step is one call of the model, or of a method of it that runs its parts (`encode_image`).
    `keep` is one of `KEEP` ("full", "heads", "thumbnail", "statistics", "shapes") or a list of
    query indices. When `budget` (bytes) is full, all maps step down that list, and a warning says
    so. With `gradients`, backward passes add the gradient of each map. Compiled models run
    uncompiled inside the block. Source: `TorchDispatchMode`. Raises `ValueError` for an unknown
    `keep` or `budget`. Used in lesson 05.
    """

    def __init__(
        self,
        model: nn.Module,
        keep: str | Sequence[int] = "full",
        budget: float = BUDGET,
        gradients: bool = False,
    ):
        self.rows = None if isinstance(keep, str) else _indices(keep)
        self.keep = keep if isinstance(keep, str) else "full"
        if self.keep not in KEEP or self.rows == []:
            raise ValueError(
                f"keep={reprlib.repr(keep)} says nothing; choose one of {', '.join(KEEP)}, or a"
                " list of query indices"
            )
        if not (isinstance(budget, Real) and 0 <= budget < math.inf):
            raise ValueError(
                f"the budget is {reprlib.repr(budget)} bytes; give a number, at least 0"
            )
        if gradients and self.keep != "full":
            raise ValueError(
                f'keep={keep!r} has no room for gradients; keep "full" maps or a list of query'
                " indices"
            )
        self.model, self.budget, self.gradients = model, int(budget), gradients
        self.root = uncompiled(model)
        self.forwards, self.products = 0, 0
        # a method of the model that runs its parts, and how often each of them attended in it
        self.method: FrameType | None = None
        self.calls = Counter()

    def __enter__(self) -> Recording:
        self.recording = Recording(self.keep, self.rows, self.budget, self.gradients)
        self.forwards, self.products = 0, 0
        modules = list(self.root.modules())
        self.parts, self.types = {id(module) for module in modules}, {type(one) for one in modules}
        self.buffers = [one for module in modules for one in module._buffers.values()]
        try:
            _open(self)
            return self.recording
        except BaseException:
            _close(self)
            raise

    def __exit__(self, error_type, error, traceback) -> None:
        try:
            _close(self)
        finally:
            _close(self)  # an interrupt may have come during the first
        if error_type is None:
            self._report()
            self.recording.warn()
        self.method = None  # a frame keeps its variables alive

    def plan(self, *inputs, **keywords) -> Plan:
        """Run the model once, keep only shapes, and return what a recording would cost: `print` it."""
        inputs, keywords = to_model(self.root, inputs, keywords)
        with (
            evaluating(self.root),
            AttentionRecorder(self.model, "shapes") as recording,
            torch.no_grad(),
        ):
            self.model(*inputs, **keywords)
        shapes = tuple(record.shape for record in recording.records)
        return Plan(shapes, self.keep, None if self.rows is None else tuple(self.rows), self.budget)

    def _report(self) -> None:
        """What looks like attention and gave nothing."""
        recording, model = self.recording, type(self.root).__name__
        if not self.forwards:
            return recording.miss(
                "",
                f"{model} was not called",
                "call the model itself, or a method that runs it, inside the `with` block",
            )
        owners = {record.name for record in recording.records}
        if self.method and not (owners or recording.gaps):
            return recording.miss(
                "",
                f"{model}.{self.method.f_code.co_name} ran parts of the model, and none of them"
                " attended: what it computes between them is not seen",
                "call the model itself, or record the part that attends",
            )
        known = owners | {gap.where for gap in recording.gaps if gap.grave}
        attending = {one for one in self.types if LOOKS_LIKE_ATTENTION.search(one.__name__)}
        for name, module in names_of(self.root) if attending else ():
            if type(module) in attending and not any(_related(name, one) for one in known):
                recording.miss(
                    name,
                    f"{type(module).__name__} gave no weights: it did not run, it has no softmax,"
                    " or its kernel is its own",
                    f"switch its custom kernel off, or {RECORD_IT}",
                )
        if not owners and not recording.gaps and self.products:
            recording.miss(
                "",
                f"{model} multiplies tensors as attention does, but no softmax was seen: it is"
                " written by hand, or there is none (sigmoid and linear attention)",
                f"if it is attention, {RECORD_IT}",
            )
        elif not owners and not recording.gaps:
            recording.miss("", f"{model} has no attention", f"record another model, or {RECORD_IT}")
        if "" in owners and isinstance(self.root, torch.fx.GraphModule):
            recording.miss(
                "",
                "an exported graph has lost the names of its modules",
                "record the model before export",
            )


def _indices(rows: Any) -> list[int]:
    """These numbers as a list; an empty one if they are none."""
    try:
        return [operator.index(row) for row in rows]
    except TypeError:
        return []


def _related(name: str, owner: str) -> bool:
    """Whether one is the other, or inside it; the model itself, which has no name, is related to
    all.
    """
    return (
        not (name and owner)
        or f"{owner}.".startswith(f"{name}.")
        or f"{name}.".startswith(f"{owner}.")
    )


# --------------------------------------------------------------------------------------------------
# From a recorder to the forwards of its model. While a recorder is open, every call of a module goes through `_call`,
# which leaves the model itself untouched (a hook *on* an encoder layer ends its fast path). A call is a frame, so that
# whatever is raised in it, also what no hook of PyTorch hears of (KeyboardInterrupt, SystemExit), is undone in `finally`.
_recorders: list[AttentionRecorder] = []

_switches = ExitStack()  # what to undo when the last recorder closes

_lock = threading.RLock()

_running = threading.local()  # the forwards of watched models that run in this thread


def _open(recorder: AttentionRecorder) -> None:
    with _lock:
        _recorders.append(recorder)
        if len(_recorders) == 1:
            _watch_calls()
            # a compiled model has no operators to see
            _switches.enter_context(torch.compiler.set_stance("force_eager"))


def _close(recorder: AttentionRecorder) -> None:
    with _lock:
        try:
            if recorder in _recorders:
                _recorders.remove(recorder)
        finally:
            if not _recorders:
                _switches.close()


def _watch_calls() -> None:
    """Put `_call` before the call of every module, until `_switches` are closed."""
    plain = nn.Module.__call__

    @wraps(plain)
    def call(module, *args, **kwargs):
        return _call(plain, module, args, kwargs)

    def restore() -> None:
        if nn.Module.__call__ is call:
            nn.Module.__call__ = plain

    _switches.callback(restore)
    nn.Module.__call__ = call


def _call(plain: Callable, module: nn.Module, args: tuple, kwargs: dict):
    """Call a module; if a recorder waits for it, under the eyes of a watch."""
    root = uncompiled(module)
    # A model that calls itself is watched once.
    busy = [watch.recorder for watch in _watches()]
    waiting = [recorder for recorder in list(_recorders) if recorder not in busy]
    if in_backward():  # a forward inside backward repeats one that was watched
        waiting = []
    watches = []
    for recorder in waiting:
        if recorder.root is root:
            watches.append(_Watch(recorder))
        elif id(module) in recorder.parts and (method := _method_of(recorder.root)):
            watches.append(_Watch(recorder, method))
    if not watches:
        return plain(module, *args, **kwargs)
    before = len(_watches())
    try:
        for watch in watches:
            _watches().append(watch)
            watch.__enter__()
        return plain(module, *args, **kwargs)
    finally:
        try:
            _leave(before)
        finally:
            _leave(before)  # an interrupt may have come during the first


def _method_of(root: nn.Module) -> FrameType | None:
    """The frame of a method of the model that is running, the innermost; None if there is none."""
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        is_method = code.co_argcount and hasattr(type(root), code.co_name)
        if is_method and frame.f_locals.get(code.co_varnames[0]) is root:
            return frame
        frame = frame.f_back
    return None


def _watches() -> list["_Watch"]:
    """The watches of this thread, the innermost last."""
    _running.__dict__.setdefault("watches", [])
    return _running.watches


def _leave(count: int) -> None:
    """End the innermost watches until `count` are left."""
    while len(_watches()) > count:
        watch = _watches()[-1]
        leave(watch)
        watch.finish()
        _watches().pop()


class _Watch(Observer):
    """Files what one forward of the model attends to, or of a part of it that `method` runs."""

    def __init__(self, recorder: AttentionRecorder, method: FrameType | None = None):
        super().__init__(recorder.root, recorder.buffers)
        torch.clear_autocast_cache()  # parameters that were cast before would look like inputs
        self.recorder, self.recording = recorder, recorder.recording
        self.miss, self.add_gradient = self.recording.miss, self.recording.add_gradient
        with _lock:
            if method is None or method is not recorder.method:  # a new step
                recorder.forwards += 1
                recorder.method, recorder.calls = method, Counter()
            self.step, self.calls = recorder.forwards - 1, recorder.calls

    def keep_given(self, weights: Tensor) -> None:
        """File weights that the model hands over itself; the softmax they come from is not recorded
        again.
        """
        trace, (name, module) = self.tracer.trace(weights), self.owner()
        for softmax in trace.weights.softmaxes if trace.weights else ():
            softmax.consumed = True
        with unobserved():
            arrange = partial(four_axes, heads=heads_of(module) or 1)
            attention = of_weights(weights, "record", trace.kind or "unknown", arrange)
            self.keep(attention, name, module)

    def keep(self, attention: Attention, name: str, module: nn.Module | None) -> None:
        """File this attention as a record of that module."""
        sub = self.calls[name]
        self.calls[name] += 1
        class_name, kind, operator = type(module).__name__, attention.kind, attention.operator
        record = Record(name, class_name, kind, operator, attention.shape, self.step, sub)
        self.recording.add(record, attention)
        if self.recording.gradients:
            self.fresh.append((record, attention))
        whole = record.kept == ("full",) and self.recording.rows is None
        if whole and hasattr(module, "last_attn_weights"):
            module.last_attn_weights = record.weights.to(attention.result.device)

    def finish(self) -> None:
        """Register what is left, list each softmax that was not understood, and let go of the
        tensors.
        """
        self.attempt("the forward", self.await_gradients)
        self.recorder.products += self.tracer.products if self.tracer else 0
        for softmax in self.tracer.softmaxes if self.tracer else ():
            if not softmax.consumed and len(softmax.shape) > 2:
                reason = (
                    f"a softmax over axis {softmax.axis - len(softmax.shape)} of {softmax.shape} may be attention, but no"
                    " matrix product used it"
                )
                self.miss(softmax.owner[0], reason, f"if it is, {RECORD_IT}", grave=False)
        self.tracer = None


def record(weights: Tensor) -> Tensor:
    """Hand weights that the model computes in its own way to the recorders that watch it; returns
    them unchanged.

    Three axes are taken as `(batch heads) queries keys`, four as `batch heads queries keys`.
    Without a recorder it does nothing.
    """
    for watch in _watches():
        watch.attempt("record", watch.keep_given, weights)
    return weights
