"""The real data set's layout, made small: Python-2 pickles by hand, zips within zips, ZipCrypto."""

import os
import pickle
import random
import struct
import zipfile
import zlib
from io import BytesIO

import imageio.v3 as imageio
import numpy as np
import pytest
import skimage.data
from refusals import refused
from torch.testing import assert_close
from torch.utils.data import default_collate

from course_lib.data import SPLITS, FirstImpressions, read_annotations, speaker_of, unpack_archives
from course_lib.data import first_impressions as module
from course_lib.training import speaker_lookup
from course_lib.world import TRAITS

FILE_ORDER = (
    "extraversion",
    "neuroticism",
    "agreeableness",
    "conscientiousness",
    "interview",
    "openness",
)
CLIPS = {
    "training": ["J4GQm9j0JZ0.003.mp4", "J4GQm9j0JZ0.001.mp4", "-_a-9XYZ_12.000.mp4"],
    "validation": ["_b.c-3dEfGhI.002.mp4"],
    "test": ["J4GQm9j0JZ0.005.mp4", "zZzZzZzZzZz.004.mp4"],
}
EVERY_CLIP = sorted(clip for clips in CLIPS.values() for clip in clips)


def value(clip, trait):
    """A label that is different for every clip and trait."""
    return (zlib.crc32(f"{clip} {trait}".encode()) % 1000) / 1000


def text(string):
    return b"U" + bytes([len(string)]) + string.encode()


