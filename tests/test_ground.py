"""The ground floor: files that are never half-written, and a runtime that is safe to set up twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from test_checkpoints import train
from test_fit import small_model
from test_flow import speaking
from test_hostile_files import MUTATIONS, mutated, only_sentences
from test_tokens import FakeClips, FakeDynamic, FakeStatic

from course_lib import files, runtime
from course_lib.data import OpticalFlowSequenceLoader
from course_lib.lessons import check
from course_lib.lessons.exercises import all_exercises
from course_lib.models.backbones import save_weights
from course_lib.training import stored_tokens, tokens


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "kept.txt"
    path.write_text("old")

    def write():
        with files.atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.txt"]


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match="choose a folder you may write to"),
        files.atomic(tmp_path / "file" / "x") as _,
    ):
        pass


def test_a_full_disk_is_said(tmp_path):
    with pytest.raises(OSError, match="enough free space"), files.atomic(tmp_path / "x"):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_the_first_error_is_told_not_that_of_the_cleaning_up(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(type(tmp_path), "unlink", read_only)
    with pytest.raises(OSError, match="No space left"), files.atomic(tmp_path / "x"):
        raise OSError(28, "No space left on device")


def test_links_are_followed_and_the_mode_stays(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "real.txt", tmp_path / "link.txt"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    dangling = tmp_path / "dangling.json"
    dangling.symlink_to(tmp_path / "there" / "later.json")
    for path in (link, dangling):
        files.write_json(path, {"a": 1})
        assert path.is_symlink()
        assert files.read_json(path) == {"a": 1}
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == [
        "later.json",
        "real.txt",
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_what_is_no_file_is_refused_and_stays(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match=rf"{name}.*; choose a"), files.atomic(tmp_path / name):
            pass
    with pytest.raises(OSError, match="null is no file but a folder"), files.atomic("/dev/null"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


def test_a_name_as_long_as_it_can_be(tmp_path):
    path = tmp_path / ("ä" * 120 + ".json")  # 245 bytes
    files.write_json(path, {})
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    with pytest.raises(OSError, match="File name too long"):
        files.write_json(tmp_path / ("x" * 300), {})


def killed_while_writing(action):
    """Run it in a process that dies when a file is written and has not its name yet."""
    child = os.fork()
    if not child:
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        try:
            action()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def flow_of_a_clip(folder):
    OpticalFlowSequenceLoader([speaking(8)], frames=4, size=32, cache=folder)[0]


def tokens_of_clips(folder):
    stored_tokens(FakeClips(1), FakeStatic("one"), FakeDynamic("two"))


def progress_of_exercises(folder):
    check("attend", all_exercises()["attend"][1].load_solution())


WRITERS = {
    "a file": lambda folder: files.write_json(folder / "a.json", {}),
    "flow": flow_of_a_clip,
    "tokens": tokens_of_clips,
    "progress": progress_of_exercises,
    "a run": train,
    "a model": lambda folder: save_weights(small_model(), folder / "model.safetensors"),
}


@pytest.fixture(scope="module")
def what_kills_left(tmp_path_factory):
    """A folder for each writer. A process of its own forks for them: no child of one that has run
    a backward pass can run another.
    """
    folder = tmp_path_factory.mktemp("killed")
    subprocess.run([sys.executable, __file__, folder], check=True)
    return folder


@pytest.mark.parametrize("writer", WRITERS)
def test_what_a_kill_left_is_swept_by_the_same_call(writer, monkeypatch, what_kills_left):
    folder = what_kills_left / writer
    monkeypatch.setenv("COURSE_CACHE", str(folder))
    monkeypatch.setattr(tokens, "cache_tokens", partial(tokens.cache_tokens, workers=0))
    assert len(list(folder.rglob(".*.part*"))) == 1
    WRITERS[writer](folder)
    assert not list(folder.rglob(".*.part*"))
    assert [path for path in folder.rglob("*") if path.is_file()]


def test_only_what_nobody_writes_any_more_is_swept(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here, living = f"{files.MACHINE}.{dead.pid}.part", f"{files.MACHINE}.{os.getpid()}.part"
    for name in (f".a.npy.{here}.npy", f".b.{here}", ".c.elsewhere.1.part.pt"):
        (tmp_path / name).touch()
    os.utime(tmp_path / ".c.elsewhere.1.part.pt", (0, 0))
    stay = [f".d.{living}.json", ".e.elsewhere.1.part.pt", ".mine.partial", ".x.part", "y.part"]
    for name in stay:
        (tmp_path / name).touch()
    files.write_json(tmp_path / "new.json", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*stay, "new.json"])


@pytest.mark.parametrize("content", ["{", "[1]", "null", "7", '"a"', "[" * 10**5, "\xff", ""])
def test_json_of_another_kind_is_one_sentence(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content.encode("latin1"))
    with pytest.raises(ValueError, match=r"x\.json is no valid JSON \(.*; delete it") as error:
        files.read_json(tmp_path / "x.json")
    assert "\n" not in str(error.value)
    safetensors.torch.save_file(
        {"a": torch.zeros(1)}, tmp_path / "x.safetensors", {"course_lib": content}
    )
    with pytest.raises(ValueError, match=r"the metadata of .* are no valid JSON"):
        files.load_tensors(tmp_path / "x.safetensors")


def test_mutated_files_are_read_or_refused_in_one_sentence(tmp_path):
    files.write_json(tmp_path / "x.json", {"rows": [1, 2.5, None], "name": "ä", "deep": {"a": {}}})
    tensors = {"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.int64)}
    files.save_tensors(tmp_path / "x.safetensors", tensors, {"seed": 3, "names": ["x"]})
    for path, read in (
        (tmp_path / "x.json", files.read_json),
        (tmp_path / "x.safetensors", files.load_tensors),
    ):
        content = path.read_bytes()
        for seed in range(MUTATIONS):
            path.write_bytes(mutated(content, seed))
            with only_sentences():
                read(path)


def test_tensors_come_back_with_their_metadata(tmp_path):
    tensors = {"a": torch.randn(3, 2), "b": torch.arange(4)}
    files.save_tensors(tmp_path / "t.safetensors", tensors, {"seed": 3, "names": ["x"]})
    back, metadata = files.load_tensors(tmp_path / "t.safetensors")
    assert metadata == {"seed": 3, "names": ["x"]}
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("keep", [0, 7, 40])
def test_a_truncated_weight_file_is_refused(tmp_path, keep):
    path = tmp_path / "t.safetensors"
    files.save_tensors(path, {"a": torch.randn(30)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="truncated or is no safetensors file"):
        files.load_tensors(path)


def test_a_missing_weight_file_and_broken_json_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"assets\.recipes"):
        files.load_tensors(tmp_path / "none.safetensors")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match="no valid JSON"):
        files.read_json(tmp_path / "x.json")


def test_setup_twice_gives_the_same_numbers(capsys):
    first = runtime.setup(3), torch.rand(2), np.random.rand()
    again = runtime.setup(3), torch.rand(2), np.random.rand()
    assert first[0] == again[0]
    assert torch.equal(first[1], again[1])
    assert first[2] == again[2]
    assert capsys.readouterr().out.count("device") == 2
    assert (
        first[0].dtype
        == {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[
            first[0].precision
        ]
    )


@pytest.mark.parametrize(("native_bf16", "precision"), [(True, "bf16"), (False, "fp16")])
def test_precision_of_a_gpu(monkeypatch, native_bf16, precision):
    """An old GPU says it supports bf16 when emulation counts; asked without, it does not."""
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or native_bf16,
    )
    assert runtime.precision_of(torch.device("cuda")) == precision
    assert runtime.precision_of(torch.device("cpu")) == "fp32"


def test_scale_chooses_by_the_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runtime.scale(cpu=2, gpu=20) == 2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert runtime.scale(cpu=2, gpu=20) == 20
    monkeypatch.setenv("COURSE_SCALE", "cpu")
    assert runtime.scale(cpu=2, gpu=20) == 2
    monkeypatch.setenv("COURSE_SCALE", "large")
    with pytest.raises(ValueError, match="set it to cpu or gpu"):
        runtime.scale(cpu=2, gpu=20)


def test_the_device_is_the_one_that_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert runtime.default_device() == torch.device("cuda", 0)
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    assert runtime.setup(quiet=True).device == torch.device("cpu")
    monkeypatch.setenv("COURSE_DEVICE", "toaster")
    with pytest.raises(ValueError, match="COURSE_DEVICE=toaster is no device"):
        runtime.default_device()


def test_assets_stay_inside_their_folder():
    assert runtime.assets("weights").is_dir()
    with pytest.raises(ValueError, match="leads out of the assets folder"):
        runtime.assets("../pyproject.toml")
    with pytest.raises(FileNotFoundError, match="no asset"):
        runtime.assets("weights/none")


def test_a_copy_without_assets_says_that_the_course_works_from_its_clone(monkeypatch, tmp_path):
    monkeypatch.setattr(runtime, "__file__", str(tmp_path / "course_lib" / "runtime.py"))
    for name in ("", "weights/static_head.safetensors"):
        with pytest.raises(
            FileNotFoundError, match=r"works from its clone; clone the .* in the clone"
        ):
            runtime.assets(name)


WITHOUT_ASSETS = """
from course_lib import assets, setup
from course_lib.explorer import ImbalanceAwareAttentionExplorer
from course_lib.models import DynamicFeatureExtractor, StaticFeatureExtractor
from course_lib.training import course_attribute_predictor

