"""The command line: settings, arrays that fit or do not, runs that go on, scores, videos, many
processes.
"""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import psutil
import pytest
import skimage.data
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from test_first_impressions import python2_pickle
from test_hostile_files import MUTATIONS, mutated, only_sentences

from course_lib import files
from course_lib.__main__ import main, parse
from course_lib.commands.arrays import (
    _load,
    _read_labels,
    _read_speakers,
    open_arrays,
    split_rows,
)
from course_lib.commands.evaluate import _open_run
from course_lib.commands.visualize import curves
from course_lib.data import ClipDataset, FirstImpressions, OpticalFlowSequenceLoader
from course_lib.models import (
    CompletePersonalityModel,
    DynamicFeatureExtractor,
    TokenPersonalityModel,
)
from course_lib.training import ModelSerializer, Progress, score_traits
from course_lib.training.lock import locked
from course_lib.world import TRAITS

ROOT = Path(__file__).parent.parent
REAL = os.environ.get("COURSE_REAL_CLIPS")
ITEMS = 48


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=options.pop("cwd", ROOT),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **options,
    )


def refused(capsys, *arguments) -> str:
    """The one sentence with which a command refuses its input."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert "Traceback" not in said
    return said


# ---- options -------------------------------------------------------------------------------------


def arguments_of(*arguments) -> dict:
    return parse([str(argument) for argument in arguments])[1]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("preprocess", ("--shard SHARD", "which part to do: 2/8", "--batch_size")),
        ("train", ("--static_features", "tokens `n tokens dim`", "--epochs", "passes over")),
        ("evaluate", ("--against", "--labels", "Without a value after it, --attention means true")),
        ("visualize", ("--format {png,svg,pdf}", "whose heads are drawn")),
    ],
)
def test_help_explains_every_option(name, options, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert "--split " not in text
    assert "type:" not in text
    assert "default: )" not in text
    for option in ("--config", *options):
        assert option in text
    for option, unexplained in re.findall(r"--(\w+) \S+ (\(default)?", text):
        assert not unexplained, f"{option} has no help"


def test_the_list_of_commands_is_quick_because_torch_is_not_imported():
    run = command(
        "-c",
        "import sys; from course_lib.__main__ import main\n"
        "sys.exit(main(['--help']) or 'torch' in sys.modules)",
    )
    assert run.returncode == 0, run.stderr
    assert all(name in run.stdout for name in ("preprocess", "train", "evaluate", "visualize"))


def test_flags_and_yaml_say_the_same_and_the_last_wins(tmp_path):
    config = tmp_path / "one.yaml"
    config.write_text(
        "dataset: synthetic\nval_split: 0.3\nepochs: 7\nlearning_rate: 1e-4\ntensorboard: true\n"
    )
    flags = "--dataset synthetic --val_split 0.3 --epochs 7 --learning_rate 1e-4 --tensorboard"
    assert arguments_of("train", "--config", config) == arguments_of("train", *flags.split())
    assert arguments_of("train", "--config", config, "--epochs", "9")["epochs"] == 9
    assert arguments_of("evaluate", "--attention", "a/run")["run"] == "a/run"
    assert arguments_of("evaluate", "a/run") | {"attention": True} == arguments_of(
        "evaluate", "a/run", "--attention"
    )


def test_the_printed_configuration_gives_the_same_settings(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--epochs", "3", "--print_config"])
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    printed = arguments_of("train", "--config", tmp_path / "printed.yaml")
    assert printed == arguments_of("train", "--epochs", "3")


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("precision: no", "no"),
        ("seed: 007", 7),
        ("seed: 010", 10),
        ("output: 007", "007"),
        ("output: no", "no"),
        ("output: 1e2", "1e2"),
        ("learning_rate: 1e-4", 1e-4),
        ("minutes: 3", 3.0),
        ("tensorboard: yes", True),
        ("tensorboard: false", False),
        ("clips: 64 # all", 64),
    ],
)
def test_yaml_values_are_read_as_they_are_written(line, value, tmp_path):
    (tmp_path / "one.yaml").write_text(line)
    read = arguments_of("train", "--config", tmp_path / "one.yaml")[line.partition(":")[0]]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "option", "value", "words"),
    [
        ("train", "num_heads", 0, "a number from 1 on"),
        ("train", "accumulate", 0, "a number from 1 on"),
        ("train", "epochs", 0, "a number from 1 on"),
        ("train", "fusion_dim", -3, "a number from 1 on"),
        ("train", "patience", 0, "a number from 1 on"),
        ("train", "minutes", -1, "a number from 0 on"),
        ("train", "weight_decay", -0.1, "a number from 0 on"),
        ("train", "clip", -1, "a number above 0"),
        ("train", "clip", 0, "a number above 0"),
        ("train", "learning_rate", 0, "a number above 0"),
        ("train", "warmup", 5, "shares from 0 to 1"),
        ("train", "dropout_rate", 1, "shares from 0 to 1"),
        ("preprocess", "batch_size", 0, "a number from 1 on"),
        ("preprocess", "workers", -1, "a number from 0 on"),
        ("preprocess", "frames", 0, "do not make a window"),
        ("preprocess", "stride", 0, "do not make a window"),
        ("preprocess", "size", 4, "do not make a window"),
        ("preprocess", "video_fps", 0, "a number above 0 and at most 240"),
        ("preprocess", "video_fps", 241, "a number above 0 and at most 240"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_with_their_range(
    name, option, value, words, data, tmp_path, capsys
):
    given = vectors(data) if name == "train" else [str(tmp_path)]
    said = refused(capsys, name, *given, f"--{option}", value, "--output", tmp_path / "run")
    assert words in said
    assert f"{option}" in said
    assert f"{value}" in said
    assert not (tmp_path / "run").exists()


def command_lines():
    """What README, lessons and configurations tell to type."""
    places = [
        ROOT / "README.md",
        *(ROOT / "notebooks").glob("*.ipynb"),
        *(ROOT / "assets" / "configs").glob("*.yaml"),
    ]
    names = "preprocess|train|evaluate|visualize"
    line = rf"python -m course_lib ((?:{names})(?: +[\w./-]+)+)"
    return {found for path in places for found in re.findall(line, path.read_text())}


@pytest.mark.parametrize("line", sorted(command_lines()))
def test_what_the_texts_tell_to_type_is_understood(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert len(command_lines()) > 10
    if "--help" not in line:
        parse(line.split())


@pytest.mark.parametrize("name", ["cpu", "colab", "chalearn"])
def test_the_configurations_to_start_from_are_valid(name):
    settings = arguments_of("train", "--config", ROOT / "assets" / "configs" / f"{name}.yaml")
    assert settings["dataset"]
    assert settings["output"] == f"results/{name}"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("epoch: 3", "'epoch' is not accepted, did you mean epochs?"),
        ("training: {epochs: 3}", "'training.epochs' is not accepted, did you mean epochs?"),
        ("epochs: many", '"epochs"'),
        ("dataset: !!python/object/apply:os.mkdir ['pwned']", '"dataset"'),
        ("epochs: 1e2", "Got value: 100.0"),
        ("[" * 5000, "Problems parsing config"),
        ("- 1", "Unexpected config"),
        ("data: {", "Problems parsing config"),
    ],
)
def test_bad_yaml_is_refused(content, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(content)
    assert words in refused(capsys, "train", "--config", "bad.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name one of preprocess, train"),
        (["trian"], "did you mean train?"),
        (["train", "--epoch", "3"], "did you mean epochs?"),
        (["train", "--epochs", "3.5"], '"epochs"'),
        (["train", "--config", "none.yaml"], "none.yaml"),
        (["train", "--precision", "fp8"], "precision"),
        (["train"], "no static_features"),
        (["train", "--dataset", "nowhere"], "no folder nowhere"),
        (["evaluate"], "required: run"),
        (["evaluate", "nowhere"], "nowhere holds no run"),
        (["visualize", "nowhere"], "nowhere holds no run"),
        (["preprocess", "nowhere"], "no folder 'nowhere'"),
        (["preprocess", ""], "no folder ''"),
    ],
)
def test_bad_arguments_are_refused(arguments, words, capsys):
    assert words in refused(capsys, *arguments)


@pytest.mark.parametrize(
    "words", ["is killed by signal: Killed. ", "(pid(s) 7) exited unexpectedly"]
)
def test_a_reading_process_that_was_killed_is_one_sentence(words, capsys, monkeypatch, tmp_path):
    def killed(**_):
        raise RuntimeError(f"DataLoader worker {words}")

    monkeypatch.setattr("course_lib.commands.train.open_arrays", killed)
    assert "run the same command again, with fewer --workers" in refused(capsys, "train")


# ---- arrays --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Vectors and tokens of 48 clips by 12 speakers, and labels that the vectors explain."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    static, dynamic = (rng.normal(size=(ITEMS, width)).astype(np.float32) for width in (12, 8))
    labels = 1 / (1 + np.exp(-np.concatenate([static, dynamic], 1) @ rng.normal(size=(20, 5)) / 2))
    for name, array in {
        "static": static,
        "dynamic": dynamic,
        "labels": labels.astype(np.float32),
        "speakers": np.array([f"speaker {k // 4}" for k in range(ITEMS)]),
        "face_tokens": rng.normal(size=(ITEMS, 6, 12)).astype(np.float16),
        "motion_tokens": rng.normal(size=(ITEMS, 4, 8)).astype(np.float16),
    }.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def vectors(data, *more, speakers=True):
    named = {"static_features": "static", "dynamic_features": "dynamic", "labels": "labels"}
    named |= {"speakers": "speakers"} if speakers else {}
    return [
        part for name, file in named.items() for part in (f"--{name}", str(data / f"{file}.npy"))
    ] + list(map(str, more))


def saved(tmp_path, array):
    np.save(tmp_path / "bad.npy", array, allow_pickle=True)
    return tmp_path / "bad.npy"


def changed(data, name, row, value):
    array = np.load(data / f"{name}.npy")
    array[row] = value
    return array


class Harmful:
    """Fails the test when somebody unpickles it."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


