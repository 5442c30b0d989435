"""What the machine is, and where things are: ``setup``, ``scale``, ``assets``, ``cache_dir``."""

import os
import random
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

__all__ = ["Runtime", "assets", "cache_dir", "chosen_cache", "scale", "setup"]

T = TypeVar("T")


@dataclass(frozen=True)
class Runtime:
    """What ``setup`` found: where tensors live, which precision to compute in, which seed everything has."""

    device: "torch.device"
    precision: str
    seed: int

    @property
    def dtype(self) -> "torch.dtype":
        """The precision as a torch dtype, for ``torch.autocast``."""
        import torch

        return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[self.precision]


def _precision(device: "torch.device") -> str:
    """bf16 where it is native, fp16 on older GPUs (a T4 only emulates bf16, slowly), fp32 elsewhere."""
    import torch

    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def setup(seed: int = 0, quiet: bool = False) -> Runtime:
    """Seed Python, NumPy and torch, choose device and precision, and print them; safe to call again."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    runtime = Runtime(device, _precision(device), seed)
    if not quiet:
        name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        print(f"device     {name}\nprecision  {runtime.precision}\nseed       {seed}\ntorch      {torch.__version__}")
    return runtime


def scale(cpu: T, gpu: T) -> T:
    """The course's one knob for size: ``steps = scale(cpu=200, gpu=2000)``."""
    import torch

    return gpu if torch.cuda.is_available() else cpu


def assets(name: str = "") -> Path:
    """The path of a shipped asset, for example ``assets("weights/static.safetensors")``.

    Raises ``FileNotFoundError`` if there is none of that name, ``ValueError`` if the name leaves the folder.
    """
    root = Path(__file__).resolve().parent.parent / "assets"
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise ValueError(f"{name!r} leads out of the assets folder; give a name inside {root}")
    if not path.exists():
        raise FileNotFoundError(f"no asset {name!r} in {root}; clone the whole repository again, or make the asset "
                                "with `python -m course_lib assets NAME`")
    return path


def cache_dir(name: str = "") -> Path:
    """A folder for what can be computed again: ``$COURSE_CACHE``, else ``~/.cache/seeing-cross-attention``.

    Where that cannot be written, a folder in the system's temporary directory is used and said.
    """
    wanted = Path(os.environ.get("COURSE_CACHE", Path.home() / ".cache" / "seeing-cross-attention"))
    folder = wanted / name
    if not _can_write(folder):
        folder = Path(tempfile.gettempdir()) / "seeing-cross-attention" / name
        folder.mkdir(parents=True, exist_ok=True)
        _say_once(f"the cache folder {wanted} cannot be written; using {folder.parent if name else folder} (set "
                  "COURSE_CACHE to choose another)")
    return folder


def chosen_cache(cache: str | Path | bool, name: str) -> Path | None:
    """The folder that an argument ``cache`` asks for: the course's own ``name`` for True, none for False, or that one.

    Raises ``OSError`` for a folder that cannot be written.
    """
    if isinstance(cache, bool):
        return cache_dir(name) if cache else None
    if not _can_write(Path(cache)):
        raise OSError(f"the cache folder {cache} cannot be written; choose another, or cache=False to do without")
    return Path(cache)


def _can_write(folder: Path) -> bool:
    """Whether files can be written into the folder, which is made if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


@cache
def _say_once(sentence: str) -> None:
    print(sentence)
