"""The explorers as anywidgets: their state is traits; the page asks the kernel only for what needs
the model.
"""

import math
from typing import Any

import anywidget
from traitlets import (
    Bool,
    Bytes,
    Dict,
    Enum,
    Float,
    Int,
    List,
    TraitError,
    Unicode,
    observe,
    validate,
)

from .packing import ATTENTION, OWN, explorer_script

__all__ = ["ExplorerWidget", "PersonalityWidget"]

PIN = ("sample", "checkpoint", "layer", "head", "attribute")


class _Viewer(anywidget.AnyWidget):
    """What the widgets share: the sample they open with, bounds of their state, and answers to the
    page.
    """

    meta = Dict(read_only=True).tag(sync=True)
    # the sample it opens with, so that it paints at once
    first = Dict(read_only=True).tag(sync=True)
    planes = Bytes(read_only=True).tag(sync=True)

    def __init__(self, explorer: Any, state: dict[str, Any], **defaults: Any):
        unknown = [name for name in state if name not in self.state_names()]
        if unknown:
            raise TraitError(
                f"the explorer has no state {unknown[0]!r}; it has {', '.join(self.state_names())}"
            )
        self.explorer = explorer
        super().__init__(**(defaults | state))
        self.set_trait("meta", explorer.meta())
        self.on_msg(self._receive)

    @classmethod
    def state_names(cls) -> tuple[str, ...]:
        """The traits that are the explorer's state."""
        raise NotImplementedError

    def _open(self, item: Any, **which: int) -> None:
        """Take along the sample that it opens with, or why there is none."""
        try:
            header, planes = item(*which.values())
            self.set_trait("first", header)
            self.set_trait("planes", planes)
        except ValueError as error:
            self.set_trait("first", which | {"failed": str(error)})

    def _within(self, proposal: Any, low: int, high: int, what: str = "") -> int | float:
        if not low <= proposal["value"] <= high:
            raise TraitError(
                f"{proposal['trait'].name} is {proposal['value']}, expected {low} to {high}{what}"
            )
        return proposal["value"]

    def _receive(self, _, content: dict, buffers: list) -> None:
        """Answer a question of the page, whatever goes wrong."""
        try:
            answer, planes = self._answer(content, buffers)
        except Exception as error:  # an exception here would be lost in the kernel's log
            answer, planes = {"failed": str(error) or type(error).__name__}, b""
        self.send(
            {"kind": "answer", "ask": content.get("ask"), **answer}, [planes] if planes else []
        )

    def _answer(self, content: dict, buffers: list) -> tuple[dict, bytes]:
        raise ValueError(
            f"the kernel does not know the question {content['kind']!r}; save the notebook and open"
            " it again"
        )


