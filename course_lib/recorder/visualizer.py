"""See the attention of a model at work: after one call, over the steps of a pipeline, over a folder
of images.
"""

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..data.drawn import to_image
from ..data.photographs import centre_square, read_picture
from ..files import fault_of_name
from ..models.inference import evaluating, to_cpu, to_model
from ..pictures.attention import (
    animate_attention,
    plot_attention_map,
    plot_heads,
    plot_part_attention,
    refill_attention_map,
)
from ..pictures.base import Animation, Picture
from ..shapes import Float
from .recorder import AttentionRecorder
from .recording import Record, as_shares, layer_name

__all__ = [
    "AttentionVisualizer",
    "get_attention_weights",
    "record_folder",
    "visualize_during_inference",
]


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

Weights = dict[str, Tensor]


class AttentionVisualizer:
    """Take attention weights from any model and draw them: one map, all heads, parts, or a film of
    steps.

    Between `register_hooks(model)` and `clear_hooks()` (or the end of a `with` block) every call of
    the model is recorded in `sequence`. Used in lesson 05.
    """

    def __init__(self) -> None:
        self._recorder: AttentionRecorder | None = None
        self._recording = None
        self._model: nn.Module | None = None  # which shows the maps, too

    def register_hooks(self, model: nn.Module) -> Self:
        """Record every call of `model` from now on; a model registered before is let go."""
        self.clear_hooks()
        recorder = AttentionRecorder(model)
        self._recording = recorder.__enter__()
        self._recorder = recorder
        if not hasattr(model, "attention_maps"):
            self._model, model.attention_maps = model, _LastMaps(self)
        return self

    def clear_hooks(self) -> None:
        """Stop recording; what was recorded stays."""
        self.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error) -> None:
        recorder, self._recorder = self._recorder, None
        model, self._model = self._model, None
        if model is not None:
            del model.attention_maps
        if recorder is not None:
            recorder.__exit__(*error)

    @property
    def attention_maps(self) -> Weights:
        """The maps of the last call since `register_hooks`, by name; empty before the first. Until
        `clear_hooks` the model has them, too, unless it has an attribute of this name.
        """
        return (self.sequence or [{}])[-1]

    @property
    def sequence(self) -> list[Weights]:
        """What was recorded since `register_hooks`: for each call of the model, name → weights."""
        return by_step(self._recording.records if self._recording is not None else [])

    def extract_attention_weights(
        self, model: nn.Module, *inputs, layer_idx: int | None = None, **kwargs
    ) -> Weights:
        """Run the model once, in evaluation mode, and return name → weights, `batch heads queries
        keys`, on the CPU.

        `layer_idx` picks one layer in the order they ran, with all attention in it
        (`blocks.5.attn1` and `blocks.5.attn2` are both of layer 5); -1 is the last. Raises
        `ValueError` if the model has no attention, or no such layer.
        """
        inputs, kwargs = to_model(model, inputs, kwargs)
        with evaluating(model), torch.no_grad(), AttentionRecorder(model) as recording:
            model(*inputs, **kwargs)
        steps = by_step(recording.records)
        if not steps:
            raise ValueError(
                f"{type(model).__name__} has no attention: nothing was recorded in this call; "
                + "; ".join(str(gap) for gap in recording.coverage())
            )
        weights = steps[-1]
        if layer_idx is None:
            return weights
        layers: dict[str, Weights] = {}
        for name, of_name in weights.items():
            layers.setdefault(_layer_of(name), {})[name] = of_name
        if not -len(layers) <= layer_idx < len(layers):
            raise ValueError(
                f"layer_idx={layer_idx} does not exist: {len(layers)} layers attended "
                f"({', '.join(layers)}); choose one of them"
            )
        return list(layers.values())[layer_idx]

    def visualize_attention_heatmap(
        self, weights: Tensor | Weights, path: str | Path, title: str = "Attention"
    ) -> Picture:
        """One map, the mean over the heads of the first item, saved at `path`."""
        return plot_attention_map(_one_map(weights), path, title=title)

    def visualize_multi_head_attention(
        self, weights: Tensor | Weights, path: str | Path, title: str = "Attention"
    ) -> Picture:
        """All heads of the first item on one scale, saved at `path`."""
        return _saved(plot_heads(_one_map(weights), title), path)

    def visualize_part_attention(
        self,
        weights: Tensor | Weights,
        num_parts: int,
        path: str | Path,
        title: str = "Attention between parts",
        keys_in_parts: bool | None = None,
    ) -> Picture:
        """How much each part asks each other part, for tokens in `num_parts` equal parts, saved at
        `path`; in cross-attention how much it asks each key. `keys_in_parts` says which, if not
        whether there are as many keys as queries.
        """
        picture = plot_part_attention(
            _one_map(weights), num_parts, title, keys_in_parts=keys_in_parts
        )
        return _saved(picture, path)

    def create_attention_animation(
        self, sequence: Iterable, path: str | Path, fps: float = 2
    ) -> Animation:
        """A GIF of one map a step, saved at `path`; of a sequence of dicts the first layer is
        shown.
        """
        maps = [next(iter(step.values())) if isinstance(step, dict) else step for step in sequence]
        return _saved(animate_attention(maps, fps), path)


