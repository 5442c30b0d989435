"""What a drawn person wears: hair, clothes, hat, glasses, jewellery; and where each would be if they did not.

Shapes in face coordinates, like those of `anatomy.py`.
"""

import numpy as np

from ..shapes import Float
from .anatomy import EYE_X, EYE_Y, HAIR_COLOURS, Person
from .canvas import Sketch, darker, ellipse, lighter, mirror, smooth

__all__ = ["back_hair", "body", "front", "places"]

_HATS = np.array([(138, 56, 54), (56, 78, 118), (82, 90, 72), (70, 62, 80), (190, 164, 116)], float)
_FRAMES = np.array([(34, 32, 34), (108, 74, 46), (134, 44, 52), (66, 70, 84)], float)
_TIES = np.array([(158, 44, 52), (44, 70, 132), (44, 104, 80), (186, 148, 64)], float)


def back_hair(person: Person) -> Sketch:
    """Hair that hangs behind the head."""
    sketch, x, v = Sketch(), person.width + 0.14, person.variation
    if person.style in ("long", "bob"):
        length = 1.05 + 0.35 * v[0] if person.style == "long" else 0.62 + 0.16 * v[0]
        heights = np.linspace(-0.45, length, 6)
        wave = 0.07 * np.sin(np.arange(6) * 2.6 + 6 * v[1]) if "Wavy_Hair" in person.attributes else 0
        flare = np.array((0, 0.07, 0.10, 0.09, 0.06, -0.04))
        side = np.stack([x + flare + wave, heights], 1)
        inside = np.array([(x - 0.25, length + 0.08)])
        half = np.concatenate([side, inside])
        crown = [(-0.5, -1.02), (0, -1.15), (0.5, -1.02)]
        sketch.fill("hair", smooth(np.concatenate([half, mirror(half)[::-1], crown])),
                    darker(person.hair, 0.30), -1, (*HAIR_COLOURS, "Wavy_Hair"))
        for k in range(5):
            for s in (1, -1):
                offset = s * (x + 0.08 - 0.055 * k)
                strand = [(offset, -0.2), (offset + s * 0.03 * (wave[2] if np.ndim(wave) else 0) * 20, 0.35),
                          (offset - s * 0.03, length - 0.03)]
                sketch.line("hair", smooth(strand, closed=False), darker(person.hair, 0.15 + 0.3 * (k % 2)), -1)
    if person.style == "bun":
        sketch.fill("hair", ellipse(0.04 - person.parting * 0.2, -1.22, 0.27, 0.23), darker(person.hair, 0.12), -0.6,
                    HAIR_COLOURS)
        sketch.line("hair", ellipse(0.03 - person.parting * 0.2, -1.21, 0.16, 0.13), darker(person.hair, 0.35), -0.6)
    return sketch


def body(person: Person) -> Sketch:
    """Neck, clothes and what is worn around the neck."""
    sketch, male, v = Sketch(), "Male" in person.attributes, person.variation
    wide, neck = (1.42, 0.39) if male else (1.20, 0.31)
    half = np.array([(neck, 1.2), (wide * 0.7, 1.35), (wide, 1.62), (wide + 0.05, 2.6)])
    clothes = np.array((50, 54, 68.0)) if "Wearing_Necktie" in person.attributes else person.clothes
    sketch.fill("clothes", smooth(np.concatenate([half, mirror(half)[::-1]])), clothes, -1)
    for s in (1, -1):
        sleeve = np.array([(wide, 1.62), (wide * 0.72, 1.9), (wide * 0.8, 2.6), (wide + 0.05, 2.6)])
        sketch.fill("clothes", sleeve * (s, 1), darker(clothes, 0.12), -1)
    sketch.fill("skin", [(-neck, 0.5), (neck, 0.5), (neck + 0.03, 1.2), (0.14, 1.52), (-0.14, 1.52),
                         (-neck - 0.03, 1.2)], darker(person.skin, 0.12), -1)
    sketch.shade(ellipse(0, person.chin + 0.06, 0.55, 0.19), (0.68, 0.60, 0.58), -1)
    if "Wearing_Necktie" in person.attributes:
        colour = _TIES[int(v[2] * 4)]
        for s in (1, -1):
            sketch.fill("clothes", [(0, 1.42), (s * (neck + 0.05), 1.13), (s * (neck + 0.2), 1.36), (s * 0.22, 1.76)],
                        np.array((238, 238, 242.0)), -1)
        sketch.fill("clothes", [(-0.1, 1.38), (0.1, 1.38), (0.07, 1.56), (0.17, 2.6), (-0.17, 2.6), (-0.07, 1.56)],
                    colour, -1, ("Wearing_Necktie",))
        for k in range(4):
            sketch.fill("clothes", [(-0.11, 1.66 + 0.2 * k), (0.11, 1.58 + 0.2 * k), (0.12, 1.63 + 0.2 * k),
                                    (-0.11, 1.71 + 0.2 * k)], lighter(colour, 0.45), -1)
    else:
        depth = 1.56 + 0.14 * v[3]
        sketch.line("clothes", smooth([(-neck - 0.14, 1.2), (-0.2, depth - 0.06), (0, depth), (0.2, depth - 0.06),
                                       (neck + 0.14, 1.2)], closed=False), darker(clothes, 0.3), -1, width=5)
    if "Wearing_Necklace" in person.attributes:
        across = np.linspace(-1, 1, 11)
        for x, y in np.stack([across * (neck + 0.02), 1.46 - 0.30 * across**2], 1):
            sketch.fill("skin", ellipse(x, y, 0.042, 0.042)[::3], person.metal, -1, ("Wearing_Necklace",))
    return sketch


