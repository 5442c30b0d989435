"""Finished models on disk: numbered versions that say what they are, are checked on the way back, and hold no code."""

import inspect
import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import course_lib

from .. import files
from ..models.backbones import fill

__all__ = ["ModelSerializer"]


class ModelSerializer:
    """Models in ``folder``: ``NAME/0001/`` holds ``model.safetensors`` and ``metadata.json``. Derived in lesson 06."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def versions(self, name: str) -> list[int]:
        """The finished versions of ``name``; one that a kill left without metadata does not count."""
        return sorted(int(path.parent.name) for path in self._home(name).glob("[0-9]*/metadata.json"))

    def save(self, model: nn.Module, name: str, config: Mapping[str, Any], data: Any = None, scores: Any = None) -> int:
        """Keep ``model`` as the next version of ``name``, and return its number.

        ``config`` holds the arguments that build it; ``data`` (what it was trained on) and ``scores`` are any plain
        values. Raises ``ValueError`` if ``config`` builds another model or something is not plain.
        """
        try:
            built_with = inspect.signature(type(model)).bind(**config)
            built_with.apply_defaults()                 # which may be others tomorrow
            with torch.device("meta"):                  # shapes without memory
                twin = type(model)(**built_with.arguments)
            plain = json.loads(json.dumps({"config": built_with.arguments, "data": data, "scores": scores}))
        except TypeError as error:
            raise ValueError(f"config, data or scores of {name!r} do not fit ({error}); give the arguments that built "
                             "the model, and plain numbers and text (tensor.tolist())") from error
        if different := _first_difference(_shapes(twin), _shapes(model)):
            raise ValueError(f"config {dict(config)} builds a {type(model).__name__} whose {different} differs from "
                             "this model's; give the arguments that built it")
        number = 1 + max((int(path.name) for path in self._home(name).glob("[0-9]*")), default=0)
        folder = self._home(name) / f"{number:04d}"
        folder.mkdir(parents=True)                      # claims the number
        metadata = {"model": type(model).__name__, "version": number, **plain, "date": datetime.now(UTC).isoformat(),
                    "libraries": {"python": platform.python_version(), "torch": torch.__version__,
                                  "course_lib": course_lib.__version__}}
        files.save_tensors(folder / "model.safetensors", model.state_dict(), metadata)
        files.write_json(folder / "metadata.json",
                         metadata | {"sha256": files.sha256(folder / "model.safetensors")})
        return number

    def load(self, model_class: type[nn.Module], name: str, version: int | None = None,
             config: Mapping[str, Any] | None = None) -> tuple[nn.Module, dict[str, Any]]:
        """The latest, or exactly that, version of ``name`` in evaluation mode, and its metadata.

        Raises ``FileNotFoundError`` for a version that is not there, ``ValueError`` if weights or metadata were
        altered, belong to another class, or differ from what ``config`` asks for.
        """
        folder = self._folder(name, version)
        path, metadata = folder / "model.safetensors", files.read_json(folder / "metadata.json")
        if not path.is_file() or files.sha256(path) != metadata.get("sha256"):
            raise ValueError(f"{path} is not the file its metadata.json describes (its SHA-256 differs); copy both "
                             "again, or load another version")
        tensors, inside = files.load_tensors(path)
        if different := _first_difference(inside | {"sha256": metadata["sha256"]}, metadata):
            raise ValueError(f"{folder / 'metadata.json'} disagrees with the weights about {different!r}; it was "
                             "altered, so copy it again, or load another version")
        if metadata["model"] != model_class.__name__:
            raise ValueError(f"{folder} holds a {metadata['model']}, not a {model_class.__name__}; load it as such")
        built = metadata["config"]
        if different := next((key for key in config or () if key not in built or built[key] != config[key]), None):
            raise ValueError(f"{folder} was built with {different}={built.get(different)!r}, not "
                             f"{config[different]!r}; load another version, or train one")
        model = model_class(**built)
        fill(model, tensors, str(path))
        return model.eval(), metadata

    def export(self, model_class: type[nn.Module], name: str, inputs: Sequence[Tensor],
               version: int | None = None) -> Path:
        """Write ``model.pt2`` beside a version: ``torch.export.load(path).module()`` predicts without this library.

        ``inputs`` are examples, a batch of at least 2; the program takes any number. Raises what ``load`` raises.
        """
        if min(map(len, inputs)) < 2:
            raise ValueError("a batch of 1 would fix the program to batches of 1; give examples of at least 2 items")
        model, metadata = self.load(model_class, name, version)
        batch = torch.export.Dim("batch")
        program = torch.export.export(model, tuple(inputs), dynamic_shapes=tuple({0: batch} for _ in inputs))
        path = self._folder(name, metadata["version"]) / "model.pt2"
        with files.atomic(path) as temporary:
            torch.export.save(program, temporary)
        return path

    def _home(self, name: str) -> Path:
        if Path(name).name != name or not name.strip("."):
            raise ValueError(f"{name!r} is no name for a model; use a plain word, without slashes or dots alone")
        return self.folder / name

    def _folder(self, name: str, version: int | None) -> Path:
        versions = self.versions(name)
        if not versions or version not in (None, *versions):
            raise FileNotFoundError(f"there is no {name!r}{'' if version is None else f' version {version}'} in "
                                    f"{self.folder}; it holds the versions {versions or 'of nothing by that name'}")
        return self._home(name) / f"{version or versions[-1]:04d}"


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _first_difference(one: Mapping, other: Mapping) -> str | None:
    """The first key whose values differ or that only one of them has."""
    return next((key for key in (*one, *other) if key not in one or key not in other or one[key] != other[key]), None)
