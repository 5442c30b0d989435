"""Runs on disk: what is kept, refused, and left by a kill or a full disk. Saved models: versions,
and exports.
"""

import errno
import hashlib
import io
import json
import multiprocessing
import os
import time
import zipfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from test_fit import Cut, Killed, Losses, loaders, logged, same, small_data, small_model
from torch import nn
from torch.utils.data import DataLoader

from course_lib import files
from course_lib.models import CompletePersonalityModel, TokenPersonalityModel
from course_lib.training import (
    Checkpoints,
    ClipGradients,
    MetricLog,
    ModelSerializer,
    fit,
)
from course_lib.training.lock import locked


def train(folder, *callbacks, model=None, train_loader=None, epochs=2, minutes=0, **settings):
    return fit(
        model or small_model(),
        train_loader or loaders()[0],
        loaders()[1],
        epochs=epochs,
        callbacks=[MetricLog(folder), Checkpoints(folder, minutes=minutes), *callbacks],
        **settings,
    )


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


def state_in(folder, name="last") -> dict:
    return torch.load(folder / f"{name}.pt", weights_only=True)


def in_one_sentence(caught) -> bool:
    return "\n" not in str(caught.value)


def test_a_finished_run_is_not_run_again_and_still_shows_its_log(tmp_path):
    first = train(tmp_path)
    again = train(tmp_path, Cut(1))
    assert same(first.model, again.model)
    assert again.log == first.log
    assert names(tmp_path) == {"last.pt", "best.pt", "log.csv"}


def test_a_finished_run_may_be_given_more_epochs(tmp_path):
    train(tmp_path / "long", epochs=4)
    train(tmp_path / "short", epochs=2)
    longer = train(tmp_path / "short", epochs=4)
    assert (longer.epoch, longer.step) == (4, 20)
    assert logged(tmp_path / "long") == logged(tmp_path / "short")


def test_the_best_weights_are_those_of_the_best_epoch(tmp_path):
    seen = []

    class Weights:
        def after_epoch(self, run):
            seen.append({name: value.clone() for name, value in run.model.state_dict().items()})

    checkpoints, best = Checkpoints(tmp_path), small_model()
    fit(
        small_model(),
        loaders()[0],
        loaders()[1],
        epochs=4,
        callbacks=[Losses(3, 1, 2, 1), Weights(), checkpoints],
    )
    log = checkpoints.load_best(best)
    assert (log["epoch"], log["valid_loss"]) == (2, 1)
    assert all(torch.equal(value, seen[1][name]) for name, value in best.state_dict().items())


class Counter:
    """A callback whose state is a tensor beside plain values."""

    def __init__(self):
        self.steps, self.sums = 0, torch.zeros(2, dtype=torch.float64)

    def after_step(self, run):
        self.steps += 1
        self.sums += torch.tensor([run.loss, 1.0])

    def state_dict(self):
        return {"steps": self.steps, "sums": self.sums}

    def load_state_dict(self, state):
        self.steps, self.sums = state["steps"], state["sums"]


def test_callbacks_keep_tensors_and_plain_values(tmp_path):
    whole, cut, resumed = Counter(), Counter(), Counter()
    train(tmp_path / "whole", whole)
    with pytest.raises(Killed):
        train(tmp_path / "cut", cut, Cut(7))
    train(tmp_path / "cut", resumed)
    assert (
        (resumed.steps, resumed.sums.tolist())
        == (whole.steps, whole.sums.tolist())
        == (10, whole.sums.tolist())
    )


def test_the_scaler_of_half_precision_is_kept(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024)

    class Half:
        def start(self, run):
            run.accelerator.scaler = scaler

    def run(*callbacks):
        fit(
            small_model(),
            loaders()[0],
            epochs=1,
            callbacks=[Half(), Checkpoints(tmp_path, minutes=0), *callbacks],
        )

    with pytest.raises(Killed):
        run(Cut(2))
    scaler.load_state_dict(scaler.state_dict() | {"scale": 8.0})
    run()
    assert scaler.get_scale() == 1024


class Objects:
    """A callback whose state nobody can read without running code."""

    def state_dict(self):
        return {"value": np.float64(3)}

    def load_state_dict(self, state): ...


def test_a_state_that_cannot_be_read_again_is_named_at_the_first_save(tmp_path):
    with pytest.raises(
        ValueError, match=r"last.pt holds more than tensors.*state_dict return only these, and del"
    ) as caught:
        train(tmp_path, Objects())
    assert in_one_sentence(caught)


# ---- damaged and foreign states ------------------------------------------------------------------


