"""The exercises of lesson 07: one step of training, a schedule, when to stop, five broken loops, a
fair score, and how sure to be.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .clinic import FAULTS, PATIENTS
from .exercises import Exercise, Mistake, expect, expect_number

__all__ = ["EXERCISES"]


# --------------------------------------------------------------------------------------------------
# Solutions, as a student would write them


def train_step(model, optimizer, face, motion, traits):
    """One step on one batch; returns the loss before the step, as a plain number."""
    model.train()
    prediction = model(face, motion)
    loss = F.mse_loss(prediction, traits)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def name_the_faults():
    """Which fault each run has."""
    return {
        "A": "labels shuffled apart",
        "B": "zero_grad forgotten",
        "C": "a leak",
        "D": "softmax before the loss",
        "E": "evaluation mode left on",
    }


def concordance(prediction, target):
    """Twice the covariance, over both variances and the squared difference of the means."""
    p, t = prediction - prediction.mean(0), target - target.mean(0)
    spread = p.square().mean(0) + t.square().mean(0)
    offset = prediction.mean(0) - target.mean(0)
    return 2 * (p * t).mean(0) / (spread + offset.square())


# --------------------------------------------------------------------------------------------------
# train_step


class _TwoInputs(nn.Module):
    """A model as the lesson's, of a few parameters; training and evaluation mode differ."""

    def __init__(self):
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(6), nn.Linear(6, 5)

    def forward(self, face: Tensor, motion: Tensor) -> Tensor:
        return self.layer(self.norm(torch.cat([face.mean(1), motion.mean(1)], dim=1)))


def _model_and_optimizer() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = _TwoInputs()
    model.norm.running_mean.fill_(0.5)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def _trait_batch() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(8, 1, 3), torch.randn(8, 4, 3), torch.rand(8, 5)


def _values(model: nn.Module) -> Tensor:
    return torch.cat([values.detach().flatten() for values in model.parameters()])


def a_step_returns_its_loss(student: Callable, library: Callable) -> None:
    (model, optimizer), (face, motion, traits) = _model_and_optimizer(), _trait_batch()
    output = deepcopy(model)(face, motion)
    unnormalised = deepcopy(model).eval()(face, motion)
    model.eval()  # as validation leaves it
    loss = student(model, optimizer, face, motion, traits)
    if isinstance(loss, Tensor):
        raise Mistake(
            "you return a tensor, which keeps the whole graph of the step in memory; return"
            " loss.item()"
        )
    if not isinstance(loss, float):
        raise Mistake(f"return the loss of the batch, a number; got a {type(loss).__name__}")
    if not model.training:
        raise Mistake(
            "the model came from validation in evaluation mode, and you left it there; begin with"
            " model.train()"
        )
    after = deepcopy(model).train()(face, motion)
    expect_number(
        loss,
        F.mse_loss(output, traits).item(),
        {
            "you call the model before model.train(): this is the loss in evaluation mode": (
                F.mse_loss(unnormalised, traits).item()
            ),
            "this is the mean absolute error; use F.mse_loss, the mean squared error": (
                F.l1_loss(output, traits).item()
            ),
            "you add the squared errors up; F.mse_loss takes their mean": (
                F.mse_loss(output, traits, reduction="sum").item()
            ),
            "this is the loss after the step; return the one you called backward on": (
                F.mse_loss(after, traits).item()
            ),
            "there is a softmax before your loss; traits are no classes, compare them as they are": (
                F.mse_loss(output.softmax(1), traits).item()
            ),
        },
    )


def a_step_changes_the_parameters(student: Callable, library: Callable) -> None:
    (model, optimizer), batch = _model_and_optimizer(), _trait_batch()
    before = _values(model)
    student(model, optimizer, *batch)
    if torch.equal(_values(model), before):
        raise Mistake(
            "no parameter has changed: backward() fills the gradients, step() uses them, and"
            " zero_grad() must not come between the two"
        )
    if (before - _values(model)) @ torch.cat([p.grad.flatten() for p in model.parameters()]) < 0:
        raise Mistake("your step goes up the gradient; call backward on the loss itself")


