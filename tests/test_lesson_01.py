"""The exercises of lesson 01: other right answers pass, wrong ones read the right words."""

import torch
import torch.nn.functional as F
from torch import nn

from course_lib.lessons.lesson_01 import Bottleneck


def freezes(layers=None, gradient=True, statistics=True, result=None):
    """A freezing function with faults: which layers, what is frozen of them, what is returned."""

    def freeze(network, count):
        every = [
            layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)
        ]
        frozen = layers(network, count) if layers else every[: 2 * count]
        for layer in frozen:
            if gradient:
                layer.requires_grad_(False)
            if statistics and isinstance(layer, nn.BatchNorm2d):
                layer.eval()
        return result(frozen) if result else list(frozen)

    return freeze


def typed(kind):
    return lambda network, count: [layer for layer in network.modules() if isinstance(layer, kind)][
        :count
    ]


def by_loop(features, person):
    cosines = [
        torch.cosine_similarity(features[i], features[j], dim=0)
        for i in range(len(features))
        for j in range(i)
        if person[i] == person[j]
    ]
    return torch.stack(cosines).mean()


def walked(network, count):
    frozen, seen = [], 0
    for layer in network.modules():
        seen += isinstance(layer, nn.Conv2d)
        if seen > count:
            break
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
            for parameter in layer.parameters():
                parameter.requires_grad = False
            layer.training = False
            frozen.append(layer)
    return frozen


class WithoutIdentity(nn.Module):
    """The same block with torchvision's way of writing it: a skip that is None, one relu module."""

    def __init__(self, inputs, width, outputs, stride=1, dilation=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(
            width, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + identity)


def block(forward=None, change=None):
    """The course's block with another forward pass, or with something changed after it is built."""

    class Changed(Bottleneck):
        def __init__(self, inputs, width, outputs, stride=1, dilation=1):
            super().__init__(inputs, width, outputs, stride, dilation)
            if change:
                change(self, inputs, width, outputs, stride, dilation)

    if forward:
        Changed.forward = forward
    return Changed


def branch(self, x, first=F.relu, second=F.relu):
    y = first(self.bn1(self.conv1(x)))
    return self.bn3(self.conv3(second(self.bn2(self.conv2(y)))))


def with_bias(self, inputs, width, outputs, stride, dilation):
    self.conv1 = nn.Conv2d(inputs, width, 1)


def always_projects(self, inputs, width, outputs, stride, dilation):
    self.downsample = nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
    )


def never_projects(self, inputs, width, outputs, stride, dilation):
    self.downsample = nn.Identity()


def other_names(self, inputs, width, outputs, stride, dilation):
    self.norm1 = self.bn1
    del self.bn1


def wide(self, inputs, width, outputs, stride, dilation):
    self.conv2 = nn.Conv2d(width, width, 1, bias=False)


def stride_first(self, inputs, width, outputs, stride, dilation):
    self.conv1.stride, self.conv2.stride = (stride, stride), (1, 1)


def undilated(self, inputs, width, outputs, stride, dilation):
    self.conv2.dilation = self.conv2.padding = (1, 1)


def adds_in_place(self, x):
    y = branch(self, x)
    skip = self.downsample(x)
    return F.relu(skip.add_(y))


def recorded(pick=lambda module, inputs, output: output, keep=lambda x: x, swap=False, remove=True):
    """A recording function with faults: what the hook keeps, and what becomes of the hook."""

    def record(model, layer, images):
        outputs = []
        handle = layer.register_forward_hook(lambda *what: outputs.append(pick(*what)))
        result = model(images)
        if remove:
            handle.remove()
        return (keep(outputs[0]), result) if swap else (result, keep(outputs[0]))

    return record


def with_a_context(model, layer, images):
    kept = {}
    with layer.register_forward_hook(lambda m, i, o: kept.setdefault("it", o)):
        output = model(images)
    return [output, kept["it"]]


def without_gradient(model, layer, images):
    with torch.no_grad():
        return with_a_context(model, layer, images)


