"""Models on disk: runs that are cut off and go on, and finished models in numbered versions.
Neither holds code.
"""

import hashlib
import inspect
import json
import platform
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
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
from .lock import FolderLock

__all__ = ["Checkpoints", "ModelSerializer"]

PROGRESS = ("epoch", "batch", "step", "total_loss", "log", "stop")  # what of a run moves on


class Checkpoints(Watch):
    """Keep the last state (after every epoch, and every `minutes` in between) and the weights of
    the best epoch.

    A run that starts with the same folder goes on where the last one stopped, and takes the same
    steps. In the folder, `last.safetensors` holds model, optimizer and callbacks,
    `previous.safetensors` the save before, for a last one that is damaged; `best.safetensors` the
    weights alone; `running.json` says who trains here. Only `epochs`, workers and callbacks without
    a state may differ from the run that was cut off. Raises ValueError for a folder in use, for one
    of another run, for a damaged file, and rather than save NaN. Derived in lesson 06.
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
        self.lock = FolderLock(self.folder)

    def start(self, run: Run) -> None:
        self.saved, self.settings = time.time(), _settings(run)
        if run.accelerator.is_main_process:
            self.lock.take()
            for unfinished in self.folder.glob(".*.part.*"):  # by a killed run
                unfinished.unlink()
        if (found := self._read()) is None:
            return
        path, tensors, state = found
        kept = state.get("settings", {})
        if different := _first_difference(self.settings, kept):
            raise ValueError(
                f"{path} belongs to a run with {different} {kept.get(different, 'unknown')}, and"
                f" this one has {self.settings.get(different, 'none')}; choose another folder for"
                f" this run, or delete {self.folder} to start again"
            )
        fill(run.accelerator.unwrap_model(run.model), _under("model", tensors), str(path))
        run.optimizer.load_state_dict(
            state["optimizer"] | {"state": _nested(_under("optimizer", tensors))}
        )
        of_callbacks = _nested(_under("callback", tensors))
        for index, (callback, plain) in enumerate(
            zip(_with_state(run), state["callbacks"], strict=True)
        ):
            callback.load_state_dict(plain | of_callbacks.get(index, {}))
        if run.accelerator.scaler is not None:
            run.accelerator.scaler.load_state_dict(state["scaler"])
        for name in PROGRESS:
            setattr(run, name, state["run"][name])

    def _read(self) -> tuple[Path, dict[str, Tensor], dict[str, Any]] | None:
        """The last state, or the one before: a power cut may leave a file's name without its
        content.
        """
        damaged = None
        for path in (self.folder / "last.safetensors", self.folder / "previous.safetensors"):
            try:
                found = (path, *_read_verified(path)) if path.exists() else None
            except ValueError as error:
                damaged = damaged or error
                continue
            if found and damaged:
                warnings.warn(f"{damaged}; going on from the save before it, {path}", stacklevel=2)
            if found:
                return found
        if damaged:
            raise damaged
        return None

    def after_epoch(self, run: Run) -> None:
        if (run.valid is None or self.improved(run)) and run.accelerator.is_main_process:
            _write_verified(self.folder / "best.safetensors", self._weights(run), run.log)

    def save(self, run: Run) -> None:
        self.lock.renew()
        due = time.time() - self.saved > 60 * self.minutes and run.accelerator.sync_gradients
        if run.accelerator.is_main_process and (due or run.stop or not run.batch):
            self._write(run)
            self.saved = time.time()

    def _write(self, run: Run) -> None:
        """A kill or a full disk leaves the state before; a kill between the two renames, under its
        second name.
        """
        scaler, optimizer = run.accelerator.scaler, run.optimizer.state_dict()
        states = [callback.state_dict() for callback in _with_state(run)]
        tensors = [
            {name: value for name, value in state.items() if isinstance(value, Tensor)}
            for state in states
        ]
        plain = [
            {name: value for name, value in state.items() if name not in ours}
            for state, ours in zip(states, tensors, strict=True)
        ]
        _write_verified(
            self.folder / "new.safetensors",
            {f"model.{name}": value for name, value in self._weights(run).items()}
            | _flat("optimizer", optimizer["state"])
            | _flat("callback", dict(enumerate(tensors))),
            {
                "settings": self.settings,
                "optimizer": {"param_groups": optimizer["param_groups"]},
                "callbacks": plain,
                "scaler": None if scaler is None else scaler.state_dict(),
                "run": {name: getattr(run, name) for name in PROGRESS},
            },
        )
        last = self.folder / "last.safetensors"
        if last.exists():
            last.replace(self.folder / "previous.safetensors")
        (self.folder / "new.safetensors").replace(last)

    def finish(self, run: Run) -> None:
        self.lock.release()

    def load_best(self, model: nn.Module) -> dict[str, Any]:
        """Give `model` the weights of the best epoch, and return what was logged then."""
        path = self.folder / "best.safetensors"
        weights, log = _read_verified(path)
        fill(model, weights, str(path))
        return log

    def _weights(self, run: Run) -> dict[str, Tensor]:
        weights = run.accelerator.unwrap_model(run.model).state_dict()
        if broken := next(
            (name for name, value in weights.items() if not value.isfinite().all()), None
        ):
            raise ValueError(
                f"{broken} holds NaN or infinity after step {run.step}; lower the learning rate or"
                f" clip gradients, and run again: {self.folder} still holds the last good state"
            )
        return weights


def _settings(run: Run) -> dict[str, str]:
    """What must be the same for a run to go on as if it had never stopped."""
    loss, groups = run.loss_function, run.optimizer.param_groups
    # on several processes
    batches = getattr(run.train.batch_sampler, "batch_sampler", run.train.batch_sampler)
    return {
        name: str(value)
        for name, value in {
            "checkpoint format": 2,
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
        }.items()
    }


def _with_state(run: Run) -> list[Any]:
    return [callback for callback in run.callbacks if hasattr(callback, "state_dict")]


def _under(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name begins with this part, without it."""
    return {
        name.removeprefix(f"{part}."): value
        for name, value in tensors.items()
        if name.startswith(f"{part}.")
    }


