"""What a drawn person wears: hair, clothes, hat, glasses, jewellery; and where each would be if
they did not.

Shapes in face coordinates, like those of `anatomy.py`.
"""

import math

import numpy as np

from .anatomy import EYE_X, EYE_Y, HAIR_COLOURS, Person
from .canvas import Sketch, both_sides, darker, ellipse, lighter, other_half, smooth

__all__ = ["back_hair", "body", "front", "places"]

_HATS = ((138, 56, 54), (56, 78, 118), (82, 90, 72), (70, 62, 80), (190, 164, 116))

_FRAMES = ((34, 32, 34), (108, 74, 46), (134, 44, 52), (66, 70, 84))

_TIES = ((158, 44, 52), (44, 70, 132), (44, 104, 80), (186, 148, 64))

_SUIT, _COLLAR, _LENS = (50, 54, 68), (238, 238, 242), (214, 228, 238)


def back_hair(person: Person) -> Sketch:
    """Hair that hangs behind the head."""
    sketch, x, v = Sketch(), person.width + 0.14, person.variation
    if person.style in ("long", "bob"):
        length = 1.05 + 0.35 * v[0] if person.style == "long" else 0.62 + 0.16 * v[0]
        wave = [
            0.07 * math.sin(2.6 * k + 6 * v[1]) * ("Wavy_Hair" in person.attributes)
            for k in range(6)
        ]
        side = [
            (x + flare + sway, -0.45 + (length + 0.45) * k / 5)
            for k, (flare, sway) in enumerate(
                zip((0, 0.07, 0.10, 0.09, 0.06, -0.04), wave, strict=True)
            )
        ]
        half = [*side, (x - 0.25, length + 0.08)]
        crown = [(-0.5, -1.02), (0, -1.15), (0.5, -1.02)]
        sketch.fill(
            "hair",
            smooth([*half, *other_half(half), *crown]),
            darker(person.hair, 0.30),
            -1,
            (*HAIR_COLOURS, "Wavy_Hair"),
        )
        for k in range(5):
            offset = x + 0.08 - 0.055 * k
            strand = smooth(
                [(offset, -0.2), (offset + 0.6 * wave[2], 0.35), (offset - 0.03, length - 0.03)],
                closed=False,
            )
            for lock in both_sides(strand):
                sketch.line("hair", lock, darker(person.hair, 0.15 + 0.3 * (k % 2)), -1)
    if person.style == "bun":
        sketch.fill(
            "hair",
            ellipse(0.04 - person.parting * 0.2, -1.22, 0.27, 0.23),
            darker(person.hair, 0.12),
            -0.6,
            HAIR_COLOURS,
        )
        sketch.line(
            "hair",
            ellipse(0.03 - person.parting * 0.2, -1.21, 0.16, 0.13),
            darker(person.hair, 0.35),
            -0.6,
        )
    return sketch


