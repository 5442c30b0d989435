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


RIGHT = [
    ("global_average", lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1)),
    ("global_average", lambda x: x.flatten(2).sum(-1) / (x.shape[2] * x.shape[3])),
    ("freeze_first", walked),
    ("class_activation_maps", lambda x, w: F.conv2d(x, w[:, :, None, None])),
    ("class_activation_maps", lambda x, w: (x.permute(0, 2, 3, 1) @ w.T).permute(0, 3, 1, 2)),
    ("within_person_consistency", by_loop),
]


def similarities(features):
    unit = F.normalize(features, dim=1)
    return unit @ unit.T


def same(person):
    return person[:, None] == person


WRONG = [
    ("global_average", lambda x: x.sum((2, 3)), "you sum over the places"),
    ("global_average", lambda x: x.amax((2, 3)), "the maximum over places"),
    ("global_average", lambda x: x.mean(1), "average the channels away"),
    ("global_average", lambda x: x.mean((2, 3), keepdim=True), "still there with size 1"),
    ("global_average", lambda x: x.mean(3), "one axis of places only"),
    ("global_average", lambda x: x.mean((2, 3)).detach(), "no gradient reaches"),
    ("global_average", lambda x: x.sum((2, 3)) / 12, "for a feature map of shape (1, 1, 1, 1)"),
    ("freeze_first", freezes(layers=lambda network, count: []), "still asks for a gradient"),
    ("freeze_first", freezes(gradient=False), "still asks for a gradient"),
    (
        "freeze_first",
        freezes(layers=lambda network, count: list(network.modules())),
        "froze every convolution",
    ),
    (
        "freeze_first",
        freezes(
            layers=lambda network, count: [
                layer
                for layer in network.modules()
                if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)
            ][:count]
        ),
        "froze one convolution",
    ),
    (
        "freeze_first",
        freezes(
            layers=lambda network, count: [
                layer for layer in network.children() if isinstance(layer, nn.Conv2d)
            ][:count]
        ),
        "first two of four",
    ),
    ("freeze_first", freezes(layers=typed(nn.Conv2d)), "still learns its scale and shift"),
    (
        "freeze_first",
        freezes(
            layers=lambda network, count: (
                typed(nn.Conv2d)(network, count) + typed(nn.BatchNorm2d)(network, 9)
            )
        ),
        "beyond the first `count`",
    ),
    ("freeze_first", freezes(statistics=False), "moved the running mean of a frozen batch norm"),
    (
        "freeze_first",
        lambda network, count: freezes()(network.eval(), count),
        "are in evaluation mode",
    ),
    (
        "freeze_first",
        freezes(layers=lambda network, count: typed(nn.Conv2d | nn.BatchNorm2d)(network, 4)),
        "for count=0 expected 0 frozen convolutions, came 2",
    ),
    ("freeze_first", freezes(result=len), "expected a list of the 0 frozen layers"),
    ("freeze_first", freezes(result=lambda frozen: None), "returns None"),
    (
        "class_activation_maps",
        lambda x, w: F.conv2d(x, w[:, :, None, None]).relu(),
        "you keep the positive part",
    ),
    (
        "class_activation_maps",
        lambda x, w: F.conv2d(x, w[:, :, None, None]) / x.shape[1],
        "number of channels",
    ),
    (
        "class_activation_maps",
        lambda x, w: F.conv2d(x, w[:, :, None, None]) / 12,
        "number of places",
    ),
    ("class_activation_maps", lambda x, w: x.mean((2, 3)) @ w.T, "leave the places standing"),
    (
        "class_activation_maps",
        lambda x, w: (
            F.conv2d(x, w[:, :, None, None])
            / F.conv2d(x, w[:, :, None, None]).amax((2, 3), keepdim=True)
        ),
        "scale each map to its maximum",
    ),
    (
        "class_activation_maps",
        lambda x, w: F.conv2d(x, (w.T if w.shape[0] == w.shape[1] else w)[:, :, None, None]),
        "your weights are transposed",
    ),
    (
        "class_activation_maps",
        lambda x, w: F.conv2d(x, w[:, :, None, None]) * (x.shape[2] * x.shape[3] / 12),
        "for the mean over places plus the bias",
    ),
    (
        "class_activation_maps",
        lambda x, w: torch.einsum("bchw,ca->bahw", x, w),
        "raises RuntimeError",
    ),
    (
        "within_person_consistency",
        lambda f, p: similarities(f)[same(p)].mean(),
        "leave the diagonal out",
    ),
    ("within_person_consistency", lambda f, p: similarities(f)[same(p).triu()].mean(), "`triu(1)`"),
    (
        "within_person_consistency",
        lambda f, p: similarities(f)[~torch.eye(len(f), dtype=bool)].mean(),
        "over all pairs, also of two people",
    ),
    (
        "within_person_consistency",
        lambda f, p: similarities(f)[~same(p)].mean(),
        "this measure is about pairs of one",
    ),
    (
        "within_person_consistency",
        lambda f, p: 1 - similarities(f)[same(p).triu(1)].mean(),
        "cosine distance",
    ),
    (
        "within_person_consistency",
        lambda f, p: (f @ f.T)[same(p).triu(1)].mean(),
        "divide each vector by its length",
    ),
    (
        "within_person_consistency",
        lambda f, p: torch.corrcoef(f)[same(p).triu(1)].mean(),
        "makes it a correlation",
    ),
    (
        "within_person_consistency",
        lambda f, p: similarities(f)[same(p).triu(1)].sum(),
        "take their mean",
    ),
    (
        "within_person_consistency",
        lambda f, p: torch.stack(
            [
                similarities(f[p == k])[
                    torch.ones(int((p == k).sum()), int((p == k).sum()), dtype=bool).triu(1)
                ].mean()
                for k in p.unique()
                if (p == k).sum() > 1
            ]
        ).mean(),
        "within each person first",
    ),
    (
        "within_person_consistency",
        lambda f, p: torch.cat(
            [similarities(f)[same(p).triu(1) & p.eq(k)] for k in range(3)]
        ).mean(),
        "for two images of each person",
    ),
    (
        "within_person_consistency",
        lambda f, p: similarities(f),
        "expected one number, came a Tensor",
    ),
    (
        "within_person_consistency",
        lambda f, p: (
            similarities(f)[same(p).triu(1)].mean()
            if (p.diff() >= 0).all()
            else similarities(f).diagonal(1)[p.diff() == 0].mean()
        ),
        "for images in another order",
    ),
    (
        "within_person_consistency",
        lambda f, p: similarities(f[:, :4])[same(p).triu(1)].mean(),
        "expected",
    ),
]
