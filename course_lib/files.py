"""Files that are never half-written: atomic writes, hashes, safetensors with metadata."""

import hashlib
import json
import os
import platform
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "atomic",
    "fault_of_name",
    "load_tensors",
    "read_json",
    "save_tensors",
    "sha256",
    "write_json",
]


LONGEST_NAME = 230  # bytes, so that there is room for what is added; file systems take 255

MACHINE = re.sub(r"\W", "-", platform.node())[:32]

PART = re.compile(r"\..*\.([\w-]*)\.(\d{1,9})\.part(\..*)?")  # a machine and its process


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it onto `path` only if the block succeeds.

    A killed process or a full disk leaves the old file, or none, never half a file; the temporary
    file that a kill leaves is removed by the next process that writes into the folder. A link is
    followed, and the old file's mode stays. Raises `OSError` for what cannot be written, and for a
    folder, a pipe or a device.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot create the folder {path.parent} ({error.strerror}); choose a folder you may"
            " write to"
        ) from error
    temporary = None
    try:
        path = Path(os.path.realpath(path)) if path.is_symlink() else path
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
        if mode is not None and not path.is_file():
            raise OSError(f"{path} is no file but a folder, pipe or device; choose another name")
        _sweep(path.parent.absolute())
        # shorter than the name, which may be as long as the file system takes
        owner = f"{MACHINE}.{os.getpid()}"
        temporary = path.with_name(f".{path.name[:40]}.{owner}.part{path.suffix}")
        yield temporary
        if mode is not None:
            temporary.chmod(mode)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None:  # not the file system's: it has its own sentence
            raise
        raise OSError(
            f"cannot write {path} ({error.strerror or error}); choose a folder you may write to "
            "with enough free space"
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # the error above is the one to tell
                temporary.unlink(missing_ok=True)


def fault_of_name(path: Path) -> str:
    """Why results cannot be called after this file, with its name; empty if they can."""
    name, size = path.name.encode(errors="replace").decode(), len(os.fsencode(path.name))
    if size > LONGEST_NAME:
        return f"{name}: its name has {size} bytes; expected at most {LONGEST_NAME}, so rename it"
    if not path.is_file():
        return f"{name}: it is no file, or a link to none"
    if name != path.name:
        return f"{name}: its name is not in UTF-8; rename it"
    return ""


@cache  # once in a process, because a folder may hold many files
def _sweep(folder: Path) -> None:
    """Remove what killed processes left half-written in `folder`."""
    for path in folder.glob(".*.part*"):
        with suppress(OSError):  # another process may sweep, too
            if _is_left(path):
                path.unlink()


def _is_left(path: Path) -> bool:
    """Whether this is a temporary file of `atomic` that nobody writes any more. What another machine
    does cannot be seen, but after an hour it is over.
    """
    import psutil

    part = PART.fullmatch(path.name)
    if not part:
        return False
    if part[1] == MACHINE:
        return not psutil.pid_exists(int(part[2]))
    return time.time() - path.stat().st_mtime > 3600


def sha256(path: str | Path) -> str:
    """The file's SHA-256 as hexadecimal text, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file; a broken file, or one that holds something else, is named in the
    error.
    """
    return _as_object(Path(path).read_bytes(), f"{path} is no valid JSON")


def _as_object(text: str | bytes, fault: str) -> dict[str, Any]:
    """The JSON object in a text; `ValueError`, which begins with the `fault`, for any other text."""
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, expected names and values")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{fault} ({error}); delete it or restore it from where it came"
        ) from error
    return content


def save_tensors(
    path: str | Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, Any] | None = None
) -> None:
    """Save named tensors and JSON-able metadata as one safetensors file (never pickle), atomically."""
    from safetensors.torch import save

    content = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        {"course_lib": json.dumps(dict(metadata or {}))},
    )
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def load_tensors(path: str | Path) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """Tensors and metadata of a file written by `save_tensors`.

    Raises `FileNotFoundError` if it is missing, `ValueError` if it is truncated or no safetensors
    file.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}; check the path, or make it again with `python -m assets.recipes`"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get("course_lib", "{}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path} is truncated or is no safetensors file ({error}); delete it and fetch or make "
            "it again"
        ) from error
    return tensors, _as_object(metadata, f"the metadata of {path} are no valid JSON")
