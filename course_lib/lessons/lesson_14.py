"""The exercises of lesson 14, a piece for each challenge: a loss, overlap, easy first, what to
draw.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..shapes import Float
from .exercises import Exercise, Mistake, expect, expect_gradient

__all__ = ["EXERCISES", "MyLoss"]


class MyLoss(nn.Module):
    """Margins: the right answer has to win by more, the rarer it is. After Cao et al., arXiv
    1906.07413.

    Derived in lesson 14.
    """

    def __init__(self, frequencies: Float[Tensor, " attributes"], strength: float = 1.0):
        super().__init__()
        margins = torch.stack([1 - frequencies, frequencies]) ** -0.25  # of a no, of a yes
        self.register_buffer("margins", strength * margins / margins.max())

    def forward(
        self,
        logits: Float[Tensor, "batch attributes"],
        targets: Float[Tensor, "batch attributes"],
    ) -> Float[Tensor, ""]:
        margin = torch.where(targets > 0, self.margins[1], self.margins[0])
        return F.softplus(margin - (2 * targets - 1) * logits).mean()


# MyLoss


SHARES = (0.02, 0.1, 0.4)  # a rare attribute, one in between, a common one


def _built(student: Callable, strength: float) -> nn.Module:
    """The student's loss for three attributes."""
    loss = student(torch.tensor(SHARES), strength)
    if not isinstance(loss, nn.Module):
        raise Mistake(
            "the loss must be an `nn.Module`, so that `.to(device)` and `forward` work; write `class"
            " MyLoss(nn.Module)`"
        )
    return loss


def _value(loss: nn.Module, logits: Tensor, targets: Tensor) -> Tensor:
    """One number, or a sentence that says what came instead."""
    came = loss(logits, targets)
    if came is None:
        raise Mistake("your `forward` returns None; end it with `return` and the loss")
    if not isinstance(came, Tensor) or came.shape != ():
        what = tuple(came.shape) if isinstance(came, Tensor) else type(came).__name__
        raise Mistake(f"expected one number, the mean over images and attributes; got {what}")
    return came


def _pull(loss: nn.Module, logit: float, target: float) -> Tensor:
    """The derivative of the loss with respect to the logit of one image, for each attribute."""
    logits = torch.full((1, len(SHARES)), logit, requires_grad=True)
    value = _value(loss, logits, torch.full((1, len(SHARES)), target))
    if not value.requires_grad:
        raise Mistake(
            "no gradient reaches the logits, so the model could not learn; is there a `.detach()`,"
            " `.item()` or `torch.no_grad()` in your loss?"
        )
    return torch.autograd.grad(value, logits)[0][0]


def without_strength_it_is_cross_entropy(student: Callable, library: Callable) -> None:
    logits, targets = 3 * torch.randn(6, 3), (torch.rand(6, 3) < 0.5).float()
    loss, plain = _built(student, 0.0), F.binary_cross_entropy_with_logits
    before = logits.clone(), targets.clone()
    came = _value(loss, logits, targets)
    if not (torch.equal(before[0], logits) and torch.equal(before[1], targets)):
        raise Mistake("your loss changes its input in place; make a new tensor")
    expect(
        came,
        plain(logits, targets),
        {
            "this is the sum; return the mean over images and attributes": 18
            * plain(logits, targets),
            "you sum over the attributes; return the mean over images and attributes": 3
            * plain(logits, targets),
            "logits go into the cross-entropy, not probabilities: leave out the sigmoid": plain(
                logits.sigmoid(), targets
            ),
            "the sign is turned: this rewards the wrong answer": plain(-logits, targets),
        },
        given="with strength 0, where a weight is 1, a margin is 0 and the loss is plain cross-entropy",
    )


def large_logits_stay_finite(student: Callable, library: Callable) -> None:
    loss = _built(student, 1.0)
    for logit in (1e4, -1e4):
        for target in (0.0, 1.0):
            value = _value(loss, torch.full((1, 3), logit), torch.full((1, 3), target))
            if not (value.isfinite() and _pull(loss, logit, target).isfinite().all()):
                raise Mistake(
                    f"for a logit of {logit:g} and a target of {target:g} the loss or its gradient is"
                    " not finite: a logarithm of a sigmoid that is 0; use F.softplus, F.logsigmoid or"
                    " F.binary_cross_entropy_with_logits"
                )


def the_right_answer_lowers_it(student: Callable, library: Callable) -> None:
    loss = _built(student, 1.0)
    for logit in (-3.0, 0.0, 3.0):
        for target, word, sign in ((1.0, "has", -1), (0.0, "lacks", 1)):
            if not (sign * _pull(loss, logit, target) > 0).all():
                raise Mistake(
                    f"for a face that {word} the attribute, at a logit of {logit:g}, a"
                    f" {'larger' if target else 'smaller'} logit must lower the loss; yours does not"
                )