@pytest.mark.parametrize(
    ("option", "make", "words"),
    [
        ("labels", lambda data: changed(data, "labels", 7, 1.5), "row 7 of .* has Openness 1.5"),
        ("labels", lambda data: changed(data, "labels", 7, np.nan), "row 7 of .* has Openness nan"),
        ("labels", lambda data: np.load(data / "labels.npy")[:, :4], r"the shape \(48, 4\)"),
        (
            "labels",
            lambda data: np.load(data / "labels.npy")[:40],
            "differ in length: .*labels 40, speakers 48",
        ),
        ("labels", lambda data: np.array([["a"] * 5] * ITEMS), "expected `n 5` numbers"),
        (
            "static_features",
            lambda data: changed(data, "static", (31, 2), np.nan),
            "row 31 of static_features .* NaN",
        ),
        (
            "dynamic_features",
            lambda data: changed(data, "dynamic", 5, np.inf),
            "row 5 of dynamic_features .* infinity",
        ),
        ("static_features", lambda data: np.load(data / "face_tokens.npy"), "do not pair"),
        ("static_features", lambda data: np.ones((ITEMS, 12), int), "expected floats"),
        ("static_features", lambda data: np.array([{"a": 1}] * ITEMS), "no plain .npy file"),
        ("speakers", lambda data: np.array([Harmful()] * ITEMS), "no plain .npy file"),
        ("static_features", lambda data: np.ones((0, 12), np.float32), "holds no rows"),
        (
            "speakers",
            lambda data: changed(data, "speakers", 3, ""),
            "row 3 without a speaker id.*leaks",
        ),
        (
            "speakers",
            lambda data: np.where(np.arange(ITEMS) == 9, np.nan, 1.0),
            "row 9 without a speaker id",
        ),
        (
            "speakers",
            lambda data: np.zeros(ITEMS, int),
            "1 speakers cannot be split, .* add clips of other people, or leave out --speakers",
        ),
        ("speakers", lambda data: np.ones((ITEMS, 2), int), r"the shape \(48, 2\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(option, make, words, data, tmp_path, capsys):
    path = saved(tmp_path, make(data))
    assert re.search(
        words,
        refused(capsys, "train", *vectors(data), f"--{option}", path, "--output", tmp_path / "run"),
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--val_split", "0"], "between 0 and 1"),
        (["--val_split", "1"], "between 0 and 1"),
        (["--traits", "openness,extraversion"], "does not name the five traits"),
        (["--batch_size", "1"], "at least 2"),
        (["--labels", "none.npy"], "no file none.npy"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words, data, tmp_path, capsys):
    assert words in refused(capsys, "train", *vectors(data), *options, "--output", tmp_path / "run")


def test_archives_and_text_are_no_arrays(data, tmp_path, capsys):
    np.savez(tmp_path / "x.npz", a=np.ones(3))
    (tmp_path / "x.npy").write_text("hello")
    for name in ("x.npz", "x.npy"):
        said = refused(capsys, "train", *vectors(data), "--static_features", tmp_path / name)
        assert "save" in said


def test_labels_come_in_the_order_of_the_traits_whatever_the_file_says(data, tmp_path, capsys):
    right, order = np.load(data / "labels.npy"), [2, 4, 3, 1, 0]
    names = [TRAITS[k].lower() for k in order]
    np.save(tmp_path / "labels.npy", right[:, order])
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [[*names, "interview"], *([*row, 0.5] for row in right[:, order].tolist())]
        )
    common = {
        "static_features": str(data / "static.npy"),
        "dynamic_features": str(data / "dynamic.npy"),
    }
    plain = open_arrays(**common, labels=str(data / "labels.npy"))
    assert "does not name its columns" in capsys.readouterr().out
    for options in (
        {"labels": str(tmp_path / "labels.npy"), "traits": ", ".join(names)},
        {"labels": str(tmp_path / "labels.csv")},
    ):
        assert open_arrays(**common, **options).traits.equal(plain.traits)
    assert "does not name" not in capsys.readouterr().out
    (tmp_path / "labels.csv").write_text("openness,extraversion\n.1,.2\n")
    assert "no column conscientiousness" in refused(
        capsys, "train", *vectors(data), "--labels", tmp_path / "labels.csv"
    )


def another(content, rng):
    """JSON in which one value, somewhere, has become something else, or is gone."""
    if not isinstance(content, dict | list) or not content or rng.random() < 0.15:
        return rng.choice([None, True, 7, -1, 1e400, "x", "../../x", [], [1], {}, {"x": 1}, [[]]])
    copy = content.copy()
    key = rng.choice(list(copy) if isinstance(copy, dict) else range(len(copy)))
    if rng.random() < 0.15:
        del copy[key]
    else:
        copy[key] = another(copy[key], rng)
    return copy


def test_features_are_mapped_not_read(data):
    arrays = open_arrays(
        static_features=str(data / "static.npy"),
        dynamic_features=str(data / "dynamic.npy"),
        labels=str(data / "labels.npy"),
    )
    assert isinstance(np.load(data / "static.npy", mmap_mode="c"), np.memmap)
    arrays.static[0] = 99  # copy on write: the file keeps what it held
    assert np.load(data / "static.npy")[0, 0] != 99


@given(
    sizes=st.lists(st.integers(1, 9), min_size=4, max_size=40),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 99),
)
def test_a_split_parts_speakers_and_is_near_the_share(sizes, share, seed):
    speakers = np.repeat([f"s{k}" for k in range(len(sizes))], sizes)
    train, valid = split_rows(len(speakers), speakers, share, seed)
    assert sorted([*train, *valid]) == list(range(len(speakers)))
    known, asked = set(speakers[train]), set(speakers[valid])
    assert not known & asked
    assert min(len(known), len(asked)) >= 2
    if len(asked) > 2 and len(known) > 2:
        assert abs(len(valid) - share * len(speakers)) <= max(sizes) / 2 + 1e-6
    again = split_rows(len(speakers), speakers, share, seed)
    assert all(np.array_equal(one, other) for one, other in zip((train, valid), again, strict=True))


# ---- train, evaluate, visualize ------------------------------------------------------------------

QUICK = ("--epochs", "4", "--batch_size", "8", "--fusion_dim", "16", "--num_heads", "2")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A finished run on vectors."""
    folder = tmp_path_factory.mktemp("results") / "vectors"
    assert main(["train", *vectors(data, *QUICK, "--output", folder)]) == 0
    return folder


def log_of(folder):
    with open(folder / "log.csv", newline="") as file:
        return [
            {name: value for name, value in row.items() if not name.startswith("seconds")}
            for row in csv.DictReader(file)
        ]


def test_a_run_keeps_log_checkpoints_curves_model_and_manifest(run, data):
    assert {"log.csv", "manifest.json", "checkpoints", "visualizations", "model", ".lock"} == {
        path.name for path in run.iterdir()
    }
    assert [row["epoch"] for row in log_of(run)] == ["1", "2", "3", "4"]
    manifest = files.read_json(run / "manifest.json")
    assert manifest["sources"]["labels"] == {
        "path": str(data / "labels.npy"),
        "sha256": files.sha256(data / "labels.npy"),
    }
    assert manifest["config"]["epochs"] == 4
    assert manifest["libraries"]["torch"] == torch.__version__
    assert manifest["rows"]["train"] + manifest["rows"]["valid"] == ITEMS
    model, metadata = ModelSerializer(run / "model").load(CompletePersonalityModel, "personality")
    best = min(log_of(run), key=lambda row: float(row["valid_loss"]))
    assert metadata["scores"]["epoch"] == int(best["epoch"])
    assert model.head.layers[0].in_features == 16


def test_evaluate_scores_what_the_model_says_about_unseen_speakers(run, data, capsys):
    assert main(["evaluate", str(run), "--attention"]) == 0
    said = capsys.readouterr().out
    assert "no speaker is on both sides" in said
    assert all(
        name in said
        for name in (*TRAITS, "floor", "speaker look-up", "1 - MAE", "CCC", "R²", "spread")
    )
    model, _ = ModelSerializer(run / "model").load(CompletePersonalityModel, "personality")
    speakers = np.load(data / "speakers.npy")
    _, rows = split_rows(ITEMS, speakers, 0.2, 0)
    with torch.no_grad():
        prediction = model(
            *(
                torch.from_numpy(np.load(data / f"{name}.npy")[rows])
                for name in ("static", "dynamic")
            )
        )
    target = torch.from_numpy(np.load(data / "labels.npy")[rows])
    with open(run / "evaluation" / "predictions.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [(int(row["row"]), row["speaker"]) for row in table] == [
        *zip(rows, speakers[rows], strict=True)
    ]
    for k, trait in enumerate(TRAITS):
        for what, values in (
            ("predicted", prediction),
            ("label", target),
            ("residual", prediction - target),
        ):
            assert np.allclose(
                [float(row[f"{what} {trait}"]) for row in table], values[:, k], atol=2e-6
            )
    scores, expected = (
        files.read_json(run / "evaluation" / "scores.json"),
        score_traits(prediction, target, speakers[rows]),
    )
    assert scores["scores"]["CCC"]["mean"]["value"] == pytest.approx(
        float(expected.value[1, -1]), abs=1e-4
    )
    assert scores["scores"]["CCC"]["mean"]["interval"] == pytest.approx(
        expected.interval[:, 1, -1].tolist(), abs=1e-3
    )
    # one key
    assert load_file(run / "evaluation" / "attention.safetensors")["attention"].eq(1).all()


def test_two_runs_are_compared_on_the_same_clips(run, data, tmp_path, capsys):
    other = tmp_path / "other"
    assert (
        main(["train", *vectors(data, *QUICK, "--seed", 1, "--epochs", "1", "--output", other)])
        == 0
    )
    assert (
        main(["evaluate", str(run), "--against", str(other), "--output", str(tmp_path / "scores")])
        == 0
    )
    report = files.read_json(tmp_path / "scores" / "scores.json")
    assert main(["evaluate", str(other), "--output", str(tmp_path / "alone")]) == 0
    alone = files.read_json(tmp_path / "alone" / "scores.json")
    for score in ("1 - MAE", "CCC"):
        assert report["difference"][score]["mean"]["value"] == pytest.approx(
            report["scores"][score]["mean"]["value"] - alone["scores"][score]["mean"]["value"],
            abs=2e-5,
        )
    assert (
        main(
            [
                "train",
                *vectors(
                    data, *QUICK, "--split_seed", 1, "--epochs", "1", "--output", tmp_path / "b"
                ),
            ]
        )
        == 0
    )
    assert "validated on other clips" in refused(
        capsys, "evaluate", run, "--against", tmp_path / "b"
    )


def test_other_files_can_be_asked_about_and_a_leak_is_said(run, data, tmp_path, capsys):
    assert main(["evaluate", str(run), *vectors(data), "--output", str(tmp_path / "all")]) == 0
    said = capsys.readouterr().out
    assert "48 clips" in said
    assert re.search(r"[78]\d% of the test items are by speakers of the training set", said)
    tokens = [
        "--static_features",
        data / "face_tokens.npy",
        "--dynamic_features",
        data / "motion_tokens.npy",
        "--labels",
        data / "labels.npy",
    ]
    assert "holds a CompletePersonalityModel" in refused(capsys, "evaluate", run, *tokens)


def test_tokens_train_a_token_model_whose_attention_can_be_seen(data, tmp_path, capsys):
    for name in ("face_tokens", "motion_tokens", "labels", "speakers"):
        shutil.copy(data / f"{name}.npy", tmp_path)  # the layout that `preprocess` writes
    folder = tmp_path / "run"
    assert (
        main(
            [
                "train",
                "--dataset",
                str(tmp_path),
                *QUICK,
                "--shuffle_moments",
                "--output",
                str(folder),
            ]
        )
        == 0
    )
    assert ModelSerializer(folder / "model").load(TokenPersonalityModel, "personality")[0]
    assert main(["evaluate", str(folder), "--attention"]) == 0
    attention = load_file(folder / "evaluation" / "attention.safetensors")["attention"].float()
    rows = files.read_json(folder / "manifest.json")["rows"]["valid"]
    assert attention.shape == (rows, 2, 6, 4)
    assert torch.allclose(attention.sum(-1), torch.ones(()), atol=5e-3)
    for kind, start in (("svg", b"<?xml"), ("pdf", b"%PDF")):
        assert (
            main(
                [
                    "visualize",
                    str(folder),
                    "--format",
                    kind,
                    "--output",
                    str(tmp_path / kind),
                    "--clip",
                    "1",
                ]
            )
            == 0
        )
        pictures = sorted((tmp_path / kind).iterdir())
        assert [path.stem for path in pictures] == ["attention", "heads", "time", "training"]
        assert all(path.read_bytes().startswith(start) for path in pictures)
    assert "no clip 99" in refused(capsys, "visualize", folder, "--clip", "99")
    assert main(["visualize", str(folder)]) == 0
    assert "Attention of clip 0: 2 maps" in capsys.readouterr().out
    with Image.open(folder / "visualizations" / "training.png") as training:
        assert round(training.info["dpi"][0]) == 300


def test_curves_tell_the_best_epoch():
    rows = [
        {
            "epoch": k,
            "learning_rate": 0.1 / k,
            "loss": 1 / k,
            "valid_loss": abs(k - 3) + 0.5,
            "valid_ccc": k / 10,
        }
        for k in (1.0, 2.0, 3.0, 4.0)
    ]
    picture = curves(rows)
    assert "validation from 2.5 to 1.5, lowest 0.5 at 3" in picture.description
    assert picture.figure.axes[0].lines[-1].get_xdata()[0] == 3
    assert [axis.get_title() for axis in picture.figure.axes if axis.axison] == [
        "loss",
        "concordance (CCC)",
        "learning rate",
    ]


def test_without_speakers_the_split_is_by_clip_and_said_to_leak(data, tmp_path, capsys):
    assert (
        main(
            [
                "train",
                *vectors(data, *QUICK, "--epochs", 1, "--output", tmp_path / "run", speakers=False),
            ]
        )
        == 0
    )
    assert "which leaks" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "a split by clip leaks" in said
    assert "intervals are too narrow" in said


def test_a_run_that_is_cut_off_goes_on_with_the_same_command(
    run, data, tmp_path, capsys, monkeypatch
):
    arguments = ["train", *vectors(data, *QUICK, "--output", tmp_path / "run")]

    def cut(self, run):
        if run.epoch == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "after_epoch", cut)
    assert main(arguments) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert "has no finished model yet" in refused(capsys, "evaluate", tmp_path / "run")
    monkeypatch.undo()
    assert main(arguments) == 0
    assert log_of(tmp_path / "run") == log_of(run)
    weights, whole = (
        load_file(folder / "model" / "personality" / "0001" / "model.safetensors")
        for folder in (tmp_path / "run", run)
    )
    assert all(weights[name].equal(whole[name]) for name in whole)
    before = sorted(path for path in (tmp_path / "run").rglob("*"))
    assert main(arguments) == 0  # complete: nothing is trained or kept twice
    assert sorted(path for path in (tmp_path / "run").rglob("*")) == before


def test_the_folder_of_another_run_is_refused(run, data, tmp_path, capsys):
    longer = vectors(data, *QUICK, "--epochs", 5, "--output", run)
    assert "epochs=4, not 5" in refused(capsys, "train", *longer)
    labels = saved(tmp_path, np.load(data / "labels.npy")[::-1])
    assert "sources.labels=" in refused(
        capsys, "train", *vectors(data, *QUICK), "--labels", labels, "--output", run
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    assert "holds thesis.tex and no run" in refused(
        capsys, "train", *vectors(data, *QUICK), "--output", tmp_path / "mine"
    )


def test_a_model_that_is_passed_on_tells_no_folder_of_ones_own(run, tmp_path):
    for path in (run / "model").rglob("*"):
        if path.is_file():
            assert str(tmp_path.parent).encode() not in path.read_bytes()
    metadata = files.read_json(run / "model" / "personality" / "0001" / "metadata.json")
    assert metadata["data"]["sources"]["labels"]["path"] == "labels.npy"


def test_a_terminal_that_knows_ascii_alone(data, tmp_path):
    """And neither a home nor a folder for what is cached."""
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "course_lib",
            "train",
            *vectors(data, *QUICK, "--epochs", 1, "--output", tmp_path / "run"),
        ],
        capture_output=True,
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "LC_ALL": "C",
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        },
    )
    assert run.returncode == 0, run.stderr
    assert b"is complete" in run.stdout
    evaluated = command("-m", "course_lib", "evaluate", tmp_path / "run")
    assert evaluated.returncode == 0, evaluated.stderr


@pytest.mark.parametrize("name", ["manifest.json", "model/personality/0001/metadata.json"])
def test_a_mutated_run_is_scored_or_refused_in_one_sentence(name, run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    content = json.loads((folder / name).read_text())
    for seed in range(MUTATIONS):
        (folder / name).write_text(json.dumps(another(content, random.Random(seed))))
        with only_sentences():
            _open_run(folder)
            ModelSerializer(folder / "model").load(CompletePersonalityModel, "personality")


def test_a_model_of_another_version_is_one_sentence(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    manifest = files.read_json(run / "manifest.json")
    files.write_json(tmp_path / "run" / "manifest.json", manifest | {"model": "LaterModel"})
    assert "holds a LaterModel, which this version" in refused(capsys, "evaluate", tmp_path / "run")


def test_mutated_arrays_are_opened_or_refused_in_one_sentence(data, tmp_path):
    """Among them headers that announce terabytes."""
    for name in ("static", "labels", "speakers"):
        content = (data / f"{name}.npy").read_bytes()[:400]
        for seed in range(MUTATIONS):
            (tmp_path / "x.npy").write_bytes(mutated(content, seed))
            with only_sentences():
                _load(tmp_path / "x.npy")
    header = {"descr": "<f4", "fortran_order": False, "shape": (2**32, 1200)}
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(ValueError, match=r"x\.npy is no plain \.npy file \(mmap length"):
        _load(tmp_path / "x.npy")


@pytest.mark.parametrize("label", ["labels.csv", "speakers.csv"])
def test_mutated_tables_are_read_or_refused_in_one_sentence(label, tmp_path, capsys):
    names = ["clip", "speaker", *TRAITS]
    rows = [[f"{k}.mp4", f'"anna {k % 3}"', *(f"0.{trait}" for trait in "12345")] for k in range(6)]
    content = "\n".join(",".join(row) for row in [names, *rows]).encode()
    for seed in range(MUTATIONS):
        (tmp_path / label).write_bytes(mutated(content, seed))
        with only_sentences():
            if label == "labels.csv":
                _read_labels(tmp_path / label, "")
            else:
                _read_speakers(tmp_path / label)
    (tmp_path / label).write_text("<!DOCTYPE html>\n<html>\n")
    with pytest.raises(ValueError, match="is a web page, which sites save"):
        _read_labels(tmp_path / label, "")


def test_a_folder_in_use_is_refused(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("course_lib.training.lock.WAIT", 0)
    arguments = ["train", *vectors(data, *QUICK, "--epochs", 1, "--output", tmp_path / "run")]
    with locked(tmp_path / "run"):
        assert "is in use by another run" in refused(capsys, *arguments)
    assert main(arguments) == 0


def test_data_that_changed_since_is_refused(data, tmp_path, capsys):
    mine = tmp_path / "data"
    shutil.copytree(data, mine)
    assert (
        main(["train", *vectors(mine, *QUICK, "--epochs", "1", "--output", tmp_path / "run")]) == 0
    )
    np.save(mine / "static.npy", np.load(data / "static.npy") + 1)
    assert "static_features changed since" in refused(capsys, "evaluate", tmp_path / "run")


# ---- preprocess ----------------------------------------------------------------------------------

CLIPS = (
    "J4GQm9j0JZ0.001.mp4",
    "J4GQm9j0JZ0.003.mp4",
    "deep/-_a-9XYZ_12.000.mp4",
    "deep/_b.c-3dEfGhI.002.mp4",
)
SMALL = ("--frames", "4", "--size", "32", "--on_missing", "centre", "--workers", "0")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Four clips called as First Impressions calls them, one that is broken, and something else."""
    folder = tmp_path_factory.mktemp("videos")
    face = skimage.data.astronaut()[10:138, 140:268]
    for shift, name in enumerate(CLIPS):
        (folder / name).parent.mkdir(exist_ok=True)
        frames = np.stack([np.roll(face, step * (shift + 1), axis=1) for step in range(7)])
        imageio.imwrite(folder / name, frames, plugin="FFMPEG", fps=25, ffmpeg_log_level="error")
    (folder / "broken.004.mp4").write_bytes(b"no video at all")
    (folder / "notes.txt").write_text("not a video")
    return folder


def done(output):
    return {
        path.relative_to(output / "done").as_posix().removesuffix(".json"): files.read_json(path)
        for path in (output / "done").rglob("*.json")
    }


def test_videos_become_windows_once_and_a_broken_one_is_named(videos, tmp_path, capsys):
    arguments = ["preprocess", str(videos), "--output", str(tmp_path), "--features", "none", *SMALL]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "skipped broken.004.mp4" in captured.out + captured.err
    assert "4 clips are done, 1 could not be used" in captured.out
    assert set(done(tmp_path)) == {*CLIPS, "broken.004.mp4"}
    with open(tmp_path / "clips.csv", newline="") as file:
        table = [(row["clip"], row["speaker"]) for row in csv.DictReader(file)]
    assert [clip for clip, _ in table] == sorted(CLIPS, key=lambda name: videos / name)
    assert dict(table)[CLIPS[2]] == "-_a-9XYZ_12"
    assert dict(table)[CLIPS[3]] == "deep/_b.c-3dEfGhI"  # no name of YouTube, so no bare identity
    assert sorted(np.load(tmp_path / "speakers.npy")) == sorted(speaker for _, speaker in table)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "flow").iterdir()}
    assert len(written) == 4
    item = OpticalFlowSequenceLoader(
        [videos / CLIPS[0]], 4, size=32, on_missing="centre", cache=tmp_path / "flow"
    )[0]
    assert item["flow"].shape == (4, 32, 32, 2)
    assert main(arguments) == 0
    assert "4 of 5 clips are done already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "flow").iterdir()} == written


