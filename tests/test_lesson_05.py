"""The exercises of lesson 05: right answers pass however they are written, wrong ones read their
mistake.
"""

import math
from contextlib import ExitStack
from functools import partial

import torch
from torch import nn

from course_lib.lessons.lesson_05 import first_fault as library_fault
from course_lib.looking import diagnose
from course_lib.looking import effective_support as support


def zero_or_none(parameter):
    return parameter.grad is None or parameter.grad.abs().max() == 0


def literal_support(weights):
    rows = [
        math.exp(-sum(w * math.log(w) for w in row.tolist() if w))
        for row in weights.reshape(-1, weights.shape[-1])
    ]
    return torch.tensor(rows, dtype=weights.dtype).reshape(weights.shape[:-1])


# hooked_weights


def stacked_hooks(model, layer, *inputs):
    """With a context that removes the hooks, and a method of the dict."""
    found = {}

    def hook(name, module, inputs, output):
        match output:
            case (_, torch.Tensor() as weights):
                found.update({name: weights.detach()})

    with ExitStack() as hooks, torch.no_grad():
        for name, module in model.named_modules():
            if type(module) is layer:
                hooks.enter_context(module.register_forward_hook(partial(hook, name)))
        model(*inputs)
    return found


def wrapped(model, layer, *inputs):
    """Without a hook: the layers' own forward is replaced for the call."""
    found, layers = {}, {name: m for name, m in model.named_modules() if isinstance(m, layer)}

    def replace(name, module):
        plain = module.forward

        def forward(*args, **kwargs):
            output = plain(*args, **kwargs)
            if isinstance(output, tuple) and output[1] is not None:
                found[name] = output[1].detach().clone()
            return output

        module.forward = forward

    for name, module in layers.items():
        replace(name, module)
    model(*inputs)
    for module in layers.values():
        del module.forward
    return found


def recorder(
    store=lambda found, name, output: found.__setitem__(name, output[1].detach()),
    names=lambda model: model.named_modules(),
    fits=lambda output: isinstance(output, tuple) and output[1] is not None,
    remove=True,
    late=False,
    times=1,
):
    """A recorder that makes the mistakes it is told to."""

    def record(model, layer, *inputs):
        found, handles = {}, []
        for name, module in names(model):
            if isinstance(module, layer):
                if late:

                    def hook(module, inputs, output):
                        if fits(output):
                            return store(found, name, output)  # noqa: B023 (the mistake)
                else:

                    def hook(module, inputs, output, name=name):
                        if fits(output):
                            return store(found, name, output)

                handles.append(module.register_forward_hook(hook))
        for _ in range(times):
            model(*inputs)
        if remove:
            for handle in handles:
                handle.remove()
        return found

    return record


def as_a_list(model, layer, *inputs):
    return list(recorder()(model, layer, *inputs).values())


# first_fault


def faults(
    sums=lambda w: w.sum(-1),
    support=lambda w: support(w).mean(),
    sink=lambda w: w.mean((0, 1, 2)).max(),
    habit=lambda w: len(w) > 1 and bool(((w - w[:1]).abs() <= 1e-5).all()),
    order=("rows", "one key", "uniform", "sink", "habit"),
    otherwise="fine",
):
    """The rules as a table, of which one may be wrong."""
    rules = {
        "rows": lambda w: not torch.allclose(sums(w), torch.ones(()), rtol=0, atol=0.01),
        "one key": lambda w: w.size(-1) == 1,
        "uniform": lambda w: support(w) > 0.9 * w.size(-1),
        "sink": lambda w: sink(w) > 0.9,
        "habit": habit,
    }
    return lambda weights: next((name for name in order if rules[name](weights)), otherwise)