def the_rare_pull_harder(student: Callable, library: Callable) -> None:
    loss = _built(student, 1.0)
    for logit in (-1.0, 0.0, 1.0):
        rare, middle, common = _pull(loss, logit, 1.0).abs().tolist()
        given = f"at a logit of {logit:g}, a missed yes"
        if abs(rare - common) < 1e-6:
            raise Mistake(
                f"{given} of an attribute that {SHARES[0]:.0%} have pulls no harder than of one that"
                f" {SHARES[2]:.0%} have; the loss has to use `frequencies`"
            )
        if not rare > middle > common:
            raise Mistake(
                f"{given} must pull harder, the rarer the attribute; yours pulls {rare:.3f},"
                f" {middle:.3f} and {common:.3f} for the shares 2 %, 10 % and 40 %"
            )
        if rare <= _pull(loss, -logit, 0.0).abs()[0]:
            raise Mistake(
                f"{given} of the rarest must pull harder than a false yes that is as far off; both"
                " sides of your loss weigh the same"
            )


def strength_makes_the_rare_stand_out(student: Callable, library: Callable) -> None:
    logit = 3.0  # where the pull of a margin is far from its largest, 1
    full, half = (_pull(_built(student, strength), logit, 1.0).abs() for strength in (1.0, 0.5))
    if torch.allclose(full, half):
        raise Mistake(
            "with strength 1 the rare must stand out more than with strength 0.5; `strength`"
            " changes nothing in yours"
        )
    more, less = (float(pulls[0] / pulls[2]) for pulls in (full, half))
    if more <= less + 1e-6:
        raise Mistake(
            f"with strength 1 the rare must stand out more than with strength 0.5; at a logit of"
            f" {logit:g} yours pulls a yes of the rarest {more:.2f} times as hard as one of the most"
            f" frequent, and {less:.2f} times with strength 0.5"
        )


def batches_do_not_matter(student: Callable, library: Callable) -> None:
    loss, logits = _built(student, 1.0), torch.randn(8, 3)
    targets = torch.zeros(8, 3)
    targets[0] = targets[5, 1] = targets[6, 2] = 1
    halves = [_value(loss, *pair) for pair in zip(logits.split(4), targets.split(4), strict=True)]
    together, mean = _value(loss, logits, targets), torch.stack(halves).mean()
    if not torch.isclose(together, mean):
        raise Mistake(
            f"the loss of two batches together must be the mean of both, {mean:.4f}, and yours is"
            f" {together:.4f}; count in `frequencies` and not in the batch (a loss that compares"
            " the faces of a batch needs another name and a test of your own)"
        )


def it_goes_where_the_model_goes(student: Callable, library: Callable) -> None:
    loss = _built(student, 1.0)
    plain = [name for name, value in vars(loss).items() if isinstance(value, Tensor)]
    if plain:
        raise Mistake(
            f"`self.{plain[0]}` is a plain tensor, which `.to(device)` leaves behind; write"
            f' `self.register_buffer("{plain[0]}", …)`'
        )


# head_diversity_penalty


def _overlap(maps: Tensor, pairs: Callable[[int, int], bool]) -> Tensor:
    """The mean over chosen pairs of heads of the dot product of their maps."""
    heads = maps.shape[1]
    chosen = [
        (maps[:, i] * maps[:, j]).sum(-1) for i in range(heads) for j in range(heads) if pairs(i, j)
    ]
    return torch.stack(chosen).mean()


def overlap_is_of_two_heads(student: Callable, library: Callable) -> None:
    maps = torch.rand(3, 4, 5, 9).softmax(-1)
    maps = maps**4 / (maps**4).sum(-1, keepdim=True)
    normed = torch.nn.functional.normalize(maps, dim=-1)
    expect(
        student(maps),
        library(maps),
        {
            "a head always overlaps with itself, and nothing can change that; leave these pairs out": _overlap(
                maps, lambda i, j: True
            ),
            "you only count a head with itself: that is how sharp it is, not what two share": (
                _overlap(maps, lambda i, j: i == j)
            ),
            "you compare queries; two *heads* of the same query are compared": _overlap(
                maps.transpose(1, 2), lambda i, j: i != j
            ),
            "these are cosines; the dot product also sees how sharp the two are": _overlap(
                normed, lambda i, j: i != j
            ),
            "you add up the pairs; the mean does not depend on how many heads there are": (
                _overlap(maps, lambda i, j: i < j) * 6
            ),
            "overlap is to be *charged*: the more, the larger": -library(maps),
            "this rewards overlap; you have 1 minus it": 1 - library(maps),
            "keep one number: the mean over the batch and the queries too": maps.new_tensor(
                torch.nan
            ),
        },
        given="for 4 heads",
    )


