"""What both extractors share: where weights come from and how they are kept."""

import pickle
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from .. import runtime
from ..files import load_tensors, save_tensors, sha256

__all__ = ["Weights", "fill", "imagenet_weights", "read_weights", "save_weights"]


class Weights(NamedTuple):
    """Named tensors, what is known about them, and the SHA-256 of the file they came from."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    hash: str


def read_weights(weights: str | Path, asset: str) -> Weights:
    """Read `"course"` (the shipped `asset`) or a file that an extractor's `save` wrote."""
    if weights != "course" and not Path(weights).is_file():
        raise FileNotFoundError(
            f"weights={str(weights)!r} is no file; choose 'course', 'imagenet', None, or the path "
            "of a file written by save()"
        )
    path = runtime.assets(asset) if weights == "course" else Path(weights)
    tensors, metadata = load_tensors(path)
    if "backbone" not in metadata:
        raise ValueError(
            f"{path} does not say which backbone it holds; give a file written by an extractor's"
            " save()"
        )
    return Weights(tensors, metadata, sha256(path))


def imagenet_weights(network: str) -> Weights:
    """torchvision's ImageNet weights for the `network` of that name, downloaded once by torch's
    hub.

    Raises `ConnectionError` if the download fails, `ValueError` if the file on disk is damaged.
    """
    import torchvision

    url = torchvision.models.get_model_weights(network).DEFAULT.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    instead = "or choose weights='course' (shipped with the course) or weights=None (random)"
    try:
        tensors = torch.hub.load_state_dict_from_url(
            url, progress=False, check_hash=True, weights_only=True, map_location="cpu"
        )
    except (
        OSError,
        HTTPException,
        RuntimeError,
        EOFError,
        KeyError,
        pickle.UnpicklingError,
    ) as error:
        if path.is_file():
            raise ValueError(
                f"{path} is damaged ({error}); delete it and try again, {instead}"
            ) from error
        raise ConnectionError(
            f"could not download ImageNet weights from {url} ({error}); try again when the network "
            f"is there, {instead}"
        ) from error
    return Weights(tensors, {"backbone": network}, sha256(path))


def fill(network: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load `tensors` into `network` in its own precision; every name and shape must agree."""
    expected = network.state_dict()
    wrong = sorted(expected.keys() ^ tensors.keys()) or [
        name for name in expected if expected[name].shape != tensors[name].shape
    ]
    if wrong:
        raise ValueError(
            f"the weights from {source} do not fit this network ({len(wrong)} tensors differ, the"
            f" first is {wrong[0]}); build the network they were made with, or choose other weights"
        )
    network.load_state_dict(tensors)


def save_weights(network: nn.Module, path: str | Path, **metadata: Any) -> None:
    """Write the network's tensors and `metadata`: kernels in half precision, vectors (batch norms)
    in full.
    """
    save_tensors(
        path,
        {
            name: tensor.half() if tensor.ndim > 1 else tensor
            for name, tensor in network.state_dict().items()
        },
        metadata,
    )
