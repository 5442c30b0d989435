"""Items that are slow to make, kept in one memory-mapped file: what `FaceDataset(cache=…)` reads
instead of drawing.
"""

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..runtime import chosen_cache

__all__ = ["StoredItems", "source_version"]

_HEADER = 4096  # bytes: a page, so that the records begin on one

_START = b"course_lib stored items "


class StoredItems:
    """Up to `n` records of arrays in one file, each written by whichever process makes it first.

    `fields` are numpy's (name, type, shape). A record is written first, its mark after it: the sum
    of the record's words, plus a number for this version, these settings and this place. A record
    that is half there when a process or the machine stops, that was damaged since, or that another
    version wrote, does not match its mark and counts as missing, so processes need no lock. The
    file is sparse: it takes the room of what it holds.

    Every process may read and write, before and after a fork. A file of another version, or a
    damaged one, is said and begun anew; when the disk is full that is said once, and what cannot be
    kept is left out. `folder` True is the course's own. Raises OSError for a folder that cannot be
    written.
    """

    def __init__(
        self,
        folder: str | Path | bool,
        name: str,
        n: int,
        fields: list[tuple],
        settings: Mapping,
        version: str,
    ):
        self._arguments = folder, name, n, fields, settings, version
        # to whole words
        self.dtype = np.dtype([*fields, ("padding", np.uint8, (-np.dtype(fields).itemsize % 8,))])
        described = json.dumps({"what": name, "n": n, "settings": settings}, sort_keys=True)
        self._header = (
            _START + json.dumps([version, described, self.dtype.itemsize]).encode()
        ).ljust(_HEADER)
        self._key = int.from_bytes(hashlib.sha256(self._header).digest()[:7], "little")
        which = hashlib.sha256(described.encode()).hexdigest()[:16]
        self.path = chosen_cache(folder, "drawn") / f"{name}-{which}.items"
        self.writable, self._damage_said = True, False
        try:
            self._begin(n)
            self.marks = np.asarray(np.memmap(self.path, np.uint64, "r", _HEADER, n))
            self.records = np.asarray(np.memmap(self.path, self.dtype, "r", _HEADER + 8 * n, n))
        except OSError as error:
            self.marks = np.zeros(n, np.uint64)
            self._stop_writing(error)

    def __reduce__(self):
        """Another process opens the file itself."""
        return StoredItems, self._arguments

    def _begin(self, n: int) -> None:
        """Make the file, unless it is there: the header, no marks yet, and a hole where the records
        will be.

        The marks are no hole: where files live in memory, looking into one takes room, and kills
        who looks when there is none.
        """
        size = _HEADER + n * (8 + self.dtype.itemsize)
        if self.path.exists():
            with open(self.path, "rb") as file:
                header = file.read(_HEADER)
            if header == self._header and self.path.stat().st_size == size:
                return
            what = (
                "from another version"
                if header.startswith(_START) and header != self._header
                else "damaged"
            )
            print(f"the stored items in {self.path} are {what}; they are made again")
            self.path.unlink(missing_ok=True)
        temporary = self.path.with_suffix(f".{os.getpid()}.part")
        try:
            temporary.write_bytes(self._header + bytes(8 * n))
            os.truncate(temporary, size)
            self._publish(temporary)
        finally:
            temporary.unlink(missing_ok=True)

    def _publish(self, temporary: Path) -> None:
        """Give the whole file its name, unless another process was faster: then its file is as
        good.
        """
        try:
            os.link(temporary, self.path)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            os.replace(temporary, self.path)

    def _mark(self, index: int, record: np.ndarray) -> int:
        return (int(record.view(np.uint64).sum()) + self._key + index) % 2**64

    def holds(self, index: int) -> bool:
        """Whether record `index` was written; `get` tells whether it is whole, too."""
        return bool(self.marks[index])

    def get(self, index: int) -> np.void | None:
        """Record `index`, whose fields are read-only views of the file, or None if it has to be
        made.
        """
        if not self.holds(index):
            return None
        record = self.records[index : index + 1]
        if self._mark(index, record) == self.marks[index]:
            return record[0]
        if not self._damage_said:
            print(
                f"item {index} in {self.path} is damaged; what does not match its checksum is made"
                " again"
            )
            self._damage_said = True
        return None

    def put(self, index: int, values: Mapping[str, np.ndarray | float]) -> None:
        """Write record `index`; on a full disk, say so and write nothing more."""
        if not self.writable:
            return
        record = np.zeros(1, self.dtype)
        for name, value in values.items():
            record[name] = value
        try:
            with open(self.path, "r+b", buffering=0) as file:
                file.seek(_HEADER + 8 * len(self.marks) + index * self.dtype.itemsize)
                if file.write(record) < record.nbytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                file.seek(_HEADER + 8 * index)
                file.write(np.uint64(self._mark(index, record)).tobytes())
        except OSError as error:
            self._stop_writing(error)

    def _stop_writing(self, error: OSError) -> None:
        self.writable = False
        print(
            f"cannot keep items in {self.path} ({error.strerror or error}); go on without, or make"
            " room, or name another folder with cache=FOLDER, and run again"
        )


def source_version(*paths: str | Path) -> str:
    """A hash of source files: whatever changes in them makes another version."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()[:16]