def overlap_of_known_maps(student: Callable, library: Callable) -> None:
    one = torch.zeros(1, 2, 1, 49)
    one[0, :, 0, 7] = 1
    apart = torch.zeros(1, 2, 1, 49)
    apart[0, 0, 0, 7] = apart[0, 1, 0, 8] = 1
    for given, maps in (
        ("for two heads on the same token", one),
        ("for two heads on two tokens", apart),
        ("for two heads that look everywhere alike", torch.full((1, 2, 1, 49), 1 / 49)),
    ):
        expect(student(maps), library(maps), given=given)


def overlap_can_be_learned_from(student: Callable, library: Callable) -> None:
    scores = torch.randn(2, 3, 4, 9, requires_grad=True)
    expect_gradient(scores, student(scores.softmax(-1)))


# easiest_weights


def _equal(chosen: Tensor) -> Tensor:
    return chosen.double() / chosen.sum()


def _double(came: object) -> object:
    """Shares in any floating type."""
    floats = isinstance(came, Tensor) and came.is_floating_point()
    return came.double() if floats else came


def easy_is_a_low_loss(student: Callable, library: Callable) -> None:
    losses = torch.tensor([1.0, 0.2, 0.6, 0.3, 0.8, 0.4, 0.9, 0.5], dtype=torch.float64)
    rank, share = losses.argsort().argsort(), 0.25
    expect(
        _double(student(losses, share)),
        library(losses, share),
        {
            "these are the *hardest* images; easy is a low loss": _equal(rank >= 6),
            "`argsort` lists which image comes first, second, …; you read it as the rank of each image": _equal(
                losses.argsort() < 2
            ),
            "this is everything but the easiest": _equal(rank >= 2),
            "divide by how many are shown, so that the weights sum to 1": (rank < 2).double(),
            "you divide by the number of all images; the weights have to sum to 1": (
                (rank < 2).double() / 8
            ),
            "`share` is a part of the images, not a loss: you show all whose loss is below it": (
                _equal(losses < share)
            ),
            "all that are shown come equally often; you weigh them by their loss": (
                (rank < 2) * losses / losses[rank < 2].sum()
            ),
            "all that are shown come equally often; you weigh them by how easy they are": (
                (rank < 2) / losses / (1 / losses[rank < 2]).sum()
            ),
        },
        given="for a quarter of 8 images",
    )


def easy_of_any_share(student: Callable, library: Callable) -> None:
    losses = torch.rand(40, dtype=torch.float64)
    expect(
        _double(student(losses, 1.0)),
        library(losses, 1.0),
        given="with a share of 1, where all images come,",
    )
    expect(_double(student(losses, 0.5)), library(losses, 0.5), given="for half of 40 images")
    came = _double(student(losses, 0.001))
    if isinstance(came, Tensor) and not came.nan_to_num().any():
        raise Mistake(
            "with a small share no image at all is left, and nothing can be drawn; show at"
            " least one"
        )
    expect(came, library(losses, 0.001), given="with a share of 0.001, where one image is left,")


# faces_to_draw


def drawn_faces_make_the_whole_larger(student: Callable, library: Callable) -> None:
    positives, images, share = torch.tensor([20, 40, 130]), 1000, 0.125
    wanted = (share * images - positives.double()).clamp(min=0)
    alone, behind = (wanted / (1 - share)).ceil().long(), positives.max() - positives
    came = _counts(student(positives, images, share), 3)
    expected = library(positives, images, share)
    for sentence, wrong in {
        "you forget that each drawn face makes the whole larger: with yours the share is missed": (
            wanted.ceil().long()
        ),
        "each attribute makes the whole larger for the others too; you count only its own faces": (
            alone
        ),
        "you bring all up to the most frequent; `share` is enough": behind,
        "you say how many there should be; return how many to *draw*, without those that are there": (
            expected + positives
        ),
    }.items():
        if torch.equal(came, wrong):
            raise Mistake(sentence)
    _enough_and_no_more(came, expected, positives, images, share)


def nothing_to_draw_is_zero(student: Callable, library: Callable) -> None:
    positives = torch.tensor([5, 600, 250, 100])
    came = _counts(student(positives, 1000, 0.0625), 4)
    if (came < 0).any():
        raise Mistake(
            f"for an attribute that is frequent enough you draw {int(came.min())} faces; draw none"
        )
    _enough_and_no_more(came, library(positives, 1000, 0.0625), positives, 1000, 0.0625)
    came = _counts(student(positives, 1000, 0.0), 4)
    if came.any():
        raise Mistake(
            f"with a share of 0 there is nothing to draw; you draw {int(came.sum())} faces"
        )


