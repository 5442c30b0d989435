"""`preprocess` on the folders that people have: one name in two places, several windows a clip,
cameras of different speed, names that no file can be called after, a disk that fills up.
"""

import csv
import os
import pickle
import subprocess
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import skimage.data

from course_lib import files
from course_lib.__main__ import main
from course_lib.commands.arrays import open_arrays
from course_lib.commands.preprocess import _read_labels, _rows_of, _speakers, _videos, _write_array
from course_lib.data import OpticalFlowSequenceLoader
from course_lib.world import TRAITS

TWO = ["anna/clip1.mp4", "ben/clip1.mp4", "ben/clip2.mp4"]
HEADER = "clip,speaker," + ",".join(TRAITS)
SMALL = ["--features", "none", "--size", "32", "--on_missing", "centre", "--workers", "0"]


def film(path: Path, frames: int = 7, fps: int = 25) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    face = skimage.data.astronaut()[10:138, 140:268]
    pictures = np.stack([np.roll(face, 2 * step, axis=1) for step in range(frames)])
    imageio.imwrite(path, pictures, plugin="FFMPEG", fps=fps, ffmpeg_log_level="error")


def table(path: Path, rows: dict[str, str], first: float = 0.1) -> str:
    """Labels of these clips, each a tenth above the one before, and who speaks in them."""
    lines = [
        f"{clip},{speaker},{first * (1 + number):.1f},.2,.3,.4,.5"
        for number, (clip, speaker) in enumerate(rows.items())
    ]
    path.write_text("\n".join([HEADER, *lines]))
    return str(path)


def saved(path: Path, rows: int) -> str:
    """Features of so many rows."""
    np.save(path, np.ones((rows, 3), np.float32))
    return str(path)


# ---- one name in two folders ---------------------------------------------------------------------


def test_a_clip_is_its_path_and_a_name_where_that_is_enough():
    assert _rows_of(TWO, ["ben/clip1.mp4", "clip2.mp4", "anna\\clip1.mp4", "other.mp4"], "t") == {
        "ben/clip1.mp4": 0,
        "ben/clip2.mp4": 1,
        "anna/clip1.mp4": 2,
    }
    assert _rows_of(["a.mp4", "deep/a.mp4"], ["./a.mp4", "deep/a.mp4"], "t") == {
        "a.mp4": 0,
        "deep/a.mp4": 1,
    }


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["clip1.mp4"], "t.csv names clip1.mp4, which may be anna/clip1.mp4 or ben/clip1.mp4; wri"),
        (["clip2.mp4", "clip2.mp4"], "t.csv has ben/clip2.mp4 in several rows; leave one"),
        (["clip2.mp4", "ben/clip2.mp4"], "t.csv has ben/clip2.mp4 in several rows; leave one"),
    ],
)
def test_what_is_ambiguous_or_there_twice_is_refused(names, words):
    with pytest.raises(ValueError, match=words):
        _rows_of(TWO, names, "t.csv")


def test_labels_and_speakers_go_to_the_right_one_of_two(tmp_path):
    path = table(tmp_path / "t.csv", {TWO[1]: "ben", TWO[0]: "anna", "clip2.mp4": "ben"})
    labels, speakers = _read_labels(Path(path), TWO), _speakers(TWO, "", path)
    assert {clip: round(traits[0].item(), 4) for clip, traits in labels.items()} == {
        TWO[0]: 0.2,
        TWO[1]: 0.1,
        TWO[2]: 0.3,
    }
    assert speakers == {TWO[0]: "anna", TWO[1]: "ben", TWO[2]: "ben"}