def test_a_clip_that_changed_is_done_again_and_other_settings_too(videos, tmp_path, capsys):
    mine, output = tmp_path / "videos", tmp_path / "out"
    mine.mkdir()
    for name in CLIPS[:2]:
        shutil.copy(videos / name, mine)
    arguments = ["preprocess", str(mine), "--output", str(output), "--features", "none", *SMALL]
    assert main(arguments) == 0
    shutil.copy(mine / CLIPS[1], mine / CLIPS[0])
    capsys.readouterr()
    assert main(arguments) == 0
    assert "1 of 2 clips are done already" in capsys.readouterr().out
    assert main([*arguments, "--size", "48"]) == 0
    assert "done already" not in capsys.readouterr().out


def test_shards_and_processes_share_the_clips_and_the_last_writes_the_arrays(
    videos, tmp_path, capsys, monkeypatch
):
    arguments = ["preprocess", str(videos), "--output", str(tmp_path), "--features", "none", *SMALL]
    seen = []
    for shard, rank in ((1, 0), (1, 1), (2, 1), (2, 0)):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        before = set(done(tmp_path)) if seen else set()
        assert main([*arguments, "--shard", f"{shard}/2"]) == 0
        seen.append(set(done(tmp_path)) - before)
        assert (tmp_path / "clips.csv").exists() == (len(seen) == 4)
    assert sorted(map(len, seen)) == [1, 1, 1, 2]
    assert "left to other shards" in capsys.readouterr().out
    assert "shard '3/2' is none" in refused(capsys, *arguments, "--shard", "3/2")


