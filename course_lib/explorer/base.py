"""What both explorers share: samples that are packed when they are looked at, a widget, a page, and
one table of bounds that Python and the page obey.
"""

import html
from collections import OrderedDict
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from ..recorder.packing import script
from ..recorder.page import fill_page, write_page

__all__ = [
    "ATTENTION",
    "MEAN",
    "OWN",
    "PARTS",
    "UNTRAINED",
    "Explorer",
    "Item",
    "explorer_script",
    "percent",
]

OWN = -1  # the sample that is an image of one's own
MEAN = -2  # no sample: the mean of many samples' maps
UNTRAINED = "untrained"  # no checkpoint: the same architecture with random weights

ATTENTION = "attention"  # what is shown that is no trait: the weights as they are


class Item(NamedTuple):
    """One sample as it travels: what JSON can say, and the bytes of the arrays that
    `header["arrays"]` describes.
    """

    header: dict[str, Any]
    planes: bytes


# A view's files in the order in which they are joined; each may use what stands before it.
PARTS = {
    "attributes.js": (
        "sample.js",
        "model.js",
        "live.js",
        "answers.js",
        "words.js",
        "picture.js",
        "share.js",
        "panels.js",
        "covering.js",
        "game.js",
        "drawing.js",
        "tour.js",
        "attributes.js",
    ),
    "clips.js": ("recording.js", "clips.js"),
}


def explorer_script(view: str = "attributes.js") -> str:
    """One module: the kit, what the explorers share, and the parts of one explorer's view."""
    parts = ("samples.js", *PARTS[view])
    return script("recorder/web/kit.js", *(f"explorer/web/{part}" for part in parts))


def percent(share: Any) -> str:
    """As a page rounds it, halves up: 12.5 becomes 13."""
    digits = Decimal("0.1" if share < 0.1 else "1")
    return f"{Decimal(100 * float(share)).quantize(digits, ROUND_HALF_UP)} %"


class Explorer:
    """A model and a data set, looked at one sample at a time."""

    what: ClassVar[str]  # what a sample is called
    view: ClassVar[str]  # its script,
    opening: ClassVar[str]  # and the call that opens it
    widget: ClassVar[type]
    most: ClassVar[int]  # items that stay in memory

    def __init__(self, model: Any, dataset: Any):
        if not len(dataset):
            raise ValueError(
                f"the data set is empty, so there is nothing to look at; give one with {self.what}s"
            )
        self.model, self.dataset = model, dataset
        self.checkpoints: dict[str, Any] = {}
        self.held: OrderedDict[tuple[int, int | str], Item] = OrderedDict()

    def load(self, sample: int) -> Any:
        """What the data set has; `ValueError` says why it could not be loaded."""
        try:
            return self.fetch(sample)
        except Exception as error:  # a data set may fail in any way; the explorer goes on
            raise ValueError(
                f"{self.what} {sample} could not be loaded ({type(error).__name__}: {error}); look"
                " at another one"
            ) from error

    def item(self, sample: int, checkpoint: int | str | None = None) -> Item:
        """One sample's maps and all that is known of it; the last ones are held."""
        key = sample, self.checkpoint(checkpoint)
        if key not in self.held:
            self.held[key] = self.packed(*key)
            if len(self.held) > self.most:
                self.held.popitem(last=False)
        self.held.move_to_end(key)
        return self.held[key]

    def first(self, look: Any, tries: int) -> Any:
        """What `look` makes of the first sample that can be loaded."""
        for sample in range(min(tries, len(self.dataset))):
            try:
                return look(sample)
            except ValueError as error:
                failure = error
        raise ValueError(
            f"none of the first {self.what}s could be loaded; the last said: {failure}"
        )

    def checkpoint(self, number: int | None) -> int:
        """A checkpoint's number; None is the last."""
        last = max(0, len(self.checkpoints) - 1)
        if number is not None and not 0 <= number <= last:
            raise ValueError(
                f"checkpoint is {number}, expected 0 to {last}; give more checkpoints, or choose one"
                " of these"
            )
        return last if number is None else number

    def versions(self) -> list[int | str]:
        """The checkpoints of which a page holds each sample's maps."""
        return list(range(max(1, len(self.checkpoints))))

    def create_interactive_viewer(self, **state: Any) -> Any:
        """The explorer as a widget; its whole state is traits, which `state` sets.

        Raises `TraitError` for a state that cannot be.
        """
        return self.widget(self, **state)

    def to_html(
        self, path: str | Path, samples: int | Sequence[int] | None = None, title: str = ""
    ) -> Path:
        """Write the explorer of these samples (the first so many, or a list), at all checkpoints,
        as one offline page. It holds the model, if a page can run that: then patches can be painted
        over, and pictures of one's own looked at. Otherwise that needs the widget, and the page
        says so.
        """
        return write_page(path, self.page(samples, title))

    def page(
        self, samples: int | Sequence[int] | None = None, title: str = "", **state: Any
    ) -> str:
        """What `to_html` writes; `state` is what it opens with."""
        samples = self.shown if samples is None else samples
        if isinstance(samples, int):
            samples = range(min(samples, len(self.dataset)))
        if not samples:
            raise ValueError(f"no {self.what} was chosen for the page; give at least one")
        model, numbers = self.page_model()
        items, planes, at = [], [], 0
        for sample, checkpoint in self.held_by_page(samples):
            try:
                item = self.item(sample, checkpoint)
            except ValueError as error:
                item = self.failed(sample, checkpoint, error)
            # what does not depend on the checkpoint stands with the first
            shared = dict.fromkeys(("image", "clear", "outlines")) if checkpoint else {}
            if model and item.header.get("image") and not checkpoint:
                shared = {"image": self.exact_image(sample)}
            items.append(item.header | shared | {"at": at, "bytes": len(item.planes)})
            planes.append(item.planes)
            at += len(item.planes)
        opening = self.opening_state(samples) | state
        return fill_page(
            title or self.title,
            html.escape(self.summary(len(samples))),
            self.static_part(samples),
            self.meta()
            | {"kernel": False, "items": items, "state": opening}
            | ({"model": model | {"at": at}} if model else {}),
            b"".join([*planes, numbers]),
            explorer_script(self.view),
            self.opening,
        )

    def page_model(self) -> tuple[dict[str, Any], bytes]:
        """What a page needs to run the model by itself, and the model's numbers; empty if it cannot."""
        return {}, b""

    def held_by_page(self, samples: Sequence[int]) -> list[tuple[int, int | str]]:
        """The samples, each at every checkpoint, that a page of these samples holds."""
        return [(sample, version) for sample in samples for version in self.versions()]

    def failed(self, sample: int, checkpoint: int | str, error: ValueError) -> Item:
        """What travels in a sample's place."""
        return Item({"sample": sample, "checkpoint": checkpoint, "failed": str(error)}, b"")

    def meta(self) -> dict[str, Any]:
        """What the page knows before any sample."""
        bounds = {"bounds": self.bounds(), "checkpoints": list(self.checkpoints)}
        return bounds | {"count": len(self.dataset), "kernel": True} | self.described()