def body(person: Person) -> Sketch:
    """Neck, clothes and what is worn around the neck."""
    sketch, male, v = Sketch(), "Male" in person.attributes, person.variation
    wide, neck = (1.42, 0.39) if male else (1.20, 0.31)
    half = [(neck, 1.2), (wide * 0.7, 1.35), (wide, 1.62), (wide + 0.05, 2.6)]
    clothes = _SUIT if "Wearing_Necktie" in person.attributes else person.clothes
    sketch.fill("clothes", smooth([*half, *other_half(half)]), clothes, -1)
    for sleeve in both_sides(
        [(wide, 1.62), (wide * 0.72, 1.9), (wide * 0.8, 2.6), (wide + 0.05, 2.6)]
    ):
        sketch.fill("clothes", sleeve, darker(clothes, 0.12), -1)
    sketch.fill(
        "skin",
        [
            (-neck, 0.5),
            (neck, 0.5),
            (neck + 0.03, 1.2),
            (0.14, 1.52),
            (-0.14, 1.52),
            (-neck - 0.03, 1.2),
        ],
        darker(person.skin, 0.12),
        -1,
    )
    sketch.shade(ellipse(0, person.chin + 0.06, 0.55, 0.19), (0.68, 0.60, 0.58), -1)
    if "Wearing_Necktie" in person.attributes:
        colour = _TIES[int(v[2] * 4)]
        for collar in both_sides(
            [(0, 1.42), (neck + 0.05, 1.13), (neck + 0.2, 1.36), (0.22, 1.76)]
        ):
            sketch.fill("clothes", collar, _COLLAR, -1)
        sketch.fill(
            "clothes",
            [(-0.1, 1.38), (0.1, 1.38), (0.07, 1.56), (0.17, 2.6), (-0.17, 2.6), (-0.07, 1.56)],
            colour,
            -1,
            ("Wearing_Necktie",),
        )
        for k in range(4):
            sketch.fill(
                "clothes",
                [
                    (-0.11, 1.66 + 0.2 * k),
                    (0.11, 1.58 + 0.2 * k),
                    (0.12, 1.63 + 0.2 * k),
                    (-0.11, 1.71 + 0.2 * k),
                ],
                lighter(colour, 0.45),
                -1,
            )
    else:
        depth = 1.56 + 0.14 * v[3]
        sketch.line(
            "clothes",
            smooth(
                [
                    (-neck - 0.14, 1.2),
                    (-0.2, depth - 0.06),
                    (0, depth),
                    (0.2, depth - 0.06),
                    (neck + 0.14, 1.2),
                ],
                closed=False,
            ),
            darker(clothes, 0.3),
            -1,
            width=5,
        )
    if "Wearing_Necklace" in person.attributes:
        for bead in range(11):
            across = bead / 5 - 1
            sketch.fill(
                "skin",
                ellipse(across * (neck + 0.02), 1.46 - 0.30 * across**2, 0.042, 0.042)[::3],
                person.metal,
                -1,
                ("Wearing_Necklace",),
            )
    return sketch


_RIM = ellipse(0, 0, 1, 1)

_RIM = np.sign(_RIM) * np.abs(_RIM) ** 0.7  # rounder than a rectangle, squarer than a circle


def front(person: Person) -> Sketch:
    """What covers the face from the front: moustache, hair, earrings, hat, glasses."""
    sketch, has, w, v = Sketch(), person.attributes.__contains__, person.width, person.variation
    if has("Mustache"):
        half = [(0.05, 0.40), (0.2, 0.425), (0.29, 0.535), (0.13, 0.505)]
        sketch.fill(
            "beard",
            smooth([*half, (0, 0.49), *other_half(half)]),
            darker(person.hair, 0.15),
            0.12,
            ("Mustache", "No_Beard"),
        )
    if person.style != "bald":
        _front_hair(sketch, person)
    else:
        sketch.fill(
            "skin",
            smooth(
                [
                    (-0.34, -0.82),
                    (-0.1, -0.90),
                    (0.1, -0.88),
                    (0.02, -0.83),
                    (-0.15, -0.82),
                    (-0.32, -0.75),
                ]
            ),
            lighter(person.skin, 0.35),
            0.05,
        )
        sketch.place(
            [(-w * 0.75, -0.98), (w * 0.75, -0.98), (w * 0.85, -0.5), (-w * 0.85, -0.5)], ("Bald",)
        )
    if has("Wearing_Hat"):
        colour = _HATS[int(v[6] * 5)]
        x = w + 0.11
        half = [(0.4, -0.66), (x, -0.54), (x * 0.95, -1.0), (0.4, -1.36)]
        sketch.fill("hat", smooth([*half, *other_half(half)]), colour, 0.02, ("Wearing_Hat",))
        band = [(0.4, -0.64), (x + 0.02, -0.50), (x, -0.69), (0.4, -0.83)]
        sketch.fill(
            "hat",
            smooth([(0, -0.67), *band, (0, -0.86), *other_half(band)]),
            darker(colour, 0.35),
            0.03,
            ("Wearing_Hat",),
        )
        sketch.fill(
            "hat",
            smooth([(-0.5, -1.08), (-0.2, -1.2), (0.0, -1.18), (-0.1, -1.1), (-0.4, -0.96)]),
            lighter(colour, 0.18),
            0.02,
        )
    if has("Eyeglasses"):
        frame = _FRAMES[int(v[7] * 4)]
        wide, high = 0.205, 0.155 + 0.03 * v[0]
        for s in (1, -1):
            rim = _RIM * (wide, high) + (s * EYE_X, EYE_Y + 0.02)
            sketch.fill("glasses", rim, _LENS, 0.25, ("Eyeglasses",), kind="tint")
            sketch.line("glasses", rim, frame, 0.25, width=3, closed=True)
            sketch.line(
                "glasses",
                [(s * (EYE_X + wide), -0.14), (s * (w + 0.01), -0.13)],
                frame,
                0.1,
                width=3,
            )
        sketch.line(
            "glasses",
            smooth(
                [(-EYE_X + wide, EYE_Y), (0, EYE_Y - 0.04), (EYE_X - wide, EYE_Y)], closed=False
            ),
            frame,
            0.25,
            width=3,
        )
    return sketch


