"""The exercises of lesson 01: other right answers pass, wrong ones read the right words."""

import torch
import torch.nn.functional as F
from torch import nn


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


RIGHT = {
    "global_average": [
        lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
        lambda x: x.flatten(2).sum(-1) / (x.shape[2] * x.shape[3]),
    ],
    "freeze_first": [walked],
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
    "global_average": {
        "you sum over the places": lambda x: x.sum((2, 3)),
        "the maximum over places": lambda x: x.amax((2, 3)),
        "average the channels away": lambda x: x.mean(1),
        "still there with size 1": lambda x: x.mean((2, 3), keepdim=True),
        "one axis of places only": lambda x: x.mean(3),
        "no gradient reaches": lambda x: x.mean((2, 3)).detach(),
        "for a feature map of shape (1, 1, 1, 1)": lambda x: x.sum((2, 3)) / 12,
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
        "are in evaluation mode": lambda network, count: freezes()(network.eval(), count),
        "for count=0 expected 0 frozen convolutions, came 2": freezes(
            layers=lambda network, count: typed(nn.Conv2d | nn.BatchNorm2d)(network, 4)
        ),
        "expected a list of the 0 frozen layers": freezes(result=len),
        "returns None": freezes(result=lambda frozen: None),
    },
    "class_activation_maps": {
        "you keep the positive part": lambda x, w: F.conv2d(x, w[:, :, None, None]).relu(),
        "number of channels": lambda x, w: F.conv2d(x, w[:, :, None, None]) / x.shape[1],
        "number of places": lambda x, w: F.conv2d(x, w[:, :, None, None]) / 12,
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
        "expected one number, came a Tensor": lambda f, p: similarities(f),
        "for images in another order": lambda f, p: (
            similarities(f)[same(p).triu(1)].mean()
            if (p.diff() >= 0).all()
            else similarities(f).diagonal(1)[p.diff() == 0].mean()
        ),
        "expected": lambda f, p: similarities(f[:, :4])[same(p).triu(1)].mean(),
    },
}
