"""What the machine is, and where things are: `setup`, `scale`, `assets`, `cache_dir`."""

import os
import random
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

__all__ = [
    "Runtime",
    "assets",
    "cache_dir",
    "chosen_cache",
    "default_device",
    "scale",
    "setup",
    "synchronize",
]

T = TypeVar("T")


@dataclass(frozen=True)
class Runtime:
    """What `setup` found: where tensors live, which precision to compute in, which seed everything
    has.
    """

    device: "torch.device"
    precision: str
    seed: int

    @property
    def dtype(self) -> "torch.dtype":
        """The precision as a torch dtype, for `torch.autocast`."""
        import torch

        return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[
            self.precision
        ]


def precision_of(device: "torch.device") -> str:
    """bf16 where it is native, fp16 on older GPUs (a T4 only emulates bf16, slowly), fp32
    elsewhere.
    """
    import torch

    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def default_device() -> "torch.device":
    """Where models go: the device that `COURSE_DEVICE` names, else an NVIDIA GPU, else the CPU.

    Raises `ValueError` if `COURSE_DEVICE` names no device of this machine.
    """
    import torch

    name = os.environ.get("COURSE_DEVICE")
    if not name:
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    # AssertionError: torch was built without that kind of device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"COURSE_DEVICE={name} is no device of this machine ({str(error).splitlines()[0]}); set"
            " it to cpu, or unset it and the course chooses"
        ) from error


def synchronize() -> None:
    """Wait until a GPU has done what it was given; without one there is nothing to wait for."""
    import torch

    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def setup(seed: int = 0, quiet: bool = False) -> Runtime:
    """Seed Python, NumPy and torch, choose device and precision, and print them; safe to call
    again.

    Models and batches go to `rt.device`: `model(image.to(rt.device))`.
    """
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.allow_tf32 = False  # or convolutions on new GPUs err in the third digit
    device = default_device()
    runtime = Runtime(device, precision_of(device), seed)
    if not quiet:
        print(
            f"device     {_described(device)}\nprecision  {runtime.precision}\nseed       {seed}\n"
            f"torch      {torch.__version__}"
        )
    return runtime


def _described(device: "torch.device") -> str:
    import torch

    if device.type == "cpu":
        return f"CPU, {torch.get_num_threads()} threads"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def scale(cpu: T, gpu: T) -> T:
    """The course's one knob for size: `steps = scale(cpu=200, gpu=2000)`.

    Only for work that the GPU does: drawing faces and reading videos take as long beside a GPU as
    without one. `COURSE_SCALE` (`cpu` or `gpu`) chooses; otherwise the device does.
    """
    chosen = os.environ.get("COURSE_SCALE") or ("cpu" if default_device().type == "cpu" else "gpu")
    if chosen not in ("cpu", "gpu"):
        raise ValueError(
            f"COURSE_SCALE={chosen} is no size of the lessons; set it to cpu or gpu, or unset it"
        )
    return gpu if chosen == "gpu" else cpu


def assets(name: str = "") -> Path:
    """The path of a shipped asset, for example `assets("weights/static.safetensors")`.

    They lie beside the package in a clone of the course and are in no wheel. Raises
    `FileNotFoundError` if they are not there or none has that name, `ValueError` if the name leaves
    the folder.
    """
    package = Path(__file__).resolve().parent
    root = package.parent / "assets"
    if not root.is_dir():
        raise FileNotFoundError(
            f"{package} has no assets beside it, because the course works from its clone; clone the"
            " repository and run `pip install -e .` in the clone"
        )
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise ValueError(f"{name!r} leads out of the assets folder; give a name inside {root}")
    if not path.exists():
        raise FileNotFoundError(
            f"no asset {name!r} in {root}; clone the whole repository again, or make the asset "
            "with `python -m assets.recipes NAME`"
        )
    return path


def cache_dir(name: str = "") -> Path:
    """A folder for what can be computed again: `$COURSE_CACHE`, else
    `~/.cache/seeing-cross-attention`.

    Where that cannot be written, or there is no home, a folder in the system's temporary directory
    is used and said.
    """
    root = Path(os.environ.get("COURSE_CACHE") or "~/.cache/seeing-cross-attention")
    try:
        folder = root.expanduser() / name
    except RuntimeError:  # there is no home
        folder = None
    if folder is None or not _can_write(folder):
        folder = Path(tempfile.gettempdir()) / "seeing-cross-attention" / name
        folder.mkdir(parents=True, exist_ok=True)
        _say_once(
            f"the cache folder {root} cannot be written; using"
            f" {folder.parent if name else folder} (set COURSE_CACHE to choose another)"
        )
    return folder


def chosen_cache(cache: str | Path | bool, name: str) -> Path | None:
    """The folder that an argument `cache` asks for: the course's own `name` for True, none for
    False, or that one.

    Raises `OSError` for a folder that cannot be written.
    """
    if isinstance(cache, bool):
        return cache_dir(name) if cache else None
    folder = Path(os.path.expanduser(cache))
    if not _can_write(folder):
        raise OSError(
            f"the cache folder {cache} cannot be written; choose another, or cache=False to do"
            " without"
        )
    return folder


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
