"""Pictures as a person sees them, and CelebA's photographs in the item form of the drawn faces, from
either of the two layouts it is found in on disk.

CelebA's original has text tables and an identity file; Kaggle's copy has CSV tables, images nested twice
and no identities. Liu et al., arXiv 1411.7766. The data set may not be redistributed: bring your
own copy.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from io import BytesIO
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from ..shapes import Bool, Float, UInt8
from ..world.population import ATTRIBUTES
from .drawn import to_image
from .video import to_rgb

__all__ = ["CelebA", "centre_square", "decode_picture", "fetch_celeba", "read_picture"]

SPLITS = ("train", "valid", "test")  # 0, 1 and 2 in the partition table

_KAGGLE = "jessicali9530/celeba-dataset"

PARTS_OF_A_COPY = ("img_align_celeba", "Img", "Anno", "Eval")

_SHARES = (0.8, 0.1, 0.1)  # of the people, where the split is by person


def read_picture(path: str | Path) -> UInt8[np.ndarray, "height width 3"]:
    """A picture file (JPEG, PNG, WebP, TIFF, …) as a person sees it: upright, RGB bytes, what is
    transparent over white.

    Turns as the camera noted (EXIF); grey, palettes and CMYK become RGB; 16 bits are scaled to 8; of
    an animation the first frame. Raises `FileNotFoundError` for a missing file, `ValueError` for one
    that is cut off, too large, or no picture.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no picture {path}; check the path")
    return decode_picture(path, str(path))


def decode_picture(
    source: Path | BytesIO, name: str, formats: Sequence[str] | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """What `read_picture` does, of a file or of one in memory, called `name` in errors; of these
    `formats` only, if given.
    """
    try:
        with Image.open(source, formats=formats) as picture:
            ImageOps.exif_transpose(picture, in_place=True)
            if picture.mode[0] not in "IF" and picture.has_transparency_data:
                picture = picture.convert("RGBA")
                paper = Image.new("RGBA", picture.size, "white")
                picture = Image.alpha_composite(paper, picture)
            as_it_is = picture.mode == "RGB" or picture.mode[0] in "IF"
            values = np.array(picture if as_it_is else picture.convert("RGB"))
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name} has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller first"
        ) from error
    except Exception as error:  # a damaged file can fail in any way
        raise ValueError(
            f"{name} is cut off, or no picture that can be read; copy it again, or save it as JPEG"
            " or PNG"
        ) from error
    return to_rgb(values / 65_535 if values.dtype.kind in "iu" and values.ndim == 2 else values)


def fetch_celeba() -> Path:
    """Download Kaggle's copy (over a gigabyte) with kagglehub, once, and return its folder.

    Raises ModuleNotFoundError without kagglehub, ConnectionError when the download fails; both say
    what to do.
    """
    yourself = (
        f"download {_KAGGLE} from Kaggle's site yourself, unpack it, and pass its folder to CelebA"
    )
    try:
        import kagglehub
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"kagglehub is not installed; run `pip install kagglehub`, or {yourself}"
        ) from error
    try:
        return Path(kagglehub.dataset_download(_KAGGLE))
    except Exception as error:  # its client libraries raise whatever they like
        raise ConnectionError(
            f"kagglehub could not fetch CelebA ({error}); try again when the network is there, or "
            f"{yourself}"
        ) from error