_STRANDS, _ALONG = np.arange(12) / 11 - 0.5, np.linspace(0, 1, 6)  # left to right; from root to tip

_BEZIER = np.array(((1 - _ALONG) ** 2, 2 * _ALONG * (1 - _ALONG), _ALONG**2)).T


def _front_hair(sketch: Sketch, person: Person) -> None:
    """The cap of hair with its hairline, a few strands in two shades and a highlight."""
    has, hair, style, part = (
        person.attributes.__contains__,
        person.hair,
        person.style,
        person.parting,
    )
    x = person.width + {"buzz": 0.015, "curly": 0.10}.get(style, 0.05)
    top = {"buzz": -1.07, "curly": -1.26, "bun": -1.10, "side": -1.24}.get(
        style, -1.16 - 0.06 * person.variation[3]
    )
    tip = {"long": 0.38, "bob": 0.30, "curly": 0.0}.get(style, -0.14)
    half = [
        (-(x - 0.03), tip),
        (-(x + 0.05), -0.2),
        (-(x + 0.03), -0.62),
        (-(x * 0.74), top + 0.16),
        (-(x * 0.3), top),
    ]
    outer = np.array([*half, *other_half(half)])
    if style == "side":
        outer[4:7] += (
            np.array([(0, 0.04), (0.1, -0.05), (0.05, 0.03)])
            * np.sign(part or 1)
            * (np.sign(part or 1), 1)
        )
    if has("Wavy_Hair"):
        outer = smooth(outer, closed=False, steps=3)
        swell = 0.045 if style == "curly" else 0.028
        turn = 2.1 * np.arange(len(outer))
        outer += swell * np.stack([np.cos(turn), np.sin(turn)], 1)
    if has("Bangs"):
        inner = [
            (x * 0.84, -0.2),
            (x * 0.76, -0.40),
            (0.36, -0.36),
            (0.12, -0.385),
            (-0.15, -0.36),
            (-0.4, -0.385),
            (-x * 0.76, -0.40),
            (-x * 0.84, -0.2),
        ]
    elif has("Receding_Hairline"):
        inner = [
            (x * 0.90, -0.2),
            (x * 0.86, -0.58),
            (0.42, -0.99),
            (0.17, -0.85),
            (-0.17, -0.85),
            (-0.42, -0.99),
            (-x * 0.86, -0.58),
            (-x * 0.90, -0.2),
        ]
    else:
        inner = [
            (x * 0.87, -0.2),
            (x * 0.80, -0.5),
            (0.38 + 0.3 * part, -0.69),
            (part + 0.05, -0.79),
            (part - 0.05, -0.79),
            (-0.38 + 0.3 * part, -0.69),
            (-x * 0.80, -0.5),
            (-x * 0.87, -0.2),
        ]
    decides = (*HAIR_COLOURS, "Wavy_Hair", *(("Bangs",) if has("Bangs") else ()))
    sketch.fill("hair", smooth([*outer.tolist(), *inner], steps=3), hair, 0.02, decides)
    if has("Receding_Hairline"):
        sketch.place(
            [(-x * 0.8, -0.98), (x * 0.8, -0.98), (x * 0.8, -0.6), (-x * 0.8, -0.6)],
            ("Receding_Hairline",),
        )
    if style == "buzz":
        return
    u, side, outside = _STRANDS, np.sign(_STRANDS), abs(_STRANDS) > 0.3
    bends = np.array(
        (
            (part * 0.6 + 0.3 * u, 1.96 * u * x, np.where(outside, x, x * 0.86) * side),
            (
                np.full(12, top + 0.06),
                top + 0.16 + 0.45 * u * side,
                np.where(outside, -0.15 + tip * 0.6, -0.45),
            ),
        )
    )
    strands = (_BEZIER @ bends).T
    if has("Wavy_Hair"):
        strands += 0.022 * np.sin(14 * _ALONG + np.arange(12)[:, None])[..., None]
    for k, strand in enumerate(strands):
        sketch.line("hair", strand, lighter(hair, 0.12) if k % 2 else darker(hair, 0.28), 0.02)
    sketch.fill(
        "hair",
        smooth(
            [
                (-0.42, top + 0.17),
                (-0.1, top + 0.06),
                (0.25, top + 0.10),
                (0.2, top + 0.14),
                (-0.1, top + 0.12),
                (-0.40, top + 0.24),
            ]
        ),
        lighter(hair, 0.2),
        0.02,
    )


