"""Models on disk: runs that are cut off and go on, and finished models in numbered versions.
Neither holds code.
"""

import hashlib
import inspect
import io
import json
import pickle
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import course_lib

from .. import files
from ..models.backbones import fill
from ..models.inference import to_model
from .callbacks import Watch
from .fit import Run
from .lock import locked

__all__ = ["Checkpoints", "ModelSerializer"]

PROGRESS = ("epoch", "batch", "step", "total_loss", "log", "stop")  # what of a run moves on


class Checkpoints(Watch):
    """Keep the last state (after every epoch, and every `minutes` in between) and the weights of
    the best epoch.

    A run that starts with the same folder goes on where the last one stopped, and takes the same
    steps. In the folder, `last.pt` holds model, optimizer and callbacks, `best.pt` the weights
    alone. Only `epochs`, workers and callbacks without a state may differ from the run that was cut
    off. Raises ValueError for a folder in use, for one of another run, for a damaged file, and
    rather than save NaN. Derived in lesson 07.
    """

    def __init__(
        self,
        folder: str | Path,
        minutes: float = 10,
        metric: str = "valid_loss",
        higher_is_better: bool = False,
    ):
        super().__init__(metric, higher_is_better)
        self.folder, self.minutes, self.saved = Path(folder), minutes, time.time()
        self.last, self.best_weights = self.folder / "last.pt", self.folder / "best.pt"
        self.lock = ExitStack()

    def start(self, run: Run) -> None:
        self.saved, self.settings = time.time(), _settings(run)
        if run.accelerator.is_main_process:
            self.lock.enter_context(locked(self.folder))
        if self.last.exists():
            self._resume(run, _read(self.last))

    def _resume(self, run: Run, state: dict[str, Any]) -> None:
        before = state["settings"]
        if different := _first_difference(self.settings, before):
            raise ValueError(
                f"{self.last} belongs to a run with {different} {before.get(different, 'none')},"
                f" and this one has {self.settings.get(different, 'none')}; choose another folder"
                f" for this run, or delete {self.folder} to start again"
            )
        fill(run.accelerator.unwrap_model(run.model), state["model"], str(self.last))
        run.optimizer.load_state_dict(state["optimizer"])
        for callback, of_callback in zip(_with_state(run), state["callbacks"], strict=True):
            callback.load_state_dict(of_callback)
        if run.accelerator.scaler is not None:
            run.accelerator.scaler.load_state_dict(state["scaler"])
        for name in PROGRESS:
            setattr(run, name, state["run"][name])

    def after_epoch(self, run: Run) -> None:
        if (run.valid is None or self.improved(run)) and run.accelerator.is_main_process:
            _write(self.best_weights, {"model": _weights(run, self.folder), "log": run.log})

    def save(self, run: Run) -> None:
        due = time.time() - self.saved > 60 * self.minutes and run.accelerator.sync_gradients
        if run.accelerator.is_main_process and (due or run.stop or not run.batch):
            self._save(run)
            self.saved = time.time()

    def _save(self, run: Run) -> None:
        scaler = run.accelerator.scaler
        state = {
            "settings": self.settings,
            "model": _weights(run, self.folder),
            "optimizer": run.optimizer.state_dict(),
            "callbacks": [callback.state_dict() for callback in _with_state(run)],
            "scaler": None if scaler is None else scaler.state_dict(),
            "run": {name: getattr(run, name) for name in PROGRESS},
        }
        first = not self.last.exists()
        _write(self.last, state)
        if first:
            _read(self.last)  # what cannot be read again is to be known now

    def finish(self, run: Run) -> None:
        self.lock.close()

    def load_best(self, model: nn.Module) -> dict[str, Any]:
        """Give `model` the weights of the best epoch, and return what was logged then."""
        state = _read(self.best_weights)
        fill(model, state["model"], str(self.best_weights))
        return state["log"]


