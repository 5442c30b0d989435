"""Pictures of the measures: who is told apart, what layers and dimensions do, what can be read from
features.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ..looking.features import (
    DimensionDistribution,
    LayerStatistics,
    Probe,
    between_person_discriminability,
    pair_similarities,
    pca,
    separation_auc,
    within_person_consistency,
)
from .base import BLUE, GREY, HIGHLIGHT, INK, Picture, blank_axes, open_axis, styles

__all__ = [
    "plot_activation_statistics",
    "plot_dimension_distribution",
    "plot_pca",
    "plot_probes",
    "plot_separation",
]


def plot_separation(
    features: Mapping[str, Tensor], person: Tensor, resamples: int = 300
) -> Picture:
    """How similar pairs of one person and pairs of two are, for each of several features `items
    dim` by name.

    The less the two histograms overlap, the better the people are told apart. Derived in lesson 01.
    """
    figure, axes = blank_axes(1, len(features), 3.4 * len(features) + 0.3, 2.6)
    said = []
    for axis, (name, vectors) in zip(axes[0], features.items(), strict=True):
        similarity, same = (values.cpu().numpy() for values in pair_similarities(vectors, person))
        bins = np.linspace(similarity.min(), similarity.max() + 1e-6, 41)
        for chosen, colour, label in ((~same, GREY, "two people"), (same, BLUE, "one person")):
            axis.hist(similarity[chosen], bins, density=True, color=colour, alpha=0.65, label=label)
        auc, low, high = separation_auc(vectors, person, resamples)
        open_axis(
            axis,
            f"{name}\nAUC {auc:.3f} ({low:.3f} to {high:.3f})",
            xlabel="cosine similarity",
            yticks=[],
        )
        axis.spines["left"].set_visible(False)
        said.append(
            f"{name} {auc:.3f} (95 % of resamples of people from {low:.3f} to {high:.3f};"
            f" consistency {within_person_consistency(vectors, person):.3f}, discriminability"
            f" {between_person_discriminability(vectors, person):.3f})"
        )
    axes[0, 0].legend(frameon=False, fontsize=8)
    return Picture(
        figure,
        "Cosine similarity of pairs of one person and of two people; ROC-AUC between them: "
        + "; ".join(said)
        + ".",
    )


def plot_pca(
    features: Tensor, label: Tensor, label_name: str = "person", shown: int = 8
) -> Picture:
    """Features `items dim` in the plane of their two largest variances, the first `shown` labels in
    colour.

    Derived in lesson 01.
    """
    from matplotlib import colormaps

    scores, share = pca(features)
    kinds = label.unique()[:shown].tolist()
    figure, axes = blank_axes(1, 1, 5.4, 3.6)
    axis = axes[0, 0]
    axis.scatter(*scores.T, s=9, color="#cccccc")
    for kind, marker in zip(kinds, "os^Dv<>P" * (shown // 8 + 1), strict=False):
        axis.scatter(
            *scores[(label == kind).cpu()].T,
            s=34,
            marker=marker,
            edgecolor=INK,
            linewidth=0.4,
            color=colormaps["viridis"](kinds.index(kind) / max(1, len(kinds) - 1)),
            label=f"{kind}",
        )
    open_axis(
        axis,
        xlabel=f"component 1 ({share[0]:.0%} of variance)",
        ylabel=f"component 2 ({share[1]:.0%})",
    )
    axis.legend(
        title=label_name,
        title_fontsize=8,
        fontsize=8,
        frameon=False,
        bbox_to_anchor=(1, 1),
        loc="upper left",
    )
    return Picture(
        figure,
        f"{len(features)} features along their two principal components, which hold {share[0]:.0%} "
        f"and {share[1]:.0%} of the variance; {len(kinds)} of {len(label.unique())} values of "
        f"{label_name} are coloured.",
    )


def plot_activation_statistics(statistics: Mapping[str, LayerStatistics]) -> Picture:
    """Mean and spread, share of zeros, and share of dead channels, layer by layer in the order
    given.

    Derived in lesson 01.
    """
    names, layers = list(statistics), list(statistics.values())
    places = np.arange(len(names))
    dead = np.array([layer.dead.float().mean().item() for layer in layers])
    zeros = np.array([layer.zeros for layer in layers])
    mean, spread = (
        np.array([getattr(layer, field) for layer in layers]) for field in ("mean", "spread")
    )
    figure, axes = blank_axes(1, 3, 10.0, 0.9 + 0.28 * len(names))
    axes[0, 0].errorbar(mean, places, xerr=spread, fmt="o", color=BLUE, capsize=3, markersize=5)
    for axis, values in zip(axes[0, 1:], (zeros, dead), strict=True):
        axis.barh(places, values, color=BLUE, height=0.6)
    for axis, title in zip(
        axes[0], ("mean ± spread", "share of zeros", "share of dead channels"), strict=True
    ):
        open_axis(
            axis,
            title,
            yticks=places,
            yticklabels=names if axis is axes[0, 0] else [],
            ylim=(len(names) - 0.5, -0.5),
        )
        axis.xaxis.set_major_locator(MaxNLocator(5))
    for axis in axes[0, 1:]:
        axis.set_xlim(0, 1)
    wide, thin = int(spread.argmax()), int(zeros.argmax())
    return Picture(
        figure,
        f"Activations of {len(names)} layers: the spread is largest in {names[wide]} "
        f"({spread[wide]:.2f}), zeros are most common in {names[thin]} ({zeros[thin]:.0%}), and "
        f"{sum(int(layer.dead.sum()) for layer in layers)} of "
        f"{sum(len(layer.dead) for layer in layers)} channels are dead.",
    )


def plot_dimension_distribution(distributions: Mapping[str, DimensionDistribution]) -> Picture:
    """The spread of every dimension, largest first, and how fast the principal directions use up
    the variance.

    Derived in lesson 03.
    """
    figure, axes = blank_axes(1, 2, 9.0, 2.9)
    said = []
    for (name, found), (mark, line, colour) in zip(distributions.items(), styles(), strict=False):
        dim, style = len(found.spread), mark + line
        look = {"color": colour, "markersize": 4, "markevery": 0.15}
        spread = found.spread.sort(descending=True).values.cpu().numpy()
        axes[0, 0].plot(
            np.arange(1, dim + 1), spread / max(spread[0], 1e-12), style, label=name, **look
        )
        axes[0, 1].plot(
            np.arange(1, len(found.variance) + 1),
            found.variance.cumsum(0).cpu().numpy(),
            style,
            label=f"{name}: {found.effective_dimensions:.1f} in use",
            **look,
        )
        said.append(
            f"{name}: {int(found.dead.sum())} of {dim} dimensions dead,"
            f" {int(found.redundant.sum())} redundant, {found.effective_dimensions:.1f} effectively"
            " in use"
        )
    open_axis(
        axes[0, 0],
        "spread of each dimension, as a share of the largest",
        xlabel="dimension, largest first",
        ylim=(0, 1.02),
    )
    open_axis(
        axes[0, 1],
        "variance explained",
        xlabel="principal directions (logarithmic)",
        xscale="log",
        ylim=(0, 1.02),
    )
    axes[0, 1].legend(frameon=False, fontsize=8)
    return Picture(figure, "What the dimensions are used for. " + "; ".join(said) + ".")


def plot_probes(probes: Mapping[str, Probe]) -> Picture:
    """Held-out scores of several linear probes, a dot a fold, with the constant's score as a mark.

    Derived in lesson 02.
    """
    figure, axes = blank_axes(1, 1, 7.2, 1.0 + 0.36 * len(probes))
    axis, said = axes[0, 0], []
    for place, (name, probe) in enumerate(probes.items()):
        scores, baseline = probe.scores.numpy(), probe.baselines.mean().item()
        axis.barh(place, scores.mean(), color=BLUE, height=0.55, alpha=0.75)
        axis.plot(
            scores,
            np.full(len(scores), place),
            "o",
            color=INK,
            markersize=3.5,
            label="_" if place else "a fold",
        )
        axis.plot(
            baseline,
            place,
            "D",
            color=HIGHLIGHT,
            markersize=6,
            label="_" if place else "a constant",
        )
        axis.text(
            max(scores.max(), baseline, 0) + 0.02,
            place,
            f"{scores.mean():.2f}",
            va="center",
            fontsize=8,
        )
        said.append(f"{name} {scores.mean():.2f} (a constant {baseline:.2f})")
    measure = next(iter(probes.values())).measure
    open_axis(
        axis,
        xlabel=f"held-out {measure}",
        yticks=range(len(probes)),
        yticklabels=list(probes),
        ylim=(len(probes) - 0.5, -0.5),
    )
    axis.axvline(0, color=GREY, linewidth=0.6)
    axis.legend(frameon=False, fontsize=8, bbox_to_anchor=(1.04, 1), loc="upper left")
    return Picture(
        figure,
        f"What a linear probe reads, {measure} on people it has not seen: " + "; ".join(said) + ".",
    )