class CelebA(torch.utils.data.Dataset):
    """The photographs of a split by index: dicts of `image`, `target` and, where the copy knows
    people, `person`.

    `image` float32 `3 size size` in [0, 1], from a square in the middle (`crop` px wide, by default
    the largest); `target` float32 `attributes` in {0, 1}, of `names` in that order, whatever the
    table's order (None: all it has). The split is the official one, or with `by_person` 8 : 1 : 1
    of the people; `n` takes the first so many images. An image that is missing or truncated is
    named in an error when it is asked for. With `skip_broken` all are looked at first, left out and
    counted; `skipped` holds their names.

    Raises FileNotFoundError for a missing folder, table or image, ValueError for one that is
    damaged, and for unknown names and splits. Derived in lesson 08.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str = "train",
        n: int | None = None,
        size: int = 112,
        crop: int | None = None,
        names: Sequence[str] | None = ATTRIBUTES,
        by_person: bool = False,
        skip_broken: bool = False,
    ):
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
        for name, value in (("n", n), ("size", size), ("crop", crop)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        if not Path(folder).is_dir():
            raise FileNotFoundError(
                f"no folder {folder}; pass the one that holds CelebA's list_attr_celeba, or get it "
                "with fetch_celeba()"
            )
        folder = _root(Path(folder))
        self.size, self.crop, self.skipped = size, crop, []
        self.images = _image_folder(folder)
        table = _find(folder, "list_attr_celeba", "CelebA's labels")
        header, rows = _read_labels(table)
        self.names = tuple(header if names is None else names)
        columns = [_column(name, header) for name in self.names]
        self.people = _read_people(folder, needed=by_person)
        partition = _by_person(self.people) if by_person else _read_partition(folder)
        files = [file for file in rows if partition.get(file) == SPLITS.index(split)]
        if homeless := len(rows.keys() - partition.keys()):
            print(f"{homeless:,} images have labels and no split; going on without them")
        if skip_broken:
            files = (
                file
                for file in tqdm(files, "looking at images", mininterval=5)
                if self._keeps(file)
            )
        self.files = list(islice(files, n))
        if skip_broken:
            print(
                f"left out {len(self.skipped)} images that are missing or truncated, kept"
                f" {len(self.files)}"
            )
        if not self.files:
            raise ValueError(
                f"the {split} split of {folder} has no image that can be used; check"
                " list_eval_partition and the images"
            )
        self.labels = np.stack(
            [_labels(file, rows[file], header, table)[columns] for file in self.files]
        )

    def _keeps(self, file: str) -> bool:
        path = self.images / file
        whole = path.is_file() and _is_whole(path.read_bytes())
        self.skipped += [] if whole else [file]
        return whole

    def __len__(self) -> int:
        return len(self.files)

    def target(self, index: int) -> Float[torch.Tensor, " attributes"]:
        """The labels of item `index` without reading its image: what frequencies are counted from."""
        return torch.from_numpy(self.labels[index]).float()

    def __getitem__(self, index: int) -> dict:
        file = self.files[index]
        square = centre_square(_whole_picture(self.images / file), self.crop, self.size)
        item = {"image": to_image(square), "target": self.target(index)}
        return item | ({"person": self.people.get(file, -1)} if self.people else {})


def _root(folder: Path) -> Path:
    """The folder of a copy that has labels and images: this one, one below, or, where it is itself
    a part of a copy, one above.
    """
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    above = folder.resolve().parents[:2] if folder.resolve().name in PARTS_OF_A_COPY else ()
    for root in (folder, *below, *above):
        if _tables(root, "list_attr_celeba") and _image_folders(root):
            return root
    return folder


def _tables(folder: Path, name: str) -> list[Path]:
    """The files of this name, as text or else as CSV, in the folder or else one below."""
    for suffix in (".txt", ".csv"):
        for place in ("", "*/"):
            if paths := sorted(folder.glob(f"{place}{name}{suffix}")):
                return paths
    return []


def _image_folders(folder: Path) -> list[Path]:
    """`img_align_celeba`, the inner one where it is nested twice."""
    paths = [*sorted(folder.glob("*/img_align_celeba")), folder / "img_align_celeba"]
    return [path for path in paths if path.is_dir()]


def _find(folder: Path, name: str, what: str) -> Path:
    paths = _tables(folder, name)
    if not paths:
        raise FileNotFoundError(
            f"{folder} has no {name}.txt (original layout) or {name}.csv (Kaggle's), which holds "
            f"{what}; pass the folder it is in, or copy it there"
        )
    if len(paths) > 1:
        raise ValueError(
            f"{folder} holds several copies of CelebA, {paths[0].parent} and {paths[1].parent};"
            " pass the folder of one"
        )
    return paths[0]


def _image_folder(folder: Path) -> Path:
    paths = _image_folders(folder)
    if not paths:
        raise FileNotFoundError(
            f"{folder} has no img_align_celeba folder of images; unpack img_align_celeba.zip there"
        )
    return paths[0]


def _read(path: Path) -> list[list[str]]:
    """The first word and the rest of every line that is not empty, without quotes and without the
    index that pandas writes.
    """
    try:
        text = path.read_text(encoding="utf-8-sig").replace('"', "")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8; copy it again") from error
    if text.lstrip().startswith("<"):
        raise ValueError(
            f"{path} is a web page (a download site saves one when its quota is used up), not the"
            " table; download the table again, or take Kaggle's copy with fetch_celeba()"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    separator = "," if path.suffix == ".csv" else None
    if lines and lines[0].startswith((",", "Unnamed")):
        lines = [line.partition(",")[2] for line in lines]
    return [[part.strip() for part in line.split(separator, 1)] for line in lines]


def _read_labels(path: Path) -> tuple[list[str], dict[str, str]]:
    """The attributes' names, and of each image its values as text: only those that are used are
    parsed.
    """
    lines = _read(path)
    announced = lines.pop(0)[0] if lines and len(lines[0]) == 1 and _is_number(lines[0][0]) else ""
    if len(lines) < 2:
        raise ValueError(f"{path} is empty or cut off; copy it again")
    header = (
        ",".join(lines[0]).split(",")[1:] if path.suffix == ".csv" else " ".join(lines[0]).split()
    )
    _check_unique((line[0] for line in lines[1:]), path)
    rows = {line[0]: line[-1] for line in lines[1:]}
    if announced and int(announced) != len(rows):
        print(
            f"{path.name} announces {int(announced):,} images and lists {len(rows):,}; going on"
            " with those"
        )
    return [name.strip() for name in header], rows


def _is_number(word: str) -> bool:
    return re.fullmatch("[0-9]{1,9}", word) is not None


def _check_unique(files: Iterable[str], path: Path) -> None:
    file, count = Counter(files).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{path} lists {file} {count} times; expected once, so copy it again")


def _labels(file: str, row: str, header: list[str], path: Path) -> Bool[np.ndarray, " attributes"]:
    """-1 or 0 where an attribute is absent: the original has -1, many copies 0."""
    values = row.replace(",", " ").split()
    if len(values) != len(header) or not any(set(values) <= {"1", no} for no in ("-1", "0")):
        raise ValueError(
            f"{path} has {row[:20]!r}… for {file}; expected {len(header)} values, each"
            " -1 or 1 (or each 0 or 1): the file is damaged, copy it again"
        )
    return np.array(values) == "1"


def _column(name: str, header: list[str]) -> int:
    if name not in header:
        raise ValueError(
            f"no attribute {name!r} among the {len(header)} of this copy of CelebA; choose from "
            f"{', '.join(header)}"
        )
    return header.index(name)


def _numbers(path: Path) -> dict[str, int]:
    """The number of each image in a table of two columns, with or without a header."""
    lines = _read(path)
    if lines and not _is_number(lines[0][-1]):
        lines = lines[1:]
    wrong = next((line for line in lines if len(line) != 2 or not _is_number(line[1])), None)
    if wrong is not None:
        raise ValueError(
            f"{path} has the line {' '.join(wrong)!r}; expected an image and a number: the file is "
            "damaged, copy it again"
        )
    if not lines:
        raise ValueError(f"{path} is empty or cut off; copy it again")
    _check_unique((file for file, _ in lines), path)
    return {file: int(number) for file, number in lines}


def _read_partition(folder: Path) -> dict[str, int]:
    return _numbers(_find(folder, "list_eval_partition", "the official split"))


def _read_people(folder: Path, needed: bool) -> dict[str, int]:
    """Who is on each image; nothing where the copy has no identity file and none is needed."""
    try:
        return _numbers(_find(folder, "identity_CelebA", "who is on each image"))
    except FileNotFoundError:
        if needed:
            raise
        return {}


def _by_person(people: dict[str, int]) -> dict[str, int]:
    """The split of every image: whole people, shuffled once and for all."""
    everybody = np.unique(list(people.values()))
    rank = (np.random.default_rng(0).permutation(len(everybody)) + 0.5) / len(everybody)
    part = dict(
        zip(everybody.tolist(), np.searchsorted(np.cumsum(_SHARES)[:2], rank).tolist(), strict=True)
    )
    return {file: part[person] for file, person in people.items()}


def _is_whole(content: bytes) -> bool:
    """Whether a JPEG's start and end are there: a decoder would fill what is missing with grey and
    say nothing.
    """
    return content[:2] == b"\xff\xd8" and b"\xff\xd9" in content[-64:]


def _whole_picture(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    if not path.is_file():
        raise FileNotFoundError(
            f"the image {path} is missing; restore it, or leave such images out with "
            "skip_broken=True"
        )
    content, picture = path.read_bytes(), None
    if _is_whole(content):  # cv2 is twice as quick as Pillow, and equal for ordinary JPEGs
        with suppress(cv2.error):  # too many pixels
            picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError(
            f"the image {path} is truncated, too large or no JPEG ({len(content)} bytes); restore it, or"
            " leave such images out with skip_broken=True"
        )
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def centre_square(
    image: UInt8[np.ndarray, "height width 3"], crop: int | None, size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """The square of `crop` px in the middle, or the largest there is, at `size` px."""
    height, width = image.shape[:2]
    side = min(crop or height, height, width)
    top, left = (height - side) // 2, (width - side) // 2
    method = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return cv2.resize(
        image[top : top + side, left : left + side], (size, size), interpolation=method
    )