def places(person: Person) -> Sketch:
    """Where an attribute that this face does not have would be seen: what a person would check to
    say no.
    """
    w, chin, lower_face = person.width, person.chin, (-0.30, 0.37, 0.30, 1.0)
    boxes = {
        "Bald": (-w * 0.8, -1.0, w * 0.8, -0.5),
        "Bangs": (-w * 0.75, -0.8, w * 0.75, -0.38),
        "Receding_Hairline": (-w * 0.75, -0.98, w * 0.75, -0.6),
        "Wearing_Hat": (-w - 0.05, -1.3, w + 0.05, -0.6),
        "Eyeglasses": (-0.51, -0.26, 0.51, 0.10),
        "Bags_Under_Eyes": (-0.45, 0.0, 0.45, 0.15),
        "Goatee": (-0.26, 0.64, 0.26, chin),
        "Mustache": (-0.29, 0.39, 0.29, 0.53),
        "No_Beard": lower_face,
        "5_o_Clock_Shadow": lower_face,
        "Double_Chin": (-0.44, chin - 0.14, 0.44, chin + 0.14),
        "Wearing_Necklace": (-0.4, 1.12, 0.4, 1.5),
        "Wearing_Necktie": (-0.17, 1.38, 0.17, 2.4),
    }
    pairs = {
        "Sideburns": (w * 0.84, -0.25, w, 0.4),
        "Rosy_Cheeks": (0.23, 0.14, 0.59, 0.42),
        "Chubby": (w - 0.3, 0.25, w + 0.05, 0.75),
        "Wearing_Earrings": (w, 0.22, w + 0.1, 0.38),
    }
    sketch, has = Sketch(), person.attributes.__contains__
    if person.style == "bald":
        sketch.place(_corners(*boxes["Bald"]), (*HAIR_COLOURS, "Wavy_Hair"))
    for name, box in boxes.items():
        if not has(name) or name == "No_Beard":
            sketch.place(_corners(*box), (name,), -1 if name.startswith("Wearing_Neck") else 0)
    for name, box in pairs.items():
        if not has(name) or name == "Rosy_Cheeks":
            for corners in both_sides(_corners(*box)):
                sketch.place(corners, (name,), -0.6 if name == "Wearing_Earrings" else 0)
    return sketch


def _corners(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]
