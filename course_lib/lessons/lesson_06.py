"""The exercises of lesson 06: what the personality model is made of, what it costs, and what moved
each trait.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..models.personality import CompletePersonalityModel, TokenPersonalityModel
from .exercises import Exercise, Mistake, expect

__all__ = ["EXERCISES"]


def expect_count(
    came: Any, expected: int, mistakes: Mapping[str, int] | None = None, given: str = ""
) -> None:
    """Raise a `Mistake` unless `came` is this whole number."""
    if isinstance(came, float) and came.is_integer():
        raise Mistake(
            f"{came} counts things, so return a whole number; // divides without making a float"
        )
    if not isinstance(came, int):
        raise Mistake(f"expected a whole number, got a {type(came).__name__}")
    for sentence, wrong in (mistakes or {}).items():
        if came == wrong:
            raise Mistake(sentence)
    if came != expected:
        raise Mistake(f"{f'{given}, ' if given else ''}expected {expected:,}, got {came:,}")


# projections


def _both(came: Any) -> tuple[nn.Module, nn.Module]:
    """The two layers that the student returned."""
    if not isinstance(came, tuple | list) or len(came) != 2:
        raise Mistake("return two layers: one for the static features, one for the dynamic ones")
    if not all(isinstance(layer, nn.Module) for layer in came):
        raise Mistake(
            "return layers such as nn.Linear, not tensors: they must learn with the model"
        )
    return tuple(came)


def _run(layer: nn.Module, stream: str, features: torch.Tensor, width: int) -> torch.Tensor:
    try:
        projected = layer(features)
    except RuntimeError as error:
        raise Mistake(
            f"your {stream} layer does not take features {features.shape[-1]} wide;"
            " nn.Linear(inputs, outputs) goes from the width of the features to the width of the"
            " model"
        ) from error
    if projected.shape[-1] != width:
        raise Mistake(
            f"your {stream} layer puts out {projected.shape[-1]} numbers; the model was built with "
            f"{stream}_dim={width} and keeps it in model.{stream}_dim"
        )
    return projected


def projections_make_the_model_fit(student: Callable, library: Callable) -> None:
    for sizes, features in (((512, 256), (2048, 1024)), ((30, 20), (12, 50)), ((8, 8), (8, 8))):
        model = CompletePersonalityModel(*sizes, fusion_dim=16, num_heads=2).eval()
        static, dynamic = _both(student(model, *features))
        inputs = torch.randn(3, features[0]), torch.randn(3, features[1])
        traits = model(
            _run(static, "static", inputs[0], sizes[0]),
            _run(dynamic, "dynamic", inputs[1], sizes[1]),
        )
        if traits.shape != (3, 5):
            raise Mistake(f"the model then predicts {tuple(traits.shape)} instead of (3, 5)")


def projections_are_linear_and_learn(student: Callable, library: Callable) -> None:
    model = TokenPersonalityModel(32, 24, fusion_dim=16, num_heads=2)
    layers, features = (
        _both(student(model, 40, 48)),
        (
            torch.randn(2, 49, 40),
            torch.randn(2, 8, 48),
        ),
    )
    for layer, given in zip(layers, features, strict=True):
        if not torch.allclose(
            layer(given) - layer(0 * given), layer(0 * given) - layer(-given), atol=1e-4
        ):
            raise Mistake(
                "your projection bends (a ReLU throws half of every feature away); one linear layer"
                " each"
            )
        if not any(parameter.requires_grad for parameter in layer.parameters()):
            raise Mistake("your projection cannot learn; leave its weights trainable")


# batch_norm


def _norm_inputs(batch: int = 6, dim: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return 3 * torch.randn(batch, dim) + 2, torch.randn(dim), torch.rand(dim) + 0.5


def _three(came: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if not isinstance(came, tuple | list) or len(came) != 3:
        raise Mistake(
            "return three things: the normalised vectors, the running mean, the running variance"
        )
    return tuple(came)


def training_measures_by_the_batch(student: Callable, library: Callable) -> None:
    vectors, mean, variance = _norm_inputs()
    own, spread = vectors.mean(0), vectors.var(0, correction=0)
    across, wide = vectors.mean(1, keepdim=True), vectors.var(1, correction=0, keepdim=True)
    expect(
        _three(student(vectors, mean, variance, True))[0],
        library(vectors, mean, variance, True)[0],
        {
            "in training mode the batch is its own yardstick; you use the running statistics": (
                (vectors - mean) / (variance + 1e-5).sqrt()
            ),
            "you normalise each vector by itself, which is layer norm; batch norm takes each dimension over the batch (dim=0)": (
                (vectors - across) / (wide + 1e-5).sqrt()
            ),
            "you divide by the variance; divide by its root": (vectors - own) / (spread + 1e-5),
            "you divide by the variance of n − 1 (torch's default); batch norm normalises with correction=0": (
                (vectors - own) / (vectors.var(0) + 1e-5).sqrt()
            ),
            "you divide without subtracting the mean": vectors / (spread + 1e-5).sqrt(),
            "you subtract the mean and do not divide": vectors - own,
        },
        tolerance=1e-6,
    )


def training_moves_the_running_statistics(student: Callable, library: Callable) -> None:
    vectors, mean, variance = _norm_inputs()
    own, spread = vectors.mean(0), vectors.var(0)
    _, new_mean, new_variance = _three(student(vectors, mean, variance, True))
    _, expected_mean, expected_variance = library(vectors, mean, variance, True)
    expect(
        new_mean,
        expected_mean,
        {
            "your running mean stands still; in training mode it moves a tenth of the way towards the batch": (
                mean
            ),
            "your running mean forgets: nine tenths of the old one stay": 0.1 * mean + 0.9 * own,
            "your running mean is the batch's; it moves only a tenth of the way": own,
        },
        given="for the running mean",
    )
    expect(
        new_variance,
        expected_variance,
        {
            "your running variance stands still; in training mode it moves a tenth of the way towards the batch": (
                variance
            ),
            "your running variance forgets: nine tenths of the old one stay": (
                0.1 * variance + 0.9 * spread
            ),
            "your running variance takes correction=0; a batch is a sample of the data, so PyTorch keeps that of n − 1": (
                0.9 * variance + 0.1 * vectors.var(0, correction=0)
            ),
        },
        given="for the running variance",
    )


def evaluation_measures_by_what_was_kept(student: Callable, library: Callable) -> None:
    for batch in (1, 2, 9):
        vectors, mean, variance = _norm_inputs(batch)
        normalised, new_mean, new_variance = _three(student(vectors, mean, variance, False))
        given = f"in evaluation mode, for a batch of {batch}"
        wrong = (
            {}
            if batch == 1
            else {
                "in evaluation mode the running statistics are the yardstick; you use the batch's": (
                    (vectors - vectors.mean(0)) / (vectors.var(0, correction=0) + 1e-5).sqrt()
                )
            }
        )
        expect(normalised, library(vectors, mean, variance, False)[0], wrong, given=given)
        expect(new_mean, mean, given=f"{given}, for the running mean, which must stay")
        expect(new_variance, variance, given=f"{given}, for the running variance, which must stay")


def a_batch_of_one_is_refused(student: Callable, library: Callable) -> None:
    try:
        came = student(*_norm_inputs(batch=1), True)
    except ValueError:
        return
    found = "NaN" if not torch.isfinite(_three(came)[2]).all() else "0 for every clip"
    raise Mistake(
        f"a batch of one in training mode has no spread, and your answer is {found}; raise a"
        " ValueError that says so"
    )


# count_by_hand


def count_of_the_default_model(student: Callable, library: Callable) -> None:
    sizes, right = (512, 256, 128, 4), library(512, 256, 128, 4)
    biases, narrow = 128 + 128 + 3 * 512 + 128 + 64 + 5, 4 * (128 * 128 + 128)
    expect_count(
        student(*sizes),
        right,
        {
            "you count the weights and leave the biases out; each linear layer adds one for each output": (
                right - biases
            ),
            "256 are missing: batch norm keeps a running mean and variance beside what is trained; or is it the layer norm's scale and shift?": (
                right - 256
            ),
            "512 are missing: batch norm holds a scale, a shift, a running mean and a running variance": (
                right - 512
            ),
            "you count batch norm's integer counter of batches; it is no value": right + 1,
            "here each head is fusion_dim wide, so queries, keys and values are 128 → 4 · 128, and back": (
                right - 3 * 66_048 - 65_664 + narrow
            ),
            "queries, keys and values have a layer each; you count one of the three": (
                right - 2 * 66_048
            ),
            "the heads' outputs are projected back, 4 · 128 → 128; you leave that layer out": (
                right - 65_664
            ),
            "you leave out the head": right - 8_581,
        },
    )


def count_of_any_model(student: Callable, library: Callable) -> None:
    for sizes in ((2048, 1024, 128, 4), (10, 6, 8, 1), (512, 256, 64, 16)):
        expect_count(
            student(*sizes),
            library(*sizes),
            given="for static_dim={}, dynamic_dim={}, fusion_dim={}, num_heads={}".format(*sizes),
        )


# attention_flops


def flops_of_two_products(student: Callable, library: Callable) -> None:
    query, key, value = (3, 4, 49, 32), (3, 4, 8, 32), (3, 4, 8, 20)
    right, once = library(query, key, value), 2 * 3 * 4 * 49 * 8
    expect_count(
        student(query, key, value),
        right,
        {
            "you count multiplications only; each comes with an addition, so a product of n × k and k × m is 2 · n · k · m": (
                right // 2
            ),
            "you count q kᵀ and leave out the product of the weights with the values": once * 32,
            "you count the product of the weights with the values and leave out q kᵀ": once * 20,
            "you leave out the heads; each one multiplies": right // 4,
            "you leave out the batch; each item multiplies": right // 3,
            "you take both products to be as wide as the queries; the second is as wide as the values": (
                once * 64
            ),
            "your queries ask each other; there are queries × keys scores": right // 8 * 49,
        },
    )


def flops_of_any_shape(student: Callable, library: Callable) -> None:
    for query, key, value in (
        ((3, 1, 1, 16), (3, 1, 1, 16), (3, 1, 1, 16)),
        ((5, 2, 7, 4), (5, 2, 3, 4), (5, 2, 3, 10)),
        ((49, 128), (8, 128), (8, 128)),
    ):
        expect_count(
            student(query, key, value),
            library(query, key, value),
            given=f"for {query}, {key} and {value}",
        )


# attention_times_gradient


def _random_attention() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    weights = torch.randn(2, 3, 7, 4).softmax(-1)
    return weights, torch.randn(5, 2, 3, 7, 6), torch.randn(2, 3, 4, 6)


def relevance_is_weights_times_their_gradient(student: Callable, library: Callable) -> None:
    weights, gradient, value = _random_attention()
    product = weights * (gradient @ value.mT)
    expect(
        student(weights, gradient, value),
        library(weights, gradient, value),
        {
            "this is the gradient alone; a weight near 0 moved nothing, so multiply by the weights": (
                (gradient @ value.mT).mean(2).transpose(0, 1)
            ),
            "this is the attention alone, the same for every trait": (
                weights.mean(1)[:, None].expand(-1, 5, -1, -1)
            ),
            "your traits come before the batch; return batch traits queries keys": product.mean(2),
            "you keep the heads; average over them": product.transpose(0, 1),
            "you sum over the heads; average": product.sum(2).transpose(0, 1),
            "you throw the negative part away; the sign says whether attending raises the trait or lowers it": (
                product.clamp(min=0).mean(2).transpose(0, 1)
            ),
            "you take the absolute value; the sign says whether attending raises the trait or lowers it": (
                product.abs().mean(2).transpose(0, 1)
            ),
            "you average the weights and the gradients over the heads before you multiply; each head has its own": (
                (weights.mean(1) * (gradient @ value.mT).mean(2)).transpose(0, 1)
            ),
        },
    )


def relevance_agrees_with_autograd(student: Callable, library: Callable) -> None:
    weights, gradient, value = (tensor.double() for tensor in _random_attention())
    weights.requires_grad_()
    (asked,) = torch.autograd.grad((gradient[3] * (weights @ value)).sum(), weights)
    came = student(weights.detach(), gradient, value)
    expect(
        came[:, 3],
        (weights * asked).mean(1).detach(),
        given="for trait 3, beside autograd's own gradient",
    )


def relevance_of_any_size(student: Callable, library: Callable) -> None:
    for batch, heads, queries, keys, dim, traits in (
        (1, 1, 1, 1, 1, 1),
        (3, 2, 49, 8, 32, 5),
        (2, 4, 3, 9, 5, 2),
    ):
        given = (
            torch.randn(batch, heads, queries, keys).softmax(-1),
            torch.randn(traits, batch, heads, queries, dim),
            torch.randn(batch, heads, keys, dim),
        )
        expect(
            student(*given),
            library(*given),
            tolerance=1e-4,
            given=f"for {heads} heads, {queries} queries, {keys} keys and {traits} traits",
        )


EXERCISES = {
    "projections": Exercise(
        solution="course_lib.models.personality:projections",
        hints=(
            (
                "The sentence of the error names the layer. Which two widths must it join, for each"
                " stream?"
            ),
            (
                "(batch, static_dim) → (batch, model.static_dim) and (batch, dynamic_dim) → (batch,"
                " model.dynamic_dim)."
            ),
            (
                "return nn.Linear(width of the static features, width the model takes), and the"
                " same for the dynamic ones"
            ),
        ),
        properties=(projections_make_the_model_fit, projections_are_linear_and_learn),
    ),
    "batch_norm": Exercise(
        solution="course_lib.models.personality:batch_norm",
        hints=(
            (
                "What is a vector measured by: by those beside it in the batch, or by what was seen"
                " in all batches before?"
            ),
            (
                "(batch, dim), (dim,), (dim,), a truth value → (batch, dim), (dim,), (dim,);"
                " statistics are over dim 0."
            ),
            (
                "if training: refuse a batch of 1; mean, variance = the batch's (correction=0);"
                " running = 0.9 · running + 0.1 · the batch's (the variance with correction=1);"
                " else: mean, variance = running. normalised = (vectors − mean) / √(variance +"
                " 1e-5)"
            ),
        ),
        properties=(
            training_measures_by_the_batch,
            training_moves_the_running_statistics,
            evaluation_measures_by_what_was_kept,
            a_batch_of_one_is_refused,
        ),
    ),
    "count_by_hand": Exercise(
        solution="course_lib.looking.cost:count_by_hand",
        hints=(
            (
                "Write a small helper for a linear layer, with its bias, and follow the data"
                " through the model."
            ),
            (
                "Four whole numbers → one. Eight linear layers, a layer norm (2 · dim) and a batch"
                " norm (4 · dim)."
            ),
            (
                "wide = num_heads · fusion_dim; static → dim, dynamic → dim, three of dim → wide,"
                " wide → dim, 2 · dim, 4 · dim, dim → 64, 64 → 5; a layer from a to b holds a ·"
                " b + b"
            ),
        ),
        properties=(count_of_the_default_model, count_of_any_model),
    ),
    "attention_flops": Exercise(
        solution="course_lib.looking.cost:attention_flops",
        hints=(
            (
                "Two products of matrices: queries with keys, then weights with values. How many"
                " numbers does each put out, and how long is the sum behind one of them?"
            ),
            (
                "(…, queries, dim), (…, keys, dim), (…, keys, value_dim) → one whole number; … is"
                " batch and heads."
            ),
            "2 · product of … · queries · keys · (dim + value_dim); math.prod multiplies a list",
        ),
        properties=(flops_of_two_products, flops_of_any_shape),
    ),
    "attention_times_gradient": Exercise(
        solution="course_lib.models.personality:attention_times_gradient",
        hints=(
            (
                "heard = weights @ value. If one weight grows a little, by how much does each heard"
                " number grow? The chain rule does the rest."
            ),
            (
                "gradient (traits, batch, heads, queries, dim) times value (batch, heads, keys,"
                " dim), its last two axes swapped, gives (traits, batch, heads, queries, keys), the"
                " shape of the weights with traits in front."
            ),
            (
                "of_weights = gradient @ value with its last two axes swapped; return the mean over"
                " heads of weights × of_weights, with batch in front of traits"
            ),
        ),
        properties=(
            relevance_is_weights_times_their_gradient,
            relevance_agrees_with_autograd,
            relevance_of_any_size,
        ),
    ),
}
