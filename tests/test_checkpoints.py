"""Saved models: versions, what is refused, what a kill leaves, and exports that predict the same."""

import json
import zipfile
from datetime import datetime

import pytest
import torch
from torch import nn

from course_lib import files
from course_lib.models import CompletePersonalityModel, TokenPersonalityModel
from course_lib.training.checkpoints import ModelSerializer

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
        assert serializer.save(models[-1], "fusion", SMALL, {"clips": 10 * number}, {"ccc": number / 10}) == number
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
        2, SMALL | {"dropout_rate": 0.3}, {"clips": 20}, {"ccc": 0.2})
    assert metadata["libraries"]["torch"] == torch.__version__
    assert abs((datetime.now().astimezone() - datetime.fromisoformat(metadata["date"])).total_seconds()) < 600
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
def test_a_save_that_is_cut_off_leaves_the_last_version_as_the_latest(serializer, saved, killed_in, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, killed_in, killed)
        with pytest.raises(KeyboardInterrupt):
            serializer.save(saved[0], "fusion", SMALL)
    assert serializer.versions("fusion") == [1, 2]
    assert weights(serializer.load(CompletePersonalityModel, "fusion")[0]) == weights(saved[1])
    assert serializer.save(saved[0], "fusion", SMALL) == 4
    assert weights(serializer.load(CompletePersonalityModel, "fusion")[0]) == weights(saved[0])


def refused(serializer, sentence, model_class=CompletePersonalityModel, error_class=ValueError, **options):
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


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"config": SMALL | {"dropout_rate": 0.9}}, "disagrees with the weights about 'config'"),
    ({"scores": {"ccc": 0.99}}, "disagrees with the weights about 'scores'"),
    ({"extra": 1}, "disagrees with the weights about 'extra'"),
    ({"sha256": "0" * 64}, "SHA-256 differs"),
])
def test_altered_metadata_is_refused(serializer, saved, changes, sentence):
    edit(serializer.folder / "fusion" / "0002" / "metadata.json", **changes)
    refused(serializer, sentence)


def test_the_wrong_class_config_version_or_name_is_refused(serializer, saved):
    refused(serializer, "holds a CompletePersonalityModel, not a TokenPersonalityModel", TokenPersonalityModel)
    refused(serializer, "was built with num_heads=2, not 4", config=SMALL | {"num_heads": 4})
    refused(serializer, r"was built with dropout_rate=0\.3, not 0\.1", config={"dropout_rate": 0.1})
    refused(serializer, "was built with heads=None, not 2", config={"heads": 2})
    refused(serializer, r"no 'fusion' version 7 .* versions \[1, 2\]", error_class=FileNotFoundError, version=7)
    refused(serializer, "no 'fusion' version 0", error_class=FileNotFoundError, version=0)
    with pytest.raises(FileNotFoundError, match="no 'other' in"):
        serializer.load(CompletePersonalityModel, "other")
    for name in ("", "..", "a/b", "elsewhere/x"):
        with pytest.raises(ValueError, match="is no name for a model"):
            serializer.save(saved[0], name, SMALL)


@pytest.mark.parametrize(("config", "scores", "sentence"), [
    (SMALL | {"num_heads": 4}, None, "whose cross_attention.attention.to_query.weight differs"),
    ({}, None, "whose cross_attention.project_static.weight differs"),
    (SMALL | {"heads": 2}, None, "unexpected keyword argument 'heads'"),
    (SMALL, {"ccc": torch.tensor(0.5)}, "Tensor is not JSON serializable.*tolist"),
])
def test_a_config_that_builds_another_model_is_not_saved(serializer, config, scores, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        serializer.save(CompletePersonalityModel(**SMALL), "fusion", config, scores=scores)
    assert "\n" not in str(error.value)
    assert not serializer.folder.exists()


@pytest.mark.parametrize(("model_class", "shapes"), [(CompletePersonalityModel, [(12,), (6,)]),
                                                     (TokenPersonalityModel, [(7, 12), (4, 6)])])
def test_the_export_predicts_the_same_for_any_batch(serializer, model_class, shapes):
    model = model_class(**SMALL)
    model.fusion.norm.running_mean.normal_()            # as after training
    serializer.save(model, "fusion", SMALL)
    path = serializer.export(model_class, "fusion", [torch.randn(2, *shape) for shape in shapes])
    assert path == serializer.folder / "fusion" / "0001" / "model.pt2"
    program = torch.export.load(path).module()
    for batch in (1, 2, 5):
        inputs = [torch.randn(batch, *shape) for shape in shapes]
        torch.testing.assert_close(program(*inputs), model.eval()(*inputs))
    assert sorted(file.name for file in path.parent.iterdir()) == ["metadata.json", "model.pt2", "model.safetensors"]


def test_an_example_of_one_is_refused_before_it_fixes_the_batch(serializer, saved):
    with pytest.raises(ValueError, match="at least 2 items"):
        serializer.export(CompletePersonalityModel, "fusion", [torch.randn(1, 12), torch.randn(1, 6)])


class Empty(nn.Module):
    """Not every model has weights."""

    def __init__(self):
        super().__init__()


def test_a_model_without_weights_is_kept_too(serializer):
    serializer.save(Empty(), "empty", {})
    assert isinstance(serializer.load(Empty, "empty")[0], Empty)
