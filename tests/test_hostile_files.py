"""What strangers bring as tables, annotations and archives: read, or refused in one sentence."""

import contextlib
import io
import pickle
import random
import shutil
import struct
import zipfile
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import skimage.data
from PIL import Image

from course_lib.data import (
    SPLITS,
    CelebA,
    FirstImpressions,
    read_annotations,
    read_picture,
    speakers_of,
    unpack_archives,
)
from course_lib.world import TRAITS

MUTATIONS = 1000


def mutated(content: bytes, seed: int) -> bytes:
    """One to four bytes changed, a stretch cut out, repeated or moved, or the end missing."""
    rng, changed = random.Random(seed), bytearray(content)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(changed) + 1)
        stretch = changed[start : start + rng.choice([1, 2, 4, 8, 40])]
        kind = rng.choice(["bytes", "cut", "repeat", "move", "end"])
        if kind == "bytes":
            changed[start : start + 1] = rng.randbytes(1)
        elif kind == "cut":
            del changed[start : start + len(stretch)]
        elif kind == "repeat":
            changed[start:start] = stretch * rng.choice([1, 2, 50])
        elif kind == "move":
            del changed[start : start + len(stretch)]
            to = rng.randrange(len(changed) + 1)
            changed[to:to] = stretch
        elif rng.random() < 0.2:  # not too often, for little is left then
            del changed[start:]
    return bytes(changed)


@contextlib.contextmanager
def only_sentences():
    """Any error within is a `ValueError` or `OSError` of the course's own, in one line."""
    sentence = ""
    try:
        yield
    except (ValueError, OSError) as error:
        sentence = str(error)
    assert "\n" not in sentence
    assert ";" in sentence or not sentence, sentence  # what is wrong; what to do


# ---- CelebA's tables -----------------------------------------------------------------------------

NAMES = ["Bald", "Male", "Young"]
LABELS = {
    "1.jpg": (-1, 1, -1),
    "2.jpg": (-1, -1, 1),
    "3.jpg": (1, 1, -1),
    "4.jpg": (-1, 1, 1),
}
PRESENT = (np.array(list(LABELS.values())) == 1).tolist()


def labels_as(separator=",", absent=-1, index=False, quote="", corner="image_id") -> str:
    """The table of labels as one program or another writes it."""
    rows = [[corner, *NAMES]] + [
        [file, *(str(value if value == 1 else absent) for value in values)]
        for file, values in LABELS.items()
    ]
    rows = [[f"{quote}{cell}{quote}" for cell in row] for row in rows]
    if index:
        rows = [[str(number - 1) if number else "", *row] for number, row in enumerate(rows)]
    return "\n".join(separator.join(row) for row in rows) + "\n"


def copy_of_celeba(folder: Path, labels: str) -> Path:
    images = folder / "img_align_celeba"
    images.mkdir(parents=True)
    for file in LABELS:
        Image.new("RGB", (20, 24), (90, 120, 30)).save(images / file)
    (folder / "list_attr_celeba.csv").write_text(labels)
    partition = "".join(f"{file},0\n" for file in LABELS)
    (folder / "list_eval_partition.csv").write_text("image_id,partition\n" + partition)
    return folder


def targets(folder: Path) -> list:
    faces = CelebA(folder, names=NAMES, size=16)
    assert faces[0]["image"].shape == (3, 16, 16)
    return [faces.target(index).bool().tolist() for index in range(len(faces))]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"absent": 0},
        {"index": True},
        {"quote": '"'},
        {"absent": 0, "index": True, "quote": '"'},
    ],
)
def test_the_table_as_other_programs_write_it(tmp_path, options):
    assert targets(copy_of_celeba(tmp_path, labels_as(**options))) == PRESENT


def test_quotes_and_zeros_in_the_layout_with_spaces(tmp_path):
    copy_of_celeba(tmp_path, "")
    (tmp_path / "list_attr_celeba.csv").unlink()
    header, rows = labels_as(" ", absent=0, quote='"').split("\n", 1)
    (tmp_path / "list_attr_celeba.txt").write_text(f"4\n{header.split(' ', 1)[1]}\n{rows}")
    assert targets(tmp_path) == PRESENT


@pytest.mark.parametrize("place", ["../..", "..", ".", "img_align_celeba"])
def test_one_folder_up_or_down_is_found(tmp_path, place):
    folder = copy_of_celeba(tmp_path / "mine" / "celeba", labels_as())
    if place == "../..":  # two above the tables, which then lie in a folder of their own
        (folder / "Anno").mkdir()
        for table in folder.glob("*.csv"):
            table.rename(folder / "Anno" / table.name)
        place = ".."
    assert targets(folder / place) == PRESENT


