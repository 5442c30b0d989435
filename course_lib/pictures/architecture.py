"""Models drawn: the stories of the course, two models side by side, and what they cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor, nn

from ..looking.cost import Comparison, LayerProfile, ModelProfile, _inputs, _profiles
from .base import BLUE, GREY, INK, LETTERS, PAPER, Picture, blank_axes, ending_in, open_axis

__all__ = [
    "compare_models",
    "plot_architectures",
    "plot_attribute_pipeline",
    "plot_comparison",
    "plot_costs",
    "plot_part_pipeline",
    "plot_pipeline",
    "plot_stages",
]

# --------------------------------------------------------------------------------------------------
# The stories of the course
PERSONALITY_STAGES = {  # name: (column, row, width, what it is)
    "face image": (0, 1, 1.5, "3 × 112 × 112"),
    "ResNet-50": (1.9, 1, 1.5, "lesson 01"),
    "face tokens": (3.8, 1, 1.5, "49 × 2048"),
    "optical flow": (0, 0, 1.5, "lesson 02"),
    "I3D": (1.9, 0, 1.5, "lesson 03"),
    "motion tokens": (3.8, 0, 1.5, "8 × 1024"),
    "cross-attention": (5.8, 0.5, 1.6, "lesson 04"),
    "fusion and head": (7.9, 0.5, 1.6, "lessons 06, 07"),
    "five traits": (10.0, 0.5, 1.3, "O C E A N"),
}


PERSONALITY_ARROWS = [
    ("face image", "ResNet-50"),
    ("ResNet-50", "face tokens"),
    ("optical flow", "I3D"),
    ("I3D", "motion tokens"),
    ("face tokens", "cross-attention"),
    ("motion tokens", "cross-attention"),
    ("cross-attention", "fusion and head"),
    ("fusion and head", "five traits"),
]


def plot_pipeline(*here: str) -> Picture:
    """The course's pipeline with the stages named in `here` picked out: where a lesson is."""
    return plot_stages(
        PERSONALITY_STAGES,
        PERSONALITY_ARROWS,
        here,
        "The pipeline: a face image becomes face tokens, optical flow becomes "
        "motion tokens, the face tokens attend to the motion tokens, a head predicts five traits.",
    )


ATTRIBUTES_STAGES = {  # name: (column, row, width, what it is)
    "face image": (0, 0.5, 1.5, "3 × height × width"),
    "token extractor": (2.1, 0.5, 1.7, "convolutions"),
    "49 tokens": (4.4, 1, 1.4, "one per place"),
    "33 queries": (4.4, 0, 1.4, "one per attribute"),
    "cross-attention": (6.5, 0.5, 1.7, "lesson 04"),
    "33 classifiers": (8.8, 0.5, 1.6, "one logit each"),
}


ATTRIBUTES_ARROWS = [
    ("face image", "token extractor"),
    ("token extractor", "49 tokens"),
    ("49 tokens", "cross-attention"),
    ("33 queries", "cross-attention"),
    ("cross-attention", "33 classifiers"),
]


def plot_attribute_pipeline(*here: str) -> Picture:
    """The second story of the course, with the stages named in `here` picked out."""
    return plot_stages(
        ATTRIBUTES_STAGES,
        ATTRIBUTES_ARROWS,
        here,
        "The attribute model: convolutions turn a face into 49 tokens, one query for each attribute"
        " attends to them, and each attribute has a classifier of its own.",
    )


PARTS_STAGES = {  # name: (column, row, width, what it is)
    "two photographs": (0, 0, 1.7, "3 × 64 × 128"),
    "image tokens": (2.3, 0, 1.7, "8 × 16 places"),
    "noisy layers": (0, 1, 1.7, "6 × 32 × 32"),
    "part tokens": (2.3, 1, 1.7, "6 parts × 4 × 4"),
    "blocks": (4.6, 0.5, 1.9, "parts, then image"),
    "clean layers": (7.1, 0.5, 1.6, "6 × 32 × 32"),
    "Euler step": (9.4, 0.5, 1.6, "twenty times"),
}


