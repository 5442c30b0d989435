"""The exercises of lesson 05: the one-key trap, maps in numbers, a recorder, and what is wrong with
a map.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..looking.attention import effective_support
from ..models.attention import CrossAttention
from .exercises import Exercise, Mistake, expect

__all__ = ["EXERCISES"]


# --------------------------------------------------------------------------------------------------
# Solutions, as a student would write them


def hooked_weights(model, layer, *inputs):
    """Run the model once, with a hook on each `layer`; return their weights by name."""
    found, handles = {}, []
    for name, module in model.named_modules():
        if isinstance(module, layer):

            def hook(module, inputs, output, name=name):
                if isinstance(output, tuple) and output[1] is not None:
                    found[name] = output[1].detach()

            handles.append(module.register_forward_hook(hook))
    model(*inputs)
    for handle in handles:
        handle.remove()
    return found


def first_fault(weights):
    """The first fault of `inputs heads queries keys`, else "fine"."""
    keys = weights.shape[-1]
    if ((weights.sum(dim=-1) - 1).abs() > 0.01).any():
        return "rows"
    if keys == 1:
        return "one key"
    if effective_support(weights).mean() > 0.9 * keys:
        return "uniform"
    if weights.mean(dim=(0, 1, 2)).max() > 0.9:
        return "sink"
    if len(weights) > 1 and (weights.amax(dim=0) - weights.amin(dim=0)).max() <= 1e-5:
        return "habit"
    return "fine"


# --------------------------------------------------------------------------------------------------
# Checks

# silent_parameters


def _after_backward() -> tuple[nn.Module, list[str]]:
    model = CrossAttention(6, 5, 4, 2)
    model(torch.randn(3, 6), torch.randn(3, 5)).square().sum().backward()
    return model, [
        f"attention.to_{role}.{kind}" for role in ("query", "key") for kind in ("weight", "bias")
    ]


def silence_is_found(student: Callable, library: Callable) -> None:
    model, silent = _after_backward()
    came = student(model)
    if not isinstance(came, (list, tuple)) or not all(isinstance(name, str) for name in came):
        raise Mistake("return a list of names, as `model.named_parameters()` gives them")
    everything = {name for name, _ in model.named_parameters()}
    if set(came) == everything - set(silent):
        raise Mistake("these are the parameters that *do* learn; turn the condition round")
    for name in came:
        if name not in silent:
            raise Mistake(f"{name!r} has a gradient that is not 0, yet you call it silent")
    if missing := [name for name in silent if name not in came]:
        raise Mistake(
            f"{missing[0]!r} has a gradient of exactly 0 everywhere, and you do not list it"
        )


def one_zero_is_not_silence(student: Callable, library: Callable) -> None:
    model = nn.Linear(3, 2)
    model.weight.grad, model.bias.grad = (
        torch.tensor([[0.0, -1, 1], [0, 0, 0]]),
        torch.tensor([1.0, -1]),
    )
    if list(student(model)):
        raise Mistake(
            "a parameter with *some* zeros, or whose gradient sums to 0, still learns; it is silent"
            " only if every number of its gradient is 0"
        )


def small_is_not_silence(student: Callable, library: Callable) -> None:
    model = nn.Linear(2, 1)
    model.weight.grad, model.bias.grad = torch.tensor([[0.0, 1e-12]]), torch.tensor([0.0])
    if list(student(model)) != ["bias"]:
        raise Mistake(
            "a gradient of 1e-12 is small, but not 0: Adam divides it by its own size and moves the"
            " parameter; compare with exactly 0"
        )


def no_gradient_is_silence(student: Callable, library: Callable) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0](torch.randn(1, 2)).sum().backward()
    if list(student(model)) != ["1.weight", "1.bias"]:
        raise Mistake(
            "a parameter that the loss never reached has `grad is None`; that is silence too"
        )


# effective_support


def support_counts_keys(student: Callable, library: Callable) -> None:
    weights = torch.randn(2, 3, 4, 7).mul(2).softmax(-1)
    entropy = -(weights * weights.log()).sum(-1)
    expect(
        student(weights),
        library(weights),
        {
            "this is the entropy, in nats; its exponential is a number of keys": entropy,
            "your entropy has the wrong sign, so you return 1 / keys": (-entropy).exp(),
            "you raise 2 to an entropy in nats; use exp, or logarithms to base 2": 2**entropy,
            "you average over queries; keep one number for each query": library(weights).mean(-1),
            "your sum runs over the queries; sum over the keys (dim=-1)": (
                (-(weights * weights.log()).sum(-2)).exp()
            ),
            "this is 1 / Σ weight², another count of keys; use the exponential of the entropy": (
                1 / weights.square().sum(-1)
            ),
        },
    )


def support_of_known_maps(student: Callable, library: Callable) -> None:
    one, all_keys = torch.eye(5)[2], torch.full((5,), 0.2)
    came = student(torch.stack([one, all_keys, torch.tensor([0.5, 0.5, 0, 0, 0])]))
    if isinstance(came, torch.Tensor) and came.isnan().any():
        raise Mistake(
            "a weight of 0 gives 0 · log 0 = NaN; `torch.special.entr` knows that this is 0"
        )
    expect(
        came,
        torch.tensor([1.0, 5, 2]),
        tolerance=1e-4,
        given="for one key, all five, and two of five",
    )


# agreement


def agreement_is_shared_mass(student: Callable, library: Callable) -> None:
    weights, truth = torch.randn(2, 4, 6).softmax(-1), torch.randn(2, 4, 6).mul(3).softmax(-1)
    expect(
        student(weights, truth),
        library(weights, truth),
        {
            "you average over queries; keep one number for each query": (
                library(weights, truth).mean(-1)
            ),
            "your products reward a map for being sharp; a map compared with itself must give 1": (
                (weights * truth).sum(-1)
            ),
            "this is the distance; agreement is what is left: 1 − ½ Σ |difference|": (
                (weights - truth).abs().sum(-1) / 2
            ),
            "you forget the half: what is missing here is too much there, so Σ |difference| counts it twice": (
                1 - (weights - truth).abs().sum(-1)
            ),
            "this is the cosine of the angle; count attention that lies in the same place": (
                torch.cosine_similarity(weights, truth, dim=-1)
            ),
            "you count all attention on keys that the truth attends to; where a row puts more on a key than the truth does, the surplus is not shared: take the smaller weight": (
                (weights * (truth > 0)).sum(-1)
            ),
            "you take the larger of the two; attention they share is the *smaller*": (
                torch.maximum(weights, truth).sum(-1)
            ),
        },
    )


def agreement_of_known_maps(student: Callable, library: Callable) -> None:
    truth = torch.eye(4)
    for weights, answer, what in (
        (torch.eye(4), 1.0, "equal maps"),
        (torch.eye(4).roll(1, 0), 0.0, "maps apart"),
        (torch.full((4, 4), 0.25), 0.25, "a uniform map over 4 keys"),
    ):
        expect(student(weights, truth), torch.full((4,), answer), given=f"for {what}")


# hooked_weights


class Pair(nn.Module):
    """Self-attention that returns its output and its weights."""

    def __init__(self, dim: int = 6):
        super().__init__()
        self.to_query, self.to_key = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = (self.to_query(x) @ self.to_key(x).mT).softmax(dim=-1)
        return weights @ x, weights


class Alone(Pair):
    """The same, whose weights nobody gets."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[0]