def test_names_that_are_no_identities_are_said_and_kept_apart_by_folder(capsys):
    clips = ["anna/interview.000.mp4", "anna/interview.001.mp4", "ben/interview.000.mp4"]
    assert list(_speakers(clips, "", "").values()) == ["anna/interview"] * 2 + ["ben/interview"]
    assert "2 speakers are taken from the names of 3 clips" in capsys.readouterr().out
    # First Impressions' parts of one video lie in different archives
    known = ["train-1/J4GQm9j0JZ0.001.mp4", "train-2/J4GQm9j0JZ0.003.mp4"]
    assert set(_speakers(known, "", "").values()) == {"J4GQm9j0JZ0"}
    assert capsys.readouterr().out == ""


def test_two_annotations_that_contradict_are_refused(tmp_path):
    for folder, value in (("a", 0.1), ("b", 0.1), ("c", 0.2)):
        (tmp_path / folder).mkdir()
        content = {trait.lower(): {"x.mp4": value} for trait in TRAITS}
        (tmp_path / folder / "annotation_training.pkl").write_bytes(pickle.dumps(content, 2))
        if folder == "b":  # a second copy of the same file does no harm
            assert (
                _read_labels(tmp_path, ["deep/x.mp4"])["deep/x.mp4"].tolist()
                == [pytest.approx(0.1)] * 5
            )
    with pytest.raises(ValueError, match=r"has other labels for x\.mp4 than another table"):
        _read_labels(tmp_path, ["x.mp4"])


def test_speakers_are_asked_for_before_the_work(tmp_path, capsys):
    film(tmp_path / "films" / "a.mp4")
    labels = table(tmp_path / "t.csv", {"a.mp4": ""})
    arguments = ["preprocess", str(tmp_path / "films"), "--labels", labels, *SMALL]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 2
    assert "has no speaker for a.mp4; add one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---- windows and rates ---------------------------------------------------------------------------


def test_several_windows_a_clip_at_one_rate_reach_the_arrays(tmp_path, capsys):
    folder, output = tmp_path / "films", tmp_path / "out"
    film(folder / "anna" / "a.mp4", frames=26, fps=50)
    film(folder / "ben" / "a.mp4", frames=13, fps=25)
    film(folder / "ben" / "short.mp4", frames=5)
    rows = {"anna/a.mp4": "anna", "ben/a.mp4": "ben", "short.mp4": "ben"}
    labels = table(tmp_path / "t.csv", rows)
    options = ["--frames", "4", "--stride", "4", *SMALL, "--output", str(output)]
    arguments = ["preprocess", str(folder), "--labels", labels, *options]
    assert main(arguments) == 0
    with (output / "clips.csv").open(newline="", encoding="utf-8") as file:
        table_written = list(csv.DictReader(file))
    clips = [(row["clip"], row["window"]) for row in table_written]
    windows = len(
        OpticalFlowSequenceLoader(
            [folder / "anna" / "a.mp4"], 4, 4, 32, cache=False, on_missing="centre", video_fps=25
        )
    )
    assert clips == [
        *(("anna/a.mp4", str(number)) for number in range(windows)),
        *(("ben/a.mp4", str(number)) for number in range(3)),
        ("ben/short.mp4", "0"),
    ]
    assert {row["fps"] for row in table_written} == {"25.0"}
    assert np.load(output / "labels.npy")[:, 0].tolist() == pytest.approx(
        [0.1] * windows + [0.2] * 3 + [0.3]
    )
    assert np.load(output / "speakers.npy").tolist() == ["anna"] * windows + ["ben"] * 4
    record = files.read_json(output / "done" / "anna" / "a.mp4.json")
    assert record["window"]["video_fps"] == 25
    assert (record["window"]["stride"], record["fps"], record["windows"]) == (4, 25, windows)
    about = files.read_json(output / "dataset.json")
    assert (about["clips"], about["rows"], about["fps"]) == (3, windows + 4, [25])
    assert about["window"] == record["window"]
    assert "do not compare" not in capsys.readouterr().out
    open_arrays(
        static_features=saved(tmp_path / "s.npy", windows + 4),
        dynamic_features=saved(tmp_path / "d.npy", windows + 4),
        labels=str(output / "labels.npy"),
    )
    assert capsys.readouterr().out == ""  # nothing to ask about labels of its own
    # each at its own rate: all is done anew, and said
    assert main([*arguments, "--video_fps", "null"]) == 0
    said = capsys.readouterr().out
    assert "done already" not in said
    assert "the clips have from 25 to 50 frames a second" in said
    assert "give --video_fps 25" in said
    assert files.read_json(output / "dataset.json")["fps"] == [25, 50]
    assert main([*arguments[:2], *options]) == 0  # without labels: those found later are a person's
    np.save(output / "labels.npy", np.full((windows + 4, 5), 0.5))
    capsys.readouterr()
    open_arrays(
        static_features=str(tmp_path / "s.npy"),
        dynamic_features=str(tmp_path / "d.npy"),
        labels=str(output / "labels.npy"),
    )
    assert "does not name its columns" in capsys.readouterr().out