def has_a_worker_that_imports(process):
    try:
        return any(
            "spawn_main" in " ".join(child.cmdline()) and child.cpu_times().user > 0.5
            for child in psutil.Process(process).children()
        )
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows has no such signals")
def test_ctrl_c_while_the_workers_start_needs_no_traceback(videos, tmp_path):
    arguments = ["preprocess", videos, "--output", tmp_path, "--features", "none", *SMALL[:-1], "2"]
    with open(tmp_path / "said", "w") as said:
        run = subprocess.Popen(
            [sys.executable, "-m", "course_lib", *map(str, arguments)],
            cwd=ROOT,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    while not has_a_worker_that_imports(run.pid):
        assert run.poll() is None
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait() == 130
    text = (tmp_path / "said").read_text()
    assert "the same command goes on" in text
    assert "Traceback" not in text


def test_the_cache_serves_first_impressions(videos, tmp_path):
    copy, output = tmp_path / "copy", tmp_path / "out"
    shutil.copytree(videos, copy, ignore=shutil.ignore_patterns("broken*"))
    names = [Path(clip).name for clip in CLIPS]
    (copy / "annotation_training.pkl").write_bytes(
        python2_pickle(
            {
                trait.lower(): {name: (k + 1) / 10 for k, name in enumerate(names)}
                for trait in (*TRAITS, "interview")
            }
        )
    )
    assert (
        main(
            [
                "preprocess",
                str(copy),
                "--output",
                str(output),
                "--labels",
                str(copy),
                "--features",
                "none",
                *SMALL,
            ]
        )
        == 0
    )
    assert np.load(output / "labels.npy")[:, 0].tolist() == pytest.approx(
        [
            (names.index(Path(name).name) + 1) / 10
            for name in sorted(CLIPS, key=lambda name: copy / name)
        ]
    )
    before = sorted((output / "flow").iterdir())
    items = FirstImpressions(copy, frames=4, size=32, cache=output / "flow", on_missing="centre")
    assert [item["speaker"] for item in (items[k] for k in range(4))]
    assert sorted((output / "flow").iterdir()) == before


def test_tokens_are_those_of_the_shipped_extractors_and_ready_to_train_on(videos, tmp_path, capsys):
    labels = tmp_path / "labels.csv"
    names = [Path(clip).name for clip in CLIPS]
    labels.write_text(
        "clip,speaker,"
        + ",".join(TRAITS)
        + "\n"
        + "".join(f"{name},{k},.1,.2,.3,.4,.{k + 1}\n" for k, name in enumerate(names))
    )
    output = tmp_path / "out"
    assert (
        main(["preprocess", str(videos), "--output", str(output), "--labels", str(labels), *SMALL])
        == 0
    )
    assert "4 of 5 videos have labels" in capsys.readouterr().out
    shapes = {
        name: np.load(output / f"{name}.npy").shape
        for name in (
            "face_tokens",
            "motion_tokens",
            "static_features",
            "dynamic_features",
            "labels",
            "speakers",
        )
    }
    assert shapes == {
        "face_tokens": (4, 49, 2048),
        "motion_tokens": (4, 1, 1024),
        "static_features": (4, 2048),
        "dynamic_features": (4, 1024),
        "labels": (4, 5),
        "speakers": (4,),
    }
    with open(output / "clips.csv", newline="") as file:
        row = [entry["clip"] for entry in csv.DictReader(file)].index(CLIPS[0])
    window = OpticalFlowSequenceLoader(
        [videos / CLIPS[0]], 4, size=32, on_missing="centre", cache=output / "flow"
    )[0]
    tokens = DynamicFeatureExtractor().eval().tokens(window["flow"][None], chunk=1)[0]
    assert np.allclose(np.load(output / "motion_tokens.npy")[row], tokens, atol=2e-3)
    assert np.allclose(np.load(output / "dynamic_features.npy")[row], tokens.mean(0), atol=2e-3)
    arrays = open_arrays(dataset=str(output))
    assert arrays.traits[row].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.1])
    assert (
        main(
            [
                "train",
                "--dataset",
                str(output),
                "--val_split",
                ".5",
                "--epochs",
                "1",
                "--batch_size",
                "2",
                "--output",
                str(tmp_path / "run"),
            ]
        )
        == 0
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name,openness\na,1\n", "no column clip"),
        ("clip,openness\nx,1\n", "no column conscientiousness"),
        (
            "clip," + ",".join(TRAITS) + "\nother.mp4,.1,.1,.1,.1,.1\n",
            "a label for none of the videos",
        ),
        ("clip," + ",".join(TRAITS) + "\nx.mp4,.1,.1,.1,.1\n", "line 2 of"),
        ("clip," + ",".join(TRAITS) + "\nx.mp4,.1,.1,.1,.1,high\n", "no number"),
        (
            "clip,speaker," + ",".join(TRAITS) + "\nJ4GQm9j0JZ0.001.mp4,,.1,.1,.1,.1,.1\n",
            "no speaker for J4GQm9j0JZ0",
        ),
    ],
)
def test_label_tables_that_do_not_fit_are_refused(content, words, videos, tmp_path, capsys):
    (tmp_path / "labels.csv").write_text(content)
    said = refused(
        capsys,
        "preprocess",
        videos,
        "--output",
        tmp_path / "out",
        "--labels",
        tmp_path / "labels.csv",
        "--features",
        "none",
        *SMALL,
    )
    assert words in said


