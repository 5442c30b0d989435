"""The exercises of lesson 06: the personality model from its parts, what it stores and costs, and
what moved each trait.
"""

from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from ..models import CrossAttention
from .exercises import Exercise, Mistake, expect

__all__ = ["EXERCISES"]


class PersonalityPredictionHead(nn.Module):
    """Two linear layers with a ReLU between them, as the notebook defines it."""

    def __init__(self, fusion_dim: int = 128, hidden_dim: int = 64, traits: int = 5):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(fusion_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, traits)
        )

    def forward(self, fused: Tensor) -> Tensor:
        return self.layers(fused)


# --------------------------------------------------------------------------------------------------
# Solutions, as a student would write them


def batch_norm(vectors, running_mean, running_variance, training):
    """Normalise by the batch while training, by the running statistics otherwise."""
    if not training:
        normalised = (vectors - running_mean) / (running_variance + 1e-5).sqrt()
        return normalised, running_mean, running_variance
    if len(vectors) == 1:
        raise ValueError("a batch of 1 has no spread; train on at least 2, or call model.eval()")
    mean, variance = vectors.mean(dim=0), vectors.var(dim=0, correction=0)
    normalised = (vectors - mean) / (variance + 1e-5).sqrt()
    running_mean = 0.9 * running_mean + 0.1 * mean
    running_variance = 0.9 * running_variance + 0.1 * vectors.var(dim=0, correction=1)
    return normalised, running_mean, running_variance


class FeatureFusionModule(nn.Module):
    """Batch norm, then dropout."""

    def __init__(self, fusion_dim=128, dropout_rate=0.3):
        super().__init__()
        self.norm = nn.BatchNorm1d(fusion_dim)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, fused):
        return self.dropout(self.norm(fused))


class CompletePersonalityModel(nn.Module):
    """Cross-attention, fusion, head."""

    def __init__(
        self, static_dim=512, dynamic_dim=256, fusion_dim=128, num_heads=4, dropout_rate=0.3
    ):
        super().__init__()
        self.cross_attention = CrossAttention(static_dim, dynamic_dim, fusion_dim, num_heads)
        self.fusion = FeatureFusionModule(fusion_dim, dropout_rate)
        self.head = PersonalityPredictionHead(fusion_dim)

    def forward(self, static, dynamic):
        return self.head(self.fusion(self.cross_attention(static, dynamic)))


def count_by_hand(static_dim, dynamic_dim, fusion_dim, num_heads):
    """Layer by layer, in the order of the data."""

    def linear(inputs, outputs):
        return inputs * outputs + outputs

    all_heads = num_heads * fusion_dim
    projections = linear(static_dim, fusion_dim) + linear(dynamic_dim, fusion_dim)
    attention = 3 * linear(fusion_dim, all_heads) + linear(all_heads, fusion_dim)
    layer_norm = 2 * fusion_dim  # scale and shift
    batch_norm = 4 * fusion_dim  # scale, shift, running mean, running variance
    head = linear(fusion_dim, 64) + linear(64, 5)
    return projections + attention + layer_norm + batch_norm + head


def attention_times_gradient(weights, gradient, value):
    """The chain rule through attended = weights @ value, then times the weights."""
    weights_gradient = gradient @ value.transpose(-2, -1)  # traits batch heads queries keys
    product = weights * weights_gradient
    return product.mean(dim=2).transpose(0, 1)


# --------------------------------------------------------------------------------------------------
# Counting


def expect_count(
    came: Any, expected: int, mistakes: Mapping[str, int] | None = None, given: str = ""
) -> None:
    """Raise a `Mistake` unless `came` is this whole number."""
    if isinstance(came, float) and came.is_integer():
        raise Mistake(
            f"{came} counts things, so return a whole number; // divides without making a float"
        )
    if not isinstance(came, Integral):  # NumPy's, too
        raise Mistake(f"expected a whole number, got a {type(came).__name__}")
    for sentence, wrong in (mistakes or {}).items():
        if came == wrong:
            raise Mistake(sentence)
    if came != expected:
        raise Mistake(f"{f'{given}, ' if given else ''}expected {expected:,}, got {came:,}")


# --------------------------------------------------------------------------------------------------
# batch_norm