class Stack(nn.Module):
    """Three layers at different depths, which takes two inputs and counts its calls."""

    def __init__(self, layer: type[nn.Module] = Pair):
        super().__init__()
        self.first, self.rest = layer(), nn.ModuleList([layer(), layer()])
        self.read = nn.Linear(6, 1)
        self.calls = 0

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        self.calls += 1
        x = x + shift
        for layer in (self.first, *self.rest):
            result = layer(x)
            if isinstance(layer, Alone):
                x = x + result
            elif isinstance(result, tuple) and len(result) == 2:
                x = x + result[0]
            else:
                raise Mistake(
                    "your hook returns something, and PyTorch puts that in the place of the layer's"
                    " output; let the hook return None"
                )
        return self.read(x)


class Quiet(nn.Module):
    """One layer of PyTorch that is asked for its weights, and one that is not."""

    def __init__(self):
        super().__init__()
        self.asked, self.quiet = (nn.MultiheadAttention(6, 2, batch_first=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.asked(x, x, x)[0]
        return self.quiet(x, x, x, need_weights=False)[0]


def _weights_by_name(student: Callable, *arguments) -> dict[str, Tensor]:
    came = student(*arguments)
    if not isinstance(came, dict):
        raise Mistake(f"return a dict from names to weights, got a {type(came).__name__}")
    return came


def layers_are_found(student: Callable, library: Callable) -> None:
    model, x, shift = Stack(), torch.randn(2, 4, 6), torch.randn(2, 4, 6)
    expected, outputs, tokens = {}, {}, x + shift
    for name, layer in (
        ("first", model.first),
        ("rest.0", model.rest[0]),
        ("rest.1", model.rest[1]),
    ):
        outputs[name], expected[name] = (part.detach() for part in layer(tokens))
        tokens = tokens + outputs[name]
    came = _weights_by_name(student, model, Pair, x, shift)
    if len(came) == 1 and "first" not in came:
        raise Mistake(
            f"all weights are stored under one name, {next(iter(came))!r}: your hooks were made in a"
            " loop and read its variable when the model runs, after the loop; pass it on with"
            " `name=name`"
        )
    if set(came) != set(expected):
        raise Mistake(
            f"expected the names {sorted(expected)}, got {sorted(map(str, came))}; take modules and"
            " names from `model.named_modules()`, and hook those of class `layer`"
        )
    for name, weights in expected.items():
        said = {
            "this is the layer's output; its weights come second, output[1]": outputs[name],
            "you average over the batch; store the weights as they are": weights.mean(0),
            "you store the first item of the batch only": weights[0],
        }
        expect(came[name], weights, said, given=f"for {name!r}")
        if came[name].requires_grad:
            raise Mistake(
                "the weights hold on to the whole computation for a backward pass; store"
                " `.detach()` of them"
            )
    if model.calls != 1:
        raise Mistake(f"run the model once; it was run {model.calls} times")


def no_hook_is_left(student: Callable, library: Callable) -> None:
    model = Stack()
    student(model, Pair, torch.randn(1, 4, 6), torch.randn(1, 4, 6))
    if any(module._forward_hooks for module in model.modules()):
        raise Mistake(
            "a hook is left on the model; keep the handle that `register_forward_hook` returns, and"
            " call its `remove()`"
        )


def layers_without_weights_are_left_out(student: Callable, library: Callable) -> None:
    try:
        came = _weights_by_name(student, Quiet(), nn.MultiheadAttention, torch.randn(2, 4, 6))
    except AttributeError as error:
        raise Mistake(
            f"a layer returns None in place of its weights, and your hook goes on with it ({error});"
            " leave that layer out"
        ) from error
    if came.get("quiet", 0) is None:
        raise Mistake(
            "a layer that returned None in place of weights stands in your dict; leave it out"
        )
    if set(came) != {"asked"}:
        raise Mistake(
            "of two layers, 'asked' returned weights and 'quiet' returned None; expected ['asked'],"
            f" got {sorted(came)}"
        )
    came = _weights_by_name(
        student, Stack(Alone), Alone, torch.randn(2, 4, 6), torch.randn(2, 4, 6)
    )
    if came:
        raise Mistake(
            "a layer that returns one tensor and no pair has given no weights; `output[1]` is then"
            " the second item of the batch: ask `isinstance(output, tuple)` first"
        )


# first_fault


def _said(student: Callable, weights: Tensor, fault: str, why: str) -> None:
    came = student(weights)
    if not isinstance(came, str):
        raise Mistake(f"return one of the words as a string, got {type(came).__name__}")
    if came != fault:
        raise Mistake(f"expected {fault!r}, got {came!r}: {why}")


def _sharp(*shape: int) -> Tensor:
    return torch.randn(*shape).mul(3).softmax(-1)


def faults_are_named(student: Callable, library: Callable) -> None:
    scores = torch.randn(4, 2, 6, 9).mul(3)
    _said(
        student,
        scores.softmax(-2),
        "rows",
        "here the columns sum to 1 and the rows do not; a row's sum is over the keys (dim=-1)",
    )
    diagonal = (12 * torch.eye(9)).softmax(-1)
    moved = torch.stack([diagonal.roll(step, -1) for step in range(3)])[:, None]
    if student(moved) == "uniform":
        raise Mistake(
            "each query attends to one of 9 keys, and you say 'uniform'; the support is a number of"
            " keys: compare it with 0.9 · keys"
        )
    _said(
        student,
        moved,
        "fine",
        "each query attends to one key, but each to another; for a sink average over the rows"
        " first, and take the largest key after",
    )
    even = torch.full((4, 2, 6, 9), 1 / 9)
    _said(student, even, "uniform", "every query attends to all 9 keys equally")
    to_third = 12 * torch.eye(9)[3]
    _said(student, (scores + to_third).softmax(-1), "sink", "nearly all attention goes to key 3")
    same = _sharp(1, 2, 6, 9).repeat(4, 1, 1, 1)
    _said(student, same, "habit", "the four inputs have the same map")
    same = same + 1e-7 * torch.rand(4, 2, 6, 9)
    _said(student, same, "habit", "the maps of the four inputs differ by rounding only")


def faults_come_in_order(student: Callable, library: Callable) -> None:
    _said(
        student,
        torch.ones(4, 2, 6, 1),
        "one key",
        "there is one key; that fault comes before uniform, sink and habit, which hold too",
    )
    even = torch.full((4, 2, 6, 9), 1 / 9)
    _said(student, 0.5 * even, "rows", "each row sums to 0.5; that fault comes first")
    sink = (12 * torch.eye(9)[3]).softmax(-1).expand(4, 2, 6, 9).contiguous()
    _said(student, sink, "sink", "this is a sink and a habit; sink comes first")


def what_is_no_fault(student: Callable, library: Callable) -> None:
    _said(student, _sharp(1, 2, 6, 9), "fine", "one input cannot show a habit")
    sparse = (12 * torch.eye(9)[:4, None, None]).softmax(-1).repeat(1, 2, 6, 1)
    _said(
        student,
        sparse,
        "fine",
        "each input has another bright key; for a sink average over the inputs too",
    )
    two_alike = _sharp(3, 2, 6, 9)
    two_alike[1] = two_alike[0]
    _said(
        student,
        two_alike,
        "fine",
        "of three inputs only two have the same map; for a habit compare all inputs",
    )
    one_even_row = _sharp(4, 2, 6, 9)
    one_even_row[0, 0, 0] = 1 / 9
    _said(
        student,
        one_even_row,
        "fine",
        "one row is even, the others are not; for uniform average the support over all rows",
    )
    one_bad_row = _sharp(4, 2, 6, 9)
    one_bad_row[1, 1, 2] *= 1.2
    _said(
        student,
        one_bad_row,
        "rows",
        "one row of 48 sums to 1.2; one is enough, and a mean over the rows hides it",
    )


EXERCISES = {
    "silent_parameters": Exercise(
        solution="course_lib.looking.features:silent_parameters",
        hints=(
            (
                "After `loss.backward()` each parameter carries `.grad`. What does it look like if"
                " the loss does not care?"
            ),
            (
                "`model.named_parameters()` gives pairs of name and parameter; the answer is a list"
                " of names."
            ),
            (
                "for each name and parameter: keep the name if grad is None, or if no number of"
                " grad differs from 0"
            ),
        ),
        properties=(
            silence_is_found,
            one_zero_is_not_silence,
            small_is_not_silence,
            no_gradient_is_silence,
        ),
    ),
    "effective_support": Exercise(
        solution="course_lib.looking.attention:effective_support",
        hints=(
            (
                "Entropy says how spread a row is. A row spread evenly over n keys has entropy log"
                " n: undo the logarithm."
            ),
            "(… queries keys) → (… queries).",
            "entropy = sum over keys of −w log w, where 0 log 0 is 0; return its exponential",
        ),
        properties=(support_counts_keys, support_of_known_maps),
    ),
    "agreement": Exercise(
        solution="course_lib.looking.attention:agreement",
        hints=(
            "Lay the two rows over each other. Which part of the attention lies in the same place?",
            (
                "(… queries keys), (… queries keys) → (… queries); 1 for equal rows, 0 for rows"
                " that never meet."
            ),
            "sum over keys of the smaller of the two weights",
        ),
        properties=(agreement_is_shared_mass, agreement_of_known_maps),
    ),
    "hooked_weights": Exercise(
        solution="course_lib.lessons.lesson_05:hooked_weights",
        hints=(
            (
                "Three steps: a hook on every module of the class, one call of the model, all hooks"
                " removed. The hook writes into a dict that you return."
            ),
            (
                "`module.register_forward_hook(hook)` returns a handle with `remove()`; the hook is"
                " called as hook(module, inputs, output), and output is a pair (output, weights)."
            ),
            (
                "found, handles = {}, []; for each name and module: if isinstance, define"
                " hook(module, inputs, output, name=name), which stores output[1].detach() if output"
                " is a tuple and output[1] is not None; register it, keep the handle; run; remove"
            ),
        ),
        properties=(layers_are_found, no_hook_is_left, layers_without_weights_are_left_out),
    ),
    "first_fault": Exercise(
        solution="course_lib.lessons.lesson_05:first_fault",
        hints=(
            'One `if … return` for each fault, in the order of the docstring; at the end "fine".',
            (
                "weights: inputs heads queries keys. Sums of rows: over dim -1. A key's mean weight:"
                " over dims 0, 1, 2. Differences between inputs: along dim 0."
            ),
            (
                "any |sum − 1| > 0.01; shape[-1] == 1; mean of effective_support > 0.9 · keys;"
                " largest mean weight of a key > 0.9; len > 1 and max over (largest − smallest along"
                " inputs) ≤ 1e-5"
            ),
        ),
        properties=(faults_are_named, faults_come_in_order, what_is_no_fault),
    ),
}
