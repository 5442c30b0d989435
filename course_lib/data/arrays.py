"""Data sets held in memory: read once by several processes, kept small, then trained on as often as
one likes.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..shapes import Float

__all__ = ["ImageArrays", "TokenArrays", "gather", "load_images"]


def gather(
    dataset: Dataset, *keys: str, small: dict[str, torch.dtype] | None = None, workers: int = 2
) -> dict[str, Tensor]:
    """All items of a data set as one tensor a key, read by `workers` processes; `small` keeps a key
    in another type.

    What lies in [0, 1] and is kept as uint8 takes 0 to 255. Used in lessons 09, 12, 13 and 14.
    """
    small = small or {}
    chunks: dict[str, list] = {key: [] for key in keys}
    for batch in tqdm(
        DataLoader(dataset, 32, num_workers=workers),
        f"reading {len(dataset):,} items",
        mininterval=5,
    ):
        for key in keys:
            value = (batch[key] * 255).round() if small.get(key) is torch.uint8 else batch[key]
            chunks[key].append(value.to(small.get(key, value.dtype)))
    return {key: torch.cat(chunks[key]) for key in keys}


class ImageArrays(Dataset):
    """Images and targets in memory, as `fit` takes them: `(image, target)`, float32 in [0, 1] and
    {0, 1}.

    `images` uint8 `n 3 height width`, a quarter of what floats take; with `flip`, an image (or a
    batch, for several indices) is mirrored half the time.
    """

    def __init__(self, images: Tensor, targets: Tensor, flip: bool = False):
        self.images, self.targets, self.flip = images, targets, flip

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(
        self, index: int | Tensor
    ) -> tuple[Float[Tensor, "*batch 3 height width"], Float[Tensor, "*batch attributes"]]:
        image = self.images[index].float() / 255
        return (image.flip(-1) if self.flip and torch.rand(()) < 0.5 else image), self.targets[
            index
        ]

    def batches(self, size: int = 250) -> Iterator[Float[Tensor, "batch 3 height width"]]:
        """All images in order, as floats, so many at a time."""
        return (images.float() / 255 for images in self.images.split(size))


class TokenArrays(Dataset):
    """Cached tokens of images (`n tokens dim`, kept in half precision) and targets: `(tokens,
    target)` as floats, of one index or several.

    Derived in lesson 08.
    """

    def __init__(self, tokens: Tensor, targets: Tensor):
        self.tokens, self.targets = tokens.half(), targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(
        self, index: int | Tensor
    ) -> tuple[Float[Tensor, "*batch tokens dim"], Float[Tensor, "*batch attributes"]]:
        return self.tokens[index].float(), self.targets[index]

    def batches(self, size: int = 500) -> Iterator[Float[Tensor, "batch tokens dim"]]:
        """All tokens in order, as floats, so many images at a time."""
        return (tokens.float() for tokens in self.tokens.split(size))


def load_images(faces: Dataset, flip: bool = False, workers: int = 2) -> ImageArrays:
    """A `FaceDataset` or `CelebA` in memory: 10,000 images of 56 px take 94 MB. Derived in lesson
    08.
    """
    arrays = gather(faces, "image", "target", small={"image": torch.uint8}, workers=workers)
    return ImageArrays(arrays["image"], arrays["target"], flip)
