"""Lesson 01: a bottleneck block, freezing, a forward hook, class maps and consistency."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .exercises import Exercise, Mistake, expect, expect_number

__all__ = ["EXERCISES", "Bottleneck", "record_layer"]


# Bottleneck


class Bottleneck(nn.Module):
    """relu(F(x) + skip(x)), where F is a 1×1, a 3×3 and a 1×1 convolution with batch norms."""

    def __init__(self, inputs, width, outputs, stride=1, dilation=1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        skip = nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        fits = stride == 1 and inputs == outputs
        self.downsample = nn.Identity() if fits else nn.Sequential(*skip)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


BLOCKS = (  # inputs, width, outputs, stride, dilation: all four reasons for a layer on the skip
    (8, 2, 8, 1, 1),
    (4, 2, 8, 1, 1),
    (4, 2, 8, 2, 1),
    (8, 2, 8, 2, 1),
    (8, 2, 8, 1, 2),
)


def _named(settings: tuple[int, ...]) -> str:
    inputs, width, outputs, stride, dilation = settings
    return f"Bottleneck({inputs}, {width}, {outputs}, stride={stride}, dilation={dilation})"


def has_the_tensors_of_the_weights(student: Callable, library: Callable) -> None:
    for settings in BLOCKS:
        block, named = student(*settings), _named(settings)
        if not isinstance(block, nn.Module):
            raise Mistake(f"{named} is no nn.Module; write class Bottleneck(nn.Module)")
        got = {name: tuple(value.shape) for name, value in block.state_dict().items()}
        expected = {
            name: tuple(value.shape) for name, value in library(*settings).state_dict().items()
        }
        extra, missing = sorted(got.keys() - expected.keys()), sorted(expected.keys() - got.keys())
        if any(name.endswith(".bias") and "conv" in name for name in extra):
            raise Mistake(
                f"{extra[0]} is a bias of a convolution; the batch norm behind it subtracts the"
                " mean and the bias with it, so set bias=False"
            )
        if any(name.startswith("downsample") for name in extra):
            raise Mistake(
                f"in {named} x fits as it is, and your skip has weights ({extra[0]}); there the"
                " skip must pass x on unchanged"
            )
        if any(name.startswith("downsample") for name in missing):
            raise Mistake(
                f"in {named} the output of F has another shape than x, and the skip has no layers;"
                " there downsample is nn.Sequential of a 1×1 convolution and a batch norm"
            )
        if missing or extra:
            raise Mistake(
                f"{named}: the weights need the names {', '.join(missing) or '(no more)'}; yours"
                f" has {', '.join(extra) or 'nothing'} in their place"
            )
        wrong = [name for name in expected if got[name] != expected[name]]
        if wrong:
            raise Mistake(
                f"{named}: {wrong[0]} has the shape {got[wrong[0]]}, expected {expected[wrong[0]]}"
            )


def computes_the_block(student: Callable, library: Callable) -> None:
    for settings in BLOCKS:
        block, same = library(*settings).eval(), student(*settings).eval()
        for name, value in block.state_dict().items():
            if value.is_floating_point():
                value.copy_(
                    torch.rand_like(value) + 0.2 if "var" in name else torch.randn_like(value)
                )
        same.load_state_dict(block.state_dict())
        x = torch.randn(2, settings[0], 9, 9)
        before = x.clone()
        with torch.no_grad():
            got, expected, mistakes = same(x), block(x), _mistaken(block, x)
        if got is None:
            raise Mistake("forward returns None; end it with `return` and the result")
        if not torch.equal(x, before):
            raise Mistake(
                "forward changes x in place, and the skip still needs it; make new tensors"
            )
        expect(got, expected, mistakes, given=f"for {_named(settings)}")


def _mistaken(block: Bottleneck, x: Tensor) -> dict[str, Tensor]:
    """What likely mistakes give with the weights of `block`, in evaluation mode."""
    stride, dilation = block.conv2.stride[0], block.conv2.dilation[0]

    def branch(first: int = 1, second: int = stride, spread: int = dilation, relus=(1, 1)):
        y = block.bn1(F.conv2d(x, block.conv1.weight, stride=first))
        y = F.relu(y) if relus[0] else y
        y = F.conv2d(y, block.conv2.weight, None, second, spread, spread)
        y = F.relu(block.bn2(y)) if relus[1] else block.bn2(y)
        return block.bn3(block.conv3(y))

    y, skip = branch(), block.downsample(x)
    mistakes = {
        "the skip is missing: add x (or downsample(x)) to the output of F before the last relu": F.relu(
            y
        ),
        "the last relu is missing: it comes after the sum of F(x) and the skip": y + skip,
        "you take the relu of F(x) and then add the skip; add first, then relu": F.relu(y) + skip,
        "the relus inside F are missing: one after bn1 and one after bn2": F.relu(
            branch(relus=(0, 0)) + skip
        ),
        "the relu after bn2 is missing": F.relu(branch(relus=(1, 0)) + skip),
        "the relu after bn1 is missing": F.relu(branch(relus=(0, 1)) + skip),
    }
    if stride > 1:
        mistakes[
            "the stride stands on the first 1×1 convolution, which throws three of four places"
            " away; these weights were trained with the stride on the 3×3"
        ] = F.relu(branch(stride, 1) + skip)
    if dilation > 1:
        mistakes["the 3×3 convolution ignores `dilation`"] = F.relu(branch(spread=1) + skip)
    return mistakes


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
            "with count=2 expected the first two of four convolutions frozen, got"
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
    norms = [norm for _, norm in _pairs(network)]
    before = [norm.running_mean.clone() for norm in norms]
    student(network, 2)
    network(torch.randn(4, 3, 6, 6))
    moved = [
        norm.running_mean is not None and not torch.equal(norm.running_mean, old)
        for norm, old in zip(norms, before, strict=True)
    ]
    if moved[0] or moved[1]:
        raise Mistake(
            "one forward pass in training mode moved the running mean of a frozen batch norm: no"
            " gradient is needed for that; put those batch norms into evaluation mode with eval()"
        )
    if not (moved[2] and moved[3]):
        raise Mistake(
            "batch norms after the frozen part no longer follow the data; only the frozen ones go"
            " into evaluation mode"
        )


def gives_an_image_the_same_in_any_batch(student: Callable, library: Callable) -> None:
    network = _small_network().train()
    network(torch.randn(4, 3, 6, 6))  # running statistics of their own
    student(network, 2)
    images = torch.randn(4, 3, 6, 6)
    for _, norm in _pairs(network)[:2]:
        if not torch.allclose(norm(images)[:1], norm(images[:1]), atol=1e-5):
            raise Mistake(
                "the running mean of a frozen batch norm stands still, and yet the layer divides by"
                " the statistics of each batch: what one image gives changes with the others beside"
                " it; put the layer into evaluation mode with eval()"
            )


def freezes_any_number(student: Callable, library: Callable) -> None:
    for count in (0, 1, 3, 4):
        network = _small_network()
        frozen = student(network, count)
        still = sum(not convolution.weight.requires_grad for convolution, _ in _pairs(network))
        if still != count:
            raise Mistake(f"for {count=} expected {count} frozen convolutions, got {still}")
        expected = [layer for pair in _pairs(network)[:count] for layer in pair]
        if not isinstance(frozen, list) or list(map(id, frozen)) != list(map(id, expected)):
            raise Mistake(
                f"for {count=} expected a list of the {2 * count} frozen layers in order,"
                " convolution, batch norm, convolution …; the training loop puts them back into"
                " evaluation mode with it"
            )


# record_layer


def record_layer(model, layer, images):
    """Run the model once; return its output and what `layer` put out, both with their graph."""
    outputs = []

    def hook(module, inputs, output):
        outputs.append(output)

    handle = layer.register_forward_hook(hook)
    try:
        result = model(images)
    finally:
        handle.remove()
    return result, outputs[0]


def _small_model() -> nn.Sequential:
    """Three stages of maps, mean over places, a linear layer."""
    block = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.Tanh())
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Sigmoid(),
        block,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


def records_the_layer(student: Callable, library: Callable) -> None:
    model, images = _small_model(), torch.randn(2, 3, 4, 4)
    layers = (model[2], model[0], model[2][0], model[5])
    for layer in layers:
        got = student(model, layer, images)
        output, activation = library(model, layer, images)
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise Mistake(
                "return two things, the output of the model and that of the layer; got a"
                f" {type(got).__name__}"
            )
        if got[1] is None:
            raise Mistake(
                "the layer's output is None: a name that the hook sets is its own and is lost when it"
                " ends; let the hook append to a list that you made outside it"
            )
        if isinstance(got[1], tuple | list) and got[1]:
            raise Mistake("the second is a list of recordings; return the tensor in it")
        if isinstance(got[0], Tensor) and got[0].shape == activation.shape != output.shape:
            raise Mistake("the two are swapped: first the output of the model, then of the layer")
        expect(got[0], output, given="for the model's output")
        entered = model[:2](images) if layer is model[2] else torch.zeros(0)
        expect(
            got[1],
            activation,
            {
                "this is what goes into the layer; a forward hook gets (module, inputs, output), and"
                " the third is what comes out": entered
            },
            given="for the layer's output",
        )


def records_on_the_way(student: Callable, library: Callable) -> None:
    model = _small_model()
    output, activation = student(model, model[2], torch.randn(2, 3, 4, 4))
    gradient = (
        torch.autograd.grad(output.sum(), activation, allow_unused=True)[0]
        if output.requires_grad and activation.requires_grad
        else None
    )
    if gradient is None:
        raise Mistake(
            "the model's output has no gradient with respect to what you recorded, and a class map"
            " needs it: keep the tensor itself, without detach(), clone() or torch.no_grad(), and"
            " both from one run"
        )


def leaves_no_hook(student: Callable, library: Callable) -> None:
    model = _small_model()
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    student(model, model[0], torch.randn(1, 3, 4, 4))
    if len(calls) != 1:
        raise Mistake(f"you ran the model {len(calls)} times; once is enough")
    if model[0]._forward_hooks:
        raise Mistake(
            "your hook is still on the layer and will run for ever; keep the handle that"
            " register_forward_hook returns, and call handle.remove()"
        )
    try:
        student(model, model[0], torch.randn(1, 3, 4))
        student(model, model[0], torch.randn(1, 7, 4, 4))
    except RuntimeError:
        pass
    if model[0]._forward_hooks or model[2]._forward_hooks:
        raise Mistake(
            "when the model fails, your hook stays on the layer; run the model in `try:` and remove"
            " the hook in `finally:`"
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
            "you divide by 49, the places of the lesson's maps; that comes with the mean over places": (
                maps / 49
            ),
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
    "Bottleneck": Exercise(
        solution="course_lib.lessons.lesson_01:Bottleneck",
        hints=(
            (
                "Three pairs of convolution and batch norm make F. x goes around them. Only where x"
                " does not fit F's output does the skip need layers."
            ),
            (
                "conv1: inputs → width, 1×1. conv2: width → width, 3×3, with stride, and with"
                " padding = dilation, so that only the stride shrinks. conv3: width → outputs, 1×1."
                " downsample: inputs → outputs, 1×1, with stride."
            ),
            (
                "y = relu(bn1(conv1(x))); y = relu(bn2(conv2(y))); return relu(bn3(conv3(y)) +"
                " downsample(x)); downsample = nn.Identity() where stride is 1 and inputs ="
                " outputs, else nn.Sequential(1×1 convolution, batch norm)"
            ),
        ),
        properties=(has_the_tensors_of_the_weights, computes_the_block),
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
        properties=(
            freezes_weights,
            freezes_statistics,
            gives_an_image_the_same_in_any_batch,
            freezes_any_number,
        ),
    ),
    "record_layer": Exercise(
        solution="course_lib.lessons.lesson_01:record_layer",
        hints=(
            "A hook is a function that the layer calls with what it puts out. It can put that away.",
            (
                "hook(module, inputs, output); layer.register_forward_hook(hook) returns a handle,"
                " and handle.remove() takes the hook off."
            ),
            (
                "outputs = []; handle = layer.register_forward_hook(a function that appends its"
                " third argument); try: result = model(images); finally: handle.remove(); return"
                " result, outputs[0]"
            ),
        ),
        properties=(records_the_layer, records_on_the_way, leaves_no_hook),
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
                "einops.einsum(feature_map, weights, 'batch channels height width, attributes channels"
                " -> batch attributes height width')"
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
