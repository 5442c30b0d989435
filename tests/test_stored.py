"""Stored items: what is read is what was drawn, whoever wrote it, whenever it was interrupted."""

import errno
import multiprocessing
import os
import pickle
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from course_lib.data import FaceDataset, StoredItems, drawn, source_version


def faces(folder, n: int = 12, **settings) -> FaceDataset:
    return FaceDataset(n, "test", 3, **{"size": 32, "cache": folder} | settings)


def assert_same(items, others):
    for item, other in zip(items, others, strict=True):
        assert item.keys() == other.keys()
        for key in item:
            assert torch.equal(torch.as_tensor(item[key]), torch.as_tensor(other[key])), key
            assert not isinstance(item[key], torch.Tensor) or item[key].dtype == other[key].dtype, (
                key
            )


@pytest.fixture
def no_drawing(monkeypatch):
    """From now on, whoever draws fails."""

    def refuse():
        def draw(*args, **kwargs):
            raise AssertionError("drawn, not read")

        monkeypatch.setattr(drawn, "draw_face", draw)

    return refuse


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"size": 45, "images_per_person": 3, "label_noise": 0.2},
        {"regions": False, "difficulty": "hard"},
    ],
)
def test_items_are_the_same_drawn_and_read(tmp_path, no_drawing, settings):
    plain = list(faces(False, **settings))
    assert_same(faces(tmp_path, **settings), plain)  # drawn, and kept
    no_drawing()
    assert_same(faces(tmp_path, **settings), plain)  # read
    assert len(list(tmp_path.iterdir())) == 1


def test_items_read_can_be_changed_without_changing_the_file(tmp_path):
    dataset = faces(tmp_path)
    dataset[0]
    for value in dataset[0].values():
        if isinstance(value, torch.Tensor):
            value.zero_()
    assert_same([dataset[0]], [faces(False)[0]])


@pytest.mark.parametrize(
    "other",
    [
        {"n": 11},
        {"size": 33},
        {"difficulty": "hard"},
        {"label_noise": 0.1},
        {"regions": False},
        {"images_per_person": 2},
    ],
)
def test_other_settings_have_a_file_of_their_own(tmp_path, other):
    assert faces(tmp_path).stored.path != faces(tmp_path, **other).stored.path


def test_workers_fill_one_file_that_all_read(tmp_path, no_drawing):
    dataset = faces(tmp_path)
    assert_same(DataLoader(dataset, batch_size=None, num_workers=2), faces(False))
    no_drawing()
    assert_same(dataset, faces(tmp_path))  # opened before the workers wrote, and after
    assert_same(DataLoader(dataset, batch_size=None, num_workers=2), dataset)


def test_another_process_opens_the_file_itself(tmp_path, no_drawing):
    dataset = faces(tmp_path)
    plain = list(dataset)
    sent = pickle.dumps(dataset)
    assert len(sent) < 4000
    no_drawing()
    assert_same(pickle.loads(sent), plain)