PARTS_ARROWS = [
    ("two photographs", "image tokens"),
    ("noisy layers", "part tokens"),
    ("image tokens", "blocks"),
    ("part tokens", "blocks"),
    ("blocks", "clean layers"),
    ("clean layers", "Euler step"),
]


def plot_part_pipeline(*here: str) -> Picture:
    """The generative model of lesson 13, with the stages named in `here` picked out."""
    return plot_stages(
        PARTS_STAGES,
        PARTS_ARROWS,
        here,
        "The part transformer: tokens of noisy layers attend to each other and to the tokens of two"
        " photographs, clean layers come out, and an Euler step goes a little towards them; twenty"
        " times from pure noise to layers.",
    )


def plot_stages(
    stages: Mapping[str, tuple[float, float, float, str]],
    arrows: Sequence[tuple[str, str]],
    here: Sequence[str],
    description: str,
) -> Picture:
    """Boxes with arrows; a stage is a column, a row, a width and what it is, and those in `here`
    are picked out.
    """
    unknown = [stage for stage in here if stage not in stages]
    if unknown:
        raise ValueError(
            f"no stage {unknown[0]!r} in the pipeline; the stages are {', '.join(stages)}"
        )
    figure, axes = blank_axes(1, 1, 8.5, 2.0)
    axis = axes[0, 0]
    for stage, (x, y, width, note) in stages.items():
        chosen = stage in here
        axis.text(
            x + width / 2,
            y,
            f"{stage}\n{note}",
            ha="center",
            va="center",
            fontsize=LETTERS,
            color=PAPER if chosen else INK,
            fontweight="bold" if chosen else "normal",
            bbox={
                "boxstyle": "round,pad=0.35",
                "facecolor": BLUE if chosen else "#eef1f6",
                "edgecolor": BLUE,
            },
        )
    for start, end in arrows:
        (x, y, width, _), (to_x, to_y, _, _) = stages[start], stages[end]
        axis.annotate(
            "",
            (to_x, to_y),
            (x + width, y),
            arrowprops={"arrowstyle": "->", "color": GREY},
            zorder=1,
        )
    axis.set(xlim=(-0.2, 11.5), ylim=(-0.55, 1.55))
    return Picture(figure, description + (f" Here: {', '.join(here)}." if here else ""))


# --------------------------------------------------------------------------------------------------
# Two models
def compare_models(
    model_a: nn.Module,
    model_b: nn.Module,
    name_a: str = "A",
    name_b: str = "B",
    save_path: str | Path | None = None,
    inputs_a: Tensor | Sequence[Tensor] | None = None,
    inputs_b: Tensor | Sequence[Tensor] | None = None,
    rounds: int = 30,
) -> Comparison:
    """Measure two models in turns, in evaluation mode; with `save_path`, write a picture (PNG, SVG
    or PDF) there.

    Each model is measured on `inputs_a` or `inputs_b`, the tensors of one forward pass, or else on
    its own `example_inputs()`. Raises `ValueError` if it has none, if both have one name, and for a
    file of another kind.
    Derived in lesson 06.
    """
    if name_a == name_b:
        raise ValueError(
            f"both models are called {name_a!r}; give name_a and name_b that tell them apart"
        )
    if save_path is not None:
        ending_in(save_path, ".png", ".svg", ".pdf")
    inputs = [_inputs(model_a, inputs_a, "inputs_a"), _inputs(model_b, inputs_b, "inputs_b")]
    comparison = Comparison(
        dict(zip((name_a, name_b), _profiles([model_a, model_b], inputs, rounds), strict=True))
    )
    if save_path is not None:
        plot_comparison(comparison).save(save_path)
    return comparison


