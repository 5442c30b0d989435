"""CelebA's two layouts, made small in exactly their formats, and what can be wrong with a copy."""

import shutil
import sys
import types
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from refusals import refused
from torch.utils.data import DataLoader

from course_lib.data import CelebA, FaceDataset, fetch_celeba
from course_lib.world import ATTRIBUTES

HEADER = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose"
    " Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee"
    " Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard"
    " Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair"
    " Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie"
    " Young"
)
CELEBA_ORDER = HEADER.split()
IMAGES, PEOPLE = 30, 10
FILES = [f"{number:06d}.jpg" for number in range(1, IMAGES + 1)]
SPLIT = [0] * 20 + [1] * 6 + [2] * 4
PERSON = [2880 + 7 * (number % PEOPLE) for number in range(IMAGES)]
TRUTH = np.random.default_rng(0).random((IMAGES, 40)) < 0.3


def picture(number: int) -> np.ndarray:
    """178 × 218 as CelebA's are, smooth, each of another colour; red above the square in the
    middle, green below.
    """
    image = np.full((218, 178, 3), (40 + 5 * number, 90, 160), np.uint8)
    image[:20], image[-20:] = (255, 0, 0), (0, 255, 0)
    return image


def write_images(folder):
    folder.mkdir(parents=True)
    for number, file in enumerate(FILES):
        cv2.imwrite(str(folder / file), picture(number)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])


def original(folder, order=CELEBA_ORDER):
    """A count, the names with a trailing space, values -1 and 1 padded to two characters."""
    columns = [CELEBA_ORDER.index(name) for name in order]
    rows = [
        f"{file} " + "".join(f" {1 if value else -1:2d}" for value in TRUTH[number, columns]) + " "
        for number, file in enumerate(FILES)
    ]
    (folder / "Anno").mkdir(parents=True)
    (folder / "Eval").mkdir()
    (folder / "Anno" / "list_attr_celeba.txt").write_text(
        "\n".join([str(IMAGES), " ".join(order) + " ", *rows, ""])
    )
    (folder / "Eval" / "list_eval_partition.txt").write_text(
        "".join(f"{file} {split}\n" for file, split in zip(FILES, SPLIT, strict=True))
    )
    (folder / "Anno" / "identity_CelebA.txt").write_text(
        "".join(f"{file} {person}\n" for file, person in zip(FILES, PERSON, strict=True))
    )
    write_images(folder / "Img" / "img_align_celeba")


def flat(folder):
    """The same files side by side, as torchvision wants them."""
    original(folder)
    for path in [
        *(folder / "Anno").iterdir(),
        *(folder / "Eval").iterdir(),
        *(folder / "Img").iterdir(),
    ]:
        path.rename(folder / path.name)


def kaggle(folder, order=CELEBA_ORDER):
    columns = [CELEBA_ORDER.index(name) for name in order]
    rows = [
        ",".join([file, *(str(1 if value else -1) for value in TRUTH[number, columns])])
        for number, file in enumerate(FILES)
    ]
    write_images(folder / "img_align_celeba" / "img_align_celeba")
    (folder / "list_attr_celeba.csv").write_text(
        "\r\n".join([",".join(["image_id", *order]), *rows, ""])
    )
    (folder / "list_eval_partition.csv").write_text(
        "image_id,partition\r\n"
        + "".join(f"{file},{split}\r\n" for file, split in zip(FILES, SPLIT, strict=True))
    )
    (folder / "list_landmarks_align_celeba.csv").write_text("image_id,lefteye_x\r\n")


LAYOUTS = {"original": original, "flat": flat, "kaggle": kaggle}


@pytest.fixture(scope="session")
def copies(tmp_path_factory):
    root = tmp_path_factory.mktemp("celeba")
    for name, make in LAYOUTS.items():
        make(root / name)
    return root


@pytest.fixture(params=LAYOUTS)
def copy(request, copies):
    return copies / request.param


@pytest.fixture
def broken(copies, tmp_path, request):
    """A copy that a test may damage."""
    return shutil.copytree(copies / getattr(request, "param", "original"), tmp_path / "copy")


def expected(number, names=ATTRIBUTES):
    return [float(TRUTH[number, CELEBA_ORDER.index(name)]) for name in names]


@pytest.mark.parametrize(
    ("split", "first", "length"), [("train", 0, 20), ("valid", 20, 6), ("test", 26, 4)]
)
def test_every_layout_gives_the_official_split(copy, split, first, length):
    faces = CelebA(copy, split, size=32)
    assert len(faces) == length
    assert [faces[i]["target"].tolist() for i in range(length)] == [
        expected(first + i) for i in range(length)
    ]
    for i in range(length):
        inside = faces[i]["image"][:, 8:-8].mean((1, 2)) * 255
        assert np.allclose(inside, (40 + 5 * (first + i), 90, 160), atol=3)