def test_a_full_disk_stops_the_work_and_blames_no_clip(videos, tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError("no space left on device; make room")

    monkeypatch.setattr("course_lib.data.flow.save_tensors", full)
    said = refused(capsys, "preprocess", videos, "--output", tmp_path, "--features", "none", *SMALL)
    assert "make room" in said
    assert set(done(tmp_path)) <= {"broken.004.mp4"}


def test_only_broken_videos_are_an_error(tmp_path, capsys):
    (tmp_path / "a.mp4").write_bytes(b"x")
    assert "none of the 1 videos could be used" in refused(
        capsys, "preprocess", tmp_path, "--output", tmp_path / "out", *SMALL
    )
    (tmp_path / "a.mp4").unlink()
    assert "no video below" in refused(
        capsys, "preprocess", tmp_path, "--output", tmp_path / "out2", *SMALL
    )


@pytest.mark.skipif(not REAL, reason="COURSE_REAL_CLIPS is not set to a folder of real clips")
def test_real_clips_go_through_with_workers(tmp_path, capsys):
    assert main(["preprocess", REAL, "--output", str(tmp_path), "--workers", "2"]) == 0
    said = capsys.readouterr().out
    assert "nobody says who speaks" in said
    tokens = np.load(tmp_path / "motion_tokens.npy")
    assert tokens.shape == (len(list((tmp_path / "done").iterdir())), 8, 1024)
    assert tokens.astype(np.float32).std() > 0.01


# ---- many processes ------------------------------------------------------------------------------

LEARN = """
import sys
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from course_lib.__main__ import main
from course_lib.commands.runs import processes
from course_lib.training.fit import fit

def learn():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 5))      # no batch norm
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    data, share = TensorDataset(x, x[:, :5].sigmoid()), 16 // processes().num_processes
    batches = DataLoader(data, share, shuffle=True, generator=torch.Generator())
    run = fit(model, batches, DataLoader(data, share), epochs=4)
    return [processes().num_processes, run.log["valid_loss"], run.accelerator.unwrap_model(run.model).state_dict()]

if __name__ == "__main__":
    learned = learn()
    if processes().is_main_process:
        torch.save(learned, sys.argv[1])
    sys.exit(main(sys.argv[2:]))
"""


def launch(*arguments):
    return command(
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        2,
        "--num_machines",
        1,
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        0,
        *arguments,
    )


def test_two_processes_learn_what_one_learns_and_the_command_runs_on_both(data, tmp_path):
    (tmp_path / "learn.py").write_text(LEARN)
    train = ["train", *vectors(data, *QUICK, "--output", tmp_path / "run")]
    together = launch(tmp_path / "learn.py", tmp_path / "two.pt", *train)
    assert together.returncode == 0, together.stderr
    here = {}
    exec(LEARN, here)
    one, loss_one, expected = here["learn"]()
    two, loss_two, weights = torch.load(tmp_path / "two.pt", weights_only=True)
    assert (one, two) == (1, 2)
    assert loss_two == pytest.approx(loss_one, rel=1e-5)
    for name in expected:
        assert torch.allclose(weights[name], expected[name], atol=1e-5), name

    assert together.stdout.count("is complete; score it") == 1
    rows = log_of(tmp_path / "run")
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert not list((tmp_path / "run").rglob("*.part*"))
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    best = min(rows, key=lambda row: float(row["valid_loss"]))
    scores = files.read_json(tmp_path / "run" / "evaluation" / "scores.json")["scores"]
    assert 1 - float(best["valid_mae"]) == pytest.approx(
        scores["1 - MAE"]["mean"]["value"], abs=1e-4
    )
    assert float(best["valid_ccc"]) == pytest.approx(scores["CCC"]["mean"]["value"], abs=1e-3)


def test_a_batch_that_cannot_be_dealt_is_refused(data, tmp_path, capsys, monkeypatch):
    from course_lib.commands.train import _share

    assert _share(32, 4) == 8
    for size, count in ((32, 3), (4, 4)):
        with pytest.raises(ValueError, match="multiple of"):
            _share(size, count)


def test_drawn_clips_are_those_of_the_split_with_their_speakers(monkeypatch):
    from course_lib.commands import arrays as module

    def cheap(clips, static, dynamic):
        assert not static.training
        return {
            "face_tokens": torch.zeros(len(clips), 49, 8).half(),
            "traits": clips.labels()["traits"],
            "motion_tokens": torch.zeros(len(clips), 8, 4).half(),
        }

    monkeypatch.setattr(module, "stored_tokens", cheap)
    train, test, fewer = (
        open_arrays(dataset="synthetic", clips=clips, split=split)
        for clips, split in ((20, "train"), (20, "test"), (16, "train"))
    )
    assert train.speakers.tolist() == [k // 4 for k in range(20)]
    assert train.traits.equal(ClipDataset(20, "train").labels()["traits"])
    assert train.static.ndim == 3
    assert len({arrays.sources["drawn clips"]["sha256"] for arrays in (train, test, fewer)}) == 3