def plot_comparison(comparison: Comparison) -> Picture:
    """Both diagrams with the costs below them: what `compare_models` saves."""
    height = _height(comparison)
    figure = Figure(figsize=(8.5, height + 1.6), layout="constrained", facecolor=PAPER)
    above, below = figure.subfigures(2, 1, height_ratios=(height, 1.6))
    diagrams, costs = above.subplots(1, 2), below.subplots(1, len(COSTS))
    for axis in diagrams:
        axis.set_axis_off()
    _draw_architectures(diagrams, comparison)
    _draw_costs(costs, comparison)
    return Picture(figure, f"{_say_architectures(comparison)} {_say_costs(comparison)}")


def plot_architectures(comparison: Comparison) -> Picture:
    """Both models as diagrams: a box a layer, an arrow where data flows, the darker the more of the
    operations.

    Derived in lesson 06.
    """
    figure, axes = blank_axes(1, 2, 8.5, _height(comparison))
    _draw_architectures(axes[0], comparison)
    return Picture(figure, _say_architectures(comparison))


def _height(comparison: Comparison) -> float:
    return 0.9 + 1.2 * max(
        max(_ranks(profile).values()) for profile in comparison.profiles.values()
    )


def _draw_architectures(axes: np.ndarray, comparison: Comparison) -> None:
    depth = max(max(_ranks(profile).values()) for profile in comparison.profiles.values())
    for axis, (name, profile) in zip(axes, comparison.profiles.items(), strict=True):
        _draw_architecture(axis, profile)
        axis.set_ylim(-depth - 0.4, 0.4)
        axis.set_title(
            f"{name}: {profile.parameters:,} parameters", fontsize=10, color=INK, fontweight="bold"
        )


def _say_architectures(comparison: Comparison) -> str:
    clauses = []
    for name, profile in comparison.profiles.items():
        costly = max(profile.layers, key=lambda layer: layer.flops)
        clauses.append(
            f"{name} has {len(profile.layers)} layers and spends"
            f" {costly.flops / max(profile.flops, 1):.0%} of its operations in {costly.name}"
        )
    return f"Data flows from top to bottom: {'; '.join(clauses)}."


def _draw_architecture(axis, profile: ModelProfile) -> None:
    ranks = _ranks(profile)
    widest = max(2, *np.bincount(list(ranks.values())))
    places, gutter = _places(profile, ranks), 1.1 * widest
    layers = {layer.name: layer for layer in profile.layers if layer.name in ranks}
    for name, (x, y) in places.items():
        text, colour = f"{name}\n{' × '.join(map(str, profile.inputs.get(name, ())))}", INK
        if name in layers:
            share = layers[name].flops / max(profile.flops, 1)
            text, colour = _label(layers[name]), PAPER if share > 0.45 else INK
            axis.add_patch(
                FancyBboxPatch(
                    (x - 0.95, y - 0.29),
                    1.9,
                    0.58,
                    "round,pad=0.05",
                    zorder=2,
                    edgecolor=BLUE,
                    facecolor=_shade(share),
                )
            )
        axis.text(
            x,
            y,
            text,
            ha="center",
            va="center",
            fontsize=LETTERS,
            color=colour,
            linespacing=1.15,
            zorder=3,
        )
    for name, layer in layers.items():
        for source in layer.sources:
            (from_x, from_y), (to_x, to_y) = places[source], places[name]
            start = from_x, from_y - 0.34
            end = to_x, to_y + 0.35
            if from_y - to_y > 1.5:  # past other layers: out to the side, down, and in again
                side = -1 if from_x + to_x <= 0 else 1
                start, end = (side * gutter, to_y + 0.12), (to_x + side, to_y + 0.12)
                axis.plot(
                    [from_x + side, start[0], start[0]],
                    [from_y - 0.12, from_y - 0.12, start[1]],
                    color=GREY,
                    linewidth=1,
                    zorder=1,
                )
            axis.annotate(
                "",
                end,
                start,
                zorder=1,
                arrowprops={"arrowstyle": "->", "color": GREY, "shrinkA": 0, "shrinkB": 0},
            )
    axis.set_xlim(-gutter - 0.1, gutter + 0.1)


