"""The exercises of lesson 09: a classifier each, a decoder with learnable queries, pooling over
tokens, and which vectors are similar.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..models.attributes import AttributeDecoder, AttributeHead, DecoderLayer
from ..shapes import Float
from .exercises import Exercise, Mistake, expect

__all__ = ["EXERCISES", "Decoder", "classify", "cosines"]


def classify(
    answers: Float[Tensor, "batch attributes dim"],
    weight: Float[Tensor, "attributes dim"],
    bias: Float[Tensor, " attributes"],
) -> Float[Tensor, "batch attributes"]:
    """A linear classifier for each attribute on what its query got. Derived in lesson 09."""
    return (answers * weight).sum(-1) + bias


class Decoder(nn.Module):
    """One learned query for each attribute attends to the tokens, and a classifier each gives the
    logits.

    Its weights have the names of an `AttributeDecoder`'s, of which it is the core. Derived in
    lesson 09.
    """

    def __init__(
        self,
        token_dim: int = 96,
        attributes: int = 33,
        dim: int = 96,
        heads: int = 4,
        layers: int = 1,
    ):
        super().__init__()
        self.project = nn.Sequential(
            nn.LayerNorm(token_dim), nn.Linear(token_dim, dim), nn.LayerNorm(dim)
        )
        self.positions = nn.Parameter(0.02 * torch.randn(49, dim))
        self.queries = nn.Parameter(0.3 * torch.randn(attributes, dim))
        self.layers = nn.ModuleList(DecoderLayer(dim, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(dim), AttributeHead(attributes, dim)

    def keys_of(
        self, values: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """What the queries are compared with: the values and their positions."""
        return values + self.positions

    def forward(
        self, tokens: Float[Tensor, "batch tokens token_dim"]
    ) -> Float[Tensor, "batch attributes"]:
        values = self.project(tokens)
        keys = self.keys_of(values)
        queries = self.queries.expand(len(tokens), -1, -1)
        for layer in self.layers:
            queries = layer(queries, keys, values)
        return self.head(self.norm(queries))


def cosines(vectors: Float[Tensor, "attributes dim"]) -> Float[Tensor, "attributes attributes"]:
    """The cosine of the angle between every two rows. Derived in lesson 09."""
    unit = vectors / vectors.norm(dim=-1, keepdim=True)
    return unit @ unit.T


# classify


def each_has_its_own_weights(student: Callable, library: Callable) -> None:
    answers, weight, bias = torch.randn(4, 3, 5), torch.randn(3, 5), torch.randn(3)
    shared = answers @ weight[0] + bias
    expect(
        student(answers, weight, bias),
        library(answers, weight, bias),
        {
            "all attributes use the weights of the first; row a of `answers` meets row a of `weight`": shared,
            "you forget the bias": library(answers, weight, 0 * bias),
            "you subtract the bias": library(answers, weight, -bias),
            "you average over `dim`; a scalar product is the sum": (answers * weight).mean(-1)
            + bias,
            "you add all rows of `weight`; row a of `answers` meets row a of `weight` only": (
                answers @ weight.sum(0) + bias
            ),
        },
    )


def as_many_classifiers_as_numbers(student: Callable, library: Callable) -> None:
    answers, weight, bias = torch.randn(2, 4, 4), torch.randn(4, 4), torch.randn(4)
    expect(
        student(answers, weight, bias),
        library(answers, weight, bias),
        {
            "you exchange the axes of `weight`: its rows are attributes": library(
                answers, weight.T, bias
            )
        },
        given="for as many attributes as `dim`",
    )


# Decoder


def _pair(student: type, heads: int = 2, layers: int = 2) -> tuple[nn.Module, AttributeDecoder]:
    """The student's decoder and the library's, with the same weights, in evaluation mode."""
    theirs = AttributeDecoder(6, 5, dim=8, heads=heads, layers=layers).eval()
    mine = student(6, 5, 8, heads, layers).eval()
    try:
        mine.load_state_dict(theirs.state_dict())
    except RuntimeError as error:
        raise Mistake(
            "the library's weights do not load: keep `__init__` as it is given"
            f" ({str(error).splitlines()[-1].strip()})"
        ) from None
    return mine, theirs


def decodes_as_the_library_does(student: type, library: type) -> None:
    mine, theirs = _pair(student)
    tokens = torch.randn(3, 49, 6)
    values = theirs.project(tokens)
    keys = values + theirs.positions

    def decoded(keys: Tensor, values: Tensor, layers=None, norm: bool = True) -> Tensor:
        queries = theirs.queries.repeat(len(tokens), 1, 1)
        for layer in theirs.layers if layers is None else layers:
            queries = layer(queries, keys, values)
        return theirs.head(theirs.norm(queries) if norm else queries)

    expect(
        mine(tokens),
        theirs(tokens),
        {
            "you use the keys as values too; the values are the projected tokens without positions": (
                decoded(keys, keys)
            ),
            "the keys have no positions: take them from `self.keys_of(values)`": decoded(
                values, values
            ),
            "keys and values are exchanged": decoded(values, keys),
            "`norm` is missing before the head": decoded(keys, values, norm=False),
            "only the first layer is used; go through all of `self.layers`": decoded(
                keys, values, theirs.layers[:1]
            ),
            "only the last layer is used; go through all of `self.layers`": decoded(
                keys, values, theirs.layers[-1:]
            ),
        },
        given="for two layers",
    )


def other_keys_can_be_put_in(student: type, library: type) -> None:
    class Other(student):
        def keys_of(self, values: Tensor) -> Tensor:
            return values.flip(1) + self.positions

    mine, theirs = _pair(Other)
    tokens = torch.randn(2, 49, 6)
    values = theirs.project(tokens)
    right = theirs.decode(values.flip(1) + theirs.positions, values)
    if torch.allclose(mine(tokens), theirs(tokens), atol=1e-5):
        raise Mistake(
            "the keys are right, but not from `self.keys_of`: section 5 puts other keys there, so"
            " call it"
        )
    expect(mine(tokens), right, given="with another `keys_of`")


def every_query_learns(student: type, library: type) -> None:
    mine, _ = _pair(student)
    mine.train()(torch.randn(2, 49, 6)).sum().backward()
    without = [name for name, value in mine.named_parameters() if value.grad is None]
    if without:
        raise Mistake(f"no gradient reaches {without[0]}; use it, and do not detach it")


# pool_over_tokens


def pooling_is_log_mean_exp(student: Callable, library: Callable) -> None:
    logits = torch.randn(3, 9, 4)
    expect(
        student(logits, 2.0),
        library(logits, 2.0),
        {
            "you forget to subtract log(tokens): the same logit everywhere must come back as it is": (
                torch.logsumexp(2 * logits, 1) / 2
            ),
            "you forget to divide by the sharpness after the logarithm": (
                torch.logsumexp(2 * logits, 1) - math.log(9)
            ),
            "you pool over the attributes; axis 1 holds the tokens": (
                (torch.logsumexp(2 * logits, 2) - math.log(4)) / 2
            ),
            "this is the mean: then a mouth that is open has to convince 48 tokens that see no mouth": logits.mean(
                1
            ),
            "this is the maximum: only one token would learn from each image": logits.amax(1),
            "you divide log(tokens) not by the sharpness; bracket both, then divide": (
                torch.logsumexp(2 * logits, 1) / 2 - math.log(9)
            ),
        },
        given="with a sharpness of 2",
    )


def pooling_is_stable(student: Callable, library: Callable) -> None:
    logits = torch.tensor([[[300.0], [-300.0]]])
    came = student(logits, 2.0)
    if isinstance(came, Tensor) and not came.isfinite().all():
        raise Mistake(
            "exp of a large logit is infinite; torch.logsumexp takes the largest out first"
        )
    expect(came, library(logits, 2.0), given="for logits of ±300")


# cosines


def cosines_of_all_pairs(student: Callable, library: Callable) -> None:
    vectors = torch.randn(5, 7)
    products = vectors @ vectors.T
    expect(
        student(vectors),
        library(vectors),
        {
            "these are scalar products; divide by both lengths": products,
            "you divide by one length only; divide by that of the other row too": (
                products / vectors.norm(dim=-1)
            ),
            "you divide by one length only; divide by that of the other row, too": (
                products / vectors.norm(dim=-1, keepdim=True)
            ),
            "you divide by the squared lengths": products
            / (products.diagonal()[:, None] * products.diagonal()),
            "this is the correlation: you subtract the mean of each row first": torch.corrcoef(
                vectors
            ),
            "these are distances between directions; the cosine is 1 for the same direction": (
                1 - library(vectors)
            ),
        },
    )


def lengths_do_not_matter(student: Callable, library: Callable) -> None:
    vectors = torch.tensor([[1.0, 0.0], [10.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    right = torch.tensor([[1.0, 1, 0, -1], [1, 1, 0, -1], [0, 0, 1, 0], [-1, -1, 0, 1]])
    expect(student(vectors), right, given="for rows that point right, right, up and left")


EXERCISES = {
    "classify": Exercise(
        solution="course_lib.lessons.lesson_09:classify",
        hints=(
            "A scalar product for each attribute: with which row of `weight`?",
            "(batch, attributes, dim), (attributes, dim), (attributes,) → (batch, attributes).",
            "multiply `answers` by `weight` number by number; sum over the last axis; add `bias`",
        ),
        properties=(each_has_its_own_weights, as_many_classifiers_as_numbers),
    ),
    "Decoder": Exercise(
        solution="course_lib.lessons.lesson_09:Decoder",
        hints=(
            "Which of the pieces gets the tokens first, and what do the queries have to do with the batch?",
            (
                "tokens (batch, 49, token_dim) → values (batch, 49, dim); keys the same; queries"
                " (batch, attributes, dim) → logits (batch, attributes)."
            ),
            (
                "values = project(tokens); keys = keys_of(values); queries = self.queries.expand(batch,"
                " -1, -1); for each layer: queries = layer(queries, keys, values); head(norm(queries))"
            ),
        ),
        properties=(decodes_as_the_library_does, other_keys_can_be_put_in, every_query_learns),
    ),
    "pool_over_tokens": Exercise(
        solution="course_lib.models.attributes:pool_over_tokens",
        hints=(
            (
                "Something between the mean, where every token must agree, and the maximum, where"
                " only one is heard."
            ),
            "(batch, tokens, attributes), a number → (batch, attributes).",
            (
                "(logsumexp over the tokens of (sharpness · logits) − log(number of tokens)) /"
                " sharpness"
            ),
        ),
        properties=(pooling_is_log_mean_exp, pooling_is_stable),
    ),
    "cosines": Exercise(
        solution="course_lib.lessons.lesson_09:cosines",
        hints=(
            "Make every row one unit long; then scalar products are cosines.",
            "(attributes, dim) → (attributes, attributes).",
            "unit = vectors / (length of each row, kept as an axis); unit @ unit transposed",
        ),
        properties=(cosines_of_all_pairs, lengths_do_not_matter),
    ),
}