def test_items_look_like_drawn_ones(copy):
    photo, drawn = CelebA(copy, size=64)[3], FaceDataset(4, size=64)[3]
    for key in ("image", "target"):
        assert (photo[key].shape, photo[key].dtype) == (drawn[key].shape, drawn[key].dtype)
    assert 0 <= photo["image"].min() < photo["image"].max() <= 1
    assert set(photo) == {"image", "target"} | ({"person"} if copy.name != "kaggle" else set())
    faces = CelebA(copy)
    assert torch.equal(faces.target(3), faces[3]["target"])
    batch = next(iter(DataLoader(faces, 4, num_workers=1)))
    assert batch["image"].shape == (4, 3, 112, 112)


def test_all_forty_attributes_and_a_few(copy):
    assert CelebA(copy, names=None).names == tuple(CELEBA_ORDER)
    assert CelebA(copy, names=None).target(5).tolist() == expected(5, CELEBA_ORDER)
    few = ("Young", "Bald", "Attractive")
    assert CelebA(copy, names=few).target(5).tolist() == expected(5, few)


@pytest.mark.parametrize("layout", [original, kaggle])
def test_names_in_another_order_are_found_by_name(tmp_path, layout):
    layout(tmp_path, order=CELEBA_ORDER[::-1])
    assert [CelebA(tmp_path).target(i).tolist() for i in range(20)] == [
        expected(i) for i in range(20)
    ]


def test_tabs_blank_lines_and_a_missing_count_do_no_harm(broken):
    table = broken / "Anno" / "list_attr_celeba.txt"
    table.write_text(
        "\ufeff" + table.read_text().split("\n", 1)[1].replace("  1", "\t1").replace("\n", "\n\n")
    )
    assert [CelebA(broken).target(i).tolist() for i in range(20)] == [
        expected(i) for i in range(20)
    ]


def test_the_square_in_the_middle(copy):
    # rows 20 to 198: no red is left but JPEG's ringing
    everything = CelebA(copy, size=178)[0]["image"]
    assert everything[0, 2:-2].max() < 0.3
    image = cv2.imread(str(CelebA(copy).images / FILES[0]))[..., ::-1]
    assert np.array_equal(everything.permute(1, 2, 0).mul(255).round().byte(), image[20:198])
    middle = CelebA(copy, size=100, crop=100)[0]["image"]
    assert np.array_equal(middle.permute(1, 2, 0).mul(255).round().byte(), image[59:159, 39:139])
    assert torch.equal(
        CelebA(copy, size=60, crop=900)[0]["image"], CelebA(copy, size=60)[0]["image"]
    )


def test_by_person_no_one_is_on_both_sides(copies):
    parts = {
        split: CelebA(copies / "flat", split, by_person=True)
        for split in ("train", "valid", "test")
    }
    people = {
        split: {faces[i]["person"] for i in range(len(faces))} for split, faces in parts.items()
    }
    assert [len(people[split]) for split in parts] == [8, 1, 1]
    assert len(set.union(*people.values())) == PEOPLE
    assert sum(map(len, parts.values())) == IMAGES
    for faces in parts.values():
        assert [faces[i]["person"] for i in range(len(faces))] == [
            PERSON[FILES.index(file)] for file in faces.files
        ]
        assert [faces.target(i).tolist() for i in range(len(faces))] == [
            expected(FILES.index(f)) for f in faces.files
        ]


def test_the_first_so_many(copy):
    assert CelebA(copy, n=7).files == FILES[:7]
    assert len(CelebA(copy, n=500)) == 20