RIGHT = {
    "silent_parameters": [
        lambda model: [n for n, p in model.named_parameters() if zero_or_none(p)],
        lambda model: [
            n
            for n, p in model.named_parameters()
            if not torch.count_nonzero(p.grad if p.grad is not None else p * 0)
        ],
    ],
    "effective_support": [literal_support, lambda w: torch.exp(-torch.xlogy(w, w).sum(-1))],
    "agreement": [
        lambda w, t: 1 - (w - t).abs().sum(-1) / 2,
        lambda w, t: torch.where(w < t, w, t).sum(dim=-1),
    ],
    "hooked_weights": [recorder(), stacked_hooks, wrapped],
    "first_fault": [faults()],
}
WRONG = {
    "silent_parameters": {
        "return a list of names": lambda model: {
            n for n, p in model.named_parameters() if zero_or_none(p)
        },
        "*do* learn": lambda model: [n for n, p in model.named_parameters() if not zero_or_none(p)],
        "exactly 0": lambda model: [n for n, p in model.named_parameters() if p.grad is None],
        "a parameter with *some* zeros": lambda model: [
            n for n, p in model.named_parameters() if p.grad is None or not p.grad.all()
        ],
        "whose gradient sums to 0": lambda model: [
            n for n, p in model.named_parameters() if p.grad is None or p.grad.sum() == 0
        ],
        "grad is None": lambda model: [
            n for n, p in model.named_parameters() if p.grad is not None and not p.grad.any()
        ],
        "compare with exactly 0": lambda model: [
            n
            for n, p in model.named_parameters()
            if p.grad is None or torch.allclose(p.grad, torch.zeros(()))
        ],
    },
    "effective_support": {
        "this is the entropy": lambda w: torch.special.entr(w).sum(-1),
        "0 · log 0": lambda w: (-(w * w.log()).sum(-1)).exp(),
        "another count": lambda w: 1 / w.square().sum(-1),
        "base 2": lambda w: 2 ** torch.special.entr(w).sum(-1),
    },
    "agreement": {
        "sharp": lambda w, t: (w * t).sum(-1),
        "the distance": lambda w, t: (w - t).abs().sum(-1) / 2,
        "shape": lambda w, t: torch.minimum(w, t).sum((-1, -2)),
        "the surplus is not shared": lambda w, t: (w * (t > 0)).sum(-1),
    },
    "hooked_weights": {
        "under one name": recorder(late=True),
        "weights come second": recorder(lambda found, name, out: found.update({name: out[0]})),
        "let the hook return None": recorder(
            lambda found, name, out: found.setdefault(name, out[1])
        ),
        "a hook is left": recorder(remove=False),
        ".detach()": recorder(lambda found, name, out: found.update({name: out[1]})),
        "expected the names": recorder(names=lambda model: model.named_children()),
        "stands in your dict": recorder(
            lambda found, name, out: found.update(
                {name: out[1] if out[1] is None else out[1].detach()}
            ),
            fits=lambda out: isinstance(out, tuple),
        ),
        "your hook goes on with it": recorder(fits=lambda out: True),
        "second item of the batch": recorder(fits=lambda out: out[1] is not None),
        "run the model once": recorder(times=2),
        "return a dict": as_a_list,
    },
    "first_fault": {
        "a row's sum is over the keys": faults(sums=lambda w: w.sum(-2)),
        "hides it": faults(sums=lambda w: w.sum(-1).mean()),
        "'one key', got 'uniform'": faults(order=("rows", "uniform", "one key", "sink", "habit")),
        "sink comes first": faults(order=("rows", "one key", "uniform", "habit", "sink")),
        "compare it with 0.9 · keys": faults(support=lambda w: support(w).mean() * w.size(-1)),
        "average the support": faults(support=lambda w: support(w).max()),
        "average over the rows first": faults(sink=lambda w: w.max()),
        "average over the inputs too": faults(sink=lambda w: w.mean((1, 2)).max()),
        "one input cannot show a habit": faults(
            habit=lambda w: (w.amax(0) - w.amin(0)).max() <= 1e-5
        ),
        "compare all inputs": faults(
            habit=lambda w: len(w) > 1 and bool(((w[1] - w[0]).abs() <= 1e-5).all())
        ),
        "differ by rounding only": faults(habit=lambda w: len(w) > 1 and bool((w == w[:1]).all())),
        "as a string": faults(otherwise=0),
    },
}


def test_the_rules_of_the_exercise_find_what_the_library_finds():
    torch.manual_seed(0)
    scores = torch.randn(8, 2, 10, 10)
    named = {
        "no distribution": ("rows", scores.softmax(-2)),
        "one key only": ("one key", torch.ones(8, 2, 10, 1)),
        "uniform": ("uniform", (0.05 * scores).softmax(-1)),
        "collapsed": ("sink", (scores + 9 * torch.eye(10)[4]).softmax(-1)),
        "the same for every input": ("habit", scores[:1].expand(8, -1, -1, -1).softmax(-1)),
    }
    for name, (fault, weights) in named.items():
        assert diagnose(weights)[0].name == name
        assert library_fault(weights) == fault
    assert library_fault((2 * scores).softmax(-1)) == "fine"
    assert diagnose((2 * scores).softmax(-1)) == []


def test_the_recorder_of_the_exercise_agrees_with_the_librarys():
    """On layers that show their weights, two ways to record give the same."""
    from course_lib.lessons.lesson_05 import Pair, Stack, hooked_weights
    from course_lib.recorder import AttentionRecorder

    torch.manual_seed(0)
    model, x, shift = Stack(), torch.randn(2, 4, 6), torch.randn(2, 4, 6)
    mine = hooked_weights(model, Pair, x, shift)
    with AttentionRecorder(model) as recording:
        model(x, shift)
    theirs = {record.name: record.weights[:, 0] for record in recording.records}
    assert list(mine) == list(theirs)
    for name, weights in mine.items():
        torch.testing.assert_close(weights, theirs[name])


def test_no_gradient_comes_through_one_key():
    """What section 1 claims, without any of the course's own layers."""
    q, k, v = (torch.randn(3, 1, 4, requires_grad=True) for _ in range(3))
    output = nn.functional.softmax(q @ k.mT, dim=-1) @ v
    output.square().sum().backward()
    assert torch.equal(output, v)
    assert not q.grad.any()
    assert not k.grad.any()
    assert v.grad.all()