def test_an_image_of_a_thousand_million_pixels_is_one_sentence(tmp_path):
    folder = copy_of_celeba(tmp_path, labels_as())
    path = folder / "img_align_celeba" / "1.jpg"
    content = bytearray(path.read_bytes())
    size = content.index(b"\xff\xc0") + 5  # the header says how large it is
    content[size : size + 4] = struct.pack(">HH", 40_000, 30_000)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"1\.jpg is truncated, too large or no JPEG"):
        CelebA(folder, names=NAMES, size=16)[0]
    with pytest.raises(ValueError, match=r"1\.jpg has more than 178,956,970 pixels; make it sma"):
        read_picture(path)


def test_a_quota_page_is_called_one(tmp_path):
    copy_of_celeba(tmp_path, "\n<!DOCTYPE html><html><head>\n<title>Quota exceeded</title>")
    with pytest.raises(ValueError, match=r"list_attr_celeba\.csv is a web page .*fetch_celeba"):
        CelebA(tmp_path, names=NAMES)


def test_what_is_listed_twice_or_mixed_is_refused(tmp_path):
    twice = labels_as() + "2.jpg,1,1,1\n"
    with pytest.raises(ValueError, match=r"lists 2\.jpg 2 times; expected once"):
        CelebA(copy_of_celeba(tmp_path / "twice", twice), names=NAMES)
    with pytest.raises(ValueError, match=r"for 1\.jpg; expected 3 values, each -1 or 1 \(or"):
        CelebA(copy_of_celeba(tmp_path / "mixed", labels_as().replace("-1,1", "-1,0")), names=NAMES)
    copy_of_celeba(tmp_path / "two" / "a", labels_as())
    copy_of_celeba(tmp_path / "two" / "b", labels_as())
    with pytest.raises(ValueError, match=r"several copies of CelebA, .*a and .*b; pass"):
        CelebA(tmp_path / "two", names=NAMES)


@pytest.mark.parametrize("table", ["list_attr_celeba", "list_eval_partition", "identity_CelebA"])
def test_mutated_tables_are_read_or_refused_in_one_sentence(tmp_path, table, capsys):
    copy_of_celeba(tmp_path, labels_as())
    (tmp_path / "identity_CelebA.csv").write_text("".join(f"{file},7\n" for file in LABELS))
    path = tmp_path / f"{table}.csv"
    content = path.read_bytes()
    for seed in range(MUTATIONS):
        path.write_bytes(mutated(content, seed))
        with only_sentences():
            faces = CelebA(tmp_path, names=None, size=16, by_person=table == "identity_CelebA")
            for index in range(len(faces)):
                faces[index]


# ---- First Impressions: annotations ---------------------------------------------------------------

TRAIT_NAMES = [trait.lower() for trait in TRAITS]
CLIPS = ["J4GQm9j0JZ0.003.mp4", "-_a-9XYZ_12.000.mp4"]


def table(clips=CLIPS, value=0.25) -> dict:
    return {trait: dict.fromkeys(clips, value) for trait in TRAIT_NAMES}


def in_a_file(folder: Path, content: bytes) -> Path:
    (folder / "annotation_training.pkl").write_bytes(content)
    return folder / "annotation_training.pkl"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [np.float64(0.3), 0.3, 1])
def test_annotations_of_every_protocol_are_read(tmp_path, protocol, value):
    path = in_a_file(tmp_path, pickle.dumps(table(value=value), protocol=protocol))
    assert read_annotations(path) == {clip: [float(value)] * 5 for clip in CLIPS}


