"""One run in a folder: two at once would overwrite each other's files."""

import os
import platform
import time
from pathlib import Path

import psutil  # comes with accelerate

from .. import files

__all__ = ["FolderLock"]

RENEW, SILENT = 60, 300  # seconds: sign this often; later than that, a machine is gone


class FolderLock:
    """`running.json` in a folder says which process of which machine works there, and when it last
    said so.

    A killed run leaves its lock behind. On the same machine, its process is looked for; on another
    one (Colab gives a new one after a disconnect), five minutes of silence are taken for its end.
    """

    def __init__(self, folder: str | Path):
        # when, while the folder is ours
        self.path, self.signed = Path(folder) / "running.json", None
        self.owner = {
            "host": platform.node(),
            "process": os.getpid(),
            "started": psutil.Process().create_time(),
        }

    def take(self) -> None:
        """Claim the folder; raises ValueError while another run works there."""
        other = self._other()
        if other and other["host"] != self.owner["host"]:
            remedy = f"wait {SILENT} s, or delete that file if that machine is gone,"
            works = time.time() - other["signed"] < SILENT
        else:
            remedy, works = (
                "wait for its end",
                bool(other) and _runs(other["process"], other["started"]),
            )
        if works:
            raise ValueError(
                f"{self.path.parent} is in use: {self.path.name} names process {other['process']}"
                f" on {other['host']}; {remedy} or choose another folder"
            )
        self._sign()

    def renew(self) -> None:
        """Give a sign of life once a minute; raises ValueError if another run has taken the folder
        meanwhile.
        """
        if self.signed and time.time() - self.signed > RENEW:
            if other := self._other():
                self.signed = None
                raise ValueError(
                    f"{self.path.parent} was taken over by process {other['process']} on"
                    f" {other['host']}; choose another folder for one of the two runs"
                )
            self._sign()

    def release(self) -> None:
        """Let others in, if the folder is ours."""
        if self.signed:
            self.path.unlink(missing_ok=True)
            self.signed = None

    def _sign(self) -> None:
        self.signed = time.time()
        files.write_json(self.path, self.owner | {"signed": self.signed})

    def _other(self) -> dict | None:
        """The lock, unless there is none or it is this process's own."""
        found = files.read_json(self.path) if self.path.exists() else self.owner
        return None if found | self.owner == found else found


def _runs(process: int, started: float) -> bool:
    """Whether that process is alive, and not a later one that was given its number."""
    try:
        found = psutil.Process(process)
        return found.status() != psutil.STATUS_ZOMBIE and abs(found.create_time() - started) < 60
    except psutil.NoSuchProcess:
        return False