def front(person: Person) -> Sketch:
    """What covers the face from the front: moustache, hair, earrings, hat, glasses."""
    sketch, has, w, v = Sketch(), person.attributes.__contains__, person.width, person.variation
    if has("Mustache"):
        half = np.array([(0.05, 0.40), (0.2, 0.425), (0.29, 0.535), (0.13, 0.505)])
        sketch.fill("beard", smooth(np.concatenate([half, [(0, 0.49)], mirror(half)[::-1]])), darker(person.hair, 0.15),
                    0.12, ("Mustache", "No_Beard"))
    if person.style != "bald":
        _front_hair(sketch, person)
    else:
        sketch.fill("skin", smooth([(-0.34, -0.82), (-0.1, -0.90), (0.1, -0.88), (0.02, -0.83), (-0.15, -0.82),
                                    (-0.32, -0.75)]), lighter(person.skin, 0.35), 0.05)
        sketch.place([(-w * 0.75, -0.98), (w * 0.75, -0.98), (w * 0.85, -0.5), (-w * 0.85, -0.5)], ("Bald",))
    if has("Wearing_Hat"):
        colour = _HATS[int(v[6] * 5)]
        x = w + 0.11
        half = np.array([(0.4, -0.66), (x, -0.54), (x * 0.95, -1.0), (0.4, -1.36)])
        sketch.fill("hat", smooth(np.concatenate([half, mirror(half)[::-1]])), colour, 0.02, ("Wearing_Hat",))
        band = np.array([(0.4, -0.64), (x + 0.02, -0.50), (x, -0.69), (0.4, -0.83)])
        sketch.fill("hat", smooth(np.concatenate([[(0, -0.67)], band, [(0, -0.86)], mirror(band)[::-1]])),
                    darker(colour, 0.35), 0.03, ("Wearing_Hat",))
        sketch.fill("hat", smooth([(-0.5, -1.08), (-0.2, -1.2), (0.0, -1.18), (-0.1, -1.1), (-0.4, -0.96)]),
                    lighter(colour, 0.18), 0.02)
    if has("Eyeglasses"):
        frame = _FRAMES[int(v[7] * 4)]
        wide, high = 0.205, 0.155 + 0.03 * v[0]
        for s in (1, -1):
            circle = ellipse(0, 0, 1, 1)
            rim = np.sign(circle) * np.abs(circle) ** 0.7 * (wide, high) + (s * EYE_X, EYE_Y + 0.02)
            sketch.fill("glasses", rim, np.array((214, 228, 238.0)), 0.25, ("Eyeglasses",), kind="tint")
            sketch.line("glasses", rim, frame, 0.25, width=3, closed=True)
            sketch.line("glasses", [(s * (EYE_X + wide), -0.14), (s * (w + 0.01), -0.13)], frame, 0.1, width=3)
        sketch.line("glasses", smooth([(-EYE_X + wide, EYE_Y), (0, EYE_Y - 0.04), (EYE_X - wide, EYE_Y)], closed=False),
                    frame, 0.25, width=3)
    return sketch