def twice(model, layer, images):
    return model(images), with_a_context(model, layer, images)[1]


def runs_again(model, layer, images):
    with_a_context(model, layer, images)
    return with_a_context(model, layer, images)


def no_statistics(momentum=None):
    """Frozen weights, and batch norms that keep their running mean in another way than `eval`."""

    def freeze(network, count):
        layers = [x for x in network.modules() if isinstance(x, nn.Conv2d | nn.BatchNorm2d)]
        for layer in layers[: 2 * count]:
            layer.requires_grad_(False)
            if isinstance(layer, nn.BatchNorm2d) and momentum is None:
                layer.track_running_stats = False
            elif isinstance(layer, nn.BatchNorm2d):
                layer.momentum = momentum
        return layers[: 2 * count]

    return freeze


def without_buffers(network, count):
    layers = no_statistics()(network, count)
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean = layer.running_var = None
    return layers


RIGHT = {
    "Bottleneck": [WithoutIdentity],
    "freeze_first": [walked],
    "record_layer": [with_a_context],
    "class_activation_maps": [
        lambda x, w: F.conv2d(x, w[:, :, None, None]),
        lambda x, w: (x.permute(0, 2, 3, 1) @ w.T).permute(0, 3, 1, 2),
    ],
    "within_person_consistency": [by_loop],
}


def similarities(features):
    unit = F.normalize(features, dim=1)
    return unit @ unit.T


def same(person):
    return person[:, None] == person