def flip(path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: flip(path, -1),
        lambda path: flip(path, -3000),
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: path.write_bytes(b""),
    ],
    ids=["last byte", "in the middle", "truncated", "empty"],
)
def test_a_damaged_state_is_refused(tmp_path, damage):
    train(tmp_path)
    damage(tmp_path / "last.pt")
    damage(tmp_path / "best.pt")
    remedy = (
        r" is damaged or was altered \(its SHA-256 differs\); copy it again, or delete .* to start"
    )
    for name, read in (
        ("last.pt", lambda: train(tmp_path)),
        ("best.pt", lambda: Checkpoints(tmp_path).load_best(small_model())),
    ):
        with pytest.raises(ValueError, match=name + remedy) as caught:
            read()
        assert in_one_sentence(caught)


class Harmful:
    """Fails the test when somebody unpickles it."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


def test_a_file_with_code_is_never_run(tmp_path):
    train(tmp_path)
    buffer = io.BytesIO()
    torch.save({"settings": Harmful()}, buffer)
    content = buffer.getvalue()
    (tmp_path / "last.pt").write_bytes(content + hashlib.sha256(content).digest())
    with pytest.raises(ValueError, match="holds more than tensors"):
        train(tmp_path)


class Other(nn.Sequential):
    """The same layers under another name."""


def wider() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 9), nn.BatchNorm1d(9), nn.Linear(9, 2))


def shuffled_differently() -> nn.Module:
    """As many values, in layers of other shapes."""
    model = small_model()
    model[4] = nn.Sequential(nn.Linear(8, 2))
    return model


def absolute(prediction, target):
    return (prediction - target).abs().mean()


def with_optimizer(kind, **settings) -> dict:
    model = small_model()
    return {"model": model, "optimizer": kind(model.parameters(), **settings)}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (lambda: {"model": wider()}, "trained values 74, and this one has 83"),
        (lambda: {"model": Other(*small_model())}, "model Sequential, and this one has Other"),
        (lambda: {"model": shuffled_differently()}, "do not fit this network"),
        (lambda: with_optimizer(torch.optim.AdamW), "optimizer Adam, and this one has AdamW"),
        (
            lambda: with_optimizer(torch.optim.Adam, lr=0.5),
            r"optimizer's lr 0\.001, and this one has 0\.5",
        ),
        (lambda: {"loss_function": absolute}, "loss mse_loss, and this one has absolute"),
        (lambda: {"train_loader": loaders(items=48)[0]}, "number of items 40, and this one has 48"),
        (lambda: {"train_loader": loaders(batch=9)[0]}, "batch size 8, and this one has 9"),
        (
            lambda: {"train_loader": DataLoader(small_data(42), 8, drop_last=True)},
            "number of items 40",
        ),
        (
            lambda: {"train_loader": DataLoader(small_data(), 8)},
            "sampler RandomSampler, and this one has Sequential",
        ),
        (lambda: {"accumulate": 2}, "accumulate 1, and this one has 2"),
        (lambda: {"seed": 7}, "seed 0, and this one has 7"),
        (lambda: {"precision": "bf16"}, "precision no, and this one has bf16"),
    ],
)
def test_a_state_of_another_run_is_refused(tmp_path, changes, sentence):
    train(tmp_path)
    kept = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(ValueError, match=sentence) as caught:
        train(tmp_path, **changes())
    assert in_one_sentence(caught)
    assert (tmp_path / "last.pt").read_bytes() == kept
    with locked(tmp_path):
        pass  # nothing blocks the folder


def test_other_callbacks_are_refused_if_they_have_a_state(tmp_path):
    train(tmp_path)
    with pytest.raises(
        ValueError,
        match="callbacks MetricLog, Checkpoints, and this one has MetricLog, Checkpoints, ",
    ):
        train(tmp_path, ClipGradients())
    train(tmp_path, Losses(1, 1, 1))


# ---- what must not be saved, and what cannot be --------------------------------------------------


class ZeroLoss:
    """Finite at 0, where its gradient is not."""

    def __init__(self, from_step: int):
        self.calls, self.from_step = 0, from_step

    def __call__(self, prediction, target):
        self.calls += torch.is_grad_enabled()
        loss = (prediction - target).square().mean()
        return loss + (prediction * 0).sqrt().sum() if self.calls > self.from_step else loss


def test_broken_weights_are_never_saved(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"holds NaN or infinity after step 8; lower the learning rate or clip .* "
        "still holds the last good state",
    ) as caught:
        train(tmp_path, loss_function=ZeroLoss(7))
    assert in_one_sentence(caught)
    for name in ("last", "best"):
        weights = state_in(tmp_path, name)["model"]
        assert all(tensor.isfinite().all() for tensor in weights.values())
    assert state_in(tmp_path)["run"]["step"] == 7


def test_nor_are_weights_that_break_between_two_saves(tmp_path):
    with pytest.raises(ValueError, match="began in layer '0'"):
        train(tmp_path, loss_function=ZeroLoss(7), minutes=9)
    assert state_in(tmp_path)["run"]["step"] == 5


def test_a_full_disk_leaves_the_state_before(tmp_path, monkeypatch):
    whole, write, left = train(tmp_path / "whole"), Path.write_bytes, iter(range(8))

    def fills_up(path, content):
        if ".last.pt." in path.name and next(left) == 7:
            write(path, content[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fills_up)
        with pytest.raises(
            OSError,
            match=r"cannot write .*last.pt \(No space left on device\); choose a "
            "folder you may write to with enough free space",
        ) as caught:
            train(tmp_path / "full")
    assert in_one_sentence(caught)
    assert names(tmp_path / "full") == {"last.pt", "best.pt", "log.csv"}
    resumed = train(tmp_path / "full")
    assert same(whole.model, resumed.model)


# ---- one run in a folder -------------------------------------------------------------------------


def wait_for_ever(folder, ready):
    with locked(folder):
        ready.set()
        time.sleep(600)


def test_a_folder_in_use_is_refused_until_that_process_is_dead(tmp_path, monkeypatch):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=wait_for_ever, args=(tmp_path, ready), daemon=True)
    process.start()
    assert ready.wait(300)
    monkeypatch.setattr("course_lib.training.lock.WAIT", 0)
    with pytest.raises(
        ValueError, match="is in use by another run; wait for its end, or choose another folder"
    ) as caught:
        train(tmp_path)
    assert in_one_sentence(caught)
    assert names(tmp_path) == set()
    monkeypatch.undo()
    process.kill()
    train(tmp_path)
    process.join()


def test_the_same_notebook_may_start_again_after_an_interruption(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path, Cut(3))
    train(tmp_path)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError, match=r"cannot write in .*file/run \(Not a directory\); choose a f"
    ):
        train(tmp_path / "file" / "run")


# ---- finished models -----------------------------------------------------------------------------

SMALL = {"static_dim": 12, "dynamic_dim": 6, "fusion_dim": 8, "num_heads": 2}


@pytest.fixture
def serializer(tmp_path):
    return ModelSerializer(tmp_path / "models")


@pytest.fixture
def saved(serializer):
    """Two versions of a small model."""
    models = []
    for number in (1, 2):
        torch.manual_seed(number)
        models.append(CompletePersonalityModel(**SMALL))
        assert (
            serializer.save(
                models[-1], "fusion", SMALL, {"clips": 10 * number}, {"ccc": number / 10}
            )
            == number
        )
    return models


def weights(model):
    return [tensor.tolist() for tensor in model.state_dict().values()]


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_latest_and_exact_versions_come_back_bit_for_bit(serializer, saved):
    latest, metadata = serializer.load(CompletePersonalityModel, "fusion")
    assert weights(latest) == weights(saved[1]) != weights(saved[0])
    assert not latest.training
    assert (metadata["version"], metadata["config"], metadata["data"], metadata["scores"]) == (
        2,
        SMALL | {"dropout_rate": 0.3},
        {"clips": 20},
        {"ccc": 0.2},
    )
    assert metadata["libraries"]["torch"] == torch.__version__
    assert (
        abs(
            (datetime.now().astimezone() - datetime.fromisoformat(metadata["date"])).total_seconds()
        )
        < 600
    )
    first, metadata = serializer.load(CompletePersonalityModel, "fusion", version=1, config=SMALL)
    assert weights(first) == weights(saved[0])
    assert metadata["version"] == 1
    assert serializer.versions("fusion") == [1, 2]
    assert serializer.versions("nothing") == []


def test_more_than_nine_versions_keep_their_order(serializer):
    model = CompletePersonalityModel(**SMALL)
    for _ in range(11):
        number = serializer.save(model, "fusion", SMALL)
    assert number == 11
    assert serializer.load(CompletePersonalityModel, "fusion")[1]["version"] == 11


def test_what_is_on_disk_is_no_pickle(serializer, saved):
    for path in (path for path in serializer.folder.rglob("*") if path.is_file()):
        assert path.suffix in (".safetensors", ".json")
        assert path.suffix == ".json" or files.load_tensors(path)[0]
        assert not zipfile.is_zipfile(path)


@pytest.mark.parametrize("killed_in", ["save_tensors", "write_json"])
def test_a_save_that_is_cut_off_leaves_the_last_version_as_the_latest(
    serializer, saved, killed_in, monkeypatch
):
    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(files, killed_in, killed)
        with pytest.raises(Killed):
            serializer.save(saved[0], "fusion", SMALL)
    assert serializer.versions("fusion") == [1, 2]
    assert weights(serializer.load(CompletePersonalityModel, "fusion")[0]) == weights(saved[1])
    assert serializer.save(saved[0], "fusion", SMALL) == 4
    assert weights(serializer.load(CompletePersonalityModel, "fusion")[0]) == weights(saved[0])


def refused(
    serializer, sentence, model_class=CompletePersonalityModel, error_class=ValueError, **options
):
    with pytest.raises(error_class, match=sentence) as error:
        serializer.load(model_class, "fusion", **options)
    assert "\n" not in str(error.value)


def test_altered_weights_are_refused(serializer, saved):
    path = serializer.folder / "fusion" / "0002" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused(serializer, "SHA-256 differs")
    assert serializer.load(CompletePersonalityModel, "fusion", version=1)
    path.unlink()
    refused(serializer, "SHA-256 differs")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"config": SMALL | {"dropout_rate": 0.9}}, "disagrees with the weights about 'config'"),
        ({"scores": {"ccc": 0.99}}, "disagrees with the weights about 'scores'"),
        ({"extra": 1}, "disagrees with the weights about 'extra'"),
        ({"sha256": "0" * 64}, "SHA-256 differs"),
    ],
)
def test_altered_metadata_is_refused(serializer, saved, changes, sentence):
    edit(serializer.folder / "fusion" / "0002" / "metadata.json", **changes)
    refused(serializer, sentence)


def test_the_wrong_class_config_version_or_name_is_refused(serializer, saved):
    refused(
        serializer,
        "holds a CompletePersonalityModel, not a TokenPersonalityModel",
        TokenPersonalityModel,
    )
    refused(serializer, "was built with num_heads=2, not 4", config=SMALL | {"num_heads": 4})
    refused(serializer, r"was built with dropout_rate=0\.3, not 0\.1", config={"dropout_rate": 0.1})
    refused(serializer, "was built with heads=None, not 2", config={"heads": 2})
    refused(
        serializer,
        r"no 'fusion' version 7 .* versions \[1, 2\]",
        error_class=FileNotFoundError,
        version=7,
    )
    refused(serializer, "no 'fusion' version 0", error_class=FileNotFoundError, version=0)
    with pytest.raises(FileNotFoundError, match="no 'other' in"):
        serializer.load(CompletePersonalityModel, "other")
    for name in ("", "..", "a/b", "elsewhere/x"):
        with pytest.raises(ValueError, match="is no name for a model"):
            serializer.save(saved[0], name, SMALL)


@pytest.mark.parametrize(
    ("config", "scores", "sentence"),
    [
        (SMALL | {"num_heads": 4}, None, "whose cross_attention.attention.to_query.weight differs"),
        ({}, None, "whose cross_attention.project_static.weight differs"),
        (SMALL | {"heads": 2}, None, "unexpected keyword argument 'heads'"),
        (SMALL, {"ccc": torch.tensor(0.5)}, "Tensor is not JSON serializable.*tolist"),
    ],
)
def test_a_config_that_builds_another_model_is_not_saved(serializer, config, scores, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        serializer.save(CompletePersonalityModel(**SMALL), "fusion", config, scores=scores)
    assert "\n" not in str(error.value)
    assert not serializer.folder.exists()


@pytest.mark.parametrize(
    ("model_class", "shapes"),
    [(CompletePersonalityModel, [(12,), (6,)]), (TokenPersonalityModel, [(7, 12), (4, 6)])],
)
def test_the_export_predicts_the_same_for_any_batch(serializer, model_class, shapes):
    model = model_class(**SMALL)
    model.fusion.norm.running_mean.normal_()  # as after training
    serializer.save(model, "fusion", SMALL)
    path = serializer.export(model_class, "fusion", [torch.randn(2, *shape) for shape in shapes])
    assert path == serializer.folder / "fusion" / "0001" / "model.pt2"
    program = torch.export.load(path).module()
    for batch in (1, 2, 5):
        inputs = [torch.randn(batch, *shape) for shape in shapes]
        torch.testing.assert_close(program(*inputs), model.eval()(*inputs))
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "metadata.json",
        "model.pt2",
        "model.safetensors",
    ]


def test_an_example_of_one_is_refused_before_it_fixes_the_batch(serializer, saved):
    with pytest.raises(ValueError, match="at least 2 items"):
        serializer.export(
            CompletePersonalityModel, "fusion", [torch.randn(1, 12), torch.randn(1, 6)]
        )


class Empty(nn.Module):
    """Not every model has weights."""

    def __init__(self):
        super().__init__()


def test_a_model_without_weights_is_kept_too(serializer):
    serializer.save(Empty(), "empty", {})
    assert isinstance(serializer.load(Empty, "empty")[0], Empty)
