"""Tokens of frozen extractors, computed once for a whole data set, so that what follows trains in seconds."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..models.dynamic import DynamicFeatureExtractor
from ..models.static import StaticFeatureExtractor

__all__ = ["cache_tokens"]


def cache_tokens(clips: Dataset, static: StaticFeatureExtractor, dynamic: DynamicFeatureExtractor, batch_size: int = 8,
                 workers: int = 2) -> dict[str, Tensor]:
    """`face_tokens` (`n 49 2048`), `motion_tokens` (`n steps 1024`) and `traits` (`n 5`) of every clip, in order.

    Tokens are kept in half precision. Clips are read by `workers` processes while the extractors, in evaluation mode,
    compute. Derived in lesson 06.
    """
    kept: dict[str, list[Tensor]] = {"face_tokens": [], "motion_tokens": [], "traits": []}
    loader = DataLoader(clips, batch_size, num_workers=workers, collate_fn=_only_inputs)
    device = next(static.parameters()).device
    for face, flow, traits in tqdm(loader, f"tokens of {len(clips)} clips", mininterval=5):
        kept["face_tokens"].append(static.tokens(face.to(device), chunk=batch_size).half().cpu())
        kept["motion_tokens"].append(dynamic.tokens(flow.to(device), chunk=batch_size).half().cpu())
        kept["traits"].append(traits)
    return {name: torch.cat(parts) for name, parts in kept.items()}


def _only_inputs(items: list[dict]) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.stack([item[key] for item in items]) for key in ("face", "flow", "traits"))