# ---- names ---------------------------------------------------------------------------------------


def test_files_that_cannot_be_worked_with_are_named_counted_and_left_out(tmp_path, capsys):
    folder, output = tmp_path / "films", tmp_path / "out"
    film(folder / "good.mp4")
    longest = "x" * 226 + ".mp4"
    odd = {"link.mp4": "a link to none", longest.replace(".", "xxxxx."): "its name has 235 bytes"}
    try:
        os.link(folder / "good.mp4", os.fsencode(folder) + b"/caf\xe9.mp4")
        odd["caf"] = "not in UTF-8"
    except OSError:  # a file system that has no such names
        pass
    (folder / "link.mp4").symlink_to(folder / "nowhere.mp4")
    os.link(folder / "good.mp4", folder / longest)
    os.link(folder / "good.mp4", folder / longest.replace(".", "xxxxx."))
    (folder / "folder.mp4").mkdir()
    odd["folder.mp4"] = "it is no file"
    arguments = ["preprocess", str(folder), "--frames", "4", *SMALL, "--output", str(output)]
    for _ in range(2):
        assert main(arguments) == 0
        captured = capsys.readouterr()
        for name, fault in odd.items():
            assert any(name in line and fault in line for line in captured.out.splitlines()), name
        assert f"{len(odd)} of {len(odd) + 2} videos were skipped" in captured.out
        assert "2 clips are done, 0 could not be used" in captured.out
    assert [path.name for path in _videos(folder)] == ["good.mp4", longest]
    assert not list(output.rglob("*.part*"))


def test_a_damaged_record_is_made_again(tmp_path, capsys):
    film(tmp_path / "films" / "a.mp4")
    output = tmp_path / "out"
    arguments = ["preprocess", str(tmp_path / "films"), "--frames", "4", *SMALL]
    for content in ("[1]", "{", '{"windows": 1}'):
        assert main([*arguments, "--output", str(output)]) == 0
        (output / "done" / "a.mp4.json").write_text(content)
    assert main([*arguments, "--output", str(output)]) == 0
    assert "done already" not in capsys.readouterr().out


# ---- arrays --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([np.arange(6, dtype=np.float16).reshape(2, 3) + row for row in range(5)], ""),
        (["anna", "ben", "ä"], "U4"),
        ([np.float32(0.5)] * 3, ""),
    ],
)
def test_an_array_is_the_one_that_numpy_would_write(tmp_path, rows, kind):
    _write_array(tmp_path / "a.npy", len(rows), iter(rows), kind)
    np.save(tmp_path / "b.npy", np.array(rows, kind or None))
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(disk)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_while_arrays_are_written_is_one_sentence(small_disk):
    rows = [np.ones(10_000, np.float32)] * 20  # 0.8 MB
    with pytest.raises(OSError, match=r"cannot write .*a\.npy \(No space left on device\); choose"):
        _write_array(small_disk / "a.npy", len(rows), rows)
    assert not list(small_disk.iterdir())
    _write_array(small_disk / "a.npy", 2, rows[:2])
    assert np.load(small_disk / "a.npy").shape == (2, 10_000)
