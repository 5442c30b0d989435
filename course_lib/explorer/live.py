"""A model as a list of steps and their numbers, so that a saved page runs it without Python.

The steps are those that the model takes: it looks at one image while a `TorchFunctionMode` writes
down every function that PyTorch calls, with the values that flow between them. What does not depend
on the image is a number by then. `web/model.js` takes the same steps in the page.
"""

import copy
import io
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..pictures.base import data_url, to_picture
from ..recorder.packing import pack_arrays
from ..shapes import Float

__all__ = ["pack_model", "page_model", "png_url"]

IMAGE = "v0"  # what the steps call the image


def pack_model(
    model: nn.Module, image: Float[Tensor, "3 height width"]
) -> tuple[dict[str, Any], bytes]:
    """The steps from an image of this size to its logits, as `web/model.js` takes them, and their
    numbers as bytes.

    A step is `do` (its name), `of` (what it takes: `v…` is a step's result, `c…` an array, a number
    itself), `shape` (of its result) and options. Numbers travel in half precision where that loses
    nothing, as in the shipped weights, and in full otherwise. `logits` and `attention` name
    results: a layer's weights are `1 heads attributes tokens`. Raises ValueError, in one sentence,
    for what a page cannot compute.
    """
    model = copy.deepcopy(model).cpu().float().eval()
    image = image.detach().cpu().float()[None]
    tracer = _Tracer(image)
    with torch.no_grad():
        with tracer:
            logits = model(image)
        name = tracer.name_of(logits)
    if not isinstance(name, str) or not name.startswith("v"):
        raise ValueError(
            "the model's logits do not depend on the image, so there is nothing to run"
        )
    attention = []
    for step, shape in ((step, step["shape"]) for step in tracer.steps):
        looks = step["do"] in ("attention", "softmax") and len(step.get("weights", shape)) == 4
        weights = step.get("weights", shape)
        if looks and weights[2] == logits.shape[-1] and round(weights[3] ** 0.5) ** 2 == weights[3]:
            attention.append(step["to"])
    described, planes = pack_arrays(
        {name: _smallest(constant) for name, constant in tracer.constants.items()}
    )
    description = {
        "steps": tracer.steps,
        "arrays": described,
        "size": list(image.shape[2:]),
        "logits": name,
        "attention": attention,
    }
    return description, planes


def page_model(
    model: nn.Module, image: Float[Tensor, "3 height width"], layers: Sequence[dict[str, Any]]
) -> tuple[dict[str, Any], bytes]:
    """What a page needs to run an explorer's model, whose `layers` attend, and its numbers; empty if
    a page cannot compute the model.
    """
    try:
        description, planes = pack_model(model, image)
    except ValueError:
        return {}, b""
    heads = {step["to"]: step.get("weights", step["shape"])[1] for step in description["steps"]}
    if [heads[name] for name in description["attention"]] != [layer["heads"] for layer in layers]:
        return {}, b""
    return {"description": description}, planes


def png_url(image: Float[Tensor, "3 height width"]) -> str:
    """An image as a PNG inside its own address: every pixel as it is, to one of 256 levels."""
    buffer = io.BytesIO()
    Image.fromarray(to_picture(image)).save(buffer, "PNG", optimize=True)
    return data_url(buffer.getvalue(), "png")


def _smallest(constant: Tensor) -> Tensor:
    """In half precision, if that loses nothing."""
    half = constant.half()
    return half if torch.equal(half.float(), constant) else constant


# ---- which functions a page knows: each returns its step, what the step takes, and its options ----

Step = tuple[str, Sequence[Any], dict[str, Any]]


