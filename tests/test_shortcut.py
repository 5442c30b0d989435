"""The shortcut study: its world, its rows and its table, and that lesson 11 does what it does."""

import ast
import math
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn

from assets.recipes import shortcut
from course_lib import files, runtime
from course_lib.models import AttributeDecoder, VisualizableCrossAttention, recording
from course_lib.recorder import AttentionRecorder

LESSON = Path(__file__).parent.parent / "notebooks/11_where_does_it_look.ipynb"
ROWS = files.read_json(runtime.assets("results/shortcut.json"))["rows"]


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Few people, one epoch."""
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    for name, value in (("PEOPLE", {"train": 20, "test": 8}), ("EPOCHS", 1), ("CURVES", 4)):
        monkeypatch.setattr(shortcut, name, value)
    shortcut._world.cache_clear()
    yield
    shortcut._world.cache_clear()


def definitions(*names, **given):
    """These functions and classes as the notebook defines them."""
    space = {
        "torch": torch,
        "nn": nn,
        "F": nn.functional,
        "AttributeDecoder": AttributeDecoder,
        "VisualizableCrossAttention": VisualizableCrossAttention,
        "AttentionRecorder": AttentionRecorder,
        "recording": recording,
        **given,
    }
    for cell in nbformat.read(LESSON, 4).cells:
        if cell.cell_type != "code" or cell.id == "setup":
            continue
        for node in ast.parse(cell.source).body:
            if getattr(node, "name", None) in names:
                exec(compile(ast.Module([node], []), str(LESSON), "exec"), space)
    return [space[name] for name in names]


@pytest.mark.parametrize("decoder", shortcut.DECODERS)
def test_a_run_gives_a_stored_row(decoder, small):
    (row,) = shortcut.run_model(decoder, 1.0, 0)
    assert row.keys() == ROWS[0].keys() - {"decoder", "strength", "seed"}
    assert row["same map with a random head, attention"] == 1.0  # computed before the head


def test_stamps_are_near_an_edge_and_nothing_else_changes():
    torch.manual_seed(0)
    images = torch.rand(200, 3, 56, 56) * 0.9
    stamped, where = shortcut.stamp(images, 3)
    assert torch.equal(where.sum((1, 2)), torch.full((200,), 36))
    assert torch.equal(stamped.movedim(1, -1)[~where], images.movedim(1, -1)[~where])
    assert torch.equal(stamped.movedim(1, -1)[where], torch.tensor([[0.0, 0, 1]]).expand(7200, 3))
    rows, columns = where.any(2).int().argmax(1), where.any(1).int().argmax(1)
    for starts in (rows, columns):
        assert 2 <= starts.min() <= 4
        assert 46 <= starts.max() <= 48
    near = [
        starts.clamp(max=4).eq(starts) | starts.clamp(min=46).eq(starts)
        for starts in (rows, columns)
    ]
    assert (near[0] | near[1]).all()
    assert torch.equal(shortcut.stamp(images, 3)[1], where)
    assert not torch.equal(shortcut.stamp(images, 4)[1], where)


def test_pairs_differ_in_their_glasses_alone():
    data = shortcut.pairs("test", 3)
    assert data["labels"].tolist() == [False, True] * 3
    assert data["regions"].flatten(1).any(1).tolist() == [False, True] * 3
    moved = (data["images"][0::2] - data["images"][1::2]).abs().mean(1)
    inside = data["regions"][1::2]
    # blur and JPEG spread a little
    near = nn.functional.max_pool2d(inside.float(), 9, 1, 4) > 0
    assert moved[inside].mean() > 10 * moved[~near].mean()


def test_the_lesson_stamps_and_trains_as_the_study_does(small):
    parts, _ = shortcut._world()
    train, test = parts["train"], parts["test"]
    (stamp,) = definitions("stamp")
    for number, data in enumerate((train, test)):
        for ours, theirs in zip(
            stamp(data["images"], number), (data["stamped"], data["where"]), strict=True
        ):
            assert torch.equal(ours, theirs)
    tokens, width = train["images tokens"].shape[1:]
    given = {
        "WIDTH": width,
        "TOKENS": tokens,
        "SIDE": math.isqrt(tokens),
        "rt": runtime.setup(quiet=True),
        "labels": {"train": train["labels"]},
        "tokens": {"train": {"plain": train["images tokens"], "stamped": train["stamped tokens"]}},
    }
    names = ("train", "separate", "Mixing", "four_maps", "rollout")
    learn, separate, mixing, four_maps, rollout = definitions(*names, **given)
    for name, build in (("separate tokens", separate), ("mixed tokens", mixing)):
        theirs, ours = shortcut.train(name, 0.8, 1), learn(build, 0.8, 1, epochs=1)
        with torch.no_grad():
            logits = [
                model(test["images tokens"].to(given["rt"].device))
                for model in (theirs.decoder, ours)
            ]
        torch.testing.assert_close(*logits)
        maps = four_maps(ours, test["images tokens"].to(given["rt"].device))
        if build is mixing:
            maps["rollout"] = rollout(ours, test["images tokens"].to(given["rt"].device))
        for kind, values in shortcut.maps_of(theirs, test["images tokens"]).items():
            if kind in maps:
                torch.testing.assert_close(maps[kind], values, atol=1e-5, rtol=1e-3)


def decoded(decoder, tokens):
    """The weights of the only layer, and the logits, each step written out."""
    (layer,), values = decoder.layers, decoder.project(tokens)
    queries, attention = decoder.queries.repeat(len(tokens), 1, 1), layer.attention
    q, k, v = (
        x.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        for x in (
            attention.to_query(layer.query_norm(queries)),
            attention.to_key(values + decoder.positions),
            attention.to_value(values),
        )
    )
    weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
    queries = queries + attention.to_output((weights @ v).transpose(1, 2).flatten(2))
    return weights, decoder.head(decoder.norm(queries + layer.feed_forward(queries)))


def test_maps_are_what_their_definitions_say():
    """On a decoder whose gradient is taken by differences."""
    torch.manual_seed(0)
    decoder = AttributeDecoder(6, 1, dim=8, heads=2, tokens=9).double().eval()
    reader = shortcut.Reader(nn.Identity(), decoder)
    tokens = torch.randn(2, 9, 6, dtype=torch.float64)
    maps = shortcut.maps_of(reader, tokens)
    gradient = torch.zeros_like(tokens)
    for place in range(tokens[0].numel()):
        step = torch.zeros(54, dtype=torch.float64)
        step[place] = 1e-6
        with torch.no_grad():
            rise = decoder(tokens + step.view(9, 6)) - decoder(tokens - step.view(9, 6))
        gradient.view(2, -1)[:, place] = rise[:, 0] / 2e-6
    hires = (tokens * gradient).sum(-1).clamp(min=0).view(2, 3, 3)
    grad_cam = (tokens * gradient.mean(1, keepdim=True)).sum(-1).clamp(min=0).view(2, 3, 3)
    torch.testing.assert_close(maps["HiResCAM"].double(), hires, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(maps["Grad-CAM"].double(), grad_cam, atol=1e-5, rtol=1e-4)
    weights, logits = decoded(decoder, tokens)
    torch.testing.assert_close(logits, decoder(tokens))
    (by_weight,) = torch.autograd.grad(logits.sum(), weights)
    for kind, values in {
        "attention": weights.mean(1),
        "attention × gradient": (weights * by_weight).clamp(min=0).mean(1),
    }.items():
        values = values.detach()[:, 0].view(2, 3, 3)
        torch.testing.assert_close(maps[kind].double(), values, atol=1e-5, rtol=1e-4)
    assert torch.equal(maps["rollout"], maps["attention"])  # nothing is mixed


def test_what_each_model_uses_is_known_from_interventions():
    """The premise of the lesson: a useless stamp is ignored, and a perfect one replaces the glasses."""
    for decoder in shortcut.DECODERS:
        means = []
        for strength in shortcut.STRENGTHS:
            rows = [r for r in ROWS if r["decoder"] == decoder and r["strength"] == strength]
            means.append(sum(row["effect of the stamp"] for row in rows) / len(rows))
        assert abs(means[0]) < 0.02
        assert means == sorted(means)
        assert means[-1] > 0.8


def test_the_table_has_a_row_for_each_measure():
    header, effects, *lines = shortcut.shortcut_table(ROWS).rows
    assert len(header) == 1 + 2 * 3
    assert effects[0] == "effect of the stamp"
    assert [line[0] for line in lines] == list(shortcut.MEASURES)
    assert all(0 <= float(cell) <= 1 for line in lines for cell in line[1:])
    blind = next(line for line in lines if line[0] == "same map with a random head, attention")
    assert set(blind[1:]) == {"0.50"}
