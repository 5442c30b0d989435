"""The device `pretend`, and a count of the work that each device does; see `pretend.cpp` and
`work.cpp`.

With this folder on PYTHONPATH and COURSE_DEVICE set, `import torch` starts both in every process:
PyTorch calls what an installed package names under `torch.backends`, and the folder
`pretend_device-1.dist-info` names `start`. That is why torch is imported inside the functions: it
is not ready before.
"""

import hashlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parent
BUILD = HERE.parents[2] / "build"


def library(name: str) -> Path:
    """Where the compiled `name`.cpp lies: a folder for each version of torch, of Python and of the
    source.
    """
    import torch

    source = (SOURCES / f"{name}.cpp").read_bytes()
    mark = hashlib.sha256(f"{torch.__version__} {sys.version}".encode() + source).hexdigest()[:12]
    return BUILD / f"{name}-{mark}" / f"{name}_device.so"


def build(name: str) -> None:
    """Compile `name`.cpp, unless that has been done; raises FileNotFoundError where there is no
    compiler.
    """
    target = library(name)
    if target.exists():
        return
    if not shutil.which(os.environ.get("CXX", "c++")):
        raise FileNotFoundError(f"there is no C++ compiler for {name}.cpp; install g++")
    from torch.utils.cpp_extension import load

    os.environ["PATH"] = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ["PATH"]]
    )  # ninja lies there
    target.parent.mkdir(parents=True, exist_ok=True)
    flags = [
        "-O1",
        "-w",
        "-DNDEBUG",
    ]  # NDEBUG as in PyTorch's own build: its classes look different without it
    load(
        target.stem,
        [str(SOURCES / f"{name}.cpp")],
        build_directory=str(target.parent),
        extra_cflags=flags,
    )


def compiled(name: str):
    """The module compiled from `name`.cpp, or None if it has not been built."""
    path = library(name)
    if not path.exists():
        return None
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Device:
    """What PyTorch asks a device's Python module for."""

    @staticmethod
    def is_available() -> bool:
        return True

    is_initialized = is_available

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def set_device(device) -> None:
        pass

    @staticmethod
    def synchronize(device=None) -> None:
        pass

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    # Random numbers are the CPU's, whose state PyTorch seeds, keeps and restores anyway.
    @staticmethod
    def manual_seed_all(seed: int) -> None:
        pass

    @staticmethod
    def get_rng_state(device=None):
        import torch

        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(state, device=None) -> None:
        pass

    @staticmethod
    def get_amp_supported_dtype() -> list:
        import torch

        return [torch.bfloat16, torch.float16]


_work = None


def start() -> None:
    """Begin to count, and register the device if it is the one that is asked for."""
    global _work
    if "COURSE_DEVICE" not in os.environ:
        return
    import torch

    _work = compiled("work")
    if _work:
        _work.start()
    if os.environ["COURSE_DEVICE"] != "pretend":
        return
    device = compiled("pretend")
    if device is None:
        raise RuntimeError("the pretend device has not been built; run `make device`")
    device.start()
    torch.utils.rename_privateuse1_backend("pretend")
    torch._register_device_module("pretend", Device)
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)


def work() -> tuple[int, int]:
    """Floating-point operations so far: on the CPU, and on another device."""
    return _work.counts() if _work else (0, 0)
