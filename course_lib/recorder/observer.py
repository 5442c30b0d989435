"""The mode that sees every operator of a forward."""

import os
import sys
from collections.abc import Sequence
from functools import cache, cached_property, partial

import torch
from torch import Tensor, nn
from torch.nested._internal.nested_tensor import NestedTensor
from torch.utils._python_dispatch import TorchDispatchMode

from .operators import ATTENDING, RECORD_IT, call, in_backward, meaning, names_of, unobserved
from .tracing import Call, Found, Owner, Tracer

__all__ = ["Observer"]

TORCH = os.path.dirname(torch.__file__) + os.sep

HERE = os.path.dirname(__file__) + os.sep

LEAVES = (nn.Softmax, nn.Dropout, nn.Identity)  # never own attention: the module around them does

NESTED = ("native", "encoder layer")  # these show the weights of nested tensors


@cache
def _is_inside(file: str) -> bool:
    """Whether a file's frames stand between the operators of a call and the call: PyTorch's without
    its layers do.
    """
    return file.startswith(TORCH) and not file.startswith(f"{TORCH}nn{os.sep}")


class Observer(TorchDispatchMode):
    """Sees every operator of one forward of a model, in one thread.

    `buffers` are the model's. Each attention goes to `keep`; what could not
    be recorded goes to `miss`; `add_gradient` gets what a backward pass delivers for what was put
    into `fresh`.
    """

    supports_higher_order_operators = True  # flex attention refuses to run under a mode without it

    def __init__(self, root: nn.Module, buffers: Sequence[Tensor | None] = ()):
        super().__init__()
        self.root = root
        self.tracer = Tracer(self.owner, self.call, self.unclear, buffers)
        self.fresh: list[tuple] = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if types and any(issubclass(kind, NestedTensor) for kind in types):
            self.attempt(operator, self.nested)
            return operator(*args, **kwargs)
        # autograd may detach an output, to keep it, before it joins the graph
        if self.fresh and operator is not torch.ops.aten.detach.default:
            self.attempt(operator, self.await_gradients)
        role, has_steps = meaning(operator)
        output = call(operator, args, kwargs) if has_steps else operator(*args, **kwargs)
        if not in_backward():
            self.attempt(operator, self.see, operator, role, args, kwargs, output)
        return output

    @cached_property
    def names(self) -> dict[int, str]:
        """The names of the model's modules, by `id`, read when the first is wanted: modules may be
        exchanged between forwards.
        """
        return {id(module): name for name, module in names_of(self.root)}

    def attempt(self, operator, action, *args) -> None:
        """Nothing that goes wrong here may reach the model."""
        try:
            action(*args)
        except Exception as error:
            reason = f"recording {operator} failed ({type(error).__name__}: {error})"
            self.miss(self.owner()[0], reason, RECORD_IT)

    def nested(self) -> None:
        """Note that attention in nested tensors is passed over."""
        self.miss(
            "",
            "its tokens come as a nested tensor, whose maps have no common shape",
            "pad them (`torch.nested.to_padded_tensor`) and mask the padding",
        )

    def see(self, operator, role: str, args: tuple, kwargs: dict, output) -> None:
        if args and getattr(args[0], "is_nested", False) and role not in NESTED:
            return self.nested() if role in ("fused", "product", "softmax") else None
        if role == "opaque":
            self.miss(
                self.owner()[0],
                f"{operator} is a kernel of its own, which shows no weights",
                f"switch to PyTorch's scaled_dot_product_attention, or {RECORD_IT}",
            )
        if role in ATTENDING:
            with unobserved():
                self.keep_all(self.tracer.follow(operator, role, args, kwargs, output))
        elif found := self.tracer.follow(operator, role, args, kwargs, output):
            with unobserved():
                self.keep_all(found)

    def keep_all(self, found: Found) -> None:
        for attention, owner in found:
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
            file = frame.f_code.co_filename
            if file.startswith(HERE):
                places = []
            elif not _is_inside(file):
                places.append((frame.f_code, frame.f_lasti))
            frame = frame.f_back
        return tuple(places)

    def unclear(self, owner: Owner, what: str, remedy: str) -> None:
        """Note what is doubtful in a map that was recorded."""
        self.miss(owner[0], what, remedy, grave=False)

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