def _norm_inputs(batch: int = 6, dim: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors, a running mean and a running variance; the last dimension hardly varies."""
    vectors = 3 * torch.randn(batch, dim) + 2
    vectors[:, -1] = 0.01 * torch.randn(batch) - 1
    return vectors, torch.randn(dim), torch.rand(dim) + 0.5


def _three(came: Any) -> tuple[Tensor, Tensor, Tensor]:
    if not isinstance(came, tuple | list) or len(came) != 3:
        raise Mistake(
            "return three things: the normalised vectors, the running mean, the running variance"
        )
    return tuple(came)


def training_normalises_by_the_batch(student: Callable, library: Callable) -> None:
    vectors, mean, variance = _norm_inputs()
    own, spread = vectors.mean(0), vectors.var(0, correction=0)
    across, wide = vectors.mean(1, keepdim=True), vectors.var(1, correction=0, keepdim=True)
    expect(
        _three(student(vectors, mean, variance, True))[0],
        library(vectors, mean, variance, True)[0],
        {
            "in training mode normalise by the batch's own mean and variance; you use the running statistics": (
                (vectors - mean) / (variance + 1e-5).sqrt()
            ),
            "you normalise each vector by itself, which is layer norm; batch norm takes each dimension over the batch (dim=0)": (
                (vectors - across) / (wide + 1e-5).sqrt()
            ),
            "you take one mean and one variance over all numbers; each dimension has its own (dim=0)": (
                (vectors - vectors.mean()) / (vectors.var(correction=0) + 1e-5).sqrt()
            ),
            "you normalise by the running statistics after you have moved them; normalise by the batch's own": (
                (vectors - (0.9 * mean + 0.1 * own))
                / (0.9 * variance + 0.1 * vectors.var(0) + 1e-5).sqrt()
            ),
            "you divide by the variance; divide by its root": (vectors - own) / (spread + 1e-5),
            "you divide by the variance of n − 1 (torch's default); batch norm normalises with correction=0": (
                (vectors - own) / (vectors.var(0) + 1e-5).sqrt()
            ),
            "you add 1e-5 to the root; add it to the variance, inside the root": (
                (vectors - own) / (spread.sqrt() + 1e-5)
            ),
            "you leave out the 1e-5 in the root, and a dimension that never varies would divide by 0": (
                (vectors - own) / spread.sqrt()
            ),
            "you divide without subtracting the mean": vectors / (spread + 1e-5).sqrt(),
            "you subtract the mean and do not divide": vectors - own,
        },
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
            "your running variance takes correction=0; there PyTorch takes the variance of n − 1": (
                0.9 * variance + 0.1 * vectors.var(0, correction=0)
            ),
        },
        given="for the running variance",
    )


def evaluation_normalises_by_the_running_statistics(student: Callable, library: Callable) -> None:
    for batch in (1, 2, 9):
        vectors, mean, variance = _norm_inputs(batch)
        try:
            came = student(vectors, mean, variance, False)
        except ValueError as error:
            if batch > 1:
                raise
            raise Mistake(
                "you refuse a batch of one in evaluation mode too; there it needs no spread, so"
                " refuse it only while training"
            ) from error
        normalised, new_mean, new_variance = _three(came)
        given = f"in evaluation mode, for a batch of {batch}"
        wrong = {}
        if batch > 1:
            by_batch = (vectors - vectors.mean(0)) / (vectors.var(0, correction=0) + 1e-5).sqrt()
            wrong = {
                "in evaluation mode normalise by the running statistics; you use the batch's": (
                    by_batch
                )
            }
        expect(normalised, library(vectors, mean, variance, False)[0], wrong, given=given)
        expect(new_mean, mean, given=f"{given}, for the running mean, which must stay")
        expect(new_variance, variance, given=f"{given}, for the running variance, which must stay")


def a_batch_of_one_is_refused(student: Callable, library: Callable) -> None:
    try:
        came = student(*_norm_inputs(batch=1), True)
    except ValueError:
        return
    except AssertionError as error:
        raise Mistake("an assert raises an AssertionError; raise a ValueError") from error
    found = "NaN" if not torch.isfinite(_three(came)[2]).all() else "0 for every clip"
    raise Mistake(
        f"a batch of one in training mode has no spread, and your answer is {found}; raise a"
        " ValueError that says so"
    )


# --------------------------------------------------------------------------------------------------
# FeatureFusionModule


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _module(made: Any, name: str) -> nn.Module:
    if not isinstance(made, nn.Module):
        raise Mistake(
            f"`{name}(…)` must make a module; it made a {type(made).__name__}, so write a class that"
            " inherits from nn.Module"
        )
    return made


def fusion_has_the_stored_names(student: Callable, library: Callable) -> None:
    fusion, expected = _module(student(6), "FeatureFusionModule"), _shapes(library(6))
    shapes = _shapes(fusion)
    if any(isinstance(layer, nn.LayerNorm) for layer in fusion.modules()):
        raise Mistake(
            "your norm is a layer norm; take nn.BatchNorm1d, which compares the clips of a batch"
        )
    if shapes == expected:
        return
    if "norm.running_mean" not in shapes:
        raise Mistake(
            "there is no batch norm called `norm`; the stored weights go by the names norm.weight,"
            f" norm.running_mean …, yours by {', '.join(shapes) or 'no name at all'}"
        )
    if "norm.weight" not in shapes:
        raise Mistake(
            "your batch norm has no scale and shift; leave its `affine` as it is, which is True"
        )
    for name, shape in expected.items():
        if shapes.get(name) != shape:
            raise Mistake(
                f"{name} has the shape {shapes.get(name)}, expected {shape} for"
                " FeatureFusionModule(fusion_dim=6)"
            )
    extra = sorted(shapes.keys() - expected.keys())
    raise Mistake(f"{extra[0]} is one weight too many; only the batch norm has weights")


def fusion_normalises_and_drops(student: Callable, library: Callable) -> None:
    fused = 3 * torch.randn(400, 8) + 2
    normal = nn.BatchNorm1d(8)(fused)
    without = student(8, dropout_rate=0.0)(fused)
    if isinstance(without, Tensor) and (without == 0).any():
        raise Mistake(
            f"with dropout_rate=0.0 your module sets {(without == 0).float().mean():.0%} to 0;"
            " dropout_rate is the share that nn.Dropout sets to 0"
        )
    expect(
        without,
        normal,
        {"your `forward` skips the norm": fused},
        tolerance=1e-4,
        given="with dropout_rate=0.0, in training mode",
    )
    for rate in (0.3, 0.8):
        dropped = student(8, dropout_rate=rate)(fused)
        share = (dropped == 0).float().mean().item()
        if share == 0:
            before = (dropped - normal).abs().mean() > 0.01
            raise Mistake(
                "your dropout comes before the norm, which then makes other numbers of its zeros;"
                " first the norm, then dropout"
                if before
                else "nothing is dropped in training mode; apply nn.Dropout after the norm"
            )
        if abs(share - rate) > 0.05:
            raise Mistake(
                f"with dropout_rate={rate} your module sets {share:.0%} to 0; give the rate to"
                " nn.Dropout"
            )
        left = dropped[dropped != 0]
        if not torch.allclose(left, (normal / (1 - rate))[dropped != 0], atol=1e-4):
            raise Mistake("what dropout leaves is divided by 1 − rate; nn.Dropout does that itself")


def fusion_is_still_in_evaluation_mode(student: Callable, library: Callable) -> None:
    fusion, fused = student(8, dropout_rate=0.5), 3 * torch.randn(50, 8) + 2
    fusion(fused)
    fusion.eval()
    came = fusion(fused)
    if (came == 0).float().mean() > 0.2:
        raise Mistake(
            "your dropout goes on in evaluation mode; make it a layer, self.dropout ="
            " nn.Dropout(…), which eval() switches off (F.dropout needs training=self.training)"
        )
    expect(
        came,
        fusion.norm(fused),
        {"your norm does not change to its running statistics": nn.BatchNorm1d(8)(fused)},
        tolerance=1e-4,
        given="in evaluation mode",
    )
    if fusion(fused[:1]).shape != (1, 8):
        raise Mistake("in evaluation mode a batch of one must pass")


# --------------------------------------------------------------------------------------------------
# CompletePersonalityModel


def model_has_the_stored_names(student: Callable, library: Callable) -> None:
    sizes = {"static_dim": 20, "dynamic_dim": 12, "fusion_dim": 16, "num_heads": 2}
    model, expected = student(**sizes), _shapes(library(**sizes))
    shapes = _shapes(_module(model, "CompletePersonalityModel"))
    for part in ("cross_attention", "fusion", "head"):
        if not any(name.startswith(f"{part}.") for name in shapes):
            raise Mistake(
                f"there is no part with weights called `{part}`; the stored weights go by"
                " cross_attention…, fusion… and head…"
            )
    for name, shape in expected.items():
        if name not in shapes:
            raise Mistake(f"{name} is missing; are all three parts made of the classes above?")
        if shapes[name] != shape:
            raise Mistake(
                f"{name} has the shape {shapes[name]}, expected {shape} for static_dim=20,"
                " dynamic_dim=12, fusion_dim=16, num_heads=2; does every part get its sizes?"
            )
    extra = sorted(shapes.keys() - expected.keys())
    if extra:
        raise Mistake(f"{extra[0]} is one weight too many; the model has three parts, no more")
    if _shapes(student()) != _shapes(library()):
        raise Mistake(
            "without arguments the sizes are static_dim=512, dynamic_dim=256, fusion_dim=128,"
            " num_heads=4; keep the defaults of the first line"
        )


def _filled(student: Callable, library: Callable, **sizes) -> tuple[nn.Module, nn.Module]:
    """The student's model and the library's with the same weights, none of them an initial one."""
    model, example = student(**sizes), library(**sizes)
    with torch.no_grad():
        for tensor in example.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.1 - 0.5 * (tensor.ndim > 1))
    model.load_state_dict(example.state_dict())
    return model.eval(), example.eval()


def model_predicts_what_its_parts_say(student: Callable, library: Callable) -> None:
    sizes = {"static_dim": 14, "dynamic_dim": 14, "fusion_dim": 16, "num_heads": 2}
    model, example = _filled(student, library, **sizes)
    static, dynamic = torch.randn(5, 14), torch.randn(5, 14)
    with torch.no_grad():
        fused = example.cross_attention(static, dynamic)
        traits = example(static, dynamic)
        expect(
            model(static, dynamic),
            traits,
            {
                "your `forward` gives the dynamic vector first; the static vector makes the query": (
                    example(dynamic, static)
                ),
                "your `forward` gives the static vector twice": example(static, static),
                "your `forward` gives the dynamic vector twice": example(dynamic, dynamic),
                "you cut the prediction off at 0 and 1; the head is linear at the end": (
                    traits.clamp(0, 1)
                ),
                "your `forward` leaves out the fusion": example.head(fused),
                "your `forward` ends with the fusion; the head turns it into five traits": (
                    example.fusion(fused)
                ),
                "your `forward` ends with the cross-attention; fusion and head come after it": (
                    fused
                ),
                "you squash the prediction with a sigmoid; the head is linear at the end": (
                    traits.sigmoid()
                ),
                "you squash the prediction with a softmax; five traits do not compete": (
                    traits.softmax(-1)
                ),
            },
        )


def model_drops_at_the_given_rate(student: Callable, library: Callable) -> None:
    sizes = {"static_dim": 6, "dynamic_dim": 5, "fusion_dim": 128, "num_heads": 1}
    static, dynamic = torch.randn(200, 6), torch.randn(200, 5)
    for rate in (0.0, 0.6):
        model = student(**sizes, dropout_rate=rate)
        with torch.no_grad():
            fused = model.fusion(model.cross_attention(static, dynamic))
        share = (fused == 0).float().mean().item()
        if abs(share - rate) > 0.05:
            raise Mistake(
                f"with dropout_rate={rate} your fusion sets {share:.0%} to 0; give it the rate"
            )


# --------------------------------------------------------------------------------------------------
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
            "you count batch norm's integer counter of batches; it is neither a parameter nor a running statistic": right
            + 1,
            "here each head is fusion_dim wide, so queries, keys and values are 128 → 4 · 128, and back": (
                right - 3 * 66_048 - 65_664 + narrow
            ),
            "queries, keys and values have a layer each; you count one of the three": (
                right - 2 * 66_048
            ),
            "the heads' outputs are projected back, 4 · 128 → 128; you leave that layer out": (
                right - 65_664
            ),
            "that layer goes from num_heads · fusion_dim back to fusion_dim; you count it as fusion_dim → fusion_dim": (
                right - 65_664 + 128 * 128 + 128
            ),
            "a linear layer has one bias for each output; you add one for each input": (
                right - biases + 512 + 256 + 3 * 128 + 512 + 128 + 64
            ),
            "you leave out the head": right - 8_581,
            "you leave out the biases of the head": right - 64 - 5,
        },
    )


def count_of_any_model(student: Callable, library: Callable) -> None:
    for sizes in ((2048, 1024, 128, 4), (10, 6, 8, 1), (512, 256, 64, 16)):
        expect_count(
            student(*sizes),
            library(*sizes),
            given="for static_dim={}, dynamic_dim={}, fusion_dim={}, num_heads={}".format(*sizes),
        )


# --------------------------------------------------------------------------------------------------
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
            "you count queries × queries scores; there are queries × keys": right // 8 * 49,
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


# --------------------------------------------------------------------------------------------------
# attention_times_gradient


def _random_attention() -> tuple[Tensor, Tensor, Tensor]:
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
            "you multiply the gradient by the attended vectors, which leaves one number for each query; keep one for each key": (
                (gradient * (weights @ value)).sum(-1).mean(2).transpose(0, 1)
            ),
            "you average over the batch; in the gradient the batch is axis 1 and the heads are axis 2": (
                product.mean(1).transpose(0, 1)
            ),
            "with the traits in front, axis 1 is the batch and axis 2 the heads; average over the heads": (
                product.mean(1)
            ),
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
    "batch_norm": Exercise(
        solution="course_lib.lessons.lesson_06:batch_norm",
        hints=(
            (
                "Which mean and variance does a vector get: those of the batch that it is in, or"
                " those of all batches before?"
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
            training_normalises_by_the_batch,
            training_moves_the_running_statistics,
            evaluation_normalises_by_the_running_statistics,
            a_batch_of_one_is_refused,
        ),
    ),
    "FeatureFusionModule": Exercise(
        solution="course_lib.lessons.lesson_06:FeatureFusionModule",
        hints=(
            (
                "Two layers, made in `__init__` so that eval() finds them, and called one after the"
                " other in `forward`."
            ),
            (
                "(batch, fusion_dim) → (batch, fusion_dim). `self.norm` is an nn.BatchNorm1d,"
                " `self.dropout` an nn.Dropout."
            ),
            (
                "self.norm = nn.BatchNorm1d(fusion_dim); self.dropout = nn.Dropout(dropout_rate);"
                " forward: return the dropout of the norm of `fused`"
            ),
        ),
        properties=(
            fusion_has_the_stored_names,
            fusion_normalises_and_drops,
            fusion_is_still_in_evaluation_mode,
        ),
    ),
    "CompletePersonalityModel": Exercise(
        solution="course_lib.lessons.lesson_06:CompletePersonalityModel",
        hints=(
            (
                "Three parts, in the order of the data. What comes out of one is what goes into the"
                " next."
            ),
            (
                "cross_attention: (batch, static_dim), (batch, dynamic_dim) → (batch, fusion_dim);"
                " fusion: (batch, fusion_dim) → the same; head: (batch, fusion_dim) → (batch, 5)."
            ),
            (
                "self.cross_attention = CrossAttention(the first four sizes); self.fusion ="
                " FeatureFusionModule(fusion_dim, dropout_rate); self.head ="
                " PersonalityPredictionHead(fusion_dim); forward: head(fusion(cross_attention(…)))"
            ),
        ),
        properties=(
            model_has_the_stored_names,
            model_predicts_what_its_parts_say,
            model_drops_at_the_given_rate,
        ),
    ),
    "count_by_hand": Exercise(
        solution="course_lib.lessons.lesson_06:count_by_hand",
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
                " wide → dim, 2 · dim, 4 · dim, dim → 64, 64 → 5; a layer from a to b has a ·"
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
                " numbers does each give, and how long is the sum behind one of them?"
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
        solution="course_lib.lessons.lesson_06:attention_times_gradient",
        hints=(
            (
                "attended = weights @ value. If weights[i, j] grows a little, by how much does"
                " attended[i] change? The chain rule does the rest."
            ),
            (
                "gradient (traits, batch, heads, queries, dim) times value (batch, heads, keys,"
                " dim), its last two axes swapped, gives (traits, batch, heads, queries, keys), the"
                " shape of the weights with traits in front."
            ),
            (
                "weights_gradient = gradient @ value with its last two axes swapped; return the"
                " mean over heads of weights × weights_gradient, with batch in front of traits"
            ),
        ),
        properties=(
            relevance_is_weights_times_their_gradient,
            relevance_agrees_with_autograd,
            relevance_of_any_size,
        ),
    ),
}