class _LastMaps(Mapping):
    """The maps of the last call, whenever somebody looks."""

    def __init__(self, visualizer: AttentionVisualizer):
        self.visualizer = visualizer

    def __getitem__(self, name: str) -> Tensor:
        return self.visualizer.attention_maps[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.visualizer.attention_maps)

    def __len__(self) -> int:
        return len(self.visualizer.attention_maps)


def _one_map(weights: Tensor | Weights) -> Tensor:
    """The weights themselves, or the only ones of a dict."""
    if not isinstance(weights, Mapping):
        return weights
    if len(weights) != 1:
        some = ", ".join(repr(name) for name in list(weights)[:3])
        raise ValueError(
            f"there are {len(weights)} maps ({some}{', …' * (len(weights) > 3)}), and one picture"
            " shows one; give it by its name, as weights[name]"
        )
    return next(iter(weights.values()))


def _layer_of(name: str) -> str:
    """A module's layer: its name up to the last number; its own name if it has none."""
    numbered = re.match(r"(?:.*\.)?\d+(?=\.|$)", name.split(" ")[0])
    return numbered[0] if numbered else name.split(" ")[0]


def _saved(picture, path: str | Path):
    picture.save(path)
    return picture


def by_step(records: Iterable[Record]) -> list[Weights]:
    """For each call of the model, name → weights; a module's second map in one call is named `name
    [1]`.
    """
    steps: dict[int, Weights] = {}
    for record in records:
        if record.weights is not None:
            steps.setdefault(record.step, {})[layer_name(record)] = record.weights
    return [steps[step] for step in sorted(steps)]


def get_attention_weights(
    cross_attention: nn.Module, static: Tensor, dynamic: Tensor
) -> Float[Tensor, "batch heads queries keys"]:
    """The weights with which `cross_attention` lets the static side look at the dynamic side.
    Used in lesson 05.
    """
    return next(
        iter(
            AttentionVisualizer()
            .extract_attention_weights(cross_attention, static, dynamic)
            .values()
        )
    )