setup()
StaticFeatureExtractor(weights=None)
for needs in (StaticFeatureExtractor, DynamicFeatureExtractor, course_attribute_predictor, assets):
    try:
        needs()
    except FileNotFoundError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_wheel_says_that_the_course_works_from_its_clone(tmp_path):
    pytest.importorskip("setuptools", "70.1", reason="older ones build no wheel by themselves")
    root, source, site = Path(__file__).parent.parent, tmp_path / "source", tmp_path / "site"
    shutil.copytree(root / "course_lib", source / "course_lib")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index"]
    subprocess.check_call([*pip, "--no-build-isolation", "-w", tmp_path, source])
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, site, "zip")
    assert {path.name for path in site.rglob("*.js")} == {
        path.name for path in (root / "course_lib").rglob("*.js")
    }

    def run(*arguments, path=site):
        environment = os.environ | {"PYTHONPATH": str(path)}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )

    sentence = (
        f"{site / 'course_lib'} has no assets beside it, because the course works from its clone;"
        " clone the repository and run `pip install -e .` in the clone\n"
    )
    library = run("-c", WITHOUT_ASSETS)
    assert library.stdout.startswith("device "), library.stderr
    assert library.stdout.endswith(4 * sentence)
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.mp4").touch()
    command = run("-m", "course_lib", "preprocess", "films", "--output", "out")
    assert (command.returncode, command.stderr) == (2, f"error: {sentence}")
    assert not (tmp_path / "out").exists()
    assert sentence not in run("-c", WITHOUT_ASSETS, path=root).stdout


