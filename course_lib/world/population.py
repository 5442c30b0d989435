"""Who is drawn: attributes at CelebA's published rates, with plausible dependence on sex, age and
skin tone.

Derived in lessons 00 and 08.
"""

import difflib
from collections.abc import Iterable

import numpy as np

from .anatomy import HAIR_COLOURS

__all__ = ["ATTRIBUTES", "CELEBA_RATES", "check_attributes", "sample_attributes", "sample_tone"]

# Share of CelebA's 202,599 images, and how often each attribute is met among (young women, older women, young men,
# older men) relative to each other: CelebA publishes the first; the second is set here to be plausible;
# None: a rule in `sample_attributes` decides, and without one nobody has it.
_TABLE = {
    "5_o_Clock_Shadow": (0.1111, None),
    "Arched_Eyebrows": (0.2670, (1.2, 1.0, 0.2, 0.15)),
    "Bags_Under_Eyes": (0.2046, (0.5, 1.2, 1.4, 2.0)),
    "Bald": (0.0224, (0, 0, 1, 4.4)),
    "Bangs": (0.1516, (1.0, 0.7, 0.4, 0.2)),
    "Big_Lips": (0.2408, (1.5, 0.8, 0.6, 0.5)),
    "Big_Nose": (0.2345, (0.5, 1.0, 1.7, 2.4)),
    "Black_Hair": (0.2393, None),
    "Blond_Hair": (0.1480, None),
    "Brown_Hair": (0.2052, None),
    "Bushy_Eyebrows": (0.1422, (0.4, 0.3, 1.0, 1.3)),
    "Chubby": (0.0576, (0.5, 1.5, 0.9, 3.0)),
    "Double_Chin": (0.0467, (0.3, 2.0, 0.7, 4.0)),
    "Eyeglasses": (0.0651, (0.4, 1.2, 1.0, 3.0)),
    "Goatee": (0.0628, None),
    "Gray_Hair": (0.0419, (0, 1, 0, 1)),
    "Male": (0.4168, None),
    "Mouth_Slightly_Open": (0.4834, None),
    "Mustache": (0.0415, None),
    "Narrow_Eyes": (0.1151, (1.0, 1.3, 1.0, 1.3)),
    "No_Beard": (0.8349, None),
    "Pale_Skin": (0.0429, None),
    "Receding_Hairline": (0.0798, (0.25, 0.7, 0.7, 1.7)),
    "Rosy_Cheeks": (0.0657, (1.0, 0.8, 0.02, 0.02)),
    "Sideburns": (0.0565, None),
    "Smiling": (0.4821, (1.1, 1.1, 0.85, 0.9)),
    "Wavy_Hair": (0.3196, (1.3, 0.8, 0.5, 0.3)),
    "Wearing_Earrings": (0.1889, (1.0, 1.1, 0.04, 0.02)),
    "Wearing_Hat": (0.0485, (0.5, 0.4, 1.7, 1.5)),
    "Wearing_Lipstick": (0.4724, (1.0, 0.95, 0.005, 0.005)),
    "Wearing_Necklace": (0.1230, (1.0, 1.1, 0.05, 0.03)),
    "Wearing_Necktie": (0.0727, (0.01, 0.01, 1.0, 2.6)),
    "Young": (0.7736, None),
}

ATTRIBUTES = tuple(_TABLE)

CELEBA_RATES = np.array([rate for rate, _ in _TABLE.values()])

_MALE, _YOUNG_WOMAN, _YOUNG_MAN = 0.4168, 0.8549, 0.6600

_GROUPS = np.array(
    [
        (1 - _MALE) * _YOUNG_WOMAN,
        (1 - _MALE) * (1 - _YOUNG_WOMAN),
        _MALE * _YOUNG_MAN,
        _MALE * (1 - _YOUNG_MAN),
    ]
)

# P(attribute | group), exact on average
_IN_GROUP = {
    name: rate * np.array(weights) / (_GROUPS @ weights)
    for name, (rate, weights) in _TABLE.items()
    if weights
}

_HAIRLINES = ("Bald", "Wearing_Hat", "Receding_Hairline", "Bangs")  # exclude each other

_INDEPENDENT = tuple(
    name for name in _IN_GROUP if name not in (*_HAIRLINES, "Gray_Hair", "Wavy_Hair")
)

_BEARDS = {  # P(combination | man); the rest is shaved
    ("5_o_Clock_Shadow",): 0.1394,
    ("5_o_Clock_Shadow", "Sideburns"): 0.0556,
    ("5_o_Clock_Shadow", "Goatee"): 0.0516,
    ("5_o_Clock_Shadow", "Goatee", "Sideburns"): 0.02,
    ("Goatee", "Mustache", "Sideburns"): 0.04,
    ("Goatee", "Mustache"): 0.0291,
    ("Goatee",): 0.01,
    ("Mustache",): 0.0305,
    ("Sideburns",): 0.02,
}