def _weights(run: Run, folder: Path) -> dict[str, Tensor]:
    weights = run.accelerator.unwrap_model(run.model).state_dict()
    for name, value in weights.items():
        if not value.isfinite().all():
            raise ValueError(
                f"{name} holds NaN or infinity after step {run.step}; lower the learning rate or"
                f" clip gradients, and run again: {folder} still holds the last good state"
            )
    return weights


def _settings(run: Run) -> dict[str, str]:
    """What must be the same for a run to go on as if it had never stopped."""
    loss, groups = run.loss_function, run.optimizer.param_groups
    # on several processes
    batches = getattr(run.train.batch_sampler, "batch_sampler", run.train.batch_sampler)
    settings = {
        "model": type(run.accelerator.unwrap_model(run.model)).__name__,
        "trained values": sum(values.numel() for group in groups for values in group["params"]),
        "loss": getattr(loss, "__name__", type(loss).__name__),
        "optimizer": type(run.optimizer.optimizer).__name__,
        **{f"optimizer's {name}": value for name, value in run.optimizer.defaults.items()},
        "number of items": len(run.train.dataset),
        "batch size": getattr(batches, "batch_size", None),
        "batches an epoch": len(run.train),
        "sampler": type(getattr(batches, "sampler", batches)).__name__,
        "accumulate": run.accelerator.gradient_accumulation_steps,
        "processes": run.accelerator.num_processes,
        "precision": run.accelerator.mixed_precision,
        "seed": run.seed,
        "callbacks": ", ".join(type(callback).__name__ for callback in _with_state(run)),
    }
    return {name: str(value) for name, value in settings.items()}


def _with_state(run: Run) -> list[Any]:
    return [callback for callback in run.callbacks if hasattr(callback, "state_dict")]