class ExplorerWidget(_Viewer):
    """The explorer in a notebook; Python reads, sets, observes and links its traits, and the view
    follows them.

    `sample` (-1 is an image of one's own), `checkpoint`, `layer`, `head` (-1 is the mean),
    `attribute` (a name), `patch` (the one whose onlookers are listed; -1 none), `rarity`, `sort`,
    `outcome` (which samples are stepped through), `pinned` (what is kept for comparison), `mask`
    (so many of the most attended patches are painted over), `lift`, `outlined` and `strength` (of
    the map over the image). What cannot be raises `TraitError`.
    """

    _esm = explorer_script()

    sample = Int(0).tag(sync=True)
    checkpoint = Int(0).tag(sync=True)
    layer = Int(0).tag(sync=True)
    head = Int(-1).tag(sync=True)
    attribute = Unicode("").tag(sync=True)
    patch = Int(-1).tag(sync=True)
    rarity = Enum(["all", "rare", "common"], "all").tag(sync=True)
    sort = Enum(["probability", "rarity", "error"], "probability").tag(sync=True)
    outcome = Enum(["any", "found", "missed", "false alarm", "off region"], "any").tag(sync=True)
    pinned = List(Dict()).tag(sync=True)
    mask = Int(0).tag(sync=True)
    lift = Bool(False).tag(sync=True)
    outlined = Bool(True).tag(sync=True)
    strength = Float(0.7).tag(sync=True)
    own = Unicode("", help="the name of the image of one's own; set by show_image").tag(sync=True)

    def __init__(self, explorer: Any, **state: Any):
        sample = state.get("sample", 0)
        super().__init__(
            explorer,
            state,
            attribute=explorer.surest(sample if isinstance(sample, int) else 0),
            checkpoint=max(0, len(explorer.checkpoints) - 1),
            layer=len(explorer.layers) - 1,
            sort="probability" if explorer.frequencies is None else "rarity",
            own=explorer.own_name,
        )
        self._open(explorer.item, sample=self.sample, checkpoint=self.checkpoint)

    @classmethod
    def state_names(cls) -> tuple[str, ...]:
        """The traits that are the explorer's state."""
        return (
            *PIN,
            "patch",
            "rarity",
            "sort",
            "outcome",
            "pinned",
            "mask",
            "lift",
            "outlined",
            "strength",
        )

    def show_image(self, image: Any, name: str = "") -> None:
        """Explore an image of one's own, a PNG or JPEG: a path or bytes; `ValueError` says what is
        wrong with it.
        """
        self.explorer.show_image(image, name)
        self.own = ""  # a second image of the same name is news, too
        self.own, self.sample = self.explorer.own_name, OWN

    # ---------------------------------------------------------------- what can be

    @validate("sample")
    def _valid_sample(self, proposal):
        if proposal["value"] == OWN and self.explorer.own is None:
            raise TraitError(
                "sample is -1, an image of your own, but there is none; call show_image(path) first"
            )
        return self._within(proposal, OWN, len(self.explorer.dataset) - 1)

    @validate("checkpoint")
    def _valid_checkpoint(self, proposal):
        return self._within(proposal, 0, max(0, len(self.explorer.checkpoints) - 1))

    @validate("layer")
    def _valid_layer(self, proposal):
        return self._within(proposal, 0, len(self.explorer.layers) - 1)

    @validate("head")
    def _valid_head(self, proposal):
        layer = min(max(self.layer, 0), len(self.explorer.layers) - 1)
        heads = self.explorer.layers[layer]["heads"]
        return self._within(
            proposal, -1, heads - 1, f"; layer {layer} has {heads} heads, and -1 is their mean"
        )

    @validate("patch", "mask")
    def _valid_patches(self, proposal):
        counts = proposal["trait"].name == "mask"
        return self._within(
            proposal, 0 if counts else -1, self.explorer.tokens - (not counts), " patches" * counts
        )

    @validate("strength")
    def _valid_strength(self, proposal):
        if not math.isfinite(proposal["value"]):
            raise TraitError(f"strength is {proposal['value']}, expected 0 to 1")
        return self._within(proposal, 0, 1)

    @validate("attribute")
    def _valid_attribute(self, proposal):
        if proposal["value"] not in self.explorer.names:
            raise TraitError(
                f"no attribute is called {proposal['value']!r}; the names are "
                f"{', '.join(self.explorer.names)}"
            )
        return proposal["value"]

    @validate("rarity", "sort")
    def _valid_rarity(self, proposal):
        if self.explorer.frequencies is None and proposal["value"] in ("rare", "common", "rarity"):
            raise TraitError(
                f"{proposal['trait'].name} is {proposal['value']!r}, but the frequencies are"
                " unknown; use ImbalanceAwareAttentionExplorer(model, dataset, frequencies)"
            )
        return proposal["value"]

    @validate("pinned")
    def _valid_pins(self, proposal):
        bounds = {
            "sample": len(self.explorer.dataset),
            "checkpoint": max(1, len(self.explorer.checkpoints)),
            "layer": len(self.explorer.layers),
        }
        for pin in proposal["value"]:
            fits = (
                set(pin) == set(PIN)
                and pin["attribute"] in self.explorer.names
                and all(
                    isinstance(pin[name], int)
                    and (OWN if name == "sample" else 0) <= pin[name] < bound
                    for name, bound in bounds.items()
                )
            )
            if not fits or not -1 <= pin["head"] < self.explorer.layers[pin["layer"]]["heads"]:
                raise TraitError(
                    f"{pin} cannot be pinned; expected a dict of {', '.join(PIN)}, each as the"
                    " trait of that name may be"
                )
        return proposal["value"]

    @observe("layer")
    def _fewer_heads(self, change):
        if self.head >= self.explorer.layers[change["new"]]["heads"]:
            self.head = -1

    # ---------------------------------------------------------------- what the page asks for

    def _answer(self, content: dict, buffers: list) -> tuple[dict, bytes]:
        explorer, kind = self.explorer, content["kind"]
        if kind == "item":
            item = explorer.item(content["sample"], content["checkpoint"])
            return {"header": item.header}, item.planes
        if kind == "outcomes":
            if content["checkpoint"] not in explorer.predictions and not content["predict"]:
                return {"missing": len(explorer.dataset)}, b""
            found = explorer.predict(
                content["checkpoint"],
                told=lambda done: self.send(
                    {
                        "kind": "progress",
                        "ask": content["ask"],
                        "done": done,
                        "of": len(explorer.dataset),
                    }
                ),
            )
            index = explorer.names.index(content["attribute"])
            return {}, found.outcomes(index, float(explorer.thresholds[index])).tobytes()
        if kind == "find":
            return {"sample": explorer.find(content["words"], content["start"])}, b""
        if kind == "mask":
            index = explorer.names.index(content["attribute"])
            removal = explorer.remove(
                content["sample"],
                index,
                content["layer"],
                content["head"],
                content["count"],
                content["checkpoint"],
            )
            return {**removal._asdict(), "random": removal.random.tolist()}, b""
        if kind == "image":
            self.show_image(bytes(buffers[0]), content["name"])
            return {}, b""
        if kind == "page":
            return (
                {},
                explorer.page(
                    content["samples"],
                    **{
                        name: getattr(self, name)
                        for name in ("attribute", "layer", "head", "checkpoint", "sample")
                        if not (name == "sample" and self.sample == OWN)
                    },
                ).encode(),
            )
        return super()._answer(content, buffers)


