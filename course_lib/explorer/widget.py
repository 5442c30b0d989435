"""The explorers as anywidgets: their state is traits; the page asks the kernel only for what needs
the model.
"""

from typing import Any

import anywidget
from traitlets import (
    Bool,
    Bytes,
    Dict,
    Float,
    Int,
    List,
    TraitError,
    TraitType,
    Unicode,
    observe,
    validate,
)

from ..pictures.images import MAP_OPACITY
from .base import ATTENTION, OWN, explorer_script
from .drawing import drawing_of

__all__ = ["ExplorerWidget", "PersonalityWidget"]

PIN = ("sample", "checkpoint", "layer", "head", "attribute")

# what a bound means, where the number alone does not say it
MEANING = {"head": "; -1 is their mean", "token": "; -1 is the whole face", "mask": " patches"}


def state(trait: TraitType) -> TraitType:
    """A trait that is part of what the explorer shows."""
    return trait.tag(sync=True, state=True)


class _Viewer(anywidget.AnyWidget):
    """What the widgets share: the sample they open with, bounds of their state, and answers to the
    page.
    """

    _ipython_display_ = None  # ipywidgets 7 would show the widget without its still picture

    place: tuple[str, ...]  # the traits that a saved page opens with

    meta = Dict(read_only=True).tag(sync=True)
    # the sample it opens with, so that it paints at once
    first = Dict(read_only=True).tag(sync=True)
    planes = Bytes(read_only=True).tag(sync=True)

    def __init__(self, explorer: Any, state: dict[str, Any], **defaults: Any):
        names = self.state_names()
        if unknown := [name for name in state if name not in names]:
            raise TraitError(f"the explorer has no state {unknown[0]!r}; it has {', '.join(names)}")
        self.explorer, self.bounds = explorer, explorer.bounds()
        super().__init__(**(defaults | state))
        self.set_trait("meta", explorer.meta())
        checkpoint = getattr(self, "checkpoint", 0)
        try:
            header, planes = explorer.item(self.sample, checkpoint)
        except ValueError as error:
            header, planes = explorer.failed(self.sample, checkpoint, error)
        self.set_trait("first", header)
        self.set_trait("planes", planes)
        self.on_msg(self._receive)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The view, and for readers without a kernel a still picture and its sentence."""
        data, metadata = super()._repr_mimebundle_(**kwargs)
        state = {name: getattr(self, name) for name in self.state_names()}
        picture, sentence = self.explorer.still(state)
        return data | {"text/html": picture, "text/plain": sentence}, metadata

    @classmethod
    def state_names(cls) -> tuple[str, ...]:
        """The traits that are the explorer's state."""
        return tuple(cls.class_traits(state=True))

    def _in_bounds(self, proposal: dict) -> Any:
        """One of the table's options, or within its range; a list of highest values goes by the
        layer.
        """
        name, value = proposal["trait"].name, proposal["value"]
        if name in self.bounds["options"]:
            if value not in self.bounds["options"][name]:
                raise TraitError(self._refusal(name, value))
            return value
        low, high = self.bounds["ranges"][name]
        meaning = MEANING.get(name, "")
        if isinstance(high, list):
            layer = min(max(self.layer, 0), len(high) - 1)
            high = high[layer]
            meaning = f"; layer {layer} has {high + 1} heads, and -1 is their mean"
        if not low <= value <= high:
            raise TraitError(f"{name} is {value}, expected {low} to {high}{meaning}")
        return value

    def _refusal(self, name: str, value: Any) -> str:
        options = map(str, self.bounds["options"][name])
        return f"{name} is {value!r}, expected one of {', '.join(options)}"

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
        if content["kind"] == "item":
            item = self.explorer.item(content["sample"], content["checkpoint"])
            return {"header": item.header}, item.planes
        if content["kind"] == "page":
            opening = {name: getattr(self, name) for name in self.place}
            if opening["sample"] == OWN:
                del opening["sample"]
            return {}, self.explorer.page(content["samples"], **opening).encode()
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
    (so many of the most attended patches are painted over), `maps` (whose: "trained", "untrained",
    "mean map"), `covered` (patches that are painted over instead of those), `region` (whether what
    decides the attribute is painted over instead), `mode` ("explore", "point" first, "draw" a
    face), `drawing` (the face that is drawn as sample -1; see `draw`), `clear` (over the clear
    twin), `together` (all heads, each in its colour), `lift`, `smooth`, `outlined` and `strength`
    (of the map over the image), `drawer` (what is open below: "details", "weight", "share" or
    nothing). What cannot be raises `TraitError`.
    """

    _esm = explorer_script()
    place = PIN

    sample = state(Int(0))
    checkpoint = state(Int(0))
    layer = state(Int(0))
    head = state(Int(-1))
    attribute = state(Unicode(""))
    patch = state(Int(-1))
    rarity = state(Unicode("all"))
    sort = state(Unicode("probability"))
    outcome = state(Unicode("any"))
    pinned = state(List(Dict()))
    mask = state(Int(0))
    covered = state(List(Int()))
    region = state(Bool(False))
    maps = state(Unicode("trained"))
    mode = state(Unicode("explore"))
    drawing = state(Dict())
    clear = state(Bool(True))
    together = state(Bool(False))
    lift = state(Bool(False))
    smooth = state(Bool(False))
    drawer = state(Unicode(""))
    outlined = state(Bool(True))
    strength = state(Float(MAP_OPACITY))
    own = Unicode("", help="the name of the image of one's own; set by show_image").tag(sync=True)

    def __init__(self, explorer: Any, **state: Any):
        sample, attribute = state.get("sample", 0), state.get("attribute", "")
        opening = {}
        if state.get("drawing"):
            opening["sample"] = OWN
            opening["attribute"] = next(
                iter(state["drawing"].get("attributes", ())), explorer.names[0]
            )
        elif "sample" not in state and attribute in ("", *explorer.names):
            opening = explorer.first_view(attribute=attribute)
        if "attribute" not in opening:
            opening["attribute"] = explorer.surest(
                sample if isinstance(sample, int) and sample >= OWN else 0
            )
        super().__init__(
            explorer,
            state,
            **opening,
            checkpoint=explorer.checkpoint(None),
            layer=len(explorer.layers) - 1,
            sort="probability" if explorer.frequencies is None else "rarity",
            own=explorer.own_name,
        )

    def show_image(self, image: Any, name: str = "") -> None:
        """Explore an image of one's own, a PNG or JPEG: a path or bytes; `ValueError` says what is
        wrong with it.
        """
        self.explorer.show_image(image, name)
        self.drawing = {}
        self.own = ""  # a second image of the same name is news, too
        self.own, self.sample = self.explorer.own_name, OWN

    def draw(self, attributes: Any = (), **sliders: float) -> None:
        """Draw a face with these attributes and look at it; `sliders` are those of `SLIDERS`, such as
        `turn` and `blur`. What cannot be drawn raises `TraitError`.
        """
        self.drawing = {"attributes": list(attributes)} | sliders
        self.sample = OWN

    _bounded = validate(
        "checkpoint", "layer", "head", "attribute", "patch", "rarity", "sort", "outcome", "mask",
        "strength", "maps", "drawer", "mode",
    )(_Viewer._in_bounds)  # fmt: skip

    @validate("sample")
    def _valid_sample(self, proposal):
        if proposal["value"] == OWN and self.explorer.own is None and not self.drawing:
            raise TraitError(
                "sample is -1, an image of your own, but there is none; call show_image(path) first"
            )
        return self._in_bounds(proposal)

    @validate("drawing")
    def _valid_drawing(self, proposal):
        if not proposal["value"]:
            return {}
        try:
            return drawing_of(proposal["value"])
        except ValueError as error:
            raise TraitError(str(error)) from error

    @observe("drawing")
    def _draw(self, change):
        if change["new"]:
            self.explorer.draw(change["new"])
            self.own = self.explorer.own_name

    @validate("covered")
    def _valid_patches(self, proposal):
        covered, last = proposal["value"], self.explorer.tokens - 1
        if len(set(covered)) < len(covered) or not all(0 <= patch <= last for patch in covered):
            raise TraitError(f"covered is {covered}, expected different patches from 0 to {last}")
        return covered

    @validate("pinned")
    def _valid_pins(self, proposal):
        ranges = self.bounds["ranges"]
        for pin in proposal["value"]:
            fits = set(pin) == set(PIN) and pin["attribute"] in self.explorer.names
            for name in ("sample", "checkpoint", "layer", "head"):
                fits = fits and isinstance(pin[name], int)
                if fits:
                    low, high = ranges[name]
                    fits = low <= pin[name] <= (high[pin["layer"]] if name == "head" else high)
            if not fits:
                raise TraitError(
                    f"{pin} cannot be pinned; expected a dict of {', '.join(PIN)}, each as the"
                    " trait of that name may be"
                )
        return proposal["value"]

    def _refusal(self, name: str, value: Any) -> str:
        if name == "attribute":
            names = ", ".join(self.explorer.names)
            return f"no attribute is called {value!r}; the names are {names}"
        if self.explorer.frequencies is None and value in ("rare", "common", "rarity"):
            return (
                f"{name} is {value!r}, but the frequencies are unknown; use"
                " ImbalanceAwareAttentionExplorer(model, dataset, frequencies)"
            )
        return super()._refusal(name, value)

    @observe("layer")
    def _fewer_heads(self, change):
        if self.head >= self.explorer.layers[change["new"]]["heads"]:
            self.head = -1

    def _answer(self, content: dict, buffers: list) -> tuple[dict, bytes]:
        explorer, kind = self.explorer, content["kind"]
        if kind == "outcomes":
            return self._outcomes(**content)
        if kind == "find":
            return {"sample": explorer.find(content["words"], content["start"])}, b""
        if kind == "mask":
            named = ("sample", "layer", "head", "checkpoint", "count", "patches")
            which = {name: content[name] for name in named}
            removal = explorer.remove(attribute=explorer.names.index(content["attribute"]), **which)
            return removal._asdict() | {"random": removal.random.tolist()}, b""
        if kind == "image":
            self.show_image(bytes(buffers[0]), content["name"])
            return {}, b""
        return super()._answer(content, buffers)

    def _outcomes(
        self, attribute: str, checkpoint: int, predict: bool, ask: str, kind: str
    ) -> tuple[dict, bytes]:
        """How each sample came out, a byte each, or how many have to be predicted first."""
        explorer, count = self.explorer, len(self.explorer.dataset)
        if checkpoint not in explorer.predictions and not predict:
            return {"missing": count}, b""

        def tell(done: int) -> None:
            self.send({"kind": "progress", "ask": ask, "done": done, "of": count})

        predictions, index = (
            explorer.predict(checkpoint, told=tell),
            explorer.names.index(attribute),
        )
        return {}, predictions.outcomes(index, float(explorer.thresholds[index])).tobytes()


class PersonalityWidget(_Viewer):
    """The personality explorer in a notebook; Python reads, sets, observes and links its traits.

    `sample` is the clip (-1 is one of one's own), `trait` a trait's name or "attention", `head` that of the attention (-1 is
    the mean), `token` the face token whose attention is shown (-1 is the whole face), `step` the
    time step, and `playing` says whether the clip plays, which moves `step`, at `speed` (0.25, 0.5,
    1 or 2). What cannot be raises `TraitError`.
    """

    _esm = explorer_script("clips.js")
    place = ("sample", "trait", "head", "token", "step")

    sample = state(Int(0))
    trait = state(Unicode(ATTENTION))
    head = state(Int(-1))
    token = state(Int(-1))
    step = state(Int(0))
    playing = state(Bool(True))
    speed = state(Float(1.0))
    own = Unicode("", help="the name of the clip of one's own; set by show_clip").tag(sync=True)

    def __init__(self, explorer: Any, **state: Any):
        super().__init__(explorer, state, own=explorer.own_name)

    def show_clip(self, video: Any, name: str = "") -> None:
        """Explore a clip of one's own, a video file: a path or its bytes; `ValueError` says what is
        wrong with it.
        """
        self.explorer.show_clip(video, name)
        self.own = ""  # a second clip of the same name is news, too
        self.own, self.sample = self.explorer.own_name, OWN

    _bounded = validate("trait", "head", "token", "step", "speed")(_Viewer._in_bounds)

    @validate("sample")
    def _valid_sample(self, proposal):
        if proposal["value"] == OWN and self.explorer.own is None:
            raise TraitError(
                "sample is -1, a clip of your own, but there is none; call show_clip(path) first"
            )
        return self._in_bounds(proposal)

    def _answer(self, content: dict, buffers: list) -> tuple[dict, bytes]:
        if content["kind"] == "clip":
            self.show_clip(bytes(buffers[0]), content["name"])
            return {}, b""
        return super()._answer(content, buffers)