def _write(path: Path, state: dict[str, Any]) -> None:
    """A file of `torch.save`, replaced in one move; the SHA-256 of its content stands at its end,
    where `torch.load` does not look.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    with files.atomic(path) as temporary:
        temporary.write_bytes(content + hashlib.sha256(content).digest())


def _read(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    content, digest = content[:-32], content[-32:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError(
            f"{path} is damaged or was altered (its SHA-256 differs); copy it again, or delete"
            f" {path.parent} to start again"
        )
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, numbers, text, lists and dicts; let every callback's"
            f" state_dict return only these, and delete {path.parent} to start again"
        ) from error


class ModelSerializer:
    """Models in `folder`: `NAME/0001/` holds `model.safetensors` and `metadata.json`. Derived in
    lesson 07.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def versions(self, name: str) -> list[int]:
        """The finished versions of `name`; one that a kill left without metadata does not count."""
        finished = self._home(name).glob("[0-9]*/metadata.json")
        return sorted(int(path.parent.name) for path in finished)

    def save(
        self,
        model: nn.Module,
        name: str,
        config: Mapping[str, Any],
        data: Any = None,
        scores: Any = None,
    ) -> int:
        """Keep `model` as the next version of `name`, and return its number.

        `config` holds the arguments that build it; `data` (what it was trained on) and `scores` are
        any plain values. Raises `ValueError` if `config` builds another model or something is not
        plain.
        """
        try:
            built_with = inspect.signature(type(model)).bind(**config)
            built_with.apply_defaults()  # which may be others tomorrow
            with torch.device("meta"):  # shapes without memory
                twin = type(model)(**built_with.arguments)
            facts = {"config": built_with.arguments, "data": data, "scores": scores}
            facts = json.loads(json.dumps(facts))
        except TypeError as error:
            raise ValueError(
                f"config, data or scores of {name!r} do not fit ({error}); give the arguments that"
                " built the model, and plain numbers and text (tensor.tolist())"
            ) from error
        if different := _first_difference(_shapes(twin), _shapes(model)):
            raise ValueError(
                f"config {dict(config)} builds a {type(model).__name__} whose {different} differs"
                " from this model's; give the arguments that built it"
            )
        number = 1 + max((int(path.name) for path in self._home(name).glob("[0-9]*")), default=0)
        folder = self._home(name) / f"{number:04d}"
        folder.mkdir(parents=True)  # claims the number
        metadata = {
            "model": type(model).__name__,
            "version": number,
            **facts,
            "date": datetime.now(UTC).isoformat(),
            "libraries": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "course_lib": course_lib.__version__,
            },
        }
        path = folder / "model.safetensors"
        files.save_tensors(path, model.state_dict(), metadata)
        files.write_json(folder / "metadata.json", metadata | {"sha256": files.sha256(path)})
        return number

    def load(
        self,
        model_class: type[nn.Module],
        name: str,
        version: int | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The latest, or exactly that, version of `name` in evaluation mode, and its metadata.

        Raises `FileNotFoundError` for a version that is not there, `ValueError` if weights or
        metadata were altered, belong to another class, or differ from what `config` asks for.
        """
        folder = self._folder(name, version)
        path, metadata = folder / "model.safetensors", files.read_json(folder / "metadata.json")
        if not path.is_file() or files.sha256(path) != metadata.get("sha256"):
            raise ValueError(
                f"{path} is not the file its metadata.json describes (its SHA-256 differs); copy"
                " both again, or load another version"
            )
        tensors, inside = files.load_tensors(path)
        if different := _first_difference(inside | {"sha256": metadata["sha256"]}, metadata):
            raise ValueError(
                f"{folder / 'metadata.json'} disagrees with the weights about {different!r}; it was"
                " altered, so copy it again, or load another version"
            )
        if metadata["model"] != model_class.__name__:
            raise ValueError(
                f"{folder} holds a {metadata['model']}, not a {model_class.__name__}; load it as"
                " such"
            )
        built = metadata["config"]
        for key, value in (config or {}).items():
            if key not in built or built[key] != value:
                raise ValueError(
                    f"{folder} was built with {key}={built.get(key)!r}, not {value!r}; load another"
                    " version, or train one"
                )
        model = model_class(**built)
        fill(model, tensors, str(path))
        return model.eval(), metadata

    def export(
        self,
        model_class: type[nn.Module],
        name: str,
        inputs: Sequence[Tensor],
        version: int | None = None,
    ) -> Path:
        """Write `model.pt2` beside a version: `torch.export.load(path).module()` predicts without
        this library.

        `inputs` are examples, a batch of at least 2; the program takes any number. Raises what
        `load` raises.
        """
        if min(map(len, inputs)) < 2:
            raise ValueError(
                "a batch of 1 would fix the program to batches of 1; give examples of at least 2"
                " items"
            )
        model, metadata = self.load(model_class, name, version)
        batch = torch.export.Dim("batch")
        program = torch.export.export(
            model, to_model(model, *inputs), dynamic_shapes=tuple({0: batch} for _ in inputs)
        )
        path = self._folder(name, metadata["version"]) / "model.pt2"
        with files.atomic(path) as temporary:
            torch.export.save(program, temporary)
        return path

    def _home(self, name: str) -> Path:
        if Path(name).name != name or not name.strip("."):
            raise ValueError(
                f"{name!r} is no name for a model; use a plain word, without slashes or dots alone"
            )
        return self.folder / name

    def _folder(self, name: str, version: int | None) -> Path:
        versions = self.versions(name)
        if not versions or version not in (None, *versions):
            raise FileNotFoundError(
                f"there is no {name!r}{'' if version is None else f' version {version}'} in "
                f"{self.folder}; it holds the versions {versions or 'of nothing by that name'}"
            )
        return self._home(name) / f"{version or versions[-1]:04d}"


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _first_difference(one: Mapping, other: Mapping) -> str | None:
    """The first key whose values differ or that only one of them has."""
    return next(
        (
            key
            for key in (*one, *other)
            if key not in one or key not in other or one[key] != other[key]
        ),
        None,
    )
