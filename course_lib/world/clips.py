"""Drawn clips: a face in motion with its exact optical flow. What its movements mean is told in
`stories.py`.

Derived in lessons 00, 02 and 07.
"""

from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np

from ..shapes import Bool, Float, UInt8
from . import anatomy, wardrobe
from .anatomy import Expression, Person
from .canvas import ellipse, smooth, to_fixed
from .faces import Portrait, Pose, Seed, draw_face, pose_points, whole_number
from .motion import DART, Motion, animate
from .stories import (
    FRAMES_PER_MOMENT,
    Speaker,
    Story,
    make_speaker,
    noisy_traits,
    tell_story,
)
from .texture import (
    GRID,
    MATERIALS,
    ORIGIN,
    TEXTURE,
    UNIT,
    fixed_point,
    make_grain,
    paint_face,
    paint_layer,
    part_motion,
)

__all__ = ["PARTS", "RenderedClip", "draw_still", "render_clip"]


class RenderedClip(NamedTuple):
    """Frames t = 0 … T and, for t < T, where each pixel of frame t is in frame t + 1."""

    frames: UInt8[np.ndarray, "steps height width 3"]  # one more than the flow has
    flow: Float[np.ndarray, "frames height width 2"]  # (u, v) in px, forward, exact
    # what the pixel shows is hidden or out of view at t + 1
    occluded: Bool[np.ndarray, "frames height width"]
    traits: Float[np.ndarray, "5"]
    story: Story  # the cue, what happened when, and the moment that decided
    region: Bool[np.ndarray, "5 height width"]  # where the deciding movement of each trait is seen
    parts: UInt8[np.ndarray, "frames height width"]  # what each pixel shows, index into PARTS
    # error, in px, of the equation that the head's flow solves
    residual: Float[np.ndarray, "frames height width"]


PARTS = ("background", "hair behind", "body", "head", *MATERIALS)  # nearer to the viewer later

_HAIR_BEHIND, _BODY, _HEAD = 1, 2, 3


def _affine(pose: Pose, size: int) -> Float[np.ndarray, "2 3"]:
    """Texture px (pixel centres at whole numbers) to image px."""
    cosine, sine = (pose.scale * size / UNIT * f(pose.roll) for f in (np.cos, np.sin))
    turn = np.array([(cosine, -sine), (sine, cosine)])
    shift = np.array((pose.x, pose.y)) * size - 0.5 - turn @ (ORIGIN - 0.5)
    return np.column_stack([turn, shift])


def _inverse(matrix: Float[np.ndarray, "2 3"]) -> Float[np.ndarray, "2 3"]:
    turn = np.linalg.inv(matrix[:, :2])
    return np.column_stack([turn, -turn @ matrix[:, 2]])


def _after(
    second: Float[np.ndarray, "2 3"], first: Float[np.ndarray, "2 3"]
) -> Float[np.ndarray, "2 3"]:
    return np.column_stack(
        [second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2] + second[:, 2]]
    )