_DARK, _FAIR = 0.6, 0.3  # skin tones that shift hair colour, pallor

_TONE_POWER = 1.3

_HAIR_IF_DARK = np.array((0.58, 0.02, 0.18))  # black, blond, brown


def sample_tone(rng: np.random.Generator) -> float:
    """A skin tone from 0 (lightest) to 1 (darkest); a third of the people are above 0.6."""
    return float(rng.random() ** _TONE_POWER)


def sample_attributes(rng: np.random.Generator, tone: float = 0.5) -> frozenset[str]:
    """The attributes of a random person of this skin tone, each at CelebA's rate over the whole
    population.

    Sex and age come first; hairline, hair colour and beard are drawn from exclusive choices, the
    rest independently within the four groups of sex and age.
    """
    male = rng.random() < _MALE
    young = rng.random() < (_YOUNG_MAN if male else _YOUNG_WOMAN)
    group = 2 * male + (not young)
    chosen = [name for name, positive in (("Male", male), ("Young", young)) if positive]
    draws = rng.random(len(_INDEPENDENT))
    chosen += [
        name
        for name, draw in zip(_INDEPENDENT, draws, strict=True)
        if draw < _IN_GROUP[name][group]
    ]
    hairline = _choose(rng, _HAIRLINES, [_IN_GROUP[name][group] for name in _HAIRLINES])
    chosen += [hairline] if hairline else []
    if hairline != "Bald":
        bald = _IN_GROUP["Bald"][group]
        gray = _IN_GROUP["Gray_Hair"][group] / (1 - bald)
        colour = _choose(rng, HAIR_COLOURS, [*((1 - gray) * _hair_colours(tone)), gray])
        chosen += [colour] if colour else []
        if rng.random() < _IN_GROUP["Wavy_Hair"][group] / (1 - bald):
            chosen.append("Wavy_Hair")
    beard = _choose(rng, tuple(_BEARDS), list(_BEARDS.values())) if male else None
    chosen += beard or ["No_Beard"]
    if rng.random() < (0.65 if "Smiling" in chosen else 0.3284):
        chosen.append("Mouth_Slightly_Open")
    if tone < _FAIR and rng.random() < 0.0429 / _FAIR ** (1 / _TONE_POWER):
        chosen.append("Pale_Skin")
    return frozenset(chosen)


def _choose(rng: np.random.Generator, options: tuple, probabilities: list[float]):
    """One of the options, or None with the probability that is left over."""
    index = int(np.searchsorted(np.cumsum(probabilities), rng.random(), side="right"))
    return options[index] if index < len(options) else None


def _hair_colours(tone: float) -> np.ndarray:
    """P(black, blond, brown) of this tone among people who are neither bald nor gray; CelebA's
    rates on average.
    """
    has_colour = 1 - _GROUPS @ (_IN_GROUP["Bald"] + _IN_GROUP["Gray_Hair"])
    rates = np.array([_TABLE[name][0] for name in HAIR_COLOURS[:3]]) / has_colour
    dark_share = 1 - _DARK ** (1 / _TONE_POWER)
    return (
        _HAIR_IF_DARK if tone > _DARK else (rates - dark_share * _HAIR_IF_DARK) / (1 - dark_share)
    )


def check_attributes(attributes: Iterable[str]) -> frozenset[str]:
    """The positive attributes as a set, No_Beard set to what the beard says. Raises ValueError if
    they cannot be.
    """
    attributes = frozenset([attributes] if isinstance(attributes, str) else attributes)
    for name in attributes - frozenset(ATTRIBUTES):
        near = difflib.get_close_matches(str(name), ATTRIBUTES, 1, 0.3) or ["Smiling"]
        raise ValueError(
            f"unknown attribute {name!r}; did you mean {near[0]!r}? ATTRIBUTES lists all "
            f"{len(ATTRIBUTES)}"
        )
    beard = attributes & {"5_o_Clock_Shadow", "Goatee", "Mustache", "Sideburns"}
    for exclusive in (
        _HAIRLINES,
        HAIR_COLOURS,
        ("No_Beard", *sorted(beard)) if "No_Beard" in attributes else (),
        ("Bald", *HAIR_COLOURS) if "Bald" in attributes else (),
        ("Bald", "Wavy_Hair"),
        ("Gray_Hair", "Young"),
    ):
        both = sorted(attributes & frozenset(exclusive))
        if len(both) > 1:
            raise ValueError(
                f"{both[0]} and {both[1]} contradict each other; leave one of them out"
            )
    return attributes if beard else attributes | {"No_Beard"}
