"""A model that says no to everything looks good: the callback that notices, and a loss that can be
turned up.

Derived in lesson 08.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..shapes import Float
from .attribute_scores import threshold_scores
from .fit import Run
from .losses import (
    FocalLoss,
    PerAttribute,
    aggressive_weights,
    calculate_aggressive_pos_weights,
    prediction_diversity_penalty,
)

__all__ = ["REMEDIES", "AggressiveLoss", "StuckDetector", "red_flags"]

# In the order in which they are tried: what is done, and the settings of an `AggressiveLoss` that do it.
REMEDIES = (
    ("double the learning rate", {}),
    ("raise the weight cap to 100", {"cap": 100.0}),
    ("strengthen the diversity penalty", {"diversity": 1.0}),
    ("double the weights", {"factor": 2.0}),
    ("add −log of the mean probability", {"boldness": 0.1}),
    ("raise γ to 3", {"gamma": 3.0}),
)


class AggressiveLoss(nn.Module):
    """Focal loss with weights for the rare, and penalties on mean probabilities: all that
    `REMEDIES` turn up.

    A positive weighs `factor` · 1 / (f + 0.001), the fraction at most `cap`; added are `diversity`
    · `prediction_diversity_penalty` and `boldness` · −log of the mean probability, which only ever
    asks for more. Each of them shifts the same prior, so judge by average precision, which none of
    them can shift. Raises ValueError as `calculate_aggressive_pos_weights` does. Derived in lesson
    08.
    """

    def __init__(
        self,
        frequencies: PerAttribute,
        cap: float = 50.0,
        gamma: float = 2.0,
        diversity: float = 0.1,
        names: Sequence[str] | None = None,
    ):
        super().__init__()
        # checks both, and names what is critical
        calculate_aggressive_pos_weights(frequencies, cap, names)
        self.register_buffer("frequencies", torch.as_tensor(frequencies, dtype=torch.float32))
        self.cap, self.gamma, self.diversity, self.factor, self.boldness = (
            cap,
            gamma,
            diversity,
            1.0,
            0.0,
        )

    def pos_weight(self) -> Float[Tensor, " attributes"]:
        """What a positive of each attribute weighs now."""
        return self.factor * aggressive_weights(self.frequencies, self.cap)

    def forward(self, logits: Tensor, targets: Tensor) -> Float[Tensor, ""]:
        loss = FocalLoss(self.gamma, self.pos_weight())(logits, targets)
        loss = loss + self.diversity * prediction_diversity_penalty(logits, self.frequencies)
        log_mean_probability = F.logsigmoid(logits.float()).logsumexp(0) - math.log(len(logits))
        return loss - self.boldness * log_mean_probability.mean()


class StuckDetector:
    """Compare the rate of positive predictions on the validation set with the truth, after every
    epoch.

    Under `floor` (or half of the true rate, if that is less) after `patience` epochs, the model is
    stuck: it says no and is praised for it. That is said in a printed sentence, and if `loss` is
    given, the one that is trained with, the next of `REMEDIES` is applied, then another each
    `patience` epochs that do not help. The log gets `valid_positive_rate` and `valid_true_rate`;
    `history` has a dict an epoch; printed, it shows all red flags.

    `names` are those of the attributes. Raises ValueError for another number of them than the model
    predicts, and for a run without a validation set. Derived in lesson 08.
    """

    def __init__(
        self,
        names: Sequence[str],
        patience: int = 3,
        floor: float = 0.05,
        loss: AggressiveLoss | None = None,
    ):
        self.names, self.patience, self.floor, self.loss = tuple(names), patience, floor, loss
        self.history: list[dict[str, Any]] = []
        self.applied, self.waited = 0, 0  # remedies so far; epochs since the last word

    def start(self, run: Run) -> None:
        if run.valid is None:
            raise ValueError(
                "the run has no validation set to count positive predictions on; give fit a valid"
                " loader, or leave the StuckDetector out"
            )
        run.metrics = run.metrics | {"positive_rate": self._measure}

    def _measure(self, logits: Tensor, targets: Tensor) -> Float[Tensor, " attributes"]:
        """A metric of `fit`, called once an epoch with all predictions: keep what the flags need."""
        if logits.shape[1:] != (len(self.names),):
            raise ValueError(
                f"the detector has {len(self.names)} names and the model predicts {logits.shape[1]}"
                " attributes; give it the names of these, in order"
            )
        scores = threshold_scores(logits.sigmoid(), targets)
        self.history.append(
            {
                "positive_rate": scores["positive_rate"].mean().item(),
                "true_rate": targets.mean().item(),
                "accuracy": scores["accuracy"].mean().item(),
                "f1": scores["f1"].tolist(),
            }
        )
        return scores["positive_rate"]

    @property
    def stuck(self) -> bool:
        """Whether the last epoch predicted almost nothing."""
        return bool(self.history) and _says_no(self.history[-1], self.floor)

    def after_epoch(self, run: Run) -> None:
        self.history[-1]["loss"] = run.log["loss"]
        run.log["valid_true_rate"] = self.history[-1]["true_rate"]
        self.waited += 1
        if self.stuck and self.waited >= self.patience:
            self.waited = 0
            self._say(run, self._remedy(run))

    def _remedy(self, run: Run) -> str:
        """Apply the next remedy, if asked for and left; say which, or which to try."""
        if self.loss is None:
            return "try, in this order: " + "; ".join(what for what, _ in REMEDIES)
        if self.applied == len(REMEDIES):
            return "all remedies are applied: look at the data and the labels"
        if self.applied == 0:
            for group in run.optimizer.param_groups:
                group.update(
                    {name: 2 * group[name] for name in ("lr", "initial_lr") if name in group}
                )
        what, settings = REMEDIES[self.applied]
        self._set(settings)
        self.applied += 1
        return f"remedy {self.applied} of {len(REMEDIES)}: {what}"

    def _say(self, run: Run, remedy: str) -> None:
        if run.accelerator.is_main_process:
            now = self.history[-1]
            print(
                f"stuck after epoch {run.epoch}: {now['positive_rate']:.1%} of the predictions are"
                f" positive, {now['true_rate']:.1%} of the labels; {remedy}"
            )

    def _set(self, settings: dict[str, float]) -> None:
        for name, value in settings.items():
            setattr(self.loss, name, value)

    def __str__(self) -> str:
        flags = red_flags(self.history, self.names, self.floor)
        return "\n".join(
            [
                f"{len(flags)} red flag{'' if len(flags) == 1 else 's'}",
                *(f"⚑ {flag}" for flag in flags),
            ]
        )

    __repr__ = __str__

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "applied": self.applied, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history, self.applied, self.waited = (
            state["history"],
            state["applied"],
            state["waited"],
        )
        # the optimizer keeps its own learning rate
        for _, settings in REMEDIES[: self.applied] if self.loss else ():
            self._set(settings)


def red_flags(
    history: Sequence[dict[str, Any]], names: Sequence[str], floor: float = 0.05
) -> list[str]:
    """What should worry in the last epochs of a `StuckDetector`'s history, one sentence each; empty
    if nothing does.

    Accuracy that is good while nearly nothing is predicted; F1 under .05 for an attribute; a loss
    that fell over three epochs while the positive rate, far too low, stood still; accuracy below
    that of predicting nothing at all.
    """
    if not history:
        return []
    now, flags = history[-1], []
    rate, truth, accuracy = now["positive_rate"], now["true_rate"], now["accuracy"]
    if _says_no(now, floor) and accuracy > 0.7:
        flags.append(
            f"accuracy is {accuracy:.1%} and {rate:.1%} of the predictions are positive,"
            f" {truth:.1%} of the labels: it is good at saying no"
        )
    if given_up := [name for name, f1 in zip(names, now["f1"], strict=True) if f1 < 0.05]:
        flags.append(
            f"F1 is under .05 for {len(given_up)} of {len(names)} attributes: {', '.join(given_up)}"
        )
    if len(history) >= 4 and rate < truth / 2:
        before = history[-4]
        if now["loss"] < 0.98 * before["loss"] and abs(rate - before["positive_rate"]) < 0.005:
            flags.append(
                f"the loss fell from {before['loss']:.3f} to {now['loss']:.3f} in three epochs and"
                f" the positive rate stands at {rate:.1%}: it learns to be surer of its no"
            )
    if accuracy < 1 - truth - 0.001:
        flags.append(
            f"accuracy is {accuracy:.1%}, below the {1 - truth:.1%} of saying no to everything"
        )
    return flags


def _says_no(epoch: dict[str, Any], floor: float) -> bool:
    return epoch["positive_rate"] < min(floor, epoch["true_rate"] / 2)