def common_attributes_can_fall_behind(student: Callable, library: Callable) -> None:
    positives = torch.tensor([0, 0, 0, 260])  # enough of 1,000, too few once the others are drawn
    _enough_and_no_more(
        _counts(student(positives, 1000, 0.21875), 4),
        library(positives, 1000, 0.21875),
        positives,
        1000,
        0.21875,
    )


def _counts(came: object, attributes: int) -> Tensor:
    """The answer as whole numbers, if it is that."""
    if not isinstance(came, Tensor) or came.shape != (attributes,):
        what = f" of shape {tuple(came.shape)}" if isinstance(came, Tensor) else ""
        raise Mistake(
            f"expected a tensor with one count an attribute, ({attributes},); got a "
            f"{type(came).__name__}{what}"
        )
    if not torch.equal(came.double(), came.double().round()):
        raise Mistake(
            f"you draw {next(count for count in came.tolist() if count % 1):.2f} faces; a face is"
            " whole, so round up"
        )
    return came.long()


def _enough_and_no_more(
    came: Tensor, expected: Tensor, positives: Tensor, images: int, share: float
) -> None:
    total = images + int(came.sum())
    reached = (positives + came).double() / total
    given = f"for {positives.tolist()} of {images} and a share of {share:g}"
    if (reached < share - 1e-9).any():
        worst = int(reached.argmin())
        raise Mistake(
            f"{given}, you draw {came.tolist()}; then attribute {worst} is in {reached[worst]:.2%}"
            f" of the {total} faces, and that is too few"
        )
    if came.sum() > expected.sum():
        raise Mistake(
            f"{given}, {int(expected.sum())} faces are enough, and you draw {int(came.sum())}"
        )


EXERCISES = {
    "MyLoss": Exercise(
        solution="course_lib.lessons.lesson_14:MyLoss",
        hints=(
            (
                "Start from what `strength=0` must give: plain cross-entropy. Then choose where the"
                " frequencies enter: a weight in front of the loss of a yes, or a margin taken from"
                " the logit of the right answer."
            ),
            (
                "`__init__`: (attributes,) shares and a number; keep what you compute from them with"
                " `self.register_buffer`. `forward`: (batch, attributes) twice → one number."
            ),
            (
                "margins: right = (2 · targets − 1) · logits; margin = strength · share ** −0.25 over"
                " the largest, of the yes or of the no, as the target says; mean of softplus(margin −"
                " right)"
            ),
        ),
        properties=(
            without_strength_it_is_cross_entropy,
            large_logits_stay_finite,
            the_right_answer_lowers_it,
            batches_do_not_matter,
            the_rare_pull_harder,
            strength_makes_the_rare_stand_out,
            it_goes_where_the_model_goes,
        ),
    ),
    "head_diversity_penalty": Exercise(
        solution="course_lib.training.losses:head_diversity_penalty",
        hints=(
            (
                "Multiply the maps of two heads token by token and add up: 1 if both look at the"
                " same one token, 0 if they share none. Then the mean over all pairs of *different*"
                " heads."
            ),
            "(batch, heads, queries, keys) → one number, with its gradient.",
            (
                "for each pair i < j: (weights[:, i] * weights[:, j]).sum(-1).mean(); the mean of"
                " these. Without a loop: (sum over heads)² − sum over heads of squares counts every"
                " pair twice"
            ),
        ),
        properties=(overlap_is_of_two_heads, overlap_of_known_maps, overlap_can_be_learned_from),
    ),
    "easiest_weights": Exercise(
        solution="course_lib.data.samplers:easiest_weights",
        hints=(
            (
                "Sort the images by their loss. Those at the beginning come, all equally often; the"
                " others do not."
            ),
            "(images,) and a number from 0 to 1 → (images,) that sum to 1.",
            (
                "shown = round(share · images), at least 1; weights = zeros;"
                " weights[losses.argsort()[:shown]] = 1 / shown"
            ),
        ),
        properties=(easy_is_a_low_loss, easy_of_any_share),
    ),
    "faces_to_draw": Exercise(
        solution="course_lib.data.samplers:faces_to_draw",
        hints=(
            (
                "If there were M faces in the end, how many of each attribute would be missing? And"
                " how many faces would that make? Look for the M that agrees with itself."
            ),
            (
                "(attributes,) counts, a number of images, a share → (attributes,) whole numbers,"
                " none below 0."
            ),
            (
                "total = images; repeat: missing = ceil(share · total − positives), at least 0; new"
                " total = images + sum of missing; until the total no longer changes"
            ),
        ),
        properties=(
            drawn_faces_make_the_whole_larger,
            nothing_to_draw_is_zero,
            common_attributes_can_fall_behind,
        ),
    ),
}