def test_tuples_in_tuples_as_a_key_do_not_hang(tmp_path):
    doubled = b"\x80\x02}" + b"K\x01" + b"q\x00h\x00\x86" * 60 + b"K\x01s."  # (x, x) sixty times
    with pytest.raises(ValueError, match="is no annotation file of First Impressions"):
        read_annotations(in_a_file(tmp_path, doubled))
    as_a_type = b"\x80\x02cnumpy\ndtype\nK\x01" + b"q\x00h\x00\x86" * 60 + b"\x85R."
    with pytest.raises(ValueError, match="does not hold one number for each trait and clip"):
        read_annotations(in_a_file(tmp_path, as_a_type))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (table(clips=[5]), "a clip's name is of type int"),
        (table(clips=[10**5000]), "a clip's name is of type int"),
        (table(clips=[None]), "a clip's name is of type NoneType"),
        (table(clips=["two\nlines.mp4"]), "not printable"),
        (table(clips=[("a", "b")]), "is no annotation file"),
        (table(value=10**400), "int too large to convert to float"),
        (table(value=float("1e400")), r"the traits \[inf, "),
        ({**table(), "openness": 7}, "does not hold one number"),
    ],
)
def test_names_and_numbers_that_cannot_be_get_one_sentence(tmp_path, content, sentence):
    path = in_a_file(tmp_path, pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=sentence) as error:
        read_annotations(path)
    assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"no annotation file .*nowhere.*chalearnlap"):
        read_annotations(tmp_path / "nowhere")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_mutated_annotations_are_read_or_refused_in_one_sentence(tmp_path, protocol):
    content = pickle.dumps(table(value=np.float64(0.25)), protocol=protocol)
    for seed in range(MUTATIONS):
        path = in_a_file(tmp_path, mutated(content, seed))
        with only_sentences():
            FirstImpressions(tmp_path).labels()
            assert all(isinstance(clip, str) for clip in read_annotations(path))


# ---- First Impressions: archives ------------------------------------------------------------------


def zipped(members: dict[str, bytes], method=zipfile.ZIP_DEFLATED) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", method) as content:
        for name, data in members.items():
            member = zipfile.ZipInfo("x")
            member.filename, member.compress_type = name, method  # "" too, which writestr refuses
            with content.open(member, "w") as file:
                file.write(data)
    return archive.getvalue()