def python2_pickle(content: dict[str, dict[str, float]]) -> bytes:
    """Byte for byte what Python 2 and NumPy 1 wrote with protocol 2: the dtype once, then by
    reference.
    """
    kind = (
        b"cnumpy\ndtype\n("
        + text("f8")
        + b"K\x00K\x01tR(K\x03"
        + text("<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbq\x02"
    )
    start, scalar = b"cnumpy.core.multiarray\nscalar\nq\x01" + kind, b"h\x01h\x02"
    body = b"\x80\x02}("
    for trait, clips in content.items():
        body += text(trait) + b"}("
        for clip, number in clips.items():
            body += text(clip) + start + b"U\x08" + struct.pack("<d", number) + b"\x86R"
            start = scalar
        body += b"u"
    return body + b"u."


def annotations(split, order=FILE_ORDER):
    return python2_pickle(
        {trait: {clip: value(clip, trait) for clip in CLIPS[split]} for trait in order}
    )


def zip_crypto(plain: bytes, key: bytes, crc: int) -> bytes:
    """The cipher of PKWARE's application note, section 6.1."""
    keys = [0x12345678, 0x23456789, 0x34567890]

    def advance(byte):
        keys[0] = ~zlib.crc32(bytes([byte]), ~keys[0] & 0xFFFFFFFF) & 0xFFFFFFFF
        keys[1] = ((keys[1] + (keys[0] & 0xFF)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = ~zlib.crc32(bytes([keys[1] >> 24]), ~keys[2] & 0xFFFFFFFF) & 0xFFFFFFFF

    for byte in key:
        advance(byte)
    encrypted = bytearray()
    for byte in bytes(11) + bytes([crc >> 24]) + plain:
        mixed = (keys[2] | 2) & 0xFFFF
        encrypted.append(byte ^ (mixed * (mixed ^ 1) >> 8 & 0xFF))
        advance(byte)
    return bytes(encrypted)


def zipped(members: dict[str, bytes], key: bytes | None = None) -> bytes:
    """A zip file; with a key, written by hand, as Python's zipfile only decrypts."""
    if key is None:
        archive = BytesIO()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
            for name, data in members.items():
                content.writestr(name, data)
        return archive.getvalue()
    body, directory = b"", b""
    for name, plain in members.items():
        crc = zlib.crc32(plain)
        data = zip_crypto(plain, key, crc)
        header = struct.pack(
            "<HHHHHIIIHH", 20, 1, 0, 0, 33, crc, len(data), len(plain), len(name), 0
        )
        directory += (
            b"PK\x01\x02\x14\x00"
            + header
            + struct.pack("<HHHII", 0, 0, 0, 0, len(body))
            + name.encode()
        )
        body += b"PK\x03\x04" + header + name.encode() + data
    count = len(members)
    return (
        body
        + directory
        + b"PK\x05\x06"
        + struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(body), 0)
    )


def video(folder, brightness):
    """Twelve frames of a face that moves a little."""
    face = (skimage.data.astronaut()[10:202, 120:312] * brightness).astype(np.uint8)
    frames = np.stack([np.roll(face, step % 3, axis=1) for step in range(12)])
    imageio.imwrite(folder / "clip.mp4", frames, plugin="FFMPEG", fps=25, ffmpeg_log_level="error")
    return (folder / "clip.mp4").read_bytes()


@pytest.fixture(scope="session")
def registered_copy(tmp_path_factory):
    """What a person with access downloads: plain and encrypted zips, two and three levels deep, two
    keys.
    """
    folder, made = tmp_path_factory.mktemp("downloads"), tmp_path_factory.mktemp("videos")
    dark, bright = video(made, 0.6), video(made, 1.0)
    films = {
        split: {clip: bright if speaker_of(clip) == "J4GQm9j0JZ0" else dark for clip in clips}
        for split, clips in CLIPS.items()
    }
    one, two = b"first key.", b"zweiter-Schl\xc3\xbcssel"
    archives = {
        "train-1.zip": zipped({"training80_01.zip": zipped(films["training"])}),
        "val-1.zip": zipped({"validation80_01.zip": zipped(films["validation"])}),
        "test-1e.zip": zipped(
            {"test-1.zip": zipped({"test80_01.zip": zipped(films["test"])}, two)}, one
        ),
        "train-annotation.zip": zipped({"annotation_training.pkl": annotations("training")}),
        "val-annotation-e.zip": zipped(
            {"annotation_validation.pkl": annotations("validation")}, two
        ),
        "test-annotation-e.zip": zipped({"annotation_test.pkl": annotations("test")}, one),
    }
    for name, content in archives.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="session")
def unpacked(registered_copy):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIRST_IMPRESSIONS_KEY_1", "first key.")
        patch.setenv("FIRST_IMPRESSIONS_KEY_2", "zweiter-Schlüssel")
        unpack_archives(registered_copy)
    return registered_copy


# ---- reading -------------------------------------------------------------------------------------


def test_items_are_the_course_s_clips_and_each_has_its_own_labels_in_ocean_order(
    unpacked, tmp_path
):
    clips = FirstImpressions(
        unpacked, "training", frames=4, size=32, cache=tmp_path, on_missing="centre"
    )
    assert clips.clips == sorted(CLIPS["training"])
    items = [clips[index] for index in range(3)]
    for item, name in zip(items, clips.clips, strict=True):
        assert item["face"].shape == (3, 32, 32)
        assert item["flow"].shape == (4, 32, 32, 2)
        assert (item["clip"], item["speaker"]) == (name, name[:11])
        assert item["traits"].tolist() == pytest.approx(
            [value(name, trait.lower()) for trait in TRAITS]
        )
    # J4… is bright, -_a… dark: the file fits
    assert items[1]["face"].mean() > 1.3 * items[0]["face"].mean()
    batch = default_collate(items)
    assert batch["traits"].shape == (3, 5)
    assert batch["speaker"] == ["-_a-9XYZ_12", "J4GQm9j0JZ0", "J4GQm9j0JZ0"]
    labels = clips.labels()
    assert_close(labels["traits"], batch["traits"])
    assert labels["speaker"] == batch["speaker"]


def test_the_official_splits_share_speakers(unpacked):
    official = {
        split: set(FirstImpressions(unpacked, split).labels()["speaker"]) for split in SPLITS
    }
    assert official["training"] & official["test"] == {"J4GQm9j0JZ0"}


def test_a_speaker_s_clips_stay_together_when_all_are_dealt_out_again(tmp_path):
    names = [
        f"{random.Random(number).getrandbits(64):x}.{clip:03d}.mp4"
        for number in range(400)
        for clip in range(3)
    ]
    for number, split in enumerate(SPLITS):  # the official splits cut by clip
        (tmp_path / f"annotation_{split}.pkl").write_bytes(
            python2_pickle(
                {
                    trait: {clip: value(clip, trait) for clip in names[number::3]}
                    for trait in FILE_ORDER
                }
            )
        )
    speakers = {split: FirstImpressions(tmp_path, split).labels()["speaker"] for split in SPLITS}
    assert set(speakers["training"]) == set(speakers["validation"]) == set(speakers["test"])
    dealt = {split: FirstImpressions(tmp_path, split, by_speaker=True) for split in SPLITS}
    assert sorted(clip for clips in dealt.values() for clip in clips.clips) == sorted(names)
    together = [set(clips.labels()["speaker"]) for clips in dealt.values()]
    assert sum(map(len, together)) == 400  # nobody is in two
    assert [len(clips) / 1200 for clips in dealt.values()] == pytest.approx(
        [0.6, 0.2, 0.2], abs=0.06
    )


def test_the_look_up_knows_a_speaker_and_the_floor_stands_in_for_a_stranger(unpacked):
    train, test = (FirstImpressions(unpacked, split).labels() for split in ("training", "test"))
    answer = speaker_lookup(train["traits"], train["speaker"], test["speaker"])
    assert_close(answer[0], train["traits"][1:].mean(0))  # the two clips of J4…
    assert_close(answer[1], train["traits"].mean(0))


@pytest.mark.parametrize(
    ("clip", "speaker"),
    [
        ("J4GQm9j0JZ0.003.mp4", "J4GQm9j0JZ0"),
        ("-_a-9XYZ_12.000.mp4", "-_a-9XYZ_12"),
        ("a.b.c.001.mp4", "a.b.c"),
    ],
)
def test_the_speaker_is_the_source_video(clip, speaker):
    assert speaker_of(clip) == speaker


def test_the_fifth_trait_is_never_called_neuroticism():
    assert FirstImpressions.trait_names == (*TRAITS[:4], "Emotional stability")


def test_our_reader_reads_what_numpy_reads(tmp_path):
    for content in (
        annotations("training"),
        annotations("training", tuple(reversed(FILE_ORDER))),
        # saved again, Python 3
        pickle.dumps(pickle.loads(annotations("training"), encoding="latin1")),
    ):
        (tmp_path / "x.pkl").write_bytes(content)
        expected = pickle.loads(content, encoding="latin1")
        assert type(expected["openness"]["J4GQm9j0JZ0.003.mp4"]) is np.float64
        assert read_annotations(tmp_path / "x.pkl") == {
            clip: [expected[trait.lower()][clip] for trait in TRAITS] for clip in CLIPS["training"]
        }


# ---- what is not there ---------------------------------------------------------------------------


def test_who_has_no_access_is_told_how_to_get_it(tmp_path):
    for call in (FirstImpressions, unpack_archives):
        words = "chalearnlap.cvc.uab.cat … KEY_1 … unpack_archives"
        refused(words, call, tmp_path, error=FileNotFoundError)


def test_labels_need_no_clip_and_a_missing_clip_is_named(tmp_path):
    (tmp_path / "annotation_training.pkl").write_bytes(annotations("training"))
    (tmp_path / ".train-1.part").mkdir()  # unpacking was cut off here
    for clip in CLIPS["training"]:
        (tmp_path / ".train-1.part" / clip).write_bytes(b"half a cl")
    clips = FirstImpressions(tmp_path)
    assert clips.labels()["traits"].shape == (3, 5)
    words = "3 of the 3 training clips … the first is -_a-9XYZ_12.0"
    refused(words, lambda: clips[0], error=FileNotFoundError)


def test_unknown_and_empty_splits(tmp_path):
    words = "no split 'train'; choose one of training, validation, test"
    refused(words, FirstImpressions, tmp_path, "train")
    (tmp_path / "annotation_test.pkl").write_bytes(
        python2_pickle({trait: {} for trait in FILE_ORDER})
    )
    refused("the test split … has no clip", FirstImpressions, tmp_path, "test")


# ---- annotations nobody should trust -------------------------------------------------------------


class Runs:
    """A pickle that calls a function when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def with_trait(**changed):
    return pickle.dumps({trait: {"a.000.mp4": 0.5} for trait in FILE_ORDER} | changed, protocol=2)


SCALAR, DTYPE = b"cnumpy.core.multiarray\nscalar\n", b"cnumpy\ndtype\n"
HOSTILE = {
    "a system call": lambda: pickle.dumps(Runs(os.mkdir, "was-here")),
    "a call beside real data": lambda: with_trait(openness={"a.000.mp4": Runs(eval, "1/2")}),
    "a call of NumPy's": lambda: b"\x80\x02cnumpy\nload\n" + text("x") + b"\x85R.",
    "a name behind a name": lambda: b"\x80\x04\x8c\x05numpy\x8c\x0cdtype.__call__\x93.",
    "our own module": lambda: b"\x80\x02c__builtin__\neval\n.",
    "a memo of 32 GB": lambda: b"\x80\x02Nr\xff\xff\xff\x7f.",
    "a setstate on a class": lambda: b"\x80\x02" + DTYPE + b"}" + text("x") + text("y") + b"sb.",
    "a string of a billion": (
        lambda: b"\x80\x02" + SCALAR + DTYPE + b"(" + text("S999999999") + b"tR\x85R."
    ),
    "pointers as objects": (
        lambda: b"\x80\x02" + SCALAR + DTYPE + b"(" + text("O") + b"tR" + text("A" * 8) + b"\x86R."
    ),
    "not a pickle": lambda: b"extraversion,neuroticism\n0.5,0.5\n",
    "an empty file": lambda: b"",
    "half a file": lambda: annotations("training")[:200],
    "a list": lambda: pickle.dumps([0.5]),
    "clip-major": lambda: pickle.dumps({"a.000.mp4": dict.fromkeys(FILE_ORDER, 0.5)}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_pickle_that_wants_more_than_floats_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "annotation_training.pkl"
    path.write_bytes(HOSTILE[name]())
    for words in (str(path), "ChaLearn"):
        refused(words, read_annotations, path)
    assert list(tmp_path.iterdir()) == [path]


IMPOSSIBLE = {
    "the traits [1.2, … for a.000.mp4; expected five numbers in [0, 1": with_trait(
        openness={"a.000.mp4": 1.2}
    ),
    "nan": with_trait(neuroticism={"a.000.mp4": float("nan")}),
    "one number for each trait and clip ('a.000.mp4')": with_trait(
        agreeableness={"b.000.mp4": 0.5}
    ),
    "names 1 clips for one trait and 2 for another": with_trait(
        agreeableness={"a.000.mp4": 0.5, "b.000.mp4": 0.5}
    ),
    "trait and clip ('conscientiousness')": pickle.dumps({"openness": {}}, 2),
}


@pytest.mark.parametrize("words", IMPOSSIBLE)
def test_labels_that_cannot_be_are_named(words, tmp_path):
    (tmp_path / "x.pkl").write_bytes(IMPOSSIBLE[words])
    refused(words, read_annotations, tmp_path / "x.pkl")


def test_a_pickle_too_large_is_not_even_read(tmp_path):
    with open(tmp_path / "x.pkl", "wb") as file:
        file.truncate(module.LARGEST_ANNOTATION + 1)
    refused("67,108,865 bytes", read_annotations, tmp_path / "x.pkl")


# ---- archives ------------------------------------------------------------------------------------


def test_unpacking_reaches_every_level_leaves_no_archive_inside_and_is_done_once(unpacked):
    assert sorted(path.name for path in unpacked.rglob("*.mp4")) == EVERY_CLIP
    assert not [path for path in unpacked.rglob("*.zip") if path.parent != unpacked]
    assert not list(unpacked.glob(".*"))
    before = {path: path.stat().st_mtime_ns for path in unpacked.rglob("*")}
    unpack_archives(unpacked)  # no key is set any more: nothing is opened again
    assert {path: path.stat().st_mtime_ns for path in unpacked.rglob("*")} == before


@pytest.mark.parametrize(
    "set_keys",
    [
        {},
        {"FIRST_IMPRESSIONS_KEY_1": "wrong"},
        {f"FIRST_IMPRESSIONS_KEY_{number}": f"wrong {number}" for number in range(300)},
    ],
)
def test_without_the_key_nothing_is_left_behind(set_keys, tmp_path, monkeypatch):
    """Of 300 wrong keys one passes the cipher's one check byte; the checksum then refuses it."""
    (tmp_path / "test-1e.zip").write_bytes(zipped({"a.mp4": b"film" * 100}, b"right"))
    for name, key in set_keys.items():
        monkeypatch.setenv(name, key)
    words = f"none of the {len(set_keys)} keys set opens it; set FIRST_IMP"
    refused(words, unpack_archives, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["test-1e.zip"]
    monkeypatch.setenv("FIRST_IMPRESSIONS_KEY_ours", "right")
    unpack_archives(tmp_path)
    assert (tmp_path / "test-1e" / "a.mp4").read_bytes() == b"film" * 100


@pytest.mark.parametrize(
    "name", ["../outside.mp4", "a/../../outside.mp4", "{absolute}/outside.mp4"]
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_member_that_leads_out_of_the_folder_is_refused(name, nested, tmp_path):
    name = name.format(absolute=tmp_path)
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    content = zipped({"fine.mp4": b"x", name: b"x"})
    (downloads / "train-1.zip").write_bytes(zipped({"inner.zip": content}) if nested else content)
    refused(f"holds '{name}', which leads out of the folder", unpack_archives, downloads)
    assert [path.name for path in tmp_path.rglob("*")] == ["downloads", "train-1.zip"]


def layers(levels):
    """Each level holds the one below it eight times: a few kilobytes on disk, more at every level."""
    content = zipped({"film.mp4": bytes(2**20)})
    for _ in range(levels):
        content = zipped({f"{copy}.zip": content for copy in range(8)})
    return content


@pytest.mark.parametrize(
    "content",
    [
        zipped({"a.mp4": bytes(20 * 2**20)}),
        zipped({f"{number}.mp4": bytes(2**20) for number in range(18)}),
        layers(3),
    ],
)
def test_a_bomb_is_refused_before_it_fills_the_disk(content, tmp_path, monkeypatch):
    written, extract = [], module._extract

    def counting(archive, member, path):
        extract(archive, member, path)
        written.append(path.stat().st_size)

    monkeypatch.setattr(module, "_extract", counting)
    (tmp_path / "train-1.zip").write_bytes(content)
    refused("like a zip bomb", unpack_archives, tmp_path)
    assert sum(written) <= 20 * len(content) + 16 * 2**20
    assert [path.name for path in tmp_path.iterdir()] == ["train-1.zip"]


def test_a_damaged_archive_is_named(tmp_path):
    whole = zipped({"a.mp4": os.urandom(1000)})
    for damaged in (whole[:700], whole[:300] + b"????" + whole[304:], b"no zip", b""):
        (tmp_path / "train-1.zip").write_bytes(damaged)
        refused("train-1.zip is damaged … download it again", unpack_archives, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["train-1.zip"]


def test_an_encryption_that_python_cannot_read_says_what_can(tmp_path, monkeypatch):
    content = bytearray(zipped({"a.mp4": b"x"}, b"key"))
    for at in (8, content.index(b"PK\x01\x02") + 10):  # the method's field; 99 means AES
        content[at : at + 2] = struct.pack("<H", 99)
    (tmp_path / "test-1e.zip").write_bytes(content)
    monkeypatch.setenv("FIRST_IMPRESSIONS_KEY", "key")
    refused("7-Zip", unpack_archives, tmp_path)