def test_a_cache_that_cannot_be_written_moves_and_says_so_once(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file" / "cache"))
    assert runtime.cache_dir("a").is_dir()
    assert runtime.cache_dir("a").is_dir()
    assert capsys.readouterr().out.count("set COURSE_CACHE") == 1


@pytest.mark.parametrize("name", ["~/course", "", None])
def test_the_cache_with_a_home_and_without(monkeypatch, tmp_path, name):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if name is None:
        monkeypatch.delenv("COURSE_CACHE")
    else:
        monkeypatch.setenv("COURSE_CACHE", name)
    expected = "course" if name else ".cache/seeing-cross-attention"
    assert runtime.chosen_cache("~/mine", "flow") == tmp_path / "home" / "mine"
    assert runtime.cache_dir("a") == tmp_path / "home" / expected / "a"
    with monkeypatch.context() as homeless:
        homeless.setattr(os.path, "expanduser", lambda path: path)  # as where nobody knows the user
        assert runtime.cache_dir("a").is_relative_to(tempfile.gettempdir())
        homeless.setenv("COURSE_CACHE", str(tmp_path / "chosen"))
        assert runtime.cache_dir("a") == tmp_path / "chosen" / "a"


def test_importing_the_library_is_quick_and_leaves_torch_alone():
    """The budget of the import itself, as what it may not pull in rather than as seconds."""
    heavy = ["torch", "numpy", "cv2", "matplotlib", "imageio", "skimage", "sklearn", "plotly"]
    code = (
        f"import sys, json, course_lib; print(json.dumps([m for m in {heavy} if m in sys.modules]))"
    )
    assert json.loads(subprocess.check_output([sys.executable, "-c", code])) == []


if __name__ == "__main__":
    tokens.cache_tokens = partial(tokens.cache_tokens, workers=0)
    for name, write in WRITERS.items():
        folder = Path(sys.argv[1], name)
        folder.mkdir()
        os.environ["COURSE_CACHE"] = str(folder)
        killed_while_writing(partial(write, folder))