def _flat(part: str, nested: Mapping[int, Mapping[str, Any]]) -> dict[str, Tensor]:
    """`{0: {"step": …}}` as `{"part.0.step": …}`: safetensors knows no nested dicts."""
    return {
        f"{part}.{index}.{name}": torch.as_tensor(value)
        for index, values in nested.items()
        for name, value in values.items()
    }


def _nested(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """`{"0.step": …}` as `{0: {"step": …}}`."""
    nested: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        nested[int(index)][key] = value
    return dict(nested)


def _write_verified(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    files.save_tensors(path, tensors, {**metadata, "sha256": _digest(tensors, metadata)})


def _read_verified(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, metadata = files.load_tensors(path)
    if metadata.pop("sha256", None) != _digest(tensors, metadata):
        raise ValueError(
            f"{path} is damaged or was altered (its SHA-256 differs); copy it again, or delete the"
            " folder to start again"
        )
    return tensors, metadata


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """The SHA-256 of all that a file says, tensor by tensor."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class ModelSerializer:
    """Models in `folder`: `NAME/0001/` holds `model.safetensors` and `metadata.json`. Derived in
    lesson 06.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def versions(self, name: str) -> list[int]:
        """The finished versions of `name`; one that a kill left without metadata does not count."""
        return sorted(
            int(path.parent.name) for path in self._home(name).glob("[0-9]*/metadata.json")
        )

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
            plain = json.loads(
                json.dumps({"config": built_with.arguments, "data": data, "scores": scores})
            )
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
            **plain,
            "date": datetime.now(UTC).isoformat(),
            "libraries": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "course_lib": course_lib.__version__,
            },
        }
        files.save_tensors(folder / "model.safetensors", model.state_dict(), metadata)
        files.write_json(
            folder / "metadata.json",
            metadata | {"sha256": files.sha256(folder / "model.safetensors")},
        )
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
        if different := next(
            (key for key in config or () if key not in built or built[key] != config[key]), None
        ):
            raise ValueError(
                f"{folder} was built with {different}={built.get(different)!r}, not "
                f"{config[different]!r}; load another version, or train one"
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