def old_gradients_are_forgotten(student: Callable, library: Callable) -> None:
    model, _ = _model_and_optimizer()
    twins = [deepcopy(model) for _ in range(3)]
    optimizers = [torch.optim.SGD(twin.parameters(), lr=0.1) for twin in twins]
    ours, theirs, added_up = twins
    for _ in range(3):
        batch = _trait_batch()
        student(ours, optimizers[0], *batch)
        library(theirs, optimizers[1], *batch)
        F.mse_loss(added_up.train()(*batch[:2]), batch[2]).backward()
        optimizers[2].step()
    if torch.allclose(_values(ours), _values(added_up), atol=1e-6):
        raise Mistake(
            "you never clear the gradients: backward() adds to those of the last batch, so each"
            " step follows all batches so far; call optimizer.zero_grad()"
        )
    if not torch.allclose(_values(ours), _values(theirs), atol=1e-6):
        raise Mistake(
            "after three steps the parameters are not those of the five lines; take one step for"
            " each batch, on its own gradient"
        )


# name_the_faults

SIGNS = {
    "labels shuffled apart": (
        "the model can only learn such clips by heart, so the training loss falls slowly and"
        " validation stays above the constant, without jumps"
    ),
    "zero_grad forgotten": "each step follows all old gradients too, so the loss jumps",
    "a leak": (
        "the validation clips were learned too, so validation lies on the curve of the training"
        " clips asked again"
    ),
    "softmax before the loss": (
        "the five outputs add up to 1, so their mean is 0.2 whatever the model does, and the loss"
        " stands still far above the constant"
    ),
    "evaluation mode left on": (
        "no dropout, so it makes no difference whether the training clips are learned or asked"
        " again, while validation lies above both"
    ),
}


def each_run_has_a_name(student: Callable, library: Callable) -> None:
    answer = student()
    if not isinstance(answer, dict) or set(answer) != set(PATIENTS):
        raise Mistake(
            'return a dict with one name for each of "A", "B", "C", "D" and "E": {"A": "a leak", …}'
        )
    for run, name in answer.items():
        if name not in FAULTS:
            raise Mistake(f"run {run}: no fault is called {name!r}; choose among {FAULTS}")
    if len(set(answer.values())) < len(FAULTS):
        raise Mistake("two of your runs have the same name; each fault occurs once")


def each_name_is_right(student: Callable, library: Callable) -> None:
    for run, name in student().items():
        if name != PATIENTS[run]:
            raise Mistake(f"run {run} is not {name!r}: {SIGNS[name]}; look for the run with that")


# concordance


def _answers(batch: int = 40, traits: int = 5) -> tuple[Tensor, Tensor]:
    target = torch.rand(batch, traits, dtype=torch.float64)
    return 0.2 + 0.5 * target + 0.1 * torch.randn(batch, traits, dtype=torch.float64), target


def concordance_of_each_trait(student: Callable, library: Callable) -> None:
    prediction, target = _answers()
    p, t = prediction - prediction.mean(0), target - target.mean(0)
    covariance, offset = (p * t).mean(0), (prediction.mean(0) - target.mean(0)).square()
    spread = p.square().mean(0) + t.square().mean(0)
    unbiased = prediction.var(0) + target.var(0)
    expect(
        student(prediction, target),
        library(prediction, target),
        {
            "you forget the 2: the variances of both sides are added, so twice the covariance stands above": (
                covariance / (spread + offset)
            ),
            "this is Pearson's correlation; it forgives a wrong mean and a wrong spread, and that is what CCC is about": (
                covariance / (p.square().mean(0) * t.square().mean(0)).sqrt()
            ),
            "you forget the difference of the means below; an answer that is always too high must pay for it": (
                2 * covariance / spread
            ),
            "you take the difference of the means without its square": (
                2 * covariance / (spread + offset.sqrt())
            ),
            "you add standard deviations below; the formula adds their squares, the variances": (
                2 * covariance / (p.square().mean(0).sqrt() + t.square().mean(0).sqrt() + offset)
            ),
            "you mix two kinds of variance: `var` divides by n − 1 unless you say correction=0, your covariance by n": (
                2 * covariance / (unbiased + offset)
            ),
            "you average over the traits; keep one number for each": (
                library(prediction, target).mean()
            ),
        },
    )