@pytest.mark.parametrize("broken", ["original", "kaggle"], indirect=True)
def test_truncated_and_missing_images_are_named_or_skipped_and_counted(broken, capsys):
    folder = CelebA(broken).images
    whole = (folder / FILES[2]).read_bytes()
    (folder / FILES[2]).write_bytes(whole[: len(whole) // 2])
    # a download's holes
    (folder / FILES[5]).write_bytes(whole[: len(whole) // 2] + bytes(len(whole) // 2))
    (folder / FILES[7]).unlink()
    (folder / FILES[9]).write_bytes(b"")
    (folder / FILES[22]).unlink()  # of another split
    faces = CelebA(broken)
    assert faces[1]["image"].isfinite().all()
    for index in (2, 5, 9):
        words = f"{FILES[index]} is truncated, too large or no JPEG … skip_broken=True"
        refused(words, faces.__getitem__, index)
    refused(f"{FILES[7]} is missing", lambda: faces[7], error=FileNotFoundError)
    capsys.readouterr()
    skipping = CelebA(broken, skip_broken=True)
    assert capsys.readouterr().out == "left out 4 images that are missing or truncated, kept 16\n"
    assert skipping.skipped == [FILES[index] for index in (2, 5, 7, 9)]
    kept = [index for index in range(20) if index not in (2, 5, 7, 9)]
    assert [skipping[i]["target"].tolist() for i in range(16)] == [
        expected(index) for index in kept
    ]
    assert CelebA(broken, n=4, skip_broken=True).files == [FILES[index] for index in (0, 1, 3, 4)]


MISSING = {
    "has no list_attr_celeba.txt (original layout) or list_attr_celeba": "list_attr_celeba.*",
    "has no list_attr_celeba.txt … which holds CelebA's labels … copy it": "list_attr_celeba.*",
    "has no list_eval_partition.txt … the official split": "list_eval_partition.*",
    "no img_align_celeba folder of images; unpack img_align_celeba.zip": "img_align_celeba",
}


@pytest.mark.parametrize("broken", ["original", "kaggle"], indirect=True)
@pytest.mark.parametrize(("words", "pattern"), MISSING.items())
def test_what_is_missing_is_named(broken, words, pattern):
    path = next(broken.rglob(pattern))
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    refused(words, CelebA, broken, error=FileNotFoundError)


@pytest.mark.parametrize("broken", ["original", "kaggle"], indirect=True)
@pytest.mark.parametrize(
    "damage", [lambda line: FILES[4] + line[10:].replace("1", "0"), lambda line: line[:60]]
)
def test_damaged_labels_are_named(broken, damage):
    table = next(broken.rglob("list_attr_celeba.*"))
    lines = table.read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith(FILES[4]))
    lines[at] = damage(lines[at])
    table.write_text("\n".join(lines))
    refused(f"list_attr_celeba … for {FILES[4]}; expected 40 values, each -1 or 1", CelebA, broken)


DAMAGED = {
    "list_attr_celeba.txt is empty or cut off": ("Anno/list_attr_celeba.txt", ""),
    "has the line '000002.jpg'; expected an image": (
        "Eval/list_eval_partition.txt",
        "000001.jpg 0\n000002.jpg\n",
    ),
    "the train split of … has no image": ("Eval/list_eval_partition.txt", "000001.jpg 1\n"),
    "identity_CelebA.txt has the line '000002.jpg x'": (
        "Anno/identity_CelebA.txt",
        "000001.jpg 3\n000002.jpg x\n",
    ),
}


@pytest.mark.parametrize("words", DAMAGED)
def test_other_damage_is_named(broken, words):
    table, content = DAMAGED[words]
    (broken / table).write_text(content)
    refused(words, CelebA, broken)


def test_a_shorter_list_than_announced_is_said(broken, capsys):
    table = broken / "Anno" / "list_attr_celeba.txt"
    table.write_text(table.read_text().replace(f"{IMAGES}\n", "202599\n", 1))
    partition = broken / "Eval" / "list_eval_partition.txt"
    partition.write_text("".join(partition.read_text().splitlines(keepends=True)[:25]))
    assert len(CelebA(broken)) == 20
    assert (
        capsys.readouterr().out
        == "list_attr_celeba.txt announces 202,599 images and lists 30; going on with those\n"
        "5 images have labels and no split; going on without them\n"
    )


def test_a_person_that_is_not_listed_is_nobody(broken):
    table = broken / "Anno" / "identity_CelebA.txt"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:3]))
    assert [CelebA(broken)[i]["person"] for i in (2, 3)] == [PERSON[2], -1]


def test_bad_options_get_one_sentence(copies):
    for words, options in {
        "unknown split 'assets'; choose one of train, valid, test": {"split": "assets"},
        "n is 0": {"n": 0},
        "size is -1; expected at least 1": {"size": -1},
        "crop is 0": {"crop": 0},
        "no attribute 'Beard' among the 40 … choose from 5_o_": {"names": ["Beard"]},
    }.items():
        refused(words, partial(CelebA, **options), copies / "flat")
    missing = {"error": FileNotFoundError}
    refused("nowhere; … fetch_celeba()", CelebA, copies / "nowhere", **missing)
    refused(
        "no identity_CelebA.txt … who is on each image",
        partial(CelebA, by_person=True),
        copies / "kaggle",
        **missing,
    )


def test_kagglehub_is_only_asked_when_told(monkeypatch, copies):
    asked = []
    hub = types.SimpleNamespace(
        dataset_download=lambda name: asked.append(name) or str(copies / "kaggle")
    )
    monkeypatch.setitem(sys.modules, "kagglehub", hub)
    faces = CelebA(copies / "kaggle")
    assert not asked
    assert CelebA(fetch_celeba()).files == faces.files
    assert asked == ["jessicali9530/celeba-dataset"]

    def fails(name):
        raise RuntimeError("403: sign in")

    hub.dataset_download = fails
    refused("(403: sign in); try again … or download", fetch_celeba, error=ConnectionError)
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    words = "run `pip install kagglehub`, or download jessicali9530"
    refused(words, fetch_celeba, error=ModuleNotFoundError)
