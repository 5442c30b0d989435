"""Weights of both extractors: what is written comes back, and what cannot be read or had is named."""

import http.client
from functools import cache

import pytest
import torch
import torchvision
from refusals import refused

from course_lib import files, runtime
from course_lib.models import DynamicFeatureExtractor, StaticFeatureExtractor

KINDS = {
    "static": (StaticFeatureExtractor, (2, 3, 112, 112), 12.5e6),
    "dynamic": (DynamicFeatureExtractor, (2, 16, 48, 48, 2), 25.5e6),
}
both = pytest.mark.parametrize("name", KINDS)
random = cache(lambda kind: kind(weights=None).eval())


def imagenet_file(folder, kind):
    """Where torch's hub puts its download for this extractor."""
    weights = {
        StaticFeatureExtractor: torchvision.models.ResNet50_Weights,
        DynamicFeatureExtractor: torchvision.models.GoogLeNet_Weights,
    }[kind]
    return folder / "checkpoints" / weights.DEFAULT.url.rsplit("/", 1)[1]


@both
def test_course_weights_survive_the_file(name, tmp_path, monkeypatch):
    kind, shape, bytes_at_most = KINDS[name]
    path, inputs = tmp_path / "weights" / f"{name}.safetensors", torch.rand(shape)
    random(kind).save(path, recipe="test")
    monkeypatch.setattr(runtime, "assets", lambda name: tmp_path / name)
    again = kind().eval()
    assert again.hash == files.sha256(path)
    assert files.load_tensors(path)[1]["recipe"] == "test"
    assert path.stat().st_size < bytes_at_most
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    with torch.no_grad():
        expected = random(kind)(inputs)
        assert (again(inputs) - expected).norm() < 1e-2 * expected.norm()
    path.write_bytes(path.read_bytes()[:-100])
    refused("truncated", kind)


@both
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_file_that_arrived_in_part_is_named(name, share, tmp_path):
    kind, path = KINDS[name][0], tmp_path / "mine.safetensors"
    random(kind).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused("mine.safetensors is truncated", lambda: kind(weights=path))


@both
def test_weights_of_something_else_or_none_are_refused(name, tmp_path):
    kind, path = KINDS[name][0], tmp_path / "other.safetensors"
    refused(
        "'imagnet' is no file; choose 'course', 'imagenet'",
        lambda: kind(weights="imagnet"),
        error=FileNotFoundError,
    )
    path.write_text("no weights at all")
    refused("no safetensors file", lambda: kind(weights=path))
    files.save_tensors(path, {"a": torch.zeros(2)})
    refused("does not say which backbone", lambda: kind(weights=path))
    backbone = {"backbone": "resnet50" if name == "static" else "i3d", "width_per_group": 16}
    files.save_tensors(path, {"a": torch.zeros(2)}, backbone)
    refused("do not fit this network", lambda: kind(weights=path))


@both
def test_imagenet_weights_that_cannot_be_had_leave_a_choice(name, tmp_path, monkeypatch):
    kind = KINDS[name][0]
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    for fault in (OSError("no route to host"), http.client.IncompleteRead(b"half")):

        def no_network(*arguments, fault=fault, **options):
            raise fault

        monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
        refused(
            "weights='course' … weights=None",
            lambda: kind(weights="imagenet"),
            error=ConnectionError,
        )
    path = imagenet_file(tmp_path, kind)
    path.parent.mkdir(exist_ok=True)
    torch.save({"conv1.weight": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-500])
    refused(
        "is damaged … delete it … weights='course' … weights=None", lambda: kind(weights="imagenet")
    )


def test_imagenet_weights_come_from_torchs_hub(tmp_path, monkeypatch):
    """A stand-in file of the same format, where the hub would have put its download."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = (
        tmp_path / "checkpoints" / torchvision.models.ResNet18_Weights.DEFAULT.url.rsplit("/", 1)[1]
    )
    path.parent.mkdir()
    stand_in = torchvision.models.resnet18()
    torch.save(stand_in.state_dict(), path)
    extractor = StaticFeatureExtractor(backbone="resnet18", weights="imagenet", image_size=224)
    assert torch.equal(extractor.backbone.conv1.weight, stand_in.conv1.weight)
    assert extractor.hash == files.sha256(path)
    assert not extractor.backbone.conv1.weight.requires_grad


def test_imagenet_weights_are_inflated(tmp_path, monkeypatch):
    """A stand-in with the auxiliary heads, which inflation leaves out."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = imagenet_file(tmp_path, DynamicFeatureExtractor)
    path.parent.mkdir()
    stand_in = torchvision.models.googlenet(weights=None, aux_logits=True, init_weights=False)
    torch.save(stand_in.state_dict(), path)
    extractor = DynamicFeatureExtractor(weights="imagenet").eval()
    assert extractor.tokens(torch.randn(1, 8, 32, 32, 2)).shape == (1, 2, 1024)
    backbone = extractor.backbone
    torch.testing.assert_close(
        backbone.inception5b.branch1.conv.weight[:, :, 0], stand_in.inception5b.branch1.conv.weight
    )
    torch.testing.assert_close(
        backbone.conv1.conv.weight.sum((1, 2)), stand_in.conv1.conv.weight.sum(1)
    )
    assert extractor.hash == files.sha256(path)