WRONG = {
    "Bottleneck": {
        "is a bias of a convolution": block(change=with_bias),
        "the skip must pass x on unchanged": block(change=always_projects),
        "the skip has no layers": block(change=never_projects),
        "the weights need the names bn1": block(change=other_names),
        "conv2.weight has the shape (2, 2, 1, 1)": block(change=wide),
        "the stride stands on the first 1×1": block(change=stride_first),
        "ignores `dilation`": block(change=undilated),
        "the skip is missing": block(lambda self, x: F.relu(branch(self, x))),
        "the last relu is missing": block(lambda self, x: branch(self, x) + self.downsample(x)),
        "add first, then relu": block(lambda self, x: F.relu(branch(self, x)) + self.downsample(x)),
        "the relus inside F": block(
            lambda self, x: F.relu(branch(self, x, torch.clone, torch.clone) + self.downsample(x))
        ),
        "the relu after bn2 is missing": block(
            lambda self, x: F.relu(branch(self, x, F.relu, torch.clone) + self.downsample(x))
        ),
        "the relu after bn1 is missing": block(
            lambda self, x: F.relu(branch(self, x, torch.clone) + self.downsample(x))
        ),
        "changes x in place": block(adds_in_place),
        "forward returns None": block(lambda self, x: print(branch(self, x))),
        "is no nn.Module": lambda *settings: torch.zeros(3),
    },
    "freeze_first": {
        "still asks for a gradient": freezes(layers=lambda network, count: []),
        "every convolution still asks for a gradient": freezes(gradient=False),
        "froze every convolution": freezes(layers=lambda network, count: list(network.modules())),
        "froze one convolution": freezes(
            layers=lambda network, count: [
                layer
                for layer in network.modules()
                if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)
            ][:count]
        ),
        "first two of four": freezes(
            layers=lambda network, count: [
                layer for layer in network.children() if isinstance(layer, nn.Conv2d)
            ][:count]
        ),
        "still learns its scale and shift": freezes(layers=typed(nn.Conv2d)),
        "beyond the first `count`": freezes(
            layers=lambda network, count: (
                typed(nn.Conv2d)(network, count) + typed(nn.BatchNorm2d)(network, 9)
            )
        ),
        "moved the running mean of a frozen batch norm": freezes(statistics=False),
        "no longer follow the data": lambda network, count: freezes()(network.eval(), count),
        "divides by the statistics of each batch": no_statistics(),
        "what one image gives changes with the others": no_statistics(momentum=0.0),
        "and yet the layer divides": without_buffers,
        "for count=0 expected 0 frozen convolutions, got 2": freezes(
            layers=lambda network, count: typed(nn.Conv2d | nn.BatchNorm2d)(network, 4)
        ),
        "expected a list of the 0 frozen layers": freezes(result=len),
        "returns None": freezes(result=lambda frozen: None),
    },
    "record_layer": {
        "this is what goes into the layer": recorded(lambda module, inputs, output: inputs[0]),
        "the two are swapped": recorded(swap=True),
        "got a Tensor": lambda *given: recorded()(*given)[1],
        "a list of recordings": recorded(keep=lambda x: [x]),
        "a name that the hook sets is its own": recorded(keep=lambda x: None),
        "keep the tensor itself": recorded(keep=torch.detach),
        "without detach(), clone()": recorded(keep=torch.clone),
        "or torch.no_grad()": without_gradient,
        "both from one run": twice,
        "you ran the model 2 times": runs_again,
        "will run for ever": recorded(remove=False),
        "run the model in `try:`": recorded(),
        "for the layer's output, expected the shape": lambda model, layer, images: (
            model(images),
            model[0](images),
        ),
    },
    "class_activation_maps": {
        "you keep the positive part": lambda x, w: F.conv2d(x, w[:, :, None, None]).relu(),
        "number of channels": lambda x, w: F.conv2d(x, w[:, :, None, None]) / x.shape[1],
        "number of places": lambda x, w: F.conv2d(x, w[:, :, None, None]) / 12,
        "you divide by 49": lambda x, w: F.conv2d(x, w[:, :, None, None]) / 49,
        "leave the places standing": lambda x, w: x.mean((2, 3)) @ w.T,
        "scale each map to its maximum": lambda x, w: (
            F.conv2d(x, w[:, :, None, None])
            / F.conv2d(x, w[:, :, None, None]).amax((2, 3), keepdim=True)
        ),
        "your weights are transposed": lambda x, w: F.conv2d(
            x, (w.T if w.shape[0] == w.shape[1] else w)[:, :, None, None]
        ),
        "for the mean over places plus the bias": lambda x, w: (
            F.conv2d(x, w[:, :, None, None]) * (x.shape[2] * x.shape[3] / 12)
        ),
        "raises RuntimeError": lambda x, w: torch.einsum("bchw,ca->bahw", x, w),
    },
    "within_person_consistency": {
        "leave the diagonal out": lambda f, p: similarities(f)[same(p)].mean(),
        "`triu(1)`": lambda f, p: similarities(f)[same(p).triu()].mean(),
        "over all pairs, also of two people": lambda f, p: similarities(f)[
            ~torch.eye(len(f), dtype=bool)
        ].mean(),
        "this measure is about pairs of one": lambda f, p: similarities(f)[~same(p)].mean(),
        "cosine distance": lambda f, p: 1 - similarities(f)[same(p).triu(1)].mean(),
        "divide each vector by its length": lambda f, p: (f @ f.T)[same(p).triu(1)].mean(),
        "makes it a correlation": lambda f, p: torch.corrcoef(f)[same(p).triu(1)].mean(),
        "take their mean": lambda f, p: similarities(f)[same(p).triu(1)].sum(),
        "within each person first": lambda f, p: torch.stack(
            [
                similarities(f[p == k])[
                    torch.ones(int((p == k).sum()), int((p == k).sum()), dtype=bool).triu(1)
                ].mean()
                for k in p.unique()
                if (p == k).sum() > 1
            ]
        ).mean(),
        "for two images of each person": lambda f, p: torch.cat(
            [similarities(f)[same(p).triu(1) & p.eq(k)] for k in range(3)]
        ).mean(),
        "expected one number, got a Tensor": lambda f, p: similarities(f),
        "for images in another order": lambda f, p: (
            similarities(f)[same(p).triu(1)].mean()
            if (p.diff() >= 0).all()
            else similarities(f).diagonal(1)[p.diff() == 0].mean()
        ),
        "expected": lambda f, p: similarities(f[:, :4])[same(p).triu(1)].mean(),
    },
}