def test_processes_that_start_at_once_share_one_file(tmp_path, no_drawing):
    def fill(start):
        start.wait()
        list(faces(tmp_path))

    fork = multiprocessing.get_context("fork")
    start = fork.Barrier(3)
    processes = [fork.Process(target=fill, args=(start,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
        assert process.exitcode == 0
    assert len(list(tmp_path.iterdir())) == 1
    plain = list(faces(False))
    no_drawing()
    assert_same(faces(tmp_path), plain)


def test_a_killed_process_loses_nothing_and_leaves_nothing_half(tmp_path, monkeypatch, no_drawing):
    n = 80

    def draw_all_but_the_last():
        drawn = faces(tmp_path, n)
        for index in range(n - 1):
            drawn[index]
        time.sleep(600)

    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=draw_all_but_the_last)
    dataset = faces(tmp_path, n)
    process.start()
    deadline = time.monotonic() + 600
    while not dataset.stored.holds(8) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    held = [index for index in range(n) if dataset.stored.holds(index)]
    assert 8 < len(held) < n
    plain = faces(False, n)
    assert_same([dataset[held[-1]], dataset[held[0]]], [plain[held[-1]], plain[held[0]]])
    calls, draw = [], drawn.draw_face
    monkeypatch.setattr(
        drawn, "draw_face", lambda *args, **more: calls.append(1) or draw(*args, **more)
    )
    faces(tmp_path, n).fill_cache(workers=0)  # goes on where it stopped
    assert len(calls) == n - len(held)
    monkeypatch.undo()
    everything = list(plain)
    no_drawing()
    assert_same(faces(tmp_path, n), everything)


def test_half_a_record_is_no_record(tmp_path, capsys):
    """Every way of losing pages at a power cut: the beginning, the end or the middle is missing."""
    dataset = faces(tmp_path)
    plain, stored = list(dataset), dataset.stored
    size = stored.dtype.itemsize
    start = stored.path.stat().st_size - len(dataset) * size
    for index, lost in enumerate((slice(0, size // 2), slice(size // 2, size), slice(2000, 3000))):
        with open(stored.path, "r+b") as file:
            file.seek(start + index * size)
            record = bytearray(file.read(size))
            record[lost] = bytes(len(record[lost]))
            file.seek(start + index * size)
            file.write(record)
        assert stored.get(index) is None
    assert capsys.readouterr().out.count("does not match its checksum is made again") == 1
    assert_same(dataset, plain)
    assert all(stored.get(index) is not None for index in range(len(dataset)))  # and is mended


@given(st.binary(min_size=1, max_size=40), st.integers(0, 10_000), st.integers(1, 255))
def test_any_changed_byte_is_found(tmp_path_factory, content, place, change):
    folder = tmp_path_factory.mktemp("stored")
    stored = StoredItems(folder, "bytes", 3, [("content", np.uint8, (len(content),))], {}, "1")
    stored.put(1, {"content": np.frombuffer(content, np.uint8)})
    assert stored.get(1)["content"].tobytes() == content
    assert stored.get(0) is None
    assert stored.get(2) is None
    raw = bytearray(stored.path.read_bytes())
    first = len(raw) - 2 * stored.dtype.itemsize
    raw[first + place % stored.dtype.itemsize] ^= change  # of record 1 of 0, 1, 2
    stored.path.write_bytes(raw)
    assert (
        StoredItems(folder, "bytes", 3, [("content", np.uint8, (len(content),))], {}, "1").get(1)
        is None
    )


def test_a_record_counts_in_its_own_place_only(tmp_path):
    stored = StoredItems(tmp_path, "bytes", 2, [("content", np.uint8, 16)], {}, "1")
    stored.put(0, {"content": 7})
    raw, size = stored.path.read_bytes(), stored.dtype.itemsize
    header, mark = raw[: -2 * (8 + size)], raw[-2 * (8 + size) :][:8]
    stored.path.write_bytes(header + 2 * mark + 2 * raw[-2 * size : -size])
    assert stored.get(0) is not None
    assert stored.get(1) is None


def damage_header(path: Path):
    path.write_bytes(b"\0" * 100 + path.read_bytes()[100:])


def truncate(path: Path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path):
    os.truncate(path, 0)


@pytest.mark.parametrize("harm", [damage_header, truncate, empty])
def test_a_damaged_file_is_said_and_made_again(tmp_path, capsys, no_drawing, harm):
    plain = list(faces(tmp_path))
    harm(next(tmp_path.iterdir()))
    dataset = faces(tmp_path)
    assert "are damaged; they are made again" in capsys.readouterr().out
    assert_same(dataset, plain)
    no_drawing()
    assert_same(faces(tmp_path), plain)
    assert capsys.readouterr().out == ""


def test_another_version_is_said_and_made_again(tmp_path, capsys, monkeypatch):
    plain = list(faces(tmp_path))
    monkeypatch.setattr(drawn, "_drawing_version", lambda: "another")
    dataset = faces(tmp_path)
    said = capsys.readouterr().out
    assert "from another version; they are made again" in said
    assert said.count("\n") == 1
    assert not any(dataset.stored.holds(index) for index in range(len(dataset)))
    assert_same(dataset, plain)
    assert len(list(tmp_path.iterdir())) == 1


def test_what_an_older_process_still_writes_is_not_read(tmp_path):
    """Its mark is another version's, even where the record has the same form."""
    fields = [("content", np.uint8, 16)]
    older = StoredItems(tmp_path, "bytes", 2, fields, {}, "1")
    newer = StoredItems(tmp_path, "bytes", 2, fields, {}, "2")
    older.put(0, {"content": 7})
    assert newer.get(0) is None
    newer.put(0, {"content": 8})
    assert (newer.get(0)["content"] == 8).all()


def test_who_comes_second_uses_the_file_of_the_first(tmp_path, monkeypatch):
    """Two processes find no file at the same instant, and both make one."""
    fields = [("content", np.uint8, 16)]
    first = StoredItems(tmp_path, "bytes", 2, fields, {}, "1")
    monkeypatch.setattr(Path, "exists", lambda self: False)
    second = StoredItems(tmp_path, "bytes", 2, fields, {}, "1")
    first.put(0, {"content": 7})
    second.put(1, {"content": 8})
    assert (second.get(0)["content"] == 7).all()
    assert (first.get(1)["content"] == 8).all()
    assert len(list(tmp_path.iterdir())) == 1


def test_the_version_follows_the_source(tmp_path):
    source = tmp_path / "draw.py"
    source.write_text("x = 1\n")
    before = source_version(source)
    assert before == source_version(source)
    source.write_text("x = 2\n")
    assert before != source_version(source)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no file system in memory here")
def test_asking_for_what_is_missing_takes_no_room():
    """In memory, looking into the hole of a file allocates it, and kills whoever looks when there
    is no room.
    """
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        stored = faces(folder, 500).stored
        room = stored.path.stat().st_blocks
        assert not any(stored.holds(index) or stored.get(index) for index in range(500))
        assert stored.path.stat().st_blocks == room


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
def test_a_full_disk_is_said_once_and_drawing_goes_on(tmp_path, capsys):
    dataset = faces(tmp_path)
    first = dataset[0]
    dataset.stored.path = Path("/dev/full")  # every write fails with ENOSPC
    plain = list(faces(False))
    assert_same(dataset, plain)
    said = capsys.readouterr().out
    assert "No space left on device" in said
    assert "make room" in said
    assert said.count("\n") == 1
    assert_same([dataset[0]], [first])  # what was kept is still read
    with pytest.raises(OSError, match="takes no more; make room"):
        dataset.fill_cache(workers=0)


def test_a_disk_full_from_the_start(tmp_path, capsys, monkeypatch):
    def no_room(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "truncate", no_room)
    dataset = faces(tmp_path)
    assert_same(dataset, faces(False))
    assert capsys.readouterr().out.count("No space left on device") == 1
    assert list(tmp_path.iterdir()) == []


def test_bad_folders_are_refused_in_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot be written; choose another, or cache=False") as error:
        faces(tmp_path / "file" / "folder")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no cache to fill; make it with cache=True"):
        faces(False).fill_cache()
    with pytest.raises(IndexError, match="of a data set of 12"):
        faces(tmp_path)[12]


def test_true_is_the_courses_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    dataset = faces(True)
    dataset.fill_cache(workers=2)
    assert dataset.stored.path.is_relative_to(tmp_path)
    assert all(dataset.stored.holds(index) for index in range(len(dataset)))
