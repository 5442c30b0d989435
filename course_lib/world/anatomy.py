"""How a drawn face is built: a person's looks, and the shapes of every part in face coordinates.

Nothing here knows about pixels. `faces.py` poses these shapes into a portrait, `clips.py` sets them
in motion; both use the one deformation model `displacement`, so a smile in a portrait and a smile
in a clip are the same smile.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ..shapes import Float
from .canvas import (
    Colour,
    Sketch,
    band,
    both_sides,
    darker,
    ellipse,
    lighter,
    mix,
    other_half,
    smooth,
)

__all__ = [
    "Expression",
    "Person",
    "appearance",
    "displacement",
    "displacement_fields",
    "eyes",
    "features",
    "head",
    "lip_drop",
    "mouth",
]

HAIR_COLOURS = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")

_SKIN = (
    (250, 218, 196),
    (240, 200, 170),
    (222, 174, 138),
    (194, 142, 104),
    (156, 106, 74),
    (116, 78, 56),
    (86, 58, 44),
)

_PALE = (252, 236, 228)

_HAIR = {
    "Black_Hair": (36, 30, 32),
    "Blond_Hair": (222, 188, 122),
    "Brown_Hair": (96, 64, 42),
    "Gray_Hair": (176, 176, 180),
}

_OTHER_HAIR = ((142, 74, 42), (182, 104, 60))  # auburn and copper: none of the named colours

_BALD_BROWS = (74, 60, 52)

_IRIS = ((94, 62, 38), (74, 112, 148), (88, 122, 80), (62, 46, 36))

_CLOTHES = (
    (52, 68, 96),
    (122, 52, 58),
    (72, 98, 88),
    (206, 200, 190),
    (78, 78, 86),
    (182, 148, 84),
    (98, 82, 122),
)

_LIPSTICK = ((192, 40, 62), (166, 32, 76), (208, 78, 86), (150, 34, 46))

_GOLD, _SILVER = (228, 196, 104), (216, 218, 226)

EYE_X, EYE_Y, EYE_WIDTH, EYE_HEIGHT = 0.305, -0.10, 0.155, 0.088

IRIS_RADIUS, PUPIL_RADIUS, GAZE_REACH = 0.078, 0.037, (0.085, 0.06)

MOUTH_Y = 0.55


class Expression(NamedTuple):
    """What a face does at one instant. Amounts are 0 (rest) to 1 (full); gaze is -1 to 1, right and
    down positive.
    """

    brow: float = 0.0
    smile: float = 0.0
    open: float = 0.0
    gaze_x: float = 0.0
    gaze_y: float = 0.0
    lid: float = 0.0  # 1 is closed


class Person(NamedTuple):
    """The looks of one person: attributes with the sizes, colours and hair style that go with them."""

    attributes: frozenset[str]
    age: float  # years
    tone: float  # 0 the lightest skin, 1 the darkest
    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    clothes: Colour
    metal: Colour
    style: str  # bald, buzz, short, side, curly, bob, long, bun
    width: float  # half width of the head
    jaw: float
    chin: float
    parting: float
    variation: list[float]  # 8 numbers in [0, 1] for whatever else differs


def appearance(attributes: frozenset[str], tone: float, rng: np.random.Generator) -> Person:
    """Choose everything about a person that the attributes leave open."""
    uniform, normal = rng.random(16).tolist(), rng.standard_normal(12).tolist()
    male, young = "Male" in attributes, "Young" in attributes
    step = tone * (len(_SKIN) - 1.001)
    skin = tuple(
        channel + 4 * normal[0] for channel in mix(_SKIN[int(step)], _SKIN[int(step) + 1], step % 1)
    )
    if "Pale_Skin" in attributes:
        skin = tuple(channel + 2 * normal[0] for channel in _PALE)
    hair = _BALD_BROWS if "Bald" in attributes else _OTHER_HAIR[int(normal[8] > 0.5)]
    for name in attributes & _HAIR.keys():
        hair = _HAIR[name]  # at most one
    lips = mix(darker(skin, 0.12), (186, 84, 84), 0.36)
    if "Wearing_Lipstick" in attributes:
        lips = _LIPSTICK[int(uniform[0] * 4)]
    styles = (
        ("buzz", "short", "side", "short", "long")
        if male
        else ("long", "long", "bob", "bun", "short")
    )
    style = styles[min(int(uniform[1] * 4.2), 4)]
    if "Wavy_Hair" in attributes and style in ("buzz", "short", "side", "bun"):
        style = "curly"
    if "Bald" in attributes:
        style = "bald"
    chubby = "Chubby" in attributes
    return Person(
        attributes=attributes,
        tone=tone,
        style=style,
        age=18 + 26 * uniform[2] if young else 47 + 35 * uniform[2],
        skin=_within(skin, 0, 255),
        lips=_within(lips, 0, 255),
        hair=_within(
            [
                channel + 8 * normal[1] + 4 * shade
                for channel, shade in zip(hair, normal[2:5], strict=True)
            ],
            8,
            240,
        ),
        iris=_IRIS[3 if tone > 0.6 else int(uniform[3] * 4)],
        clothes=_CLOTHES[int(uniform[4] * 7)],
        metal=_GOLD if uniform[5] < 0.6 else _SILVER,
        width=(0.69 if male else 0.65) * (1 + 0.035 * normal[5]) + 0.085 * chubby,
        jaw=(0.60 if male else 0.52) + 0.035 * normal[6] + 0.14 * chubby,
        chin=(0.985 if male else 0.95) + 0.02 * normal[7],
        parting=0.5 * (uniform[6] - 0.5),
        variation=uniform[8:],
    )


def _within(colour: Iterable[float], low: float, high: float) -> Colour:
    return tuple(min(max(channel, low), high) for channel in colour)


# centre and radius of the Gaussian hills, of height 1, that every deformation is made of
_HILLS = np.array(
    (
        (0, 0, 1.05, 1.5),
        (0, 0.2, 0.18, 0.26),  # head and nose
        (-0.31, -0.36, 0.30, 0.24),
        (0.31, -0.36, 0.30, 0.24),  # brows
        (0.34, 0.48, 0.25, 0.24),
        (-0.34, 0.48, 0.25, 0.24),  # cheeks
        (0, 0.95, 0.55, 0.36),
    )
)  # jaw

_REST = (0, 0, 0, 0, 0, 0, 0)

# how far one unit of yaw, pitch, brow, smile and jaw carries the top of each hill …
_MOVES = np.array(
    (
        (
            (1, 0.40, 0, 0, 0, 0, 0),
            _REST,
            _REST,
            (0, 0, 0, 0, 0.13, -0.13, 0),
            _REST,
        ),  # … to the right
        (
            _REST,
            (1, 0.40, 0, 0, 0, 0, 0),
            (0, 0, -0.14, -0.14, 0, 0, 0),
            (0, 0, 0, 0, -0.16, -0.16, 0),
            (0, 0, 0, 0, 0, 0, 0.10),
        ),
    )
)  # … and down


def displacement(
    points: np.ndarray,
    yaw: float = 0,
    pitch: float = 0,
    brow: float = 0,
    smile: float = 0,
    jaw: float = 0,
) -> Float[np.ndarray, "... 2"]:
    """How far the skin at `points` (… 2, face units) moves: head turns seen as parallax, brows,
    smile, jaw.
    """
    return np.einsum(
        "ch,h...->...c", np.array((yaw, pitch, brow, smile, jaw)) @ _MOVES, _hills(points)
    )


def _hills(points: np.ndarray) -> Float[np.ndarray, "7 ..."]:
    """The seven hills at `points` (… 2): smooth, so that their sums can be inverted."""
    centre_x, centre_y, radius_x, radius_y = _HILLS.astype(points.dtype).T.reshape(
        4, 7, *[1] * (points.ndim - 1)
    )
    return np.exp(
        -(((points[..., 0] - centre_x) / radius_x) ** 2)
        - ((points[..., 1] - centre_y) / radius_y) ** 2
    )


def displacement_fields(points: np.ndarray) -> Float[np.ndarray, "5 ... 2"]:
    """The displacement at `points` for one unit of yaw, pitch, brow, smile and jaw each: all
    smooth.
    """
    return np.einsum("cmh,h...->m...c", _MOVES.astype(points.dtype), _hills(points))


_INWARDS = np.array((0.80, 0.94))


def head(person: Person) -> Sketch:
    """Ears, the head itself and the soft light on it."""
    sketch, w, chin, has = Sketch(), person.width, person.chin, person.attributes.__contains__
    skin = person.skin
    for s in (1, -1):
        sketch.fill("skin", ellipse(s * (w + 0.02), 0.05, 0.095, 0.18), darker(skin, 0.07), -0.6)
        sketch.fill("skin", ellipse(s * (w + 0.035), 0.05, 0.048, 0.11), darker(skin, 0.22), -0.6)
    if has("Wearing_Earrings"):
        for s in (1, -1):
            sketch.fill(
                "earring",
                ellipse(s * (w + 0.055), 0.30, 0.05, 0.07),
                person.metal,
                -0.6,
                ("Wearing_Earrings",),
            )
            sketch.fill(
                "earring",
                ellipse(s * (w + 0.04), 0.28, 0.018, 0.026)[::3],
                lighter(person.metal, 0.7),
                -0.6,
            )
    half = [
        (0.40 * w / 0.7, -0.95),
        (w * 0.90, -0.58),
        (w, -0.12),
        (w * 0.965, 0.2),
        (0.56 * w + 0.44 * person.jaw, 0.53),
        (0.78 * person.jaw, 0.76),
        (0.36 * person.jaw, chin - 0.035),
    ]
    outline = smooth([(0, -1.02), *half, (0, chin), *other_half(half)])
    sketch.fill("skin", outline, skin, 0, ("Pale_Skin",))
    rim = outline[8:29]
    sketch.shade(np.concatenate([rim, rim[::-1] * _INWARDS]), (0.85, 0.79, 0.77))
    sketch.shade(ellipse(0, 0.05, 0.42, 0.62), (1.04, 1.03, 1.02))
    sketch.shade(ellipse(-0.22, -0.60, 0.34, 0.17), (1.07, 1.07, 1.06))
    cheeks = (1.07, 0.68, 0.70) if has("Rosy_Cheeks") else (1.05, 0.94, 0.94)
    for s in (1, -1):
        sketch.shade(ellipse(s * 0.31, -0.17, 0.22, 0.13), (0.87, 0.82, 0.81))
        sketch.shade(ellipse(s * 0.41, 0.28, 0.18, 0.14), cheeks)
    sketch.shade(ellipse(0.10, 0.16, 0.08, 0.22), (0.86, 0.80, 0.78))
    sketch.shade(ellipse(-0.02, 0.10, 0.05, 0.26), (1.08, 1.07, 1.06))
    sketch.shade(ellipse(0, 0.71, 0.2, 0.05), (0.86, 0.80, 0.78))
    if has("Chubby"):
        for s in (1, -1):
            sketch.place(ellipse(s * (w - 0.12), 0.5, 0.2, 0.3), ("Chubby",))
            sketch.shade(ellipse(s * (w - 0.2), 0.46, 0.16, 0.2), (1.05, 1.03, 1.02))
    if has("Double_Chin"):
        fold = smooth(
            [
                (-0.44, chin - 0.12),
                (0, chin + 0.16),
                (0.44, chin - 0.12),
                (0.36, chin - 0.14),
                (0, chin + 0.05),
                (-0.36, chin - 0.14),
            ]
        )
        sketch.fill("skin", fold, darker(skin, 0.07), 0, ("Double_Chin",))
        sketch.shade(fold, (0.88, 0.82, 0.80))
        sketch.line(
            "skin",
            smooth([(-0.34, chin - 0.08), (0, chin + 0.01), (0.34, chin - 0.08)], closed=False),
            darker(skin, 0.28),
            0,
            (),
        )
    if has("5_o_Clock_Shadow"):
        lower = [
            (w * 0.93, 0.26),
            (0.56 * w + 0.44 * person.jaw - 0.02, 0.53),
            (0.77 * person.jaw, 0.74),
            (0.35 * person.jaw, chin - 0.05),
        ]
        stubble = [
            *lower,
            (0, chin - 0.02),
            *other_half(lower),
            (-0.34, 0.42),
            (0, 0.385),
            (0.34, 0.42),
        ]
        sketch.shade(stubble, (0.72, 0.74, 0.79))
        sketch.place(stubble, ("5_o_Clock_Shadow", "No_Beard"))
    return sketch


_BAG = smooth([(0.17, 0), (0.30, 0.085), (0.44, 0), (0.42, 0.05), (0.30, 0.15), (0.18, 0.05)])


def features(person: Person) -> Sketch:
    """Age lines, bags, brows, nose and beard: what lies on the skin and moves with it."""
    sketch, has, skin, w, chin = (
        Sketch(),
        person.attributes.__contains__,
        person.skin,
        person.width,
        person.chin,
    )
    old = max(0.0, (person.age - 45) / 37)
    if old:
        for k in range(2 + (old > 0.4)):
            if not has("Bangs") and not has("Wearing_Hat"):
                sketch.line(
                    "skin",
                    smooth(
                        [(-0.3, -0.56 - 0.09 * k), (0, -0.59 - 0.09 * k), (0.3, -0.56 - 0.09 * k)],
                        closed=False,
                    ),
                    darker(skin, 0.12 + 0.1 * old),
                    0,
                    width=1,
                )
        fold = smooth([(0.16, 0.24), (0.27, 0.36), (0.30, 0.47)], closed=False)
        for s, beside_mouth in zip((1, -1), both_sides(fold), strict=True):
            sketch.line("skin", beside_mouth, darker(skin, 0.16 + 0.12 * old), 0)
            for k in range(2):
                sketch.line(
                    "skin",
                    [(s * 0.48, -0.07 + 0.05 * k), (s * 0.58, -0.10 + 0.09 * k)],
                    darker(skin, 0.12 + 0.1 * old),
                    0,
                    width=1,
                )
    if has("Bags_Under_Eyes"):
        for bag in both_sides(_BAG):
            sketch.fill(
                "skin", bag, mix(darker(skin, 0.22), (108, 80, 118), 0.25), 0, ("Bags_Under_Eyes",)
            )
    thick = 0.088 if has("Bushy_Eyebrows") else 0.040
    arch = 0.11 if has("Arched_Eyebrows") else 0.02
    brow = darker(person.hair, 0.42 if has("Blond_Hair") else 0.25)
    if person.style == "bald":
        brow = darker(mix(person.hair, skin, 0.2), 0.3)
    right = smooth(
        [
            (0.13, -0.27),
            (0.31, -0.30 - arch),
            (0.50, -0.245 - 0.1 * arch),
            (0.46, -0.235 + 0.25 * thick - 0.1 * arch),
            (0.30, -0.30 - arch + thick),
            (0.13, -0.27 + thick),
        ]
    )
    for outline in both_sides(right):
        sketch.fill("brows", outline, brow, 0.1, ("Bushy_Eyebrows", "Arched_Eyebrows"))
    wide, tip = (0.185 if has("Big_Nose") else 0.115), 0.24 + 0.03 * (person.variation[4] - 0.5)
    half = [
        (-0.05, -0.02),
        (-wide * 0.8, tip - 0.04),
        (-wide, tip + 0.03),
        (-wide * 0.5, tip + 0.075),
    ]
    sketch.fill(
        "nose",
        smooth([*half, (0, tip + 0.095), *other_half(half)]),
        mix(skin, darker(skin, 0.12), 0.6),
        0.15,
        ("Big_Nose",),
    )
    sketch.fill(
        "nose",
        smooth(
            [(-0.028, 0), (-0.05, tip - 0.02), (-0.02, tip + 0.03), (0.03, tip - 0.02), (0.022, 0)]
        ),
        lighter(skin, 0.2),
        0.15,
    )
    for s in (1, -1):
        sketch.fill(
            "nose",
            ellipse(s * wide * 0.5, tip + 0.055, wide * 0.23, 0.024)[::2],
            darker(skin, 0.5),
            0.15,
        )
    beard = darker(person.hair, 0.15)
    if has("Goatee"):
        half = [(0.26, 0.52), (0.20, 0.80), (0.13, chin + 0.01)]
        sketch.fill(
            "beard",
            smooth([*half, (0, chin + 0.06), *other_half(half), (0, 0.655)]),
            beard,
            0.1,
            ("Goatee", "No_Beard"),
        )
    if has("Sideburns"):
        right = smooth(
            [
                (w * 0.99, -0.25),
                (w * 0.985, 0.2),
                (w * 0.6 + person.jaw * 0.36, 0.46),
                (w * 0.72, 0.36),
                (w * 0.82, 0.1),
                (w * 0.84, -0.25),
            ]
        )
        for outline in both_sides(right):
            sketch.fill("beard", outline, beard, 0, ("Sideburns", "No_Beard"))
    return sketch


def eye_height(person: Person) -> float:
    return 0.040 if "Narrow_Eyes" in person.attributes else EYE_HEIGHT


_ACROSS = np.linspace(-1, 1, 9)  # the points of lids and lips, left to right

_LID_ARC = np.sqrt(np.maximum(0, 1 - np.abs(_ACROSS) ** 2.4))

_CUPID = np.array((0, 0.55, 0.85, 1.0, 0.80, 1.0, 0.85, 0.55, 0))  # of the upper lip

_WHITE, _PUPIL, _LASH, _CAVITY, _TEETH = (
    (244, 242, 238),
    (20, 16, 16),
    (32, 24, 24),
    (70, 24, 30),
    (246, 242, 234),
)

_EYE = np.array((EYE_X, 0.0))


def eyes(person: Person, expression: Expression) -> Sketch:
    """Both eyes, made once around x = 0 and set in on either side.

    The iris is cut to the opening; the lid is the part of the opening that it covers from above.
    """
    sketch, height, male = Sketch(), eye_height(person), "Male" in person.attributes
    x = EYE_WIDTH * _ACROSS
    upper, lower = EYE_Y + 0.01 - height * 1.05 * _LID_ARC, EYE_Y + 0.01 + height * 0.78 * _LID_ARC
    edge = upper + expression.lid * (lower - upper)
    gaze = (GAZE_REACH[0] * expression.gaze_x, EYE_Y + GAZE_REACH[1] * expression.gaze_y)
    discs = np.concatenate(
        [ellipse(*gaze, radius, radius) for radius in (IRIS_RADIUS, PUPIL_RADIUS)]
    )
    across = discs[:, 0].clip(x[0], x[-1])
    down = np.minimum(
        np.maximum(discs[:, 1], np.interp(across, x, upper)), np.interp(across, x, lower)
    )
    iris, pupil = np.array((across, down)).T.reshape(2, 20, 2)
    opening, lid, rim = (
        band(x, upper, lower),
        band(x, upper - 0.01, edge),
        np.array((x, lower)).T[1:-1],
    )
    glint, lashes = (
        ellipse(gaze[0] - 0.025, gaze[1] - 0.03, 0.017, 0.017)[::3],
        np.array((x, edge)).T,
    )
    for middle in both_sides(_EYE):
        sketch.fill("eyes", middle + opening, _WHITE, 0.1, ("Narrow_Eyes",))
        sketch.fill("iris", middle + iris, person.iris, 0.1)
        sketch.fill("iris", middle + pupil, _PUPIL, 0.1)
        if height > 0.05 and expression.lid < 0.3:
            sketch.fill("iris", middle + glint, (255, 255, 255), 0.1)
        if expression.lid > 0.02:
            sketch.fill("lid", middle + lid, darker(person.skin, 0.10), 0.1)
        sketch.line(
            "lid",
            middle + lashes,
            darker(person.skin, 0.62) if male else _LASH,
            0.1,
            width=2 if male else 3,
        )
        sketch.line("eyes", middle + rim, darker(person.skin, 0.3), 0.1, width=1)
    return sketch


def lip_drop(person: Person, x: np.ndarray) -> np.ndarray:
    """How far (face units, at x) a fully opened mouth lowers the lower lip."""
    return 0.13 * np.maximum(0, 1 - (x / mouth_width(person)) ** 2)


def mouth_width(person: Person) -> float:
    return 0.245 + 0.03 * (person.variation[5] - 0.5)


def mouth(person: Person, expression: Expression) -> Sketch:
    """Cavity, teeth and lips of a mouth at rest in everything but its opening; a smile is a
    displacement.
    """
    sketch, width = Sketch(), mouth_width(person)
    thick = 0.080 if "Big_Lips" in person.attributes else 0.043
    x, arc = width * _ACROSS, 1 - _ACROSS**2
    line = MOUTH_Y + 0.012 * arc
    drop = expression.open * lip_drop(person, x)
    decides = ("Smiling", "Mouth_Slightly_Open", "Big_Lips", "Wearing_Lipstick")
    if expression.open > 0.02:
        sketch.fill("mouth", band(x, line - 0.005, line + drop + 0.005), _CAVITY, 0.1, decides)
        sketch.fill("mouth", band(x, line, line + np.minimum(drop * 0.55, 0.05)), _TEETH, 0.1)
    sketch.fill(
        "mouth",
        band(x, line - _CUPID * thick, line + 0.004),
        darker(person.lips, 0.08),
        0.1,
        decides,
    )
    sketch.fill(
        "lip", band(x, line + drop, line + drop + 1.2 * thick * arc), person.lips, 0.1, decides
    )
    if expression.open <= 0.02:
        sketch.line("mouth", np.array((x, line)).T, darker(person.lips, 0.5), 0.1)
    else:
        sketch.line(
            "lip", np.array((x, line + drop)).T[1:-1], darker(person.lips, 0.25), 0.1, width=1
        )
    return sketch
