"""Lesson 01: pooling, freezing, class activation maps and consistency."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .exercises import Exercise, Mistake, expect, expect_gradient, expect_number

__all__ = ["EXERCISES"]


# global_average


def pools_places(student: Callable, library: Callable) -> None:
    feature_map = torch.randn(2, 5, 3, 4)
    expect(
        student(feature_map),
        library(feature_map),
        {
            "you sum over the places; take the mean, so that the size of the map does not matter": (
                feature_map.sum((2, 3))
            ),
            "this is the maximum over places; the feature is their mean": feature_map.amax((2, 3)),
            "you average the channels away; average over the two axes of places, and every channel keeps its number": feature_map.mean(
                1
            ),
            "the two axes of places are still there with size 1; drop them": feature_map.mean(
                (2, 3), keepdim=True
            ),
            "you average over one axis of places only; average over height and width": (
                feature_map.mean(2)
            ),
            "you average over one axis of places only; average over width and height": (
                feature_map.mean(3)
            ),
        },
    )


def pools_any_size(student: Callable, library: Callable) -> None:
    for shape in ((1, 1, 1, 1), (3, 8, 7, 7), (2, 4, 1, 6)):
        feature_map = torch.randn(shape, dtype=torch.float64)
        expect(
            student(feature_map), library(feature_map), given=f"for a feature map of shape {shape}"
        )


def pooling_passes_gradients(student: Callable, library: Callable) -> None:
    feature_map = torch.randn(2, 5, 3, 4, requires_grad=True)
    expect_gradient(feature_map, student(feature_map))


# freeze_first


def _small_network() -> nn.Sequential:
    """Four convolutions, a batch norm after each; the second and third sit in a block of their own."""

    def pair() -> list[nn.Module]:
        return [nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU()]

    return nn.Sequential(*pair(), nn.Sequential(*pair(), *pair()), *pair())


def _pairs(network: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)]
    return list(zip(layers[::2], layers[1::2], strict=True))


def freezes_weights(student: Callable, library: Callable) -> None:
    network = _small_network()
    student(network, 2)
    pairs = _pairs(network)
    learning = [convolution.weight.requires_grad for convolution, _ in pairs]
    if all(learning):
        raise Mistake(
            "every convolution still asks for a gradient; call requires_grad_(False) on the first"
            " ones"
        )
    if not any(learning):
        raise Mistake(
            "you froze every convolution; only the first `count` stay as they are, the rest must"
            " learn"
        )
    if learning == [False, True, True, True]:
        raise Mistake(
            "with count=2 you froze one convolution; one may sit inside a block (network.modules()"
            " goes into blocks, network.children() does not), and parameters are not layers: count"
            " convolutions"
        )
    if learning != [False, False, True, True]:
        raise Mistake(
            "with count=2 expected the first two of four convolutions frozen, came"
            f" {learning.count(False)}: {['learns' if one else 'frozen' for one in learning]}"
        )
    if any(parameter.requires_grad for _, norm in pairs[:2] for parameter in norm.parameters()):
        raise Mistake(
            "the batch norm after a frozen convolution still learns its scale and shift; freeze"
            " it too"
        )
    if not all(parameter.requires_grad for _, norm in pairs[2:] for parameter in norm.parameters()):
        raise Mistake(
            "you froze batch norms beyond the first `count` convolutions; those must go on learning"
        )


def freezes_statistics(student: Callable, library: Callable) -> None:
    network = _small_network().train()
    student(network, 2)
    norms = [norm for _, norm in _pairs(network)]
    before = [norm.running_mean.clone() for norm in norms]
    network(torch.randn(4, 3, 6, 6))
    moved = [
        not torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True)
    ]
    if moved[0] or moved[1]:
        raise Mistake(
            "one forward pass in training mode moved the running mean of a frozen batch norm: no"
            " gradient is needed for that; put those batch norms into evaluation mode with eval()"
        )
    if not (moved[2] and moved[3]):
        raise Mistake(
            "batch norms after the frozen part are in evaluation mode; only the frozen ones go"
            " there"
        )


def freezes_any_number(student: Callable, library: Callable) -> None:
    for count in (0, 1, 3, 4):
        network = _small_network()
        frozen = student(network, count)
        came = [not convolution.weight.requires_grad for convolution, _ in _pairs(network)]
        if sum(came) != count:
            raise Mistake(f"for {count=} expected {count} frozen convolutions, came {sum(came)}")
        wanted = [layer for pair in _pairs(network)[:count] for layer in pair]
        if not isinstance(frozen, list) or [id(layer) for layer in frozen] != [
            id(layer) for layer in wanted
        ]:
            raise Mistake(
                f"for {count=} expected a list of the {2 * count} frozen layers in order,"
                " convolution, batch norm, convolution …; the extractor puts them back into"
                " evaluation mode with it"
            )


# class_activation_maps


def maps_weigh_channels(student: Callable, library: Callable) -> None:
    feature_map, weights = torch.randn(2, 5, 3, 4), torch.randn(6, 5)
    maps = library(feature_map, weights)
    came = student(feature_map, weights)
    expect(
        came,
        maps,
        {
            "you keep the positive part; here the map stays signed, so that its mean is the prediction": (
                maps.relu()
            ),
            "you divide by the number of channels; the head adds the weighted channels up": (
                maps / 5
            ),
            "you divide by the number of places; that comes with the mean over places": maps / 12,
            "these are the predictions, averaged over places; leave the places standing": maps.mean(
                (2, 3)
            ),
            "you scale each map to its maximum; then maps of two attributes cannot be compared": (
                maps / maps.amax((2, 3), keepdim=True)
            ),
        },
    )


def mean_of_the_map_is_the_logit(student: Callable, library: Callable) -> None:
    feature_map, head = torch.randn(3, 8, 7, 7), nn.Linear(8, 4)
    came = student(feature_map, head.weight.detach())
    with torch.no_grad():
        expect(
            came.mean((2, 3)) + head.bias,
            head(feature_map.mean((2, 3))),
            given="for the mean over places plus the bias, which is the head's logit",
        )


def maps_of_any_size(student: Callable, library: Callable) -> None:
    for batch, channels, height, width, attributes in (
        (1, 1, 1, 1, 1),
        (3, 4, 2, 5, 4),
        (2, 2, 2, 2, 2),
    ):
        feature_map = torch.randn(batch, channels, height, width, dtype=torch.float64)
        weights = torch.randn(attributes, channels, dtype=torch.float64)
        expect(
            student(feature_map, weights),
            library(feature_map, weights),
            {
                "your weights are transposed; they are (attributes, channels): sum over the channels": (
                    library(feature_map, weights.T)
                    if attributes == channels > 1
                    else torch.zeros(0)
                ),
            },
            given=f"for a {height}×{width} map of {channels} channels and {attributes} attributes",
        )


# within_person_consistency

PEOPLE = torch.tensor([0, 0, 0, 1, 2, 2])


def _mean_over(similarity: Tensor, pairs: Tensor) -> float:
    return similarity[pairs].mean().item()


def consistency_of_pairs(student: Callable, library: Callable) -> None:
    features = torch.randn(6, 8, dtype=torch.float64) + 0.5
    unit = F.normalize(features, dim=1)
    similarity, dot = unit @ unit.T, features @ features.T
    same = PEOPLE[:, None] == PEOPLE
    pairs, ones = same.triu(1), torch.ones(6, 6, dtype=bool)
    centred = F.normalize(features - features.mean(1, keepdim=True), dim=1)
    people = [_mean_over(similarity, pairs & PEOPLE.eq(person)) for person in (0, 2)]
    expect_number(
        student(features, PEOPLE),
        library(features, PEOPLE),
        {
            "you compare each image with itself too, and that pair is always 1; leave the diagonal out": _mean_over(
                similarity, same
            ),
            "you compare each image with itself too (`triu()` keeps the diagonal); start above it with `triu(1)`": _mean_over(
                similarity, same.triu()
            ),
            "you average over all pairs, also of two people; keep pairs with the same `person`": (
                _mean_over(similarity, ones.triu(1))
            ),
            "you average over pairs of two people; this measure is about pairs of one": _mean_over(
                similarity, ~same
            ),
            "this is the cosine distance; the consistency is a similarity": (
                1 - _mean_over(similarity, pairs)
            ),
            "you take dot products of vectors of any length; divide each vector by its length first": _mean_over(
                dot, pairs
            ),
            "you average within each person first; the mean is over pairs, so a person with more images counts more": (
                sum(people) / 2
            ),
            "you subtract each vector's mean, which makes it a correlation; the cosine does without": _mean_over(
                centred @ centred.T, pairs
            ),
            "you sum over the pairs; take their mean": similarity[pairs].sum().item(),
        },
    )


def consistency_is_one_for_copies(student: Callable, library: Callable) -> None:
    features = torch.rand(3, 5, dtype=torch.float64).repeat_interleave(2, 0)
    scaled = features * torch.tensor([1, 2, 3, 4, 5, 6.0]).double()[:, None]
    expect_number(
        student(scaled, torch.tensor([7, 7, 4, 4, 9, 9])),
        1.0,
        given="for two images of each person that differ in length only",
    )


def consistency_ignores_order(student: Callable, library: Callable) -> None:
    features, order = torch.randn(6, 8), torch.tensor([3, 0, 5, 1, 4, 2])
    expect_number(
        student(features[order], PEOPLE[order]),
        library(features, PEOPLE),
        given="for images in another order, where those of one person are not neighbours",
    )


EXERCISES = {
    "global_average": Exercise(
        solution="course_lib.models.static:global_average",
        hints=(
            "The feature says how much of each channel there is, wherever it is.",
            (
                "(batch, channels, height, width) → (batch, channels): both axes of places go, no"
                " channel is lost."
            ),
            "return the mean of feature_map over dims 2 and 3",
        ),
        properties=(pools_places, pools_any_size, pooling_passes_gradients),
    ),
    "freeze_first": Exercise(
        solution="course_lib.models.static:freeze_first",
        hints=(
            (
                "Two things move in training: weights, by gradients, and a batch norm's running"
                " statistics, by mere use."
            ),
            (
                "Take all nn.Conv2d and nn.BatchNorm2d of network.modules() in order; the first 2 ·"
                " count are yours, a convolution and its batch norm in turn."
            ),
            (
                "layers = [every Conv2d or BatchNorm2d in network.modules()]; for each of layers[:2"
                " * count]: requires_grad_(False), eval(); return layers[:2 * count]"
            ),
        ),
        properties=(freezes_weights, freezes_statistics, freezes_any_number),
    ),
    "class_activation_maps": Exercise(
        solution="course_lib.looking.class_maps:class_activation_maps",
        hints=(
            (
                "The head adds up weighted channels, pooling averages places. Both are sums: swap"
                " them."
            ),
            (
                "(batch, channels, height, width) and (attributes, channels) → (batch, attributes,"
                " height, width)."
            ),
            (
                "einsum over channels: 'batch channels height width, attributes channels -> batch"
                " attributes height width'"
            ),
        ),
        properties=(maps_weigh_channels, mean_of_the_map_is_the_logit, maps_of_any_size),
    ),
    "within_person_consistency": Exercise(
        solution="course_lib.looking.features:within_person_consistency",
        hints=(
            (
                "Compare every image with every other one of the same person, by the angle between"
                " their features."
            ),
            (
                "unit vectors (items, dim) → similarity (items, items); person (items) → which"
                " pairs count; one number."
            ),
            (
                "unit = features / length; similarity = unit @ unit.T; pairs = same person, above"
                " the diagonal; mean"
            ),
        ),
        properties=(consistency_of_pairs, consistency_is_one_for_copies, consistency_ignores_order),
    ),
}
