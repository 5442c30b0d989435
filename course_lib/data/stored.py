"""Items that are slow to make, kept in one memory-mapped file: what `FaceDataset(cache=…)` reads instead of drawing."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..runtime import cache_dir

__all__ = ["StoredItems", "source_version"]

_HEADER = 4096                                          # bytes: a page, so that the records begin on one
_START = b"course_lib stored items "


class StoredItems:
    """Up to `n` records of arrays in one file, each written by whichever process makes it first.

    `fields` are numpy's (name, type, shape). A record is written in one go and ends with a mark: the sum of its
    words, plus a number for this version, these settings and this place. A record that is half there when a process
    or the machine stops, that was damaged since, or that another version wrote, does not match its mark and counts as
    missing, so processes need no lock. The file is sparse: it takes the room of what it holds.

    Every process may read and write, before and after a fork. A file of another version, or a damaged one, is said and
    begun anew; when the disk is full that is said once, and what cannot be kept is left out. `folder` True is the
    course's own. Raises OSError for a folder that cannot be written. Derived in lesson 00.
    """

    def __init__(self, folder: str | Path | bool, name: str, n: int, fields: list[tuple], settings: Mapping,
                 version: str):
        self._arguments = folder, name, n, fields, settings, version
        record = np.dtype(fields)
        self.dtype = np.dtype([*fields, ("padding", np.uint8, (-record.itemsize % 8,)), ("mark", np.uint64)])
        described = json.dumps({"what": name, "n": n, "settings": settings}, sort_keys=True)
        self._header = (_START + json.dumps([version, described, self.dtype.itemsize]).encode()).ljust(_HEADER)
        self._key = int.from_bytes(hashlib.sha256(self._header).digest()[:7], "little")
        self.path = _folder(folder) / f"{name}-{hashlib.sha256(described.encode()).hexdigest()[:16]}.items"
        self.writable, self._damage_said = True, False
        try:
            self._begin(_HEADER + n * self.dtype.itemsize)
            self.records = np.asarray(np.memmap(self.path, self.dtype, "r", _HEADER, n))
        except OSError as error:
            self.records = None
            self._stop_writing(error)

    def __reduce__(self):
        """Another process opens the file itself."""
        return StoredItems, self._arguments

    def _begin(self, size: int) -> None:
        """Make the file, unless it is there."""
        if self.path.exists():
            with open(self.path, "rb") as file:
                header = file.read(_HEADER)
            if header == self._header and self.path.stat().st_size == size:
                return
            what = "from another version" if header.startswith(_START) and header != self._header else "damaged"
            print(f"the stored items in {self.path} are {what}; they are made again")
            self.path.unlink()
        temporary = self.path.with_suffix(f".{os.getpid()}.part")
        try:
            temporary.write_bytes(self._header)
            os.truncate(temporary, size)
            self._publish(temporary)
        finally:
            temporary.unlink(missing_ok=True)

    def _publish(self, temporary: Path) -> None:
        """Give the whole file its name, unless another process was faster: then its file is as good."""
        try:
            os.link(temporary, self.path)
        except FileExistsError:
            pass
        except OSError:                                 # a file system without links
            os.replace(temporary, self.path)

    def _mark(self, index: int, record: np.ndarray) -> int:
        words = record.view(np.uint64)[:-1]
        return (int(words.sum()) + self._key + index) % 2**64

    def holds(self, index: int) -> bool:
        """Whether record `index` was written; `get` tells whether it is whole, too."""
        return self.records is not None and bool(self.records["mark"][index])

    def get(self, index: int) -> np.void | None:
        """Record `index`, whose fields are read-only views of the file, or None if it has to be made."""
        if not self.holds(index):
            return None
        record = self.records[index:index + 1]
        if self._mark(index, record) == record["mark"][0]:
            return record[0]
        if not self._damage_said:
            print(f"item {index} in {self.path} is damaged; what does not match its checksum is made again")
            self._damage_said = True
        return None

    def put(self, index: int, values: Mapping[str, np.ndarray | float]) -> None:
        """Write record `index`; on a full disk, say so and write nothing more."""
        if not self.writable:
            return
        record = np.zeros(1, self.dtype)
        for name, value in values.items():
            record[name] = value
        record["mark"] = self._mark(index, record)
        try:
            with open(self.path, "r+b", buffering=0) as file:
                file.seek(_HEADER + index * self.dtype.itemsize)
                file.write(record)
        except OSError as error:
            self._stop_writing(error)

    def _stop_writing(self, error: OSError) -> None:
        self.writable = False
        print(f"cannot keep items in {self.path} ({error.strerror or error}); go on without, or make room, or name "
              "another folder with cache=FOLDER, and run again")


def _folder(folder: str | Path | bool) -> Path:
    if isinstance(folder, bool):
        return cache_dir("drawn")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise OSError(f"the cache folder {folder} cannot be written; choose another, or cache=None to do without")
    return folder


def source_version(*paths: str | Path) -> str:
    """A hash of source files: whatever changes in them makes another version."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()[:16]
