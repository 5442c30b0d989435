"""A run's folder: who may write in it, what it was made of, and how to read it again; and the
ranges of options.
"""

import hashlib
import math
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import torch
from accelerate import PartialState

import course_lib

from .. import files, runtime

__all__ = ["at_least", "begin", "between", "described", "hashes", "processes", "read_manifest"]

MANIFEST = "manifest.json"
KINDS = {  # what is read from it
    "model": str,
    "config": {"traits": str, "val_split": float, "split_seed": int},
    "sources": dict,
    "code": dict,
    "libraries": dict,
}


def at_least(lowest: float, **options: float) -> None:
    """Raise `ValueError` for an option that is smaller."""
    for name, value in options.items():
        if not lowest <= value:  # NaN too
            raise ValueError(f"--{name} is {value}; expected a number from {lowest} on")


def between(lowest: float, highest: float, **options: float) -> None:
    """Raise `ValueError` for an option that is not above the lowest, or is above the highest."""
    for name, value in options.items():
        if not lowest < value <= highest:
            limit = f" and at most {highest:g}" if highest < math.inf else ""
            raise ValueError(f"--{name} is {value}; expected a number above {lowest}{limit}")


def processes() -> PartialState:
    """Which of how many processes this is; `accelerate` counts those of a machine without a GPU
    only if it is told.
    """
    state = PartialState(cpu="LOCAL_RANK" in os.environ and not torch.cuda.is_available())
    if state.num_processes == 1:  # of several, each has a device of its own
        state.device = runtime.default_device()
    return state


def described(**what: Any) -> dict:
    """A manifest: `what`, and the code and libraries of now."""
    package = Path(course_lib.__file__).parent
    return what | {
        "code": {
            "course_lib": course_lib.__version__,
            "sources": _source_version(sorted(package.rglob("*.py"))),
        },
        "libraries": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "accelerate": accelerate.__version__,
        },
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def begin(folder: Path, manifest: dict) -> None:
    """Write the manifest, or, where a run is there already, make sure that it is the same one.

    Raises `ValueError` for a folder that holds another run or something else.
    """
    if not (folder / MANIFEST).exists():
        names = (path.name for path in folder.iterdir())
        if strange := next((name for name in names if not name.startswith(".")), None):
            raise ValueError(f"{folder} holds {strange} and no run; choose another --output")
        return files.write_json(folder / MANIFEST, manifest)
    earlier = read_manifest(folder)
    ours, theirs = _settings(manifest), _settings(earlier)
    for key in (*theirs, *ours):
        if ours.get(key) != theirs.get(key):
            raise ValueError(
                f"{folder} holds a run with {key}={theirs.get(key)}, not {ours.get(key)}; choose"
                " another --output, or delete that folder"
            )
    for key in ("code", "libraries"):
        if earlier[key] != manifest[key]:
            print(
                f"the {key} changed since this run began; it goes on, but not to the same last"
                " digit"
            )


def read_manifest(folder: Path) -> dict:
    """What a run was made of. Raises `FileNotFoundError` for a folder without a run, `ValueError`
    for a manifest that is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no run (there is no {MANIFEST}); give a folder that `train` wrote"
        )
    manifest = files.read_json(path)
    if not _fits(manifest, KINDS) or not all(
        _fits(
            source, {"sha256": str} | ({"clips": int} if name == "drawn clips" else {"path": str})
        )
        for name, source in manifest["sources"].items()
    ):
        raise ValueError(
            f"{path} is damaged: it does not tell model, settings and data; restore it, or train in"
            " another folder"
        )
    return manifest


def _fits(value: Any, kinds: Any) -> bool:
    """Whether a value is of this type, or holds under these names what fits there."""
    if not isinstance(kinds, dict):
        return isinstance(value, kinds)
    return isinstance(value, dict) and all(
        name in value and _fits(value[name], kind) for name, kind in kinds.items()
    )


def hashes(sources: dict[str, dict]) -> dict[str, str]:
    """What tells two runs' data apart, wherever the files lie."""
    return {name: source["sha256"] for name, source in sources.items()}


def _settings(manifest: dict) -> dict[str, Any]:
    """What a run depends on: the hashes of its data and its settings."""
    sources = {f"sources.{name}": value for name, value in hashes(manifest["sources"]).items()}
    return sources | manifest["config"]


def _source_version(paths: list[Path]) -> str:
    """A hash of source files: whatever changes in them makes another version."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