def visualize_during_inference(
    pipeline: Callable,
    model: nn.Module,
    image: Any,
    output_dir: str | Path,
    num_inference_steps: int = 20,
    item: int | None = None,
) -> list[Weights]:
    """Run a step-wise `pipeline` on `image`, save each layer of `model` at each step, and return
    the sequence.

    The pipeline calls `callback(step, timestep, latents)` every `callback_steps`, or diffusers'
    `callback_on_step_end`; of one that takes neither, the calls of the model, as many for each
    step, tell the steps. Where it calls the model several times a step, the last call is shown.
    `item` of the batch is drawn; unless given it is the first, and under guidance the first of the
    conditional half, which is the second. A model whose attention cannot be recorded may fill an
    attribute `attention_maps` (name → weights) itself. If the folder holds the pictures of another
    run, these go into `run_2` in it, and so on. Derived in lesson 13. Raises `ValueError` if the
    pipeline never ran the model.
    """
    accepted = inspect.signature(pipeline).parameters
    any_keyword = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    sequence, folder, seen = [], _folder_of_its_own(Path(output_dir)), 0
    drawn: dict[tuple, Picture] = {}

    def keep(step: int) -> None:
        nonlocal seen
        calls, seen = by_step(recording.records[seen:]), len(recording.records)
        show(step, calls[-1] if calls else _own_maps(model))

    def show(step: int, maps: Weights) -> None:
        if maps:
            sequence.append(maps)
        for name, weights in maps.items():
            file = re.sub(r"[^\w.-]+", "_", f"step_{step:03d}_{name}")
            chosen, remark = _shown_item(weights, item, pipeline, image)
            chosen, shares = as_shares(chosen)
            title = f"{name}, step {step}{remark}" + f", {shares}" * bool(shares)
            key = name, chosen.shape
            if key in drawn:
                refill_attention_map(drawn[key], chosen, title)
            else:
                drawn[key] = plot_attention_map(chosen, title=title)
            drawn[key].save(folder / f"{file}.png")

    def callback(step, timestep, latents):
        keep(int(step))

    def callback_on_step_end(pipe, step, timestep, callback_kwargs):
        keep(int(step))
        return callback_kwargs

    callbacks = {}
    if "callback_on_step_end" in accepted:
        callbacks = {"callback_on_step_end": callback_on_step_end}
    elif "callback" in accepted or any_keyword:
        callbacks = {"callback": callback, "callback_steps": 1}
    (image,) = to_model(model, image)
    with evaluating(model), AttentionRecorder(model) as recording:
        pipeline(image, num_inference_steps=num_inference_steps, **callbacks)
    if not callbacks:
        calls = by_step(recording.records)
        each = max(1, len(calls) // num_inference_steps)
        for step, maps in enumerate(calls[each - 1 :: each]):
            show(step, maps)
    if not sequence:
        raise ValueError(
            f"no step of attention was recorded: the pipeline ran, but {type(model).__name__} was"
            " not called (before a callback) or has no attention; pass the module that is called at"
            " each step"
        )
    return sequence


def _folder_of_its_own(folder: Path) -> Path:
    """The folder, or the first of `run_2`, `run_3`, … in it that holds no pictures of another run."""
    run, own = 1, folder
    while any(own.glob("step_*.png")):
        run += 1
        own = folder / f"run_{run}"
    if run > 1:
        print(f"{folder} holds the pictures of another run; those of this one are in {own}")
    return own


def _own_maps(model: nn.Module) -> Weights:
    """What the model filled `attention_maps` with: named maps, a list of them, or one."""
    maps = getattr(model, "attention_maps", None)
    if isinstance(maps, Tensor):
        maps = {"attention": maps}
    elif isinstance(maps, list | tuple):
        maps = {f"layer {index}": weights for index, weights in enumerate(maps)}
    if not isinstance(maps, Mapping):
        return {}
    return {
        str(name): to_cpu(weights.detach().clone())
        for name, weights in maps.items()
        if isinstance(weights, Tensor)
    }


def _shown_item(
    weights: Tensor, item: int | None, pipeline: Callable, image: Any
) -> tuple[Tensor, str]:
    """The item of a batch that is drawn, and what its title says of it."""
    batch = len(weights) if weights.ndim > 3 else 1
    conditional = item is None and batch % 2 == 0 and _is_guided(pipeline, image, batch)
    if item is None:
        item = batch // 2 if conditional else 0
    if not -batch <= item < batch:
        raise ValueError(f"item={item} does not exist: the batch has {batch}; choose one of them")
    if batch == 1:
        return weights, ""
    item %= batch
    remark = f", item {item} of {batch}" + " (conditional)" * conditional
    return weights[item : item + 1], remark


def _is_guided(pipeline: Callable, image: Any, batch: int) -> bool:
    """Whether half of the batch is unconditional: the pipeline says so, or there are two items for
    each image.
    """
    if isinstance(image, list | tuple) or (
        isinstance(image, Tensor) and not (image.ndim == 3 and len(image) in (1, 3, 4))
    ):
        images = len(image)
    else:  # one image, `channels height width`, or whatever else a pipeline takes
        images = 1
    if batch % (2 * images):
        return False
    says = getattr(getattr(pipeline, "func", pipeline), "do_classifier_free_guidance", None)
    if says is not None:
        return bool(says)
    scale = inspect.signature(pipeline).parameters.get("guidance_scale")
    if scale is not None and isinstance(scale.default, int | float):
        return scale.default > 1
    return batch == 2 * images


def record_folder(
    model: nn.Module, folder: str | Path, output_dir: str | Path, size: int = 112
) -> list[Path]:
    """Record the model, in evaluation mode, on each image of `folder` as
    `attention_<stem>.safetensors`; images of one stem (`a.png`, `a.jpg`) keep their suffix there.

    The model gets the picture as a person sees it (`read_picture`): the largest square in its
    middle, as `CelebA` cuts it, so that nothing is squeezed, as `1 3 size size` in [0, 1]. Files that are there already are not made again; a file that is no image, or
    whose name is too long or not in UTF-8, is named and passed over. Raises `FileNotFoundError` if
    the folder holds no image.
    """
    images = sorted(
        path for path in Path(folder).glob("*") if path.suffix.lower() in IMAGE_SUFFIXES
    )
    if not images:
        raise FileNotFoundError(
            f"no image in {folder}; give a folder of {', '.join(IMAGE_SUFFIXES)} files"
        )
    written = []
    for path, name in zip(images, _names_of_their_own(images), strict=True):
        if fault := fault_of_name(path):
            print(f"passed over {fault}")
            continue
        target = Path(output_dir) / f"attention_{name}.safetensors"
        if not target.exists():
            try:
                picture = read_picture(path)
            except (OSError, ValueError) as error:
                print(f"{path.name} is passed over: it is no readable image ({error})")
                continue
            image = to_image(centre_square(picture, None, size))
            with evaluating(model), torch.no_grad(), AttentionRecorder(model) as recording:
                model(*to_model(model, image[None]))
            recording.save(target)
        written.append(target)
    return written


def _names_of_their_own(paths: Sequence[Path]) -> list[str]:
    """Each file's stem; its whole name where another file's could be taken for it."""
    stems = Counter(path.stem.lower() for path in paths)
    whole = {path.name.lower() for path in paths}
    return [
        path.name if stems[path.stem.lower()] > 1 or path.stem.lower() in whole else path.stem
        for path in paths
    ]