def _label(layer: LayerProfile) -> str:
    shape = " × ".join(map(str, layer.shape))
    lines = [f"{layer.name}", f"→ {shape}", f"{short(layer.parameters)} parameters"]
    if len(layer.kind) <= 16:  # what does not fit into the box
        lines[1:1] = [layer.kind]
    if layer.flops:
        lines.append(f"{short(layer.flops)} FLOPs")
    return "\n".join(lines)


def _shade(share: float) -> tuple[float, float, float]:
    """From nearly white to the course's blue."""
    light, dark = np.array([0.95, 0.96, 0.98]), np.array([0x34, 0x59, 0x95]) / 255
    return tuple((light + (dark - light) * min(1.0, share)).tolist())


def _ranks(profile: ModelProfile) -> dict[str, int]:
    """How far down each input and layer stands: below everything that feeds it."""
    ranks = dict.fromkeys(profile.inputs, 0)
    for layer in profile.layers:
        if layer.sources:
            ranks[layer.name] = 1 + max(ranks.get(source, 0) for source in layer.sources)
    return ranks


def _places(profile: ModelProfile, ranks: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """The centre of each input and layer; those of one rank stand side by side, in the order of
    what feeds them.
    """
    places, sources = {}, {layer.name: layer.sources for layer in profile.layers}
    for rank in range(max(ranks.values()) + 1):
        row = [name for name in ranks if ranks[name] == rank]
        row.sort(
            key=lambda name: sum(
                places[source][0] for source in sources.get(name, ()) if source in places
            )
        )
        places |= {
            name: (2.1 * (index - (len(row) - 1) / 2), -float(rank))
            for index, name in enumerate(row)
        }
    return places


# --------------------------------------------------------------------------------------------------
# What they cost
COSTS = {
    "parameters": lambda profile: profile.parameters,
    "FLOPs": lambda profile: profile.flops,
    "memory, training step (bytes)": lambda profile: profile.training_bytes,
    "latency (ms)": lambda profile: profile.latency[0],
}


def short(value: float) -> str:
    """A number in three digits at most: 372k, 5.9M, 0.81."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def plot_costs(comparison: Comparison) -> Picture:
    """Parameters, operations, memory and latency of both models. Derived in lesson 06."""
    figure, axes = blank_axes(1, len(COSTS), 8.5, 1.5)
    _draw_costs(axes[0], comparison)
    return Picture(figure, _say_costs(comparison))


def _draw_costs(axes: np.ndarray, comparison: Comparison) -> None:
    names, profiles = list(comparison.profiles), list(comparison.profiles.values())
    for axis, (what, cost) in zip(axes, COSTS.items(), strict=True):
        costs = [cost(profile) for profile in profiles]
        axis.barh(names, costs, color=[GREY, BLUE], height=0.6)
        if what.startswith("latency"):
            low, high = np.array([profile.latency[1:] for profile in profiles]).T
            axis.hlines(names, low, high, color=INK, linewidth=1.2)
            costs = [max(pair) for pair in zip(costs, high, strict=True)]
        for place, (profile, reach) in enumerate(zip(profiles, costs, strict=True)):
            axis.annotate(
                short(cost(profile)),
                (reach, place),
                (3, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
        open_axis(
            axis, fill(what, 18), xlim=(0, 1.35 * max(*costs, 1e-9)), ylim=(1.5, -0.5), xticks=[]
        )
        axis.spines["bottom"].set_visible(False)
        axis.tick_params(left=False, labelleft=axis is axes[0])


def _say_costs(comparison: Comparison) -> str:
    (name_a, a), (name_b, b) = comparison.profiles.items()
    clauses = [f"{what} {short(cost(a))} and {short(cost(b))}" for what, cost in COSTS.items()]
    spread = ", ".join(
        f"{name} from {p.latency[1]:.2f} to {p.latency[2]:.2f} ms"
        for name, p in comparison.profiles.items()
    )
    return f"{name_a} beside {name_b}: {'; '.join(clauses)} (5 to 95 % of the rounds: {spread})."