def _pair(value: int | Sequence[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _convolution(
    input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1
) -> Step:  # named as torch names them
    if isinstance(padding, str):
        raise NotImplementedError(f"padding={padding!r}")
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    options = {name: _pair(value) for name, value in options.items()}
    return "convolution", (input, weight, bias), options | {"groups": groups}


def _batch_norm(
    input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
) -> Step:
    """Folded into a scale and a shift a channel."""
    if training:
        raise NotImplementedError("statistics of the batch")
    scale = (running_var.double() + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale if bias is None else bias - running_mean * scale
    return "affine", (input, scale.float(), shift.float()), {}


def _layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5) -> Step:
    if len(normalized_shape) != 1:
        raise NotImplementedError("more than the last axis")
    return "layer norm", (input, weight, bias), {"eps": eps}


def _linear(input, weight, bias=None) -> Step:
    return "linear", (input, weight, bias), {}


def _attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
) -> Step:
    if attn_mask is not None or is_causal or enable_gqa or dropout_p:
        raise NotImplementedError("a mask, shared keys or dropout")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    weights = [*query.shape[:-1], key.shape[-2]]
    return "attention", (query, key, value), {"scale": scale, "weights": weights}


def _gelu(input, approximate="none") -> Step:
    if approximate != "none":
        raise NotImplementedError(f"approximate={approximate!r}")
    return "gelu", (input,), {}


def _softmax(input, dim=None, _stacklevel=3, dtype=None) -> Step:
    _last(input, dim)
    return "softmax", (input,), {}


def _normalize(input, p=2.0, dim=1, eps=1e-12) -> Step:
    _last(input, dim)
    if p != 2:
        raise NotImplementedError(f"p={p}")
    return "normalize", (input,), {"eps": eps}


def _last(input: Tensor, dim: int | None) -> None:
    if dim is None or dim % input.ndim != input.ndim - 1:
        raise NotImplementedError(f"dim={dim}, which is not the last one")


def _einsum(equation, *operands) -> Step:
    operands = operands[0] if len(operands) == 1 else operands
    equation = equation.replace(" ", "")
    if len(operands) != 2 or "->" not in equation or "." in equation:
        raise NotImplementedError(equation)
    return "einsum", operands, {"equation": equation}


def _elementwise(name: str, turned: bool = False) -> Callable[..., Step]:
    def step(input, other, *, alpha=1, rounding_mode=None) -> Step:
        if alpha != 1 or rounding_mode is not None:
            raise NotImplementedError("alpha or rounding")
        return name, (other, input) if turned else (input, other), {}

    return step


def _activation(name: str) -> Callable[..., Step]:
    def step(input, inplace=False, **options) -> Step:
        if inplace:
            raise NotImplementedError("in place")
        return name, (input,), {}

    return step


KNOWN: dict[str, Callable[..., Step]] = {
    "conv2d": _convolution,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "scaled_dot_product_attention": _attention,
    "gelu": _gelu,
    "softmax": _softmax,
    "normalize": _normalize,
    "einsum": _einsum,
    "matmul": lambda input, other: ("matmul", (input, other), {}),
    **{name: _activation(name) for name in ("relu", "sigmoid", "tanh", "silu")},
    **{name: _elementwise(name) for name in ("add", "sub", "mul", "div")},
    "rsub": _elementwise("sub", turned=True),
    "rdiv": _elementwise("div", turned=True),
}

# the same under another name, or as an operator
ALIASES = {
    "truediv": "div", "true_divide": "div", "divide": "div", "multiply": "mul", "subtract": "sub",
    "radd": "add", "rmul": "mul", "rtruediv": "rdiv", "bmm": "matmul",
}  # fmt: skip

SAME = {"contiguous", "detach", "clone", "float", "to", "dropout", "dropout2d", "alias"}

RESHAPED = {"reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as"}

PERMUTED = {"permute", "transpose", "swapaxes", "movedim", "mT", "T", "t"}

# each side of the image by itself is a matrix times the pixels
SEPARABLE = {"interpolate", "avg_pool2d", "adaptive_avg_pool2d"}


class _Tracer(TorchFunctionMode):
    """Writes down each known function that takes what came of the image, in order."""

    def __init__(self, image: Tensor):
        super().__init__()
        self.values = {id(image): IMAGE}
        self.unknown: dict[int, str] = {}  # made of the image by a function that no page knows
        self.alive = [image]  # an id is a tensor's own only as long as it lives
        self.steps: list[dict[str, Any]] = []
        self.constants: dict[str, Tensor] = {}
        self.shared: dict[int, str] = {}

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = {name: value for name, value in (options or {}).items() if value is not None}
        result = function(*arguments, **options)
        taken = [
            each
            for argument in (*arguments, *options.values())
            for each in (argument if isinstance(argument, list | tuple) else [argument])
            if id(each) in self.values or id(each) in self.unknown
        ]
        if taken:
            self._write(_name_of(function), function, arguments, options, taken[0], result)
        return result

    def _write(self, name, function, arguments, options, source, result) -> None:
        if not isinstance(result, Tensor):  # a shape, or numbers that a check looks at
            made = result if isinstance(result, tuple | list) else ()
            self._forbid(name, *(each for each in made if isinstance(each, Tensor)))
        elif any(result is each for each in self.alive) or "out" in options:
            if name not in SAME:
                raise ValueError(f"the model changes a value in place ({name}), as no page can do")
        elif name in SAME and result.is_floating_point():
            self._keep(result, self.name_of(source))
        elif name in RESHAPED or (name == "getitem" and _only_axes(arguments[1], source, result)):
            self._keep(result, self._step("reshape", (source,), {}, result))
        elif name in PERMUTED:
            # sides of different lengths say where each of them went
            sides = torch.empty(*range(source.ndim), device="meta")
            axes = list(function(sides, *arguments[1:], **options).shape)
            self._keep(result, self._step("permute", (source,), {"axes": axes}, result))
        elif name in SEPARABLE:
            rows, columns = _sides(function, arguments, options, source, result)
            self._keep(result, self._step("separable", (source, rows, columns), {}, result))
        elif name in KNOWN:
            try:
                do, of, more = KNOWN[name](*arguments, **options)
                self._keep(result, self._step(do, of, more, result))
            except (NotImplementedError, TypeError) as error:
                self._forbid(f"{name} ({error})", result)
        elif name == "cosine_similarity":
            self._cosine(*arguments, **options, result=result)
        else:
            self._forbid(name, result)

    def _cosine(self, x1, x2, dim=1, eps=1e-8, *, result) -> None:
        """The product of two vectors of length 1."""
        if dim not in (-1, x1.ndim - 1):
            return self._forbid("cosine_similarity of another axis than the last", result)
        lengths = [F.normalize(each, dim=-1, eps=eps) for each in (x1, x2)]
        for given, length in zip((x1, x2), lengths, strict=True):
            if id(given) in self.values:
                self._keep(length, self._step("normalize", (given,), {"eps": eps}, length))
        product = lengths[0] * lengths[1]
        self._keep(product, self._step("mul", lengths, {}, product))
        self._keep(result, self._step("sum", (product,), {}, result))

    def _keep(self, tensor: Tensor, name: str) -> None:
        self.values[id(tensor)] = name
        self.alive.append(tensor)

    def _forbid(self, name: str, *tensors: Tensor) -> None:
        """Only if it is used later does it matter that a page could not compute it."""
        for tensor in tensors:
            self.unknown[id(tensor)] = name
            self.alive.append(tensor)

    def _step(self, do: str, of: Sequence[Any], options: dict[str, Any], result: Tensor) -> str:
        name = f"v{len(self.steps) + 1}"
        taken = [self.name_of(each) for each in of]
        shape = list(result.shape)
        self.steps.append({"do": do, "of": taken, "to": name, "shape": shape} | options)
        return name

    def name_of(self, value: Any) -> str | float | None:
        """What the steps call a value; a tensor that did not come of the image becomes a constant."""
        if not isinstance(value, Tensor):
            return value
        if id(value) in self.unknown:
            raise ValueError(
                f"the model uses {self.unknown[id(value)]}, which a page cannot compute"
            )
        if id(value) in self.values:
            return self.values[id(value)]
        if id(value) not in self.shared:
            self.shared[id(value)] = f"c{len(self.constants)}"
            self.constants[f"c{len(self.constants)}"] = value.detach().float()
            self.alive.append(value)
        return self.shared[id(value)]


def _name_of(function: Callable) -> str:
    """What PyTorch calls a function, without the marks of operators and properties."""
    name = function.__name__
    if name == "__get__":
        name = function.__self__.__name__
    name = name.strip("_") if name.startswith("__") else name
    return ALIASES.get(name, name)


def _only_axes(index: Any, source: Tensor, result: Tensor) -> bool:
    """Whether an index adds or drops axes of one item, and leaves all numbers in their order."""
    plain = all(
        each is None or each is Ellipsis or isinstance(each, int | slice)
        for each in (index if isinstance(index, tuple) else [index])
    )
    return plain and source.numel() == result.numel()


def _sides(
    function: Callable, arguments: tuple, options: dict, image: Tensor, result: Tensor
) -> tuple[Float[Tensor, "rows height"], Float[Tensor, "columns width"]]:
    """The matrices that make the rows and the columns of a resized or pooled image."""
    height, width = image.shape[2:]
    steps_down = torch.eye(height)[None, :, :, None].expand(-1, -1, -1, width)
    steps_right = torch.eye(width)[None, :, None, :].expand(-1, -1, height, -1)
    rows = function(steps_down, *arguments[1:], **options)[0, :, :, 0].T
    columns = function(steps_right, *arguments[1:], **options)[0, :, 0, :].T
    if not torch.allclose(rows @ image @ columns.T, result, atol=1e-5):
        raise ValueError(f"the model's {_name_of(function)} is no product of rows and columns")
    return rows.contiguous(), columns.contiguous()
