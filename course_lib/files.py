"""Files that are never half-written: atomic writes, hashes, safetensors with metadata."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "atomic",
    "load_tensors",
    "read_json",
    "save_tensors",
    "sha256",
    "write_json",
]


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it onto `path` only if the block succeeds.

    A killed process or a full disk leaves the old file, or none, never half a file.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot create the folder {path.parent} ({error.strerror}); choose a folder you may"
            " write to"
        ) from error
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None:  # not the file system's: it has its own sentence
            raise
        raise OSError(
            f"cannot write {path} ({error.strerror or error}); choose a folder you may write to "
            "with enough free space"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: str | Path) -> str:
    """The file's SHA-256 as hexadecimal text, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def read_json(path: str | Path) -> Any:
    """The content of a JSON file; a broken one is named in the error."""
    try:
        return json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is no valid JSON ({error}); delete it or restore it from the repository"
        ) from error


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
            metadata = json.loads((file.metadata() or {}).get("course_lib", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, metadata
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path} is truncated or is no safetensors file ({error}); delete it and fetch or make "
            "it again"
        ) from error