def _front_hair(sketch: Sketch, person: Person) -> None:
    """The cap of hair with its hairline, a few strands in two shades and a highlight."""
    has, hair, style, part = person.attributes.__contains__, person.hair, person.style, person.parting
    x = person.width + {"buzz": 0.015, "curly": 0.10}.get(style, 0.05)
    top = {"buzz": -1.07, "curly": -1.26, "bun": -1.10, "side": -1.24}.get(style, -1.16 - 0.06 * person.variation[3])
    tip = {"long": 0.38, "bob": 0.30, "curly": 0.0}.get(style, -0.14)
    outer = np.array([(x - 0.03, tip), (x + 0.05, -0.2), (x + 0.03, -0.62), (x * 0.74, top + 0.16), (x * 0.3, top)])
    outer = np.concatenate([mirror(outer), outer[::-1]])
    if style == "side":
        outer[4:7] += np.array([(0, 0.04), (0.1, -0.05), (0.05, 0.03)]) * np.sign(part or 1) * (np.sign(part or 1), 1)
    if has("Wavy_Hair"):
        outer = smooth(outer, closed=False, steps=3)
        swell = 0.045 if style == "curly" else 0.028
        outer += swell * np.stack([np.cos(np.arange(len(outer)) * 2.1), np.sin(np.arange(len(outer)) * 2.1)], 1)
    if has("Bangs"):
        inner = [(x * 0.84, -0.2), (x * 0.76, -0.40), (0.36, -0.36), (0.12, -0.385), (-0.15, -0.36), (-0.4, -0.385),
                 (-x * 0.76, -0.40), (-x * 0.84, -0.2)]
    elif has("Receding_Hairline"):
        inner = [(x * 0.90, -0.2), (x * 0.86, -0.58), (0.42, -0.99), (0.17, -0.85), (-0.17, -0.85), (-0.42, -0.99),
                 (-x * 0.86, -0.58), (-x * 0.90, -0.2)]
    else:
        inner = [(x * 0.87, -0.2), (x * 0.80, -0.5), (0.38 + 0.3 * part, -0.69), (part + 0.05, -0.79),
                 (part - 0.05, -0.79), (-0.38 + 0.3 * part, -0.69), (-x * 0.80, -0.5), (-x * 0.87, -0.2)]
    decides = (*HAIR_COLOURS, "Wavy_Hair", *(("Bangs",) if has("Bangs") else ()))
    sketch.fill("hair", smooth(np.concatenate([outer, inner]), steps=3), hair, 0.02, decides)
    if has("Receding_Hairline"):
        sketch.place([(-x * 0.8, -0.98), (x * 0.8, -0.98), (x * 0.8, -0.6), (-x * 0.8, -0.6)], ("Receding_Hairline",))
    if style == "buzz":
        return
    along = np.linspace(0, 1, 6)[:, None]
    for k in range(12):
        u = k / 11 - 0.5
        start, middle = np.array([(part * 0.6 + 0.3 * u, top + 0.06), (1.96 * u * x, top + 0.16 + 0.45 * abs(u))])
        end = np.array((x, -0.15 + tip * 0.6) if abs(u) > 0.3 else (x * 0.86, -0.45)) * (np.sign(u), 1)
        strand = (1 - along) ** 2 * start + 2 * along * (1 - along) * middle + along**2 * end
        if has("Wavy_Hair"):
            strand = strand + 0.022 * np.sin(along * 14 + k)
        sketch.line("hair", strand, lighter(hair, 0.12) if k % 2 else darker(hair, 0.28), 0.02)
    sketch.fill("hair", smooth([(-0.42, top + 0.17), (-0.1, top + 0.06), (0.25, top + 0.10), (0.2, top + 0.14),
                                (-0.1, top + 0.12), (-0.40, top + 0.24)]), lighter(hair, 0.2), 0.02)


def places(person: Person) -> Sketch:
    """Where an attribute that this face does not have would be seen: what a person would check to say no."""
    w, chin, lower_face = person.width, person.chin, (-0.30, 0.37, 0.30, 1.0)
    boxes = {
        "Bald": (-w * 0.8, -1.0, w * 0.8, -0.5), "Bangs": (-w * 0.75, -0.8, w * 0.75, -0.38),
        "Receding_Hairline": (-w * 0.75, -0.98, w * 0.75, -0.6), "Wearing_Hat": (-w - 0.05, -1.3, w + 0.05, -0.6),
        "Eyeglasses": (-0.51, -0.26, 0.51, 0.10), "Bags_Under_Eyes": (-0.45, 0.0, 0.45, 0.15),
        "Goatee": (-0.26, 0.64, 0.26, chin), "Mustache": (-0.29, 0.39, 0.29, 0.53), "No_Beard": lower_face,
        "5_o_Clock_Shadow": lower_face, "Double_Chin": (-0.44, chin - 0.14, 0.44, chin + 0.14),
        "Wearing_Necklace": (-0.4, 1.12, 0.4, 1.5), "Wearing_Necktie": (-0.17, 1.38, 0.17, 2.4),
    }
    pairs = {"Sideburns": (w * 0.84, -0.25, w, 0.4), "Rosy_Cheeks": (0.23, 0.14, 0.59, 0.42),
             "Chubby": (w - 0.3, 0.25, w + 0.05, 0.75), "Wearing_Earrings": (w, 0.22, w + 0.1, 0.38)}
    sketch = Sketch()
    if person.style == "bald":
        sketch.place(_corners(boxes["Bald"]), (*HAIR_COLOURS, "Wavy_Hair"))
    absent = person.attributes.__contains__
    for name, box in boxes.items():
        if not absent(name) or name == "No_Beard":
            sketch.place(_corners(box), (name,), -1 if name.startswith("Wearing_Neck") else 0)
    for name, box in pairs.items():
        if not absent(name) or name == "Rosy_Cheeks":
            for corners in (_corners(box), mirror(_corners(box))):
                sketch.place(corners, (name,), -0.6 if name == "Wearing_Earrings" else 0)
    return sketch


def _corners(box: tuple[float, float, float, float]) -> Float[np.ndarray, "4 2"]:
    left, top, right, bottom = box
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float)