def concordance_knows_its_ends(student: Callable, library: Callable) -> None:
    _, target = _answers(12, 2)
    expect(
        student(target, target), torch.ones(2, dtype=torch.float64), given="for a perfect answer"
    )
    mirrored = 2 * target.mean(0) - target
    expect(
        student(mirrored, target),
        -torch.ones(2, dtype=torch.float64),
        given="for a mirrored answer",
    )
    constant = torch.full_like(target, 0.5)
    expect(student(constant, target), torch.zeros(2, dtype=torch.float64), given="for a constant")


# cosine_factor


def factor_rises_then_falls(student: Callable, library: Callable) -> None:
    came, expected = (
        [float(function(step, 100, 0.1)) for step in range(101)] for function in (student, library)
    )
    if came[0] == 0:
        raise Mistake(
            "your first step has a factor of 0, so it learns nothing: warm-up gives step 0 a share"
            " of 1 / rising"
        )
    if max(came) > 1 + 1e-6:
        raise Mistake(
            f"your factor reaches {max(came):.3f}; the largest is 1, at the end of the warm-up"
        )
    for step in (32, 80):  # where the likely mistakes differ from the answer
        share = (step - 10) / 90
        expect_number(
            came[step],
            expected[step],
            {
                "your cosine begins at step 0; it begins when the warm-up ends, and its length is what is left": (
                    0.5 * (1 + math.cos(math.pi * step / 100))
                ),
                "you fall along a line; take half a cosine: ½ (1 + cos(π · share))": 1 - share,
                "your cosine goes down to −1; add 1 and halve it": math.cos(math.pi * share),
                "you go a whole cosine round, down and up again; half a cosine is cos from 0 to π": (
                    0.5 * (1 + math.cos(2 * math.pi * share))
                ),
            },
            given=f"at step {step} of 100 with a warm-up of 0.1",
        )
    for step in (0, 4, 9, 10, 55, 100):
        expect_number(
            came[step], expected[step], given=f"at step {step} of 100 with a warm-up of 0.1"
        )


def factor_of_any_length(student: Callable, library: Callable) -> None:
    mistakes = {
        (0, 18): {"you cut R off to a whole number; R is round(warmup · total_steps)": 1.0},
        (1, 7): {
            "without a warm-up R is 1, not 0: the docstring says at least 1": (
                0.5 * (1 + math.cos(math.pi / 7))
            )
        },
    }
    for total, warmup in ((10, 0.2), (18, 0.1), (7, 0.0), (1000, 0.05), (3, 1.0)):
        for step in range(total):
            expect_number(
                student(step, total, warmup),
                library(step, total, warmup),
                mistakes.get((step, total)),
                given=f"at step {step} of {total} with a warm-up of {warmup}",
            )


# epochs_since_best


def waiting_is_counted_from_the_best(student: Callable, library: Callable) -> None:
    for losses in (
        [5.0, 1.0, 4.0, 2.0, 3.0],
        [3.0, 2.0, 1.0],
        [3.0, 1.0, 2.0, 1.5],
        [1.0, 2.0, 3.0, 4.0],
        [2.0],
    ):
        came, expected = student(list(losses)), library(losses)
        if came == losses.index(min(losses)) != expected:
            raise Mistake("you return which epoch was best; count how many came after it")
        if came == expected + 1:
            raise Mistake(f"for {losses} you count the best epoch itself; {expected} came after it")
        drops = sum(after >= before for before, after in pairwise(losses))
        if came == drops != expected:
            raise Mistake(
                "you count every epoch that got worse; count those since the *best*, also if they"
                " improve on their neighbour"
            )
        if came != expected:
            raise Mistake(f"for {losses} the best is followed by {expected}, got {came!r}")


