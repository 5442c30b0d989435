"""One run in a folder: two at once would overwrite each other's files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout  # comes with torch

__all__ = ["locked"]

WAIT = 10  # seconds: the workers of a killed run notice within five that they are alone


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Let no other process of this machine work in the folder; a killed one leaves nothing behind
    that blocks.

    Raises ValueError while another run works there.
    """
    folder = Path(folder)
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=WAIT)
    except Timeout as error:
        raise ValueError(
            f"{folder} is in use by another run; wait for its end, or choose another folder"
        ) from error
    except OSError as error:
        raise OSError(
            f"cannot write in {folder} ({error.strerror}); choose a folder you may write to"
        ) from error
    try:
        yield
    finally:
        lock.release()
