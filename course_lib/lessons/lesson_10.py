"""The exercises of lesson 10: a map for the slider to show, the attributes to list, blind spots,
rollout.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .exercises import Exercise, Mistake, expect

__all__ = ["EXERCISES"]


def _attention(*shape: int) -> Tensor:
    """Rows that sum to 1 and differ from each other."""
    return torch.softmax(2 * torch.randn(*shape), -1)


# attribute_map


def map_of_one_head(student: Callable, library: Callable) -> None:
    weights = _attention(4, 6, 9)
    right, given = library(weights, 2, 1), "for attribute 2 and head 1"
    came = student(weights, 2, 1)
    expect(
        came,
        right,
        {
            "the axes are heads, attributes, tokens, in this order; you took head 2 of attribute 1": library(
                weights, 1, 2
            ),
            "the tokens are still in a row of 9; lay them out on their grid": right.flatten(),
            "tokens are counted row by row, from left to right; your map is mirrored along its diagonal": (
                right.T
            ),
            "you average over the heads although one is asked for": library(weights, 2, -1),
            "weights are a softmax's output already, and sum to 1; a second softmax makes them flat": (
                right.flatten().softmax(0).view(3, 3)
            ),
            "keep the weights as they are: if every map is stretched to its own maximum, a flat one looks like a sharp one": (
                right / right.max()
            ),
        },
        given=given,
    )


def map_of_the_mean_head(student: Callable, library: Callable) -> None:
    weights = _attention(4, 6, 9)
    right = library(weights, 3, -1)
    expect(
        student(weights, 3, -1),
        right,
        {
            "in PyTorch -1 is the last head; here it asks for the mean over the heads": library(
                weights, 3, 3
            ),
            "you add the heads; with their mean the map still sums to 1": 4 * right,
            "this is the largest over the heads, which sums to more than 1; -1 asks for their mean": (
                weights[:, 3].amax(0).view(3, 3)
            ),
            "you average over all attributes; only the heads are averaged": (
                weights.mean((0, 1)).view(3, 3)
            ),
        },
        given="with head -1",
    )


def map_of_any_size(student: Callable, library: Callable) -> None:
    for heads, side in ((1, 7), (3, 14), (2, 4)):
        weights = _attention(heads, 5, side * side)
        for head in (0, -1):
            expect(
                student(weights, 4, head),
                library(weights, 4, head),
                given=f"for {side * side} tokens and head {head}",
            )


# attributes_of_rarity

FREQUENCIES = (0.45, 0.08, 0.28, 0.12, 0.81, 0.02, 0.17, 0.33, 0.06)


def rare_and_common_ones(student: Callable, library: Callable) -> None:
    frequencies = torch.tensor(FREQUENCIES)
    for rarity in ("rare", "common", "all"):
        came, expected = _list(student(frequencies, rarity)), library(frequencies, rarity)
        if came == expected:
            continue
        if came == expected[::-1]:
            raise Mistake(
                f"for {rarity!r} you begin with the most frequent; the rarest comes first"
            )
        if came == sorted(expected):
            raise Mistake(
                f"for {rarity!r} you keep the order of the attributes; the rarest comes first"
            )
        if sorted(came) == list(range(len(expected))) != sorted(expected):
            raise Mistake(
                f"for {rarity!r} these are places in the shorter list; what is asked for are"
                " indices of the whole list of attributes, so that names[k] is the right name"
            )
        if any(isinstance(k, float) and k % 1 for k in came):
            raise Mistake(
                "you return frequencies; return the indices of the attributes, to look up names"
                " with"
            )
        for k, share in enumerate(FREQUENCIES):
            if (k in came) != (k in expected):
                extra = "belongs there" if k in expected else "does not belong there"
                raise Mistake(
                    f"for {rarity!r}: an attribute that {share:.0%} have {extra}; rare is under 10"
                    " %, common over 30 %, and between them lies a third kind"
                )
        raise Mistake(f"for {rarity!r} expected the indices {expected}, got {came}")


def any_frequencies(student: Callable, library: Callable) -> None:
    for frequencies in (torch.rand(33), torch.tensor([0.2, 0.2]), torch.tensor([0.5])):
        for rarity in ("rare", "common", "all"):
            came, expected = _list(student(frequencies, rarity)), library(frequencies, rarity)
            if sorted(came) == sorted(expected) and torch.equal(
                frequencies[came], frequencies[expected]
            ):
                continue
            if len(set(came)) < len(came):
                raise Mistake(
                    "two attributes may be equally frequent: sort the indices themselves; looking a"
                    " frequency up in the list finds the first of them twice"
                )
            raise Mistake(
                f"for {rarity!r} of {len(frequencies)} attributes expected the indices {expected},"
                f" came {came}"
            )


def _list(came: object) -> list:
    if isinstance(came, Tensor):
        came = came.flatten().tolist()
    if not isinstance(came, list | tuple):
        raise Mistake(f"expected a list of indices, got a {type(came).__name__}")
    return [k.item() if isinstance(k, Tensor) else k for k in came]


# blind_spots

NAMES = ("missed", "false alarm", "found off region")


def each_kind_is_found(student: Callable, library: Callable) -> None:
    probabilities, thresholds = torch.rand(40, 3), torch.tensor([0.15, 0.5, 0.8])
    truth, hits = (torch.rand(40, 3) < 0.4).float(), (torch.rand(40, 3) < 0.6).float()
    came = _masks(student(probabilities, thresholds, truth, hits))
    right = library(probabilities, thresholds, truth, hits)
    half = library(probabilities, torch.full((3,), 0.5), truth, hits)
    if any(torch.equal(came[name], half[name]) for name in NAMES[:2]):
        raise Mistake("you compare with 0.5; each attribute has its own threshold")
    present, predicted = truth == 1, probabilities >= thresholds
    mistakes = {
        "missed": {
            "these are false alarms: predicted, though absent": right["false alarm"],
            "these are all that are not predicted; only what is really there can be missed": (
                ~predicted
            ),
        },
        "false alarm": {
            "these were missed: present, though not predicted": right["missed"],
            "these are all that are predicted; a false alarm is absent": predicted,
        },
        "found off region": {
            "this counts what was missed too; what was missed was not found": (
                present & (hits < 0.5)
            ),
            "this counts faces that do not have the attribute; found means predicted *and* present": (
                predicted & (hits < 0.5)
            ),
            "these are all that look elsewhere; found means predicted *and* present": hits < 0.5,
            "these look at the region; asked for are those that look elsewhere": (
                present & predicted & (hits >= 0.5)
            ),
        },
    }
    for name in NAMES:
        expect(
            came[name],
            right[name],
            {f"{name}: {sentence}": mask for sentence, mask in mistakes[name].items()},
            given=f"in {name!r}",
        )


def at_the_threshold(student: Callable, library: Callable) -> None:
    inputs = (
        torch.tensor([[0.3], [0.3]]),
        torch.tensor([0.3]),
        torch.tensor([[1.0], [0.0]]),
        torch.ones(2, 1),
    )
    came = _masks(student(*inputs))
    if came["missed"][0] or not came["false alarm"][1]:
        raise Mistake("a probability that equals its threshold counts as predicted: >=, not >")


def what_is_unknown_is_no_mistake(student: Callable, library: Callable) -> None:
    nan = torch.nan
    inputs = (
        torch.tensor([[0.9], [0.1], [0.9]]),
        torch.tensor([0.5]),
        torch.tensor([[nan], [nan], [1.0]]),
        torch.tensor([[0.0], [0.0], [nan]]),
    )
    came = _masks(student(*inputs))
    for name in NAMES:
        if came[name][:2].any():
            raise Mistake(
                f"{name}: where the truth is NaN it is unknown, and nobody can say that it was a"
                " mistake; compare with == 1 and == 0, not with its opposite"
            )
    if came["found off region"][2]:
        raise Mistake(
            "found off region: where hits is NaN no region is known; compare with < 0.5, which NaN"
            " never is, not with the opposite of >= 0.5"
        )


def _masks(came: object) -> dict[str, Tensor]:
    if not isinstance(came, dict) or set(came) != set(NAMES):
        said = (
            f"the keys {sorted(map(str, came))}"
            if isinstance(came, dict)
            else f"a {type(came).__name__}"
        )
        raise Mistake(f"expected a dict with the keys {', '.join(map(repr, NAMES))}; got {said}")
    for name, mask in came.items():
        if isinstance(mask, Tensor) and mask.dtype != torch.bool:
            raise Mistake(
                f"{name!r} has the dtype {mask.dtype}, expected one of True and False; masks are"
                " joined with &, not with *"
            )
    return came


# attention_rollout


def rollout_of_two_layers(student: Callable, library: Callable) -> None:
    first, second = _attention(2, 3, 5, 5), _attention(2, 3, 5, 5)
    came, right = student([first, second]), library([first, second])
    one, two, identity = first.mean(1), second.mean(1), torch.eye(5)
    heads = [(layer + identity) / 2 for layer in (first, second)]
    expect(
        came,
        right,
        {
            "you multiply in the wrong order: later layers stand on the left, as functions do": (
                (one + identity) / 2 @ ((two + identity) / 2)
            ),
            "you forget the skip connection: half of what a token holds afterwards it held before": (
                two @ one
            ),
            "you add the identity and do not halve; rows must still sum to 1": (
                (two + identity) @ (one + identity)
            ),
            "you follow each head alone; in the next layer every head reads what all heads wrote, so average them first": (
                (heads[1] @ heads[0]).mean(1)
            ),
            "you multiply number by number; composing two maps is the matrix product @": (
                (two + identity) / 2 * (one + identity) / 2
            ),
            "this is the mean of the layers; what a layer reads has passed through the layers before it, so multiply": (
                ((one + identity) / 2 + (two + identity) / 2) / 2
            ),
            "this is the last layer alone": (two + identity) / 2,
        },
        given="for two layers",
    )


def rollout_of_known_maps(student: Callable, library: Callable) -> None:
    identity, step = torch.eye(4), torch.eye(4).roll(1, 1)  # each token looks at the next one
    expect(
        student([identity.expand(1, 2, 4, 4)] * 6),
        identity[None],
        given="where each token looks at itself, nothing moves;",
    )
    layers = [step.expand(1, 2, 4, 4)] * 2
    expect(
        student(layers, 0.0),
        (step @ step)[None],
        given="where nothing goes past attention (residual=0),",
    )
    expect(
        student(layers, 1.0), identity[None], given="where all goes past attention (residual=1),"
    )


def rollout_of_any_layers(student: Callable, library: Callable) -> None:
    for count, heads, tokens, residual in ((1, 1, 3, 0.5), (5, 4, 7, 0.5), (3, 2, 10, 0.2)):
        layers = [_attention(2, heads, tokens, tokens) for _ in range(count)]
        expect(
            student(layers, residual),
            library(layers, residual),
            given=f"for {count} layers, residual {residual}",
        )


EXERCISES = {
    "attribute_map": Exercise(
        "course_lib.explorer.steps:attribute_map",
        (
            (
                "Which head, which attribute: two choices, and the tokens are left. They were"
                " counted row by row."
            ),
            (
                "weights `heads attributes tokens` → one attribute `heads tokens` → one head or the"
                " mean, `tokens` → `rows columns`, a square"
            ),
            (
                "rows = weights[:, attribute]; row = rows.mean(0) if head is -1, else rows[head];"
                " reshape it to side × side, where side is the root of the number of tokens"
            ),
        ),
        (map_of_one_head, map_of_the_mean_head, map_of_any_size),
    ),
    "attributes_of_rarity": Exercise(
        "course_lib.explorer.steps:attributes_of_rarity",
        (
            "Sort all indices by frequency once, then keep those that belong to the group.",
            (
                'frequencies `attributes` → a list of indices, the rarest first; for "all" it has'
                " all of them"
            ),
            (
                "order = frequencies.argsort().tolist(); return [k for k in order if …], where … is"
                ' True for "all", frequencies[k] < 0.10 for "rare", frequencies[k] > 0.30 for'
                ' "common"'
            ),
        ),
        (rare_and_common_ones, any_frequencies),
    ),
    "blind_spots": Exercise(
        "course_lib.explorer.steps:blind_spots",
        (
            (
                'Say each of the three in words, with "present", "predicted" and "hits", then write'
                " the words with & and ~. What becomes of NaN?"
            ),
            (
                "three masks of True and False, each `samples attributes`; the thresholds,"
                " `attributes`, fit them by broadcasting"
            ),
            (
                "predicted = probabilities >= thresholds; missed = (truth == 1) & ~predicted; a"
                " false alarm is (truth == 0) & predicted; found off region is (truth == 1) &"
                " predicted & (hits < 0.5)"
            ),
        ),
        (each_kind_is_found, at_the_threshold, what_is_unknown_is_no_mistake),
    ),
    "attention_rollout": Exercise(
        "course_lib.looking.attention:attention_rollout",
        (
            (
                "A layer takes a token to a mixture of tokens: a matrix. Two layers, one after the"
                " other, are a product. And what does the skip connection do to that matrix?"
            ),
            (
                "each layer `batch heads tokens tokens` → the mean over heads, `batch tokens"
                " tokens` → mixed with the identity → multiplied up, `batch tokens tokens`"
            ),
            (
                "flow = identity; for each layer in order: flow = (residual * identity + (1 -"
                " residual) * layer.mean(1)) @ flow"
            ),
        ),
        (rollout_of_two_layers, rollout_of_known_maps, rollout_of_any_layers),
    ),
}