def unpack(folder: Path, content: bytes, name: str = "train-1.zip") -> list[str]:
    """What unpacking this one archive leaves beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / name).write_bytes(content)
    unpack_archives(folder)
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(path for path in paths if path != name)


def test_what_a_mac_or_windows_leaves_beside_the_archives(tmp_path):
    inner = zipped({"a.mp4": b"film", "._a.mp4": b"Mac", "._b.zip": b"Mac"})
    content = zipped({"inner.ZIP": inner, "__MACOSX/._inner.ZIP": b"Mac"})
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "._train-1.zip").write_bytes(b"Mac")
    (tmp_path / "x" / "folder.zip").mkdir()
    with pytest.raises(FileNotFoundError, match="there is no zip file in"):
        unpack_archives(tmp_path / "x")
    unpacked = unpack(tmp_path / "y", content, "TRAIN-1.ZIP")
    assert "TRAIN-1/inner/a.mp4" in unpacked
    assert not [path for path in unpacked if path.endswith("inner.ZIP") and "._" not in path]


def damaged_data(method: int) -> bytes:
    content = bytearray(zipped({"a.mp4": random.Random(0).randbytes(500)}, method))
    content[60:90] = bytes(30)
    return bytes(content)


def version_99() -> bytes:
    content = bytearray(zipped({"a.mp4": b"x"}))
    at = content.index(b"PK\x01\x02") + 6
    content[at : at + 2] = struct.pack("<H", 99)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (damaged_data(zipfile.ZIP_LZMA), r"train-1\.zip is damaged .*; download it again"),
        (damaged_data(zipfile.ZIP_BZIP2), r"train-1\.zip is damaged .*; download it again"),
        (damaged_data(zipfile.ZIP_DEFLATED), r"train-1\.zip is damaged .*; download it again"),
        (version_99(), r"cannot read train-1\.zip \(zip file version 9\.9\); unpack .* 7-Zip"),
        (zipped({"": b"x"}), "holds '', which leads out"),
        (zipped({".": b"x"}), r"holds '\.', which leads out"),
        (zipped({"a/..": b"x"}), r"holds 'a/\.\.', which leads out"),
        (zipped({"a": b"x", "a/b": b"x"}), "'a/b' of train-1.zip cannot be written"),
        (zipped({"a/b.mp4": b"x", "a.zip": zipped({})}), r"'a\.zip' of train-1.zip cannot be wri"),
        (zipped({"x" * 300: b"x"}), "cannot be written .*name too long"),
    ],
)
def test_archives_that_cannot_be_get_one_sentence(tmp_path, content, sentence):
    with pytest.raises((ValueError, OSError), match=sentence) as error:
        unpack(tmp_path / "downloads", content)
    assert "\n" not in str(error.value)
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == ["train-1.zip"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_mutated_archives_are_unpacked_or_refused_in_one_sentence(tmp_path, method):
    content = zipped({"a.mp4": b"film" * 20, "b.zip": zipped({"c.mp4": b"c"}, method)}, method)
    for seed in range(MUTATIONS):
        with only_sentences():
            unpack(tmp_path / "downloads", mutated(content, seed))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["downloads"]


# ---- First Impressions: the clips that are there -------------------------------------------------


def speaking_film(path: Path, fps: int, frames: int) -> None:
    face = skimage.data.astronaut()[10:202, 120:312]
    film = np.stack([np.roll(face, step % 3, axis=1) for step in range(frames)])
    imageio.imwrite(path, film, plugin="FFMPEG", fps=fps, ffmpeg_log_level="error")


@pytest.fixture
def half_a_copy(tmp_path):
    """Annotations of two clips, of which one is there; those of the other splits are not."""
    in_a_file(tmp_path, pickle.dumps(table(), protocol=2))
    speaking_film(tmp_path / CLIPS[0], fps=50, frames=44)
    (tmp_path / f"._{CLIPS[1]}").write_bytes(b"Mac")
    return tmp_path


def test_clips_that_are_missing_are_left_out_on_request_and_counted(half_a_copy, capsys):
    options = {"frames": 4, "size": 32, "cache": False}
    everything = FirstImpressions(half_a_copy, **options)
    assert len(everything.labels()["speaker"]) == 2
    with pytest.raises(FileNotFoundError, match=r"1 of the 2 training clips .*skip_missing=True"):
        everything[0]
    assert capsys.readouterr().out == ""
    there = FirstImpressions(half_a_copy, skip_missing=True, **options)
    assert capsys.readouterr().out == "left out 1 clips that are not there, kept 1\n"
    assert (there.clips, there.skipped) == (CLIPS[:1], CLIPS[1:])
    assert there[0]["clip"] == CLIPS[0]
    assert there.labels()["traits"].shape == (1, 5)


def test_two_clips_of_one_name_are_refused_and_two_copies_are_not(half_a_copy):
    for folder in ("copy", "other"):
        (half_a_copy / folder).mkdir()
    shutil.copy(half_a_copy / CLIPS[0], half_a_copy / "copy")
    (half_a_copy / CLIPS[1]).symlink_to("nowhere.mp4")  # is not there
    options = {"frames": 4, "size": 32, "cache": False, "skip_missing": True}
    assert FirstImpressions(half_a_copy, **options).skipped == CLIPS[1:]
    (half_a_copy / "other" / CLIPS[0]).write_bytes(b"another film")
    with pytest.raises(ValueError, match=rf"{CLIPS[0]} and .*{CLIPS[0]} have one name and differ;"):
        FirstImpressions(half_a_copy, **options)


def test_several_windows_a_clip_at_one_rate(half_a_copy):
    options = {"frames": 4, "size": 32, "cache": False, "skip_missing": True}
    fast = FirstImpressions(half_a_copy, stride=10, **options)
    slow = FirstImpressions(half_a_copy, stride=10, video_fps=25, **options)
    assert (len(fast), len(slow)) == (4, 2)  # 44 frames, and 22
    assert [item["fps"].item() for item in slow] == [25, 25]
    assert fast[3]["fps"] == 50
    assert {item["clip"] for item in fast} == {CLIPS[0]}
    for item in slow:  # every second frame: twice the motion
        assert item["flow"].shape == (4, 32, 32, 2)
    with pytest.raises(ValueError, match="fps is 0 but must be above 0"):
        len(FirstImpressions(half_a_copy, stride=10, video_fps=0, **options))


def test_by_speaker_does_with_the_annotations_that_are_there(half_a_copy, capsys):
    clips = []
    for split in SPLITS:
        with contextlib.suppress(ValueError):  # two speakers cannot be in three splits
            clips += FirstImpressions(half_a_copy, split, by_speaker=True).clips
    assert sorted(clips) == sorted(CLIPS)
    assert "going on without annotation_validation.pkl and annotation_test.pkl" in (
        capsys.readouterr().out
    )
    with pytest.raises(FileNotFoundError, match=r"no annotation_test\.pkl below"):
        FirstImpressions(half_a_copy, "test")


def test_names_that_are_taken_for_speakers_are_said(tmp_path, capsys):
    assert speakers_of(CLIPS) == ["J4GQm9j0JZ0", "-_a-9XYZ_12"]
    assert capsys.readouterr().out == ""
    names = [f"interview.{number:03d}.mp4" for number in range(8)]
    assert set(speakers_of(names)) == {"interview"}
    sentence = (
        "1 speakers are taken from the names of 8 clips, such as 'interview' for interview.000"
    )
    assert sentence in capsys.readouterr().out
    in_a_file(tmp_path, pickle.dumps(table(clips=names), protocol=2))
    FirstImpressions(tmp_path)
    assert sentence in capsys.readouterr().out