def _over(below: np.ndarray, above: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Composite a premultiplied RGBA picture over an RGB one."""
    see_through = cv2.cvtColor(cv2.bitwise_not(alpha), cv2.COLOR_GRAY2RGB)
    return cv2.add(
        cv2.multiply(below, see_through, scale=1 / 255), cv2.cvtColor(above, cv2.COLOR_RGBA2RGB)
    )


def render_clip(
    seed: Seed, size: int = 112, moments: int = 8, speaker: Seed | None = None
) -> RenderedClip:
    """Clip `seed`, of `speaker` (another seed; the same by default): frames, exact flow, occlusion,
    traits and truth.

    A head pixel x of frame t shows texture point p = q - D_t(q), q = A_t⁻¹ x, where A is the head's
    affine pose and D the deformation of `anatomy.displacement`. The point moves to p' (irises, lids
    and lip slide on the skin), and frame t + 1 shows it where q' = p' + D_{t+1}(q'), solved by
    fixed point; flow = A_{t+1} q' - x. Body, hair behind the head and background move as affine
    layers.

    Raises ValueError for a seed that is not a whole number, no moments, or a size under 32. Used in
    lesson 02.
    """
    whole_number(seed)
    if size < 32:
        raise ValueError(f"size must be at least 32 px, but it is {size}; try size=112")
    if moments < 1:
        raise ValueError(f"a clip of {moments} moments has no frames; ask for at least one")
    who = make_speaker(seed if speaker is None else whole_number(speaker))
    story = tell_story(np.random.Generator(np.random.SFC64((seed, 7))), moments)
    rng = np.random.Generator(np.random.SFC64((seed, 6)))
    person = anatomy.appearance(
        who.attributes, who.tone, np.random.Generator(np.random.SFC64(who.seed))
    )
    grain = make_grain(rng, TEXTURE, 12, 18)
    head = paint_layer(
        [*anatomy.head(person), *anatomy.features(person), *wardrobe.front(person)], grain
    )
    body, behind = (
        paint_layer(wardrobe.body(person), grain.T),
        paint_layer(wardrobe.back_hair(person), grain[::-1]),
    )
    motion = animate(story, rng)
    pixels = np.stack(np.meshgrid(*[np.arange(size, dtype=np.float32)] * 2), -1)
    scene = _Scene(_background(rng, size), behind, body, pixels)
    instants = _instants(head, person, motion, size)
    views = [_view(instant, scene) for instant in instants]
    steps = [
        _follow(person, *pair, view, scene)
        for pair, view in zip(pairwise(instants), views, strict=False)
    ]
    frames = np.stack([view.picture for view in views])
    frames = cv2.add(
        frames, np.rint(rng.standard_normal(frames.shape, np.float32)), dtype=cv2.CV_8U
    )
    flow, residual = (np.stack(fields) for fields in zip(*steps, strict=True))
    parts = np.stack([view.parts for view in views])
    occluded = np.stack(
        [
            _occluded(*layers, scene.pixels + there)
            for layers, there in zip(pairwise(parts), flow, strict=True)
        ]
    )
    return RenderedClip(
        frames,
        flow,
        occluded,
        trait_labels(seed, story, who),
        story,
        _regions(person, motion, story, size),
        parts[:-1],
        residual,
    )


class _Scene(NamedTuple):
    """What does not change during a clip."""

    background: UInt8[np.ndarray, "size size 3"]
    behind: UInt8[np.ndarray, "texture texture 4"]  # hair behind the head
    body: UInt8[np.ndarray, "texture texture 4"]
    pixels: Float[np.ndarray, "size size 2"]  # the coordinates of every pixel


class _Instant(NamedTuple):
    """One frame, ready to be rendered: where head and body are, how the skin is deformed, what the
    face shows.
    """

    expression: Expression
    to_image: Float[np.ndarray, "2 3"]
    to_body: Float[np.ndarray, "2 3"]
    deformation: Float[np.ndarray, "texture texture 2"]
    texture: UInt8[np.ndarray, "texture texture 4"]
    material: UInt8[np.ndarray, "texture texture"]


class _View(NamedTuple):
    """A rendered frame and, for each pixel, the part seen and its place in undeformed and deformed
    texture.
    """

    picture: UInt8[np.ndarray, "size size 3"]
    parts: UInt8[np.ndarray, "size size"]
    p: Float[np.ndarray, "size size 2"]
    q: Float[np.ndarray, "size size 2"]


def _instants(head: np.ndarray, person: Person, motion: Motion, size: int) -> list[_Instant]:
    fields = anatomy.displacement_fields(GRID).reshape(5, -1)
    instants = []
    for face, pose, body in zip(*motion, strict=True):
        amounts = np.array((pose.yaw, pose.pitch, face.brow, face.smile, face.open), np.float32)
        deformation = (UNIT * amounts @ fields).reshape(TEXTURE, TEXTURE, 2)
        instants.append(
            _Instant(
                face,
                _affine(pose, size),
                _affine(body, size),
                deformation,
                *paint_face(head, person, face),
            )
        )
    return instants


def _view(instant: _Instant, scene: _Scene) -> _View:
    size = scene.pixels.shape[1::-1]
    q = cv2.transform(scene.pixels, _inverse(instant.to_image))
    p = q - cv2.warpAffine(
        instant.deformation, instant.to_image, size, borderMode=cv2.BORDER_REPLICATE
    )
    head = cv2.remap(instant.texture, p, None, cv2.INTER_LINEAR)
    body = cv2.warpAffine(scene.body, instant.to_body, size)
    behind = cv2.warpAffine(scene.behind, instant.to_image, size)
    head_parts = _HEAD + cv2.remap(instant.material, p, None, cv2.INTER_NEAREST)
    picture, parts = scene.background, np.zeros(size, np.uint8)
    for layer, part in ((behind, _HAIR_BEHIND), (body, _BODY), (head, head_parts)):
        alpha = cv2.extractChannel(layer, 3)
        picture = _over(picture, layer, alpha)
        np.copyto(parts, part, where=alpha > 127, casting="unsafe")
    return _View(picture, parts, p, q)


def _follow(
    person: Person, now: _Instant, then: _Instant, view: _View, scene: _Scene
) -> tuple[Float[np.ndarray, "size size 2"], Float[np.ndarray, "size size"]]:
    """The flow from one instant to the next, and how far (px) the head's fixed point still moved in
    the last step.
    """
    size, parts = len(view.parts), view.parts.ravel()
    pixels, p, q = (field.reshape(-1, 2) for field in (scene.pixels, view.p, view.q))
    flow, residual = np.zeros_like(pixels), np.zeros(len(pixels), np.float32)

    head = np.flatnonzero(parts >= _HEAD)
    p, on_head = p.take(head, 0), q.take(head, 0)
    target = p + part_motion(parts[head] - _HEAD, p, person, now.expression, then.expression)
    there, step = fixed_point(on_head + (target - p), target, then.deformation)
    residual[head] = step * np.linalg.norm(then.to_image[0, :2])
    behind, body = np.flatnonzero(parts == _HAIR_BEHIND), np.flatnonzero(parts == _BODY)
    for visible, points, matrix in (
        (head, there, then.to_image),
        (behind, q[behind], then.to_image),
        (body, pixels[body], _after(then.to_body, _inverse(now.to_body))),
    ):
        if len(visible):
            flow[visible] = cv2.transform(points[None], matrix)[0] - pixels[visible]
    return flow.reshape(size, size, 2), residual.reshape(size, size)


def _occluded(
    now: np.ndarray, then: np.ndarray, there: np.ndarray
) -> Bool[np.ndarray, "size size"]:
    """Pixels whose part is out of view, or behind another one, where they are in the next frame."""
    nothing = 255
    return cv2.remap(then, there, None, cv2.INTER_NEAREST, borderValue=nothing) != now


def trait_labels(seed: int, story: Story, speaker: Speaker) -> Float[np.ndarray, "5"]:
    return noisy_traits(story, speaker, np.random.Generator(np.random.SFC64((seed, 8))))


def _background(rng: np.random.Generator, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A wall in two muted tones with a little texture."""
    tones = np.clip(
        rng.uniform(80, 200) + rng.normal(0, 14, 3) + rng.normal(0, 18, (3, 3, 1)), 10, 245
    )
    wall = cv2.resize(tones.astype(np.uint8), (size, size), interpolation=cv2.INTER_CUBIC).astype(
        np.float32
    )
    return np.clip(wall + make_grain(rng, size, 6, 14)[..., None], 0, 255).astype(np.uint8)


def _regions(
    person: Person, motion: Motion, story: Story, size: int
) -> Bool[np.ndarray, "5 height width"]:
    """Where each deciding movement is seen, at its height: brows, head, mouth, mouth corners, head."""
    t = story.moment * FRAMES_PER_MOMENT + 2
    head = [smooth([(0, -1.0), (person.width, -0.1), (0, person.chin), (-person.width, -0.1)])]
    brows = [ellipse(side * 0.31, -0.3, 0.22, 0.13) for side in (1, -1)]
    mouth, corners = (
        [ellipse(0, 0.6, 0.27, 0.18)],
        [ellipse(side * 0.27, 0.53, 0.14, 0.14) for side in (1, -1)],
    )
    masks = np.zeros((5, size, size), np.uint8)
    for mask, polygons in zip(masks, (brows, head, mouth, corners, head), strict=True):
        for polygon in polygons:
            points = pose_points(polygon, 0.0, motion.poses[t], motion.expressions[t])
            cv2.fillPoly(mask, [to_fixed(points * size)], 1, cv2.LINE_8, 4)
    return masks.view(bool)


def draw_still(speaker: Speaker, story: Story, seed: int, size: int) -> Portrait:
    """The speaker's portrait, taken just before the clip."""
    rng = np.random.Generator(np.random.SFC64((seed, 9)))
    brow, lean, opening, smile, tilt = story.still
    expression = Expression(brow, smile, opening, *DART[story.cue])
    yaw, pitch, roll, scale, x, y = rng.standard_normal(6) * (0.05, 0.04, 0.03, 0.004, 0.012, 0.012)
    pose = Pose(yaw, pitch, roll + 0.10 * tilt, 0.325 + scale + 0.03 * lean, 0.5 + x, 0.53 + y)
    return draw_face(
        speaker.attributes,
        speaker.seed,
        size,
        "easy",
        tone=speaker.tone,
        picture=seed,
        expression=expression,
        pose=pose,
        regions=False,
    )