class PersonalityWidget(_Viewer):
    """The personality explorer in a notebook; Python reads, sets, observes and links its traits.

    `sample` is the clip, `trait` a trait's name or "attention", `head` that of the attention (-1 is
    the mean), `token` the face token whose listening is shown (-1 is the whole face), `step` the
    time step, and `playing` says whether the clip plays, which moves `step`. What cannot be raises
    `TraitError`.
    """

    _esm = explorer_script("clips.js")

    sample = Int(0).tag(sync=True)
    trait = Unicode(ATTENTION).tag(sync=True)
    head = Int(-1).tag(sync=True)
    token = Int(-1).tag(sync=True)
    step = Int(0).tag(sync=True)
    playing = Bool(True).tag(sync=True)

    def __init__(self, explorer: Any, **state: Any):
        super().__init__(explorer, state)
        self._open(explorer.item, sample=self.sample)

    @classmethod
    def state_names(cls) -> tuple[str, ...]:
        """The traits that are the explorer's state."""
        return "sample", "trait", "head", "token", "step", "playing"

    @validate("sample", "head", "token", "step")
    def _valid_place(self, proposal):
        name, explorer = proposal["trait"].name, self.explorer
        counts = {
            "sample": len(explorer.dataset),
            "head": explorer.heads,
            "token": explorer.tokens,
            "step": explorer.steps,
        }
        return self._within(
            proposal,
            -1 if name in ("head", "token") else 0,
            counts[name] - 1,
            {"head": "; -1 is their mean", "token": "; -1 is the whole face"}.get(name, ""),
        )

    @validate("trait")
    def _valid_trait(self, proposal):
        known = (ATTENTION, *self.explorer.names)
        if proposal["value"] not in known:
            raise TraitError(f"trait is {proposal['value']!r}, expected one of {', '.join(known)}")
        return proposal["value"]

    def _answer(self, content: dict, buffers: list) -> tuple[dict, bytes]:
        if content["kind"] == "item":
            header, planes = self.explorer.item(content["sample"])
            return {"header": header}, planes
        if content["kind"] == "page":
            names = ("sample", "trait", "head", "token", "step")
            return (
                {},
                self.explorer.page(
                    content["samples"], **{name: getattr(self, name) for name in names}
                ).encode(),
            )
        return super()._answer(content, buffers)