def an_equal_is_no_better(student: Callable, library: Callable) -> None:
    if student([2.0, 1.0, 1.0, 1.0]) != 2:
        raise Mistake(
            "in [2, 1, 1, 1] the first 1 is the best: an equal loss is no improvement, or a stuck"
            " run would never stop"
        )


def nan_is_never_best(student: Callable, library: Callable) -> None:
    nan = float("nan")
    if student([2.0, 1.0, nan, 3.0]) != 2 or student([nan, 2.0, 3.0]) != 1:
        raise Mistake(
            "a loss of NaN is no improvement, but it confuses `min` and `argmin`; compare with `<`,"
            " which NaN never is"
        )


# resample_speakers


def _speakers() -> np.ndarray:
    return np.array(["ann", "ben", "ann", "cem", "dia", "ann", "ben", "cem", "eva", "eva"])


def whole_speakers_are_drawn(student: Callable, library: Callable) -> None:
    speakers = _speakers()
    names, counts = np.unique(speakers, return_counts=True)
    seen = set()
    for seed in range(40):
        drawn = student(speakers, np.random.default_rng(seed))
        if isinstance(drawn, list) and drawn and np.ndim(drawn[0]):
            raise Mistake("you return one array for each speaker; join them with np.concatenate")
        indices = np.asarray(drawn)
        if not indices.size:
            raise Mistake(
                "no clip was drawn: ids may be any numbers or names, so draw from"
                " np.unique(speakers)"
            )
        if indices.ndim != 1 or indices.dtype.kind not in "iu":
            raise Mistake(
                f"return the indices of the items, whole numbers in one row; got {indices.dtype}"
                f" of shape {indices.shape}"
            )
        if indices.min() < 0 or indices.max() >= len(speakers):
            raise Mistake(f"an index lies outside the {len(speakers)} items")
        times = np.array([(speakers[indices] == name).sum() for name in names])
        if (times % counts).any():
            raise Mistake(
                "you draw clips one by one; draw *speakers*, and take all clips of each, as often"
                " as the speaker was drawn"
            )
        for name, count, drawn in zip(names, counts, times, strict=True):
            if any(
                (indices == item).sum() != drawn // count
                for item in np.flatnonzero(speakers == name)
            ):
                raise Mistake(
                    f"all clips of a speaker come equally often; those of {name!r} do not"
                )
        if (drawn := (times // counts).sum()) != len(names):
            raise Mistake(
                f"draw as many speakers as there are, {len(names)}; you drew {drawn}"
                + (": perhaps one for each clip" if drawn == len(speakers) else "")
                + ("; who is drawn twice comes twice" if drawn < len(names) else "")
            )
        if not np.array_equal(indices, student(speakers, np.random.default_rng(seed))):
            raise Mistake(
                "the same generator gave another sample the second time; draw from the `rng` that"
                " is passed in"
            )
        seen.add(tuple(times // counts))
    if seen == {(1,) * len(names)}:
        raise Mistake(
            "every speaker comes exactly once; draw *with* replacement, so that some come twice,"
            " some never"
        )
    if len(seen) < 10:
        raise Mistake(
            "your draws hardly differ from seed to seed; draw from the `rng` that is passed in"
        )


def speakers_are_drawn_evenly(student: Callable, library: Callable) -> None:
    speakers, rng = np.repeat([0, 1, 2], [1, 2, 7]), np.random.default_rng(0)
    times = np.zeros(3)
    for _ in range(600):
        indices = np.asarray(student(speakers, rng))
        times += [(indices == first).sum() for first in (0, 1, 3)]
    if np.abs(times / 600 - 1).max() > 0.2:
        raise Mistake(
            "speakers with many clips are drawn more often; each speaker has the same chance,"
            " whatever the number of their clips"
        )


def concordance_of_tensors_only(student: Callable, library: Callable) -> None:
    prediction, target = (values.float().requires_grad_() for values in _answers(9, 3))
    expect(
        student(prediction, target).detach(),
        library(prediction, target).detach(),
        given="in single precision",
    )


EXERCISES = {
    "train_step": Exercise(
        solution="course_lib.lessons.lesson_07:train_step",
        hints=(
            (
                "Six lines: the mode, the prediction, the loss, and then three calls in the right"
                " order. Which of them fills the gradients, which uses them, which clears them?"
            ),
            (
                "face (batch 1 64), motion (batch 8 64), traits (batch 5) → prediction (batch 5) →"
                " one number."
            ),
            (
                "model.train(); loss = F.mse_loss(model(face, motion), traits);"
                " optimizer.zero_grad(); loss.backward(); optimizer.step(); return loss.item()"
            ),
        ),
        properties=(
            a_step_changes_the_parameters,
            a_step_returns_its_loss,
            old_gradients_are_forgotten,
        ),
    ),
    "cosine_factor": Exercise(
        solution="course_lib.training.callbacks:cosine_factor",
        hints=(
            (
                "Two pieces: a line up to 1, then half a cosine from 1 to 0. How many steps does"
                " the first piece have?"
            ),
            "step, total_steps, warmup (a share) → one number from 0 to 1.",
            (
                "rising = at least 1, else round(warmup · total); before it (step + 1) / rising;"
                " after it ½ (1 + cos(π · (step − rising) / what is left))"
            ),
        ),
        properties=(factor_rises_then_falls, factor_of_any_length),
    ),
    "epochs_since_best": Exercise(
        solution="course_lib.training.callbacks:epochs_since_best",
        hints=(
            (
                "Walk through the losses and remember the smallest so far. What happens to your"
                " count when a smaller one comes, and what when none does?"
            ),
            "a list of losses, one an epoch → a whole number; 0 if the last is the best.",
            (
                "best, waited = infinity, 0; for each loss: if loss < best, set best and waited ="
                " 0, else waited + 1"
            ),
        ),
        properties=(waiting_is_counted_from_the_best, an_equal_is_no_better, nan_is_never_best),
    ),
    "name_the_faults": Exercise(
        solution="course_lib.lessons.lesson_07:name_the_faults",
        hints=(
            (
                "For each fault ask which of the three curves it changes. Begin with the two runs"
                " whose loss stays far above the constant."
            ),
            'a dict of five: {"A": name, "B": name, …}, each of the five names once.',
            (
                "jumps: gradients add up; flat near 0.1: outputs that add up to 1; validation equal"
                " to asked again: they are the same clips; as learned equal to asked again: no"
                " dropout; what is left"
            ),
        ),
        properties=(each_run_has_a_name, each_name_is_right),
    ),
    "concordance": Exercise(
        solution="course_lib.lessons.lesson_07:concordance",
        hints=(
            "Like a correlation, but an answer must also have the right mean and the right spread.",
            "(batch traits), (batch traits) → (traits,).",
            (
                "2 · covariance / (variance of one + variance of the other + (difference of the"
                " means)²), all over the batch, all divided by n"
            ),
        ),
        properties=(
            concordance_of_each_trait,
            concordance_knows_its_ends,
            concordance_of_tensors_only,
        ),
    ),
    "resample_speakers": Exercise(
        solution="course_lib.training.trait_scores:resample_speakers",
        hints=(
            (
                "Clips of one speaker are alike, so they are no independent witnesses. What must be"
                " drawn, and what comes along with it?"
            ),
            "one id a clip, a NumPy generator → indices of clips.",
            (
                "names = the different speakers; drawn = rng.choice(names, as many as names);"
                " concatenate, for each drawn name, the indices of that speaker's clips"
            ),
        ),
        properties=(whole_speakers_are_drawn, speakers_are_drawn_evenly),
    ),
}
