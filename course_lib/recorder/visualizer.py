"""See the attention of a model at work: after one call, over the steps of a pipeline, over a folder
of images.
"""

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..data.drawn import to_image
from ..data.photographs import read_picture
from ..looking.agreement import Maps
from ..looking.attention import attention_relevance
from ..models.attributes import AttributeModel
from ..models.inference import evaluating, in_chunks, to_model
from ..pictures.attention import (
    animate_attention,
    plot_attention_map,
    plot_heads,
    plot_part_attention,
)
from ..pictures.base import Animation, Picture
from ..shapes import Float
from .recorder import AttentionRecorder
from .recording import Record, layer_name

__all__ = [
    "AttentionVisualizer",
    "attention_per_attribute",
    "get_attention_weights",
    "record_folder",
    "visualize_during_inference",
]


def attention_per_attribute(model: AttributeModel, images: Tensor, chunk: int = 100) -> Maps:
    """Attention × gradient of each attribute's own logit, its positive part, the mean over the last
    layer's heads.

    Where listening raises the logit. No query hears another, so the gradient of the sum of all
    logits is, in each row, that of the row's own. Source: Chefer et al., arXiv 2103.15679, equation
    5. Derived in lesson 09.
    """

    def explain(part: Tensor) -> Tensor:
        part = part.detach().requires_grad_()
        with torch.enable_grad(), AttentionRecorder(model, gradients=True) as recording:
            torch.autograd.grad(model(part).sum(), part)
        last = recording.records[-1]
        return attention_relevance(last.weights, last.gradient).unflatten(-1, (7, 7))

    return in_chunks(model, explain, images, chunk)


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

Weights = dict[str, Tensor]


class AttentionVisualizer:
    """Take attention weights from any model and draw them: one map, all heads, parts, or a film of
    steps.

    Between `register_hooks(model)` and `clear_hooks()` (or the end of a `with` block) every call of
    the model is recorded in `sequence`. Derived in lesson 04.
    """

    def __init__(self) -> None:
        self._recorder: AttentionRecorder | None = None
        self._recording = None

    def register_hooks(self, model: nn.Module) -> Self:
        """Record every call of `model` from now on; a model registered before is let go."""
        self.clear_hooks()
        recorder = AttentionRecorder(model)
        self._recording = recorder.__enter__()
        self._recorder = recorder
        return self

    def clear_hooks(self) -> None:
        """Stop recording; what was recorded stays."""
        self.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.__exit__(*error)

    @property
    def sequence(self) -> list[Weights]:
        """What was recorded since `register_hooks`: for each call of the model, name → weights."""
        return by_step(self._recording.records if self._recording is not None else [])

    def extract_attention_weights(
        self, model: nn.Module, *inputs, layer_idx: int | None = None, **kwargs
    ) -> Weights:
        """Run the model once, in evaluation mode, and return name → weights, `batch heads queries
        keys`, on the CPU.

        `layer_idx` picks one layer in the order they ran; -1 is the last. Raises `ValueError` if
        the model has no attention, or no such layer.
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
        if not -len(weights) <= layer_idx < len(weights):
            raise ValueError(
                f"layer_idx={layer_idx} does not exist: {len(weights)} layers attended "
                f"({', '.join(weights)}); choose one of them"
            )
        name = list(weights)[layer_idx]
        return {name: weights[name]}

    def visualize_attention_heatmap(
        self, weights: Tensor, path: str | Path, title: str = "Attention"
    ) -> Picture:
        """One map, the mean over the heads of the first item, saved at `path`."""
        return plot_attention_map(weights, path, title=title)

    def visualize_multi_head_attention(
        self, weights: Tensor, path: str | Path, title: str = "Attention"
    ) -> Picture:
        """All heads of the first item on one scale, saved at `path`."""
        return _saved(plot_heads(weights, title), path)

    def visualize_part_attention(
        self,
        weights: Tensor,
        num_parts: int,
        path: str | Path,
        title: str = "Attention between parts",
    ) -> Picture:
        """How much each part asks each other part, for tokens in `num_parts` equal parts, saved at
        `path`.
        """
        return _saved(plot_part_attention(weights, num_parts, title), path)

    def create_attention_animation(
        self, sequence: Iterable, path: str | Path, fps: float = 2
    ) -> Animation:
        """A GIF of one map a step, saved at `path`; of a sequence of dicts the first layer is
        shown.
        """
        maps = [next(iter(step.values())) if isinstance(step, dict) else step for step in sequence]
        return _saved(animate_attention(maps, fps), path)


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
    Derived in lesson 04.
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
) -> list[Weights]:
    """Run a step-wise `pipeline` on `image`, save each layer of `model` at each step, and return
    the sequence.

    The pipeline calls `callback(step, timestep, latents)` every `callback_steps`, or diffusers'
    `callback_on_step_end`. Where it calls the model several times a step, the last call is shown.
    Derived in lesson 10. Raises `ValueError` if the pipeline takes neither callback or never ran
    the model, and if the folder holds pictures of another run.
    """
    accepted = inspect.signature(pipeline).parameters
    any_keyword = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    sequence, folder, seen = [], Path(output_dir), 0
    if any(folder.glob("step_*.png")):
        raise ValueError(
            f"{folder} holds the pictures of another run, and the two would mix; give an empty"
            " folder, or delete its step_*.png"
        )

    def keep(step: int) -> None:
        nonlocal seen
        calls, seen = by_step(recording.records[seen:]), len(recording.records)
        if calls:
            sequence.append(calls[-1])
            for name, weights in calls[-1].items():
                file = re.sub(r"[^\w.-]+", "_", f"step_{step:03d}_{name}")
                plot_attention_map(weights, folder / f"{file}.png", title=f"{name}, step {step}")

    def callback(step, timestep, latents):
        keep(int(step))

    def callback_on_step_end(pipe, step, timestep, callback_kwargs):
        keep(int(step))
        return callback_kwargs

    if "callback_on_step_end" in accepted:
        callbacks = {"callback_on_step_end": callback_on_step_end}
    elif "callback" in accepted or any_keyword:
        callbacks = {"callback": callback, "callback_steps": 1}
    else:
        raise ValueError(
            f"the pipeline takes {', '.join(accepted)} but neither `callback` nor"
            " `callback_on_step_end`; let it call callback(step, timestep, latents) after each"
            " step"
        )
    (image,) = to_model(model, image)
    with evaluating(model), AttentionRecorder(model) as recording:
        pipeline(image, num_inference_steps=num_inference_steps, **callbacks)
    if not sequence:
        raise ValueError(
            f"no step of attention was recorded: the pipeline ran, but {type(model).__name__} was"
            " not called before a callback or has no attention; pass the module that is called at"
            " each step"
        )
    return sequence


def record_folder(
    model: nn.Module, folder: str | Path, output_dir: str | Path, size: int = 112
) -> list[Path]:
    """Record the model, in evaluation mode, on each image of `folder` as
    `attention_<stem>.safetensors`; images of one stem (`a.png`, `a.jpg`) keep their suffix there.

    The model gets the whole picture as a person sees it (`read_picture`), resized to `1 3 size
    size` in [0, 1]. Files that are there already are not made again, and a file that is no image is
    named and passed over. Raises `FileNotFoundError` if the folder holds no image.
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
        target = Path(output_dir) / f"attention_{name}.safetensors"
        if not target.exists():
            try:
                picture = read_picture(path)
            except (OSError, ValueError) as error:
                print(f"{path.name} is passed over: it is no readable image ({error})")
                continue
            image = to_image(np.asarray(Image.fromarray(picture).resize((size, size))))
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
