"""The recorder on models that come with PyTorch and torchvision: every map, exact, and not a bit of
output changed.
"""

import copy
import gc
import inspect
import itertools
import json
import random
import sys
import threading
import warnings
import weakref
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.utils.checkpoint import checkpoint

from course_lib import files
from course_lib.models import (
    CompletePersonalityModel,
    TokenCrossAttention,
    TokenPersonalityModel,
    VisualizableCrossAttention,
    attend,
)
from course_lib.recorder import (
    AttentionRecorder,
    AttentionVisualizer,
    Recording,
    cost,
    from_records,
    operators,
    record,
    tracing,
)
from course_lib.recorder.recording import SIDE, Gap, Record

CONTEXTS = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}


class Attention(nn.Module):
    """Multi-head attention on the fused kernel, with whatever options a test asks for."""

    def __init__(self, dim=16, heads=4, key_heads=None, **options):
        super().__init__()
        self.heads, self.key_heads, self.options = heads, key_heads or heads, options
        self.to_query, self.to_key, self.to_value = (
            nn.Linear(dim, dim // heads * count)
            for count in (heads, self.key_heads, self.key_heads)
        )
        self.to_output = nn.Linear(dim, dim)

    def heads_of(self, x, count):
        return x.unflatten(-1, (count, -1)).transpose(1, 2)

    def parts(self, query, key):
        return (
            self.heads_of(self.to_query(query), self.heads),
            self.heads_of(self.to_key(key), self.key_heads),
            self.heads_of(self.to_value(key), self.key_heads),
        )

    def forward(self, query, key=None):
        q, k, v = self.parts(query, query if key is None else key)
        heard = F.scaled_dot_product_attention(q, k, v, **self.options)
        return self.to_output(heard.transpose(1, 2).flatten(2))


class ByHand(Attention):
    """The same, written out."""

    def forward(self, query, key=None):
        q, k, v = self.parts(query, query if key is None else key)
        weights = F.dropout((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1), 0.1, self.training)
        return self.to_output((weights @ v).transpose(1, 2).flatten(2))


class Stack(nn.Module):
    def __init__(self, *blocks, checkpointing=None):
        super().__init__()
        self.blocks, self.checkpointing = nn.ModuleList(blocks), checkpointing

    def forward(self, x):
        for block in self.blocks:
            step = x + (
                block(x)
                if self.checkpointing is None
                else checkpoint(block, x, use_reentrant=self.checkpointing == "reentrant")
            )
            x = step
        return x


def recorded(model, *inputs, recorder_options=None, **keywords):
    """Run with and without a recorder, require equal bits and no complaint, return the recording."""
    torch.manual_seed(1)
    unseen = model(*inputs, **keywords)
    torch.manual_seed(1)
    with warnings.catch_warnings(), AttentionRecorder(model, **recorder_options or {}) as recording:
        warnings.simplefilter("error")
        seen = model(*inputs, **keywords)
    for a, b in zip(
        torch.utils._pytree.tree_leaves(unseen), torch.utils._pytree.tree_leaves(seen), strict=True
    ):
        assert a is b is None or torch.equal(a, b)
    assert not any(gap.grave for gap in recording.gaps), str(recording)
    return recording


def assert_close(weights, expected, atol=1e-6):
    torch.testing.assert_close(weights, expected.detach(), atol=atol, rtol=0)


# --------------------------------------------------------------------------------------------------
# The zoo

MASKS = ["none", "causal", "float", "padding", "causal and padding"]


def attention_masks(kind, batch, queries, keys, heads):
    causal = torch.ones(queries, keys, dtype=torch.bool).triu(1)
    padding = torch.zeros(batch, keys, dtype=torch.bool)
    padding[0, -2:] = True
    return {
        "none": {},
        "causal": {"attn_mask": causal},
        "float": {"attn_mask": torch.randn(batch * heads, queries, keys)},
        "padding": {"key_padding_mask": padding},
        "causal and padding": {"attn_mask": causal, "key_padding_mask": padding},
    }[kind]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"num_heads": 3, "embed_dim": 12},
        {"kdim": 6, "vdim": 10},
        {"add_bias_kv": True},
        {"add_zero_attn": True},
        {"batch_first": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("context", CONTEXTS)
def test_every_multihead_attention(options, context):
    options = {"embed_dim": 16, "num_heads": 4, "batch_first": True} | options
    module = nn.MultiheadAttention(**options).eval()
    heads, first = options["num_heads"], options["batch_first"]
    for mask, asks_itself, need_weights in itertools.product(MASKS, (True, False), (True, False)):
        if asks_itself and "kdim" in options:
            continue
        query = torch.randn(2, 5, module.embed_dim)
        key, value = (
            (query, query)
            if asks_itself
            else (torch.randn(2, 7, module.kdim), torch.randn(2, 7, module.vdim))
        )
        masks = attention_masks(mask, 2, 5, key.shape[1], heads)
        query, key, value = (
            x if first else x.transpose(0, 1).contiguous() for x in (query, key, value)
        )
        if asks_itself:
            key = value = query
        expected = module(query, key, value, **masks, average_attn_weights=False)[1]
        with CONTEXTS[context]():
            (found,) = recorded(
                module, query, key, value, **masks, need_weights=need_weights
            ).records
        assert_close(found.weights, expected)
        assert found.shape == tuple(expected.shape)
        assert found.kind == ("self" if asks_itself else "cross")
        assert (found.name, found.class_name) == ("", "MultiheadAttention")


@pytest.mark.parametrize("norm_first", [False, True])
# the fast path makes a float mask NaN, recorded or not
@pytest.mark.parametrize(
    ("context", "mask"),
    [
        (context, mask)
        for context in CONTEXTS
        for mask in MASKS
        if mask != "float" or context == "grad"
    ],
)
@pytest.mark.filterwarnings("ignore:.*nested_tensor")
def test_the_encoder_and_its_fast_path(norm_first, context, mask):
    layer = nn.TransformerEncoderLayer(16, 4, 32, norm_first=norm_first, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 3).eval(), torch.randn(2, 6, 16)
    masks = attention_masks(mask, 2, 6, 6, 4)
    expected, inside = [], x
    for layer in model.layers:
        tokens = layer.norm1(inside) if norm_first else inside
        expected.append(
            layer.self_attn(tokens, tokens, tokens, **masks, average_attn_weights=False)[1]
        )
        inside = layer(
            inside,
            src_mask=masks.get("attn_mask"),
            src_key_padding_mask=masks.get("key_padding_mask"),
        )
    with CONTEXTS[context]():
        recording = recorded(
            model,
            x,
            mask=masks.get("attn_mask"),
            src_key_padding_mask=masks.get("key_padding_mask"),
        )
    assert [found.name for found in recording.records] == [
        f"layers.{i}.self_attn" for i in range(3)
    ]
    # padded queries are never read
    seen = slice(None), slice(None), slice(0, 4 if "padding" in mask else 6)
    for found, weights in zip(recording.records, expected, strict=True):
        assert_close(found.weights[seen], weights[seen])
        assert found.kind == "self"


def test_a_layer_as_the_model_itself_keeps_its_fast_path():
    layer, x = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval(), torch.randn(2, 6, 16)
    with torch.no_grad():
        (found,) = recorded(layer, x).records
    assert (found.name, found.operator) == ("self_attn", "native_multi_head_attention")


def test_a_decoder_asks_itself_and_its_memory():
    model = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, 32, batch_first=True), 2).eval()
    # as many keys as queries
    recording = recorded(model, torch.randn(2, 6, 16), torch.randn(2, 6, 16))
    assert [(found.name, found.kind) for found in recording.records] == [
        (f"layers.{layer}.{name}", kind)
        for layer in (0, 1)
        for name, kind in (("self_attn", "self"), ("multihead_attn", "cross"))
    ]


def small_vit():
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 2, 4, 16, 32, num_classes=3), 32, 2


def small_swin(version):
    from torchvision.models import SwinTransformer
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

    options = (
        {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}
        if version == 2
        else {}
    )
    return SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=3, **options), 64, 4


def small_maxvit():
    from torchvision.models import MaxVit

    return MaxVit((64, 64), 16, 4, [16, 32], [1, 1], 8, 0.0), 64, 4


def collect_library_weights(model, monkeypatch):
    """Wherever torchvision itself computes weights, keep them: Swin and MaxViT call softmax, ViT
    can be asked.
    """
    kept, softmax = [], F.softmax

    def keep(*args, **keywords):
        kept.append(softmax(*args, **keywords))
        return kept[-1]

    def ask(module, args, keywords):
        kept.append(nn.MultiheadAttention.forward(module, *args, average_attn_weights=False)[1])

    asked = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    for module in asked:
        module.register_forward_pre_hook(ask, with_kwargs=True)
    if not asked:
        monkeypatch.setattr(F, "softmax", keep)
    return kept


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize(
    "build",
    [small_vit, lambda: small_swin(1), lambda: small_swin(2), small_maxvit],
    ids=["ViT", "Swin", "Swin v2", "MaxViT"],
)
def test_torchvision(build, context, monkeypatch):
    model, size, layers = build()
    model.eval()
    images, twin = torch.randn(2, 3, size, size), copy.deepcopy(model)
    with CONTEXTS[context]():
        recording = recorded(model, images)
        with monkeypatch.context() as patch:
            expected = collect_library_weights(twin, patch)
            twin(images)
    assert len(recording.records) == len(expected) == layers
    for found, weights in zip(recording.records, expected, strict=True):
        assert_close(found.weights, weights.flatten(0, -4))
        assert found.kind == "self"
        assert found.name


# whole heads see nothing
HALF_BLIND = torch.tensor([False, True, True, False]).view(1, 4, 1, 1).expand(2, 4, 1, 5)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"attn_mask": torch.ones(5, 5).tril().bool()},
        {"attn_mask": HALF_BLIND},
        {"attn_mask": torch.linspace(-2, 2, 25).reshape(5, 5)},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_fused_attention(options, context):
    model, x = Attention(**options), torch.randn(2, 5, 16)
    q, k, _ = model.parts(x, x)
    scores = q.double() @ k.double().mT * options.get("scale", 0.5)
    mask = torch.ones(5, 5).tril().bool() if "is_causal" in options else options.get("attn_mask")
    if mask is not None:
        scores = (
            scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        )
    with CONTEXTS[context]():
        (found,) = recorded(model, x).records
    assert_close(found.weights.double(), scores.softmax(-1).nan_to_num(0))
    assert not found.weights.is_inference()  # what is kept may be used anywhere
    assert found.residual < 1e-6
    assert found.weights.dtype == torch.float32


@pytest.mark.parametrize("context", CONTEXTS)
def test_grouped_heads_share_their_keys(context):
    model, x = Attention(heads=4, key_heads=2, enable_gqa=True), torch.randn(2, 5, 16)
    q, k, _ = model.parts(x, x)
    with CONTEXTS[context]():
        (found,) = recorded(model, x).records
    assert_close(found.weights, (q @ k.repeat_interleave(2, 1).mT / 2).softmax(-1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_are_at_least_float32(dtype):
    model, x = Attention().to(dtype), torch.randn(2, 5, 16, dtype=dtype)
    (found,) = recorded(model, x).records
    assert found.weights.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    q, k, _ = model.parts(x, x)
    assert_close(found.weights.double(), (q.double() @ k.double().mT / 2).softmax(-1))


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize(
    "model",
    [
        Attention(),
        ByHand().eval(),
        nn.MultiheadAttention(16, 4, batch_first=True).eval(),
        nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_autocast_changes_no_bit(model, context):
    """Autocast must still act inside PyTorch's native fast path, which computes in several steps."""
    x = torch.randn(2, 5, 16)
    inputs = (x, x, x) if isinstance(model, nn.MultiheadAttention) else (x,)
    with CONTEXTS[context](), torch.autocast("cpu", torch.bfloat16):
        (found,) = recorded(model, *inputs).records
    assert found.kind == "self"
    torch.testing.assert_close(found.weights.sum(-1), torch.ones(2, 4, 5), atol=0.02, rtol=0)
    with torch.no_grad():
        plain = recorded(model, *inputs).records[0].weights
    torch.testing.assert_close(found.weights, plain, atol=0.02, rtol=0)


@pytest.mark.parametrize("context", CONTEXTS)
def test_autocast_and_the_kernel_in_plain_steps(context):
    """Autocast acts on the operator, not on what it calls inside."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    model = Stack(Attention(), Attention(attn_mask=torch.randn(5, 5)))
    with CONTEXTS[context](), torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        assert len(recorded(model, torch.randn(2, 5, 16) * 3).records) == 2


@pytest.mark.parametrize("before", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("mode", ["inside", "wrapper", "in place"])
def test_compiled_models_run_uncompiled_and_keep_their_names(mode, before):
    compiled = []

    def backend(graph, _inputs):
        compiled.append(graph)
        return graph

    torch._dynamo.reset()
    plain = Stack(Attention(), ByHand().eval())
    model = copy.deepcopy(plain)
    if mode == "wrapper":
        model = torch.compile(model, backend=backend, fullgraph=True)
    elif mode == "in place":
        model.compile(backend=backend, fullgraph=True)
    else:
        model.blocks[0] = torch.compile(model.blocks[0], backend=backend, fullgraph=True)
    x = torch.randn(2, 5, 16)
    if before:
        model(x)
    graphs = len(compiled)
    with AttentionRecorder(model) as recording:
        assert torch.equal(model(x), plain(x))
    assert [found.name for found in recording.records] == ["blocks.0", "blocks.1"]
    assert len(compiled) == graphs
    torch.testing.assert_close(model(x), plain(x))
    assert compiled  # after the block it compiles again


@pytest.mark.parametrize("checkpointing", ["reentrant", "saved"])
def test_gradient_checkpointing_is_recorded_once(checkpointing):
    model = Stack(Attention(), ByHand().eval())
    x = torch.randn(2, 5, 16, requires_grad=True)
    twin = copy.deepcopy(model)
    twin.checkpointing = checkpointing
    unseen = copy.deepcopy(twin)
    unseen(x).square().sum().backward()
    with AttentionRecorder(model, gradients=True) as plain:
        model(x).square().sum().backward()
    with AttentionRecorder(twin, gradients=True) as recording:
        twin(x).square().sum().backward()
    for found, expected in zip(recording.records, plain.records, strict=True):
        assert torch.equal(found.weights, expected.weights)
        if checkpointing == "saved":
            assert_close(found.gradient, expected.gradient)
    for a, b in zip(unseen.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    said = [gap for gap in recording.coverage() if "no gradient" in gap.what]
    assert len(said) == (checkpointing == "reentrant")


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_model_that_is_itself_checkpointed_is_recorded_once(reentrant):
    model, x = Attention(), torch.randn(2, 5, 16, requires_grad=True)
    with AttentionRecorder(model) as recording:
        checkpoint(model, x, use_reentrant=reentrant).sum().backward()
    assert [found.step for found in recording.records] == [0]
    assert recording.records[0].weights.shape == (2, 4, 5, 5)


def test_threads_keep_apart():
    model, inputs = Stack(Attention(), ByHand().eval()), torch.randn(6, 2, 5, 16)
    expected = {recorded(model, x).records[0].weights.sum().item() for x in inputs}
    with AttentionRecorder(model) as recording:
        threads = [threading.Thread(target=model, args=(x,)) for x in inputs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted((found.step, found.name, found.sub) for found in recording.records) == [
        (step, f"blocks.{block}", 0) for step in range(6) for block in (0, 1)
    ]
    assert {
        found.weights.sum().item() for found in recording.records if found.name == "blocks.0"
    } == expected


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("context", ["no_grad", "inference"])  # on the CPU it has no gradient
def test_flex_attention(context):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    bias = torch.randn(4)

    class Flex(Attention):
        def forward(self, x):
            q, k, v = self.parts(x, x)
            blocks = create_block_mask(
                lambda b, h, i, j: i >= j, None, None, 5, 5, device="cpu", BLOCK_SIZE=16
            )
            return flex_attention(
                q,
                k,
                v,
                score_mod=lambda score, b, h, i, j: score + bias[h] * (i - j),
                block_mask=blocks,
            )

    model, x = Flex(), torch.randn(2, 5, 16)
    q, k, _ = model.parts(x, x)
    distance = torch.arange(5)[:, None] - torch.arange(5)
    scores = (q @ k.mT / 2 + bias[:, None, None] * distance).masked_fill(distance < 0, -torch.inf)
    with CONTEXTS[context]():
        (found,) = recorded(model, x).records
    assert_close(found.weights, scores.softmax(-1))
    assert found.operator == "flex_attention"
    assert found.residual < 1e-6


def test_folded_heads_are_unfolded():
    class Folded(Attention):
        def forward(self, x):
            q, k, v = (part.flatten(0, 1) for part in self.parts(x, x))
            return torch.bmm(torch.baddbmm(torch.zeros(1), q, k.mT, beta=0).softmax(-1), v)

    model, x = Folded(), torch.randn(2, 5, 16)
    q, k, _ = model.parts(x, x)
    (found,) = recorded(model, x).records
    assert_close(found.weights, (q @ k.mT).softmax(-1))


class ThreeAxes(nn.Module):
    """The fused kernel on three axes: a batch without heads, or heads folded into the batch."""

    def __init__(self, heads=None, folded=False, mask=None):
        super().__init__()
        self.folded, self.mask = folded, mask
        if heads is not None:
            self.num_heads = heads

    def forward(self, x):
        if self.folded:
            x = x.unflatten(-1, (self.folded, -1)).transpose(1, 2).flatten(0, 1)
        return F.scaled_dot_product_attention(x, x, x, attn_mask=self.mask)


@pytest.mark.parametrize("mask", [None, torch.ones(5, 5).tril().bool()], ids=["all", "causal"])
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize(
    ("module", "heads"),
    [
        (lambda mask: ThreeAxes(mask=mask), 1),
        (lambda mask: ThreeAxes(1, mask=mask), 1),
        (lambda mask: ThreeAxes(4, folded=4, mask=mask), 4),
        (lambda mask: ThreeAxes(2, folded=2, mask=mask), 2),
    ],
    ids=["no word", "one head", "four folded", "two folded"],
)
def test_three_axes_of_the_fused_kernel(module, heads, context, mask):
    model, x = module(mask), torch.randn(3, 5, 16)
    q = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    scores = q @ q.mT / q.shape[-1] ** 0.5
    with CONTEXTS[context]():
        recording = recorded(model, x)
    (found,) = recording.records
    assert_close(
        found.weights,
        (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1),
    )
    assert found.residual < 1e-6
    said = [gap.what for gap in recording.coverage()]
    assert len(said) == (not hasattr(model, "num_heads"))
    assert all("(3, 5, 16), taken as a batch without heads: ThreeAxes" in what for what in said)


def test_gradients_of_three_axes():
    model, x = ThreeAxes(4, folded=4), torch.randn(3, 5, 16, requires_grad=True)
    q = x.detach().unflatten(-1, (4, -1)).transpose(1, 2)
    weights = (q @ q.mT / 2).softmax(-1).requires_grad_()
    (weights @ q).square().sum().backward()
    with AttentionRecorder(model, gradients=True) as recording:
        model(x).square().sum().backward()
    assert_close(recording.records[0].gradient, weights.grad, atol=1e-5)


@pytest.mark.parametrize("context", CONTEXTS)
def test_an_axis_that_the_model_adds_itself_stays_the_batch(context):
    class Unbatched(nn.Module):
        def forward(self, x):  # heads tokens dim
            x = x[None] if context == "grad" else x.unsqueeze(0)
            return F.scaled_dot_product_attention(x, x, x)

    with CONTEXTS[context]():
        recording = recorded(Unbatched(), torch.randn(4, 5, 8))
    assert recording.records[0].shape == (1, 4, 5, 5)
    assert not recording.coverage()


def only_two(weights):
    best, places = weights.topk(2, -1)
    return torch.zeros_like(weights).scatter(-1, places, best)


def written_over(weights):
    weights = weights.clone()
    weights[:, 0], weights[..., 1] = 0, 0.5
    return weights


def mixed_by(layer):
    """What mixes heads: a layer over the last axis."""
    return lambda weights: layer(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


torch.manual_seed(0)
MIX, NORM = torch.randn(4, 4), nn.BatchNorm2d(4).eval()
EDITS = {
    "mask": lambda weights: weights * torch.ones(4, 4).tril(),
    "renormalised": lambda weights: weights / (weights.sum(-2, keepdim=True) + 1),
    "sharpened": lambda weights: weights.masked_fill(weights < 0.2, 0),
    "sink": lambda weights: torch.where(torch.arange(4) == 0, 0.0, weights),
    "squared": lambda weights: F.normalize(weights**2, p=1, dim=-1),
    "clamped": lambda weights: weights.clamp(min=0.2),
    "the best two": only_two,
    "written over": written_over,
    "inhibited": lambda weights: F.relu(weights - 0.8 * weights.flip(-1)),
    "CaiT": mixed_by(nn.Linear(4, 4)),
    "CaiT, without bias": mixed_by(nn.Linear(4, 4, bias=False)),
    "more heads": mixed_by(nn.Linear(4, 8)),
    "one head": lambda weights: mixed_by(lambda x: x @ MIX[:, :1])(weights).expand(-1, 4, -1, -1),
    "queries mixed": lambda weights: torch.einsum("bhij,iq->bhqj", weights, MIX),
    "DeepViT": lambda weights: NORM(torch.einsum("bhij,hg->bgij", weights, MIX)),
    "DeepViT, by convolution": nn.Conv2d(4, 4, 1),
    "ConViT": lambda weights: 0.3 * weights + 0.7 * (MIX * torch.ones(2, 4, 4, 4)).softmax(-1),
    "mean of the heads": lambda weights: weights.mean(1, keepdim=True).expand(-1, 4, -1, -1),
}


# as many tokens as heads: sizes do not tell which axis is which
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("edit", EDITS)
def test_what_is_filed_is_what_meets_the_values(edit, context):
    class Edited(Attention):
        def weights(self, x):
            q, k, _ = self.parts(x, x)
            return EDITS[edit]((q @ k.mT).softmax(-1))

        def forward(self, x):
            weights = self.weights(x)
            return weights @ self.heads_of(self.to_value(x), weights.shape[1])

    model, x = Edited(), torch.randn(2, 4, 16)
    expected = model.weights(x)
    with CONTEXTS[context]():
        (found,) = recorded(model, x).records
    assert_close(found.weights, expected)
    assert found.residual < 1e-5
    assert found.kind == "self"
    with AttentionRecorder(model, gradients=True) as recording:
        model(x).sum().backward()
    v = model.heads_of(model.to_value(x), expected.shape[1])
    gradient = v.sum(-1)[:, :, None].expand(expected.shape)
    assert_close(recording.records[0].gradient, gradient, atol=1e-5)


def test_what_is_no_distribution_is_drawn_as_shares():
    weights = torch.tensor([[-1.0, 3.0], [0.0, 0.0], [0.25, 0.75]])[None, None]
    plain = weights[..., 2:, :]
    records = [
        Record(name, "Talking", "self", "softmax", tuple(one.shape), 0, 0, weights=one)
        for name, one in (("mixed", weights), ("plain", plain))
    ]
    page = from_records(records)
    (drawn,) = page["maps"]["mixed"]
    assert_close(drawn, torch.tensor([[0.25, 0.75], [0.0, 0.0], [0.25, 0.75]])[None, None])
    assert "shares of the absolute weights" in page["notes"]["mixed"]
    assert page["maps"]["plain"][0] is plain
    assert "shares" not in page["notes"]["plain"]


MEETINGS = {
    "heads behind queries": lambda q, k, v: torch.einsum(
        "bihj,bhjd->bihd", torch.einsum("bhid,bhjd->bihj", q, k).softmax(-1), v
    ),
    "einsum": lambda q, k, v: torch.einsum("bhij,bhjd->bihd", (q @ k.mT).softmax(-1), v),
    "einsum with dots": lambda q, k, v: torch.einsum("...ij,...jd", (q @ k.mT).softmax(-1), v),
    "values first": lambda q, k, v: torch.einsum("bhjd,bhij->bhdi", v, (q @ k.mT).softmax(-1)),
    "turned": lambda q, k, v: v.mT @ (k @ q.mT).softmax(-2),
    "folded": lambda q, k, v: torch.bmm((q @ k.mT).softmax(-1).flatten(0, 1), v.flatten(0, 1)),
    "values shared by heads": lambda q, k, v: torch.einsum(
        "bhij,bjd->bhid", (q @ k.mT).softmax(-1), v[:, 0]
    ),
    "multiplied and summed": lambda q, k, v: (
        (q @ k.mT).softmax(-1).unsqueeze(-1) * v.unsqueeze(2)
    ).sum(3),
    "unbatched": lambda q, k, v: torch.stack(
        [(q[i] @ k[i].mT).softmax(-1) @ v[i] for i in range(1)]
    ),
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("keys", [1, 2, 4])
@pytest.mark.parametrize("meeting", MEETINGS)
def test_weights_meet_values_in_many_ways(meeting, keys, context):
    """One key among them, for which an einsum multiplies no matrices."""

    class Meets(Attention):
        num_heads = 4

        def forward(self, x, y):
            return MEETINGS[meeting](*self.parts(x, y))

    model, x, y = Meets(), torch.randn(1, 5, 16), torch.randn(1, keys, 16)
    q, k, _ = model.parts(x, y)
    with CONTEXTS[context]():
        (found,) = recorded(model, x, y).records
    assert_close(found.weights, (q @ k.mT).softmax(-1))
    assert found.kind == "cross"
    assert found.residual is None or found.residual < 1e-5


def each_times_values(weights, v):
    return weights.unsqueeze(-1) * v.unsqueeze(2)


NO_WEIGHTS = {
    "convolved along the keys": lambda weights, v: (
        F.conv1d(weights[:, 0].mT, MIX[..., None]).mT @ v[:, 0]
    ),
    "mixed between heads and queries at once": lambda weights, v: (
        torch.einsum("baj,ac->bcj", weights.flatten(1, 2), torch.ones(16, 16)).unflatten(1, (4, 4))
        @ v
    ),
    "projected with their values": lambda weights, v: torch.einsum(
        "bhijd,j->bhid", each_times_values(weights, v) @ MIX, torch.ones(4)
    ),
}


@pytest.mark.parametrize("mix", NO_WEIGHTS)
def test_what_weights_no_longer_are_is_said_and_not_filed(mix):
    class Mixes(Attention):
        def forward(self, x):
            q, k, v = self.parts(x, x)
            return NO_WEIGHTS[mix]((q @ k.mT).softmax(-1), v)

    model = Mixes()
    with (
        torch.no_grad(),
        pytest.warns(UserWarning, match="may be attention, but no matrix product used it"),
        AttentionRecorder(model) as recording,
    ):
        model(torch.randn(2, 4, 16))
    assert recording.records == []


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_sink_that_is_cut_off_is_not_filed(context):
    class Sink(nn.Module):  # does not say how many heads it has
        def __init__(self):
            super().__init__()
            self.inner, self.sink = Attention(), nn.Parameter(torch.randn(4, 1, 1))

        def weights(self, q, k):
            scores = torch.cat([q @ k.mT, self.sink.expand(2, 4, 5, 1)], -1)
            return scores.softmax(-1)[..., :-1]

        def forward(self, x):
            q, k, v = self.inner.parts(x, x)
            return self.weights(q, k) @ v

    model, x = Sink(), torch.randn(2, 5, 16)
    with CONTEXTS[context]():
        (found,) = recorded(model, x).records
    assert_close(found.weights, model.weights(*model.inner.parts(x, x)[:2]))
    assert found.residual < 1e-5
    with AttentionRecorder(model, gradients=True) as recording:
        model(x).sum().backward()
    _, _, v = model.inner.parts(x, x)
    assert_close(recording.records[0].gradient, v.sum(-1)[:, :, None].expand(2, 4, 5, 5), atol=1e-5)


@pytest.mark.parametrize("context", CONTEXTS)
def test_no_claim_without_a_measure(context):
    """With dropout the output is of other weights: what is filed is what was there before it."""

    class Talking(Attention):
        def __init__(self):
            super().__init__()
            self.mix = mixed_by(nn.Linear(4, 4))

        def weights(self, x):
            q, k, _ = self.parts(x, x)
            return self.mix((q @ k.mT / 2).softmax(-1))

        def forward(self, x):
            return F.dropout(self.weights(x), 0.5) @ self.parts(x, x)[2]

    model, x = Talking(), torch.randn(2, 5, 16)
    q, k, _ = (by_hand := ByHand().train()).parts(x, x)
    for module, expected in ((model, model.weights(x)), (by_hand, (q @ k.mT / 2).softmax(-1))):
        with CONTEXTS[context]():
            recording = recorded(module, x)
        (found,) = recording.records
        assert_close(found.weights, expected)
        assert found.residual is None
        assert "own output again" not in str(recording)


def test_records_outlive_what_the_model_writes_over():
    class Frugal(Attention):
        def forward(self, x):
            q, k, v = self.parts(x, x)
            weights = (q @ k.mT).softmax(-1)
            heard = weights @ v
            weights.zero_()
            return heard

    with torch.no_grad():
        (found,) = recorded(Frugal(), torch.randn(2, 5, 16)).records
    torch.testing.assert_close(found.weights.sum(-1), torch.ones(2, 4, 5))


# --------------------------------------------------------------------------------------------------
# Who asks whom, and when


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("kind", [Attention, ByHand])
def test_self_and_cross_are_told_apart_by_where_they_come_from(kind, context):
    model, x = kind().eval(), torch.randn(2, 5, 16)
    with CONTEXTS[context](), torch.autocast("cpu", torch.bfloat16, enabled=context == "grad"):
        assert recorded(model, x).records[0].kind == "self"
        assert recorded(model, x, x).records[0].kind == "self"
        assert recorded(model, x, torch.randn(2, 5, 16)).records[0].kind == "cross"
        assert recorded(model, x, x + 1).records[0].kind == "cross"


def test_rotation_and_caches_leave_it_self_attention():
    class Rotary(Attention):
        def forward(self, x, past):
            q, k, v = self.parts(x, x)
            angle = torch.arange(5.0)[:, None]
            q, k = (
                part * angle.cos() + torch.cat([-part[..., 2:], part[..., :2]], -1) * angle.sin()
                for part in (q, k)
            )
            return F.scaled_dot_product_attention(
                F.layer_norm(q, (4,)), torch.cat([past, k], 2), torch.cat([past, v], 2)
            )

    (found,) = recorded(Rotary(), torch.randn(2, 5, 16), torch.randn(2, 4, 3, 4)).records
    assert found.kind == "self"
    assert found.shape == (2, 4, 5, 8)


class Asks(Attention):
    """`q` and `k` may wrap the projections; `streams` says what asks what."""

    def __init__(self, wrap=lambda layer: layer, streams=lambda *inputs: inputs):
        super().__init__()
        self.to_query, self.to_key = wrap(self.to_query), wrap(self.to_key)
        self.streams = streams

    def forward(self, *inputs):
        return super().forward(*self.streams(*inputs))


class LowRank(nn.Module):
    """LoRA: a projection and the product of two narrow ones beside it."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.down, self.up = layer, nn.Linear(16, 2), nn.Linear(2, 16)

    def forward(self, x):
        return self.layer(x) + 2 * self.up(self.down(x))


class EightBits(nn.Module):
    """A linear layer of integers, whose inputs are rounded too."""

    def __init__(self, layer):
        super().__init__()
        self.register_buffer("weight", (layer.weight * 100).round().to(torch.int8))

    def forward(self, x):
        scale = x.abs().amax(-1, keepdim=True) / 127
        rounded = (x / scale).round().to(torch.int32)
        return (rounded @ self.weight.to(torch.int32).T).to(x.dtype) * scale / 100


class AfterSums(Attention):
    """Conditional DETR: content and position are projected, then added."""

    def __init__(self):
        super().__init__()
        self.of_query, self.of_key = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, query, where, key=None, there=None):
        key, there = query if key is None else key, where if there is None else there
        q, k, v = (
            self.heads_of(x, 4)
            for x in (
                self.to_query(query) + self.of_query(where),
                self.to_key(key) + self.of_key(there),
                self.to_value(key),
            )
        )
        return F.scaled_dot_product_attention(q, k, v)


class Reduced(Attention):
    """SegFormer: the keys are a convolution of the tokens the queries come from."""

    def __init__(self):
        super().__init__()
        self.reduce, self.norm = nn.Conv2d(16, 16, 2, 2), nn.LayerNorm(16)

    def forward(self, x):
        image = x.mT.unflatten(2, (2, 2))
        return super().forward(x, self.norm(self.reduce(image).flatten(2).mT))


class Packed(Attention):
    def __init__(self):
        super().__init__()
        self.to_all = nn.Linear(16, 48)

    def forward(self, x):
        q, k, v = self.to_all(x).view(2, 4, 3, 4, 4).permute(2, 0, 3, 1, 4).contiguous()
        return F.scaled_dot_product_attention(q, k, v)


def positions():
    return torch.arange(64.0).view(1, 4, 16).sin()


X = [torch.randn(2, 4, 16) for _ in range(4)]
PAIR = torch.cat(X[:2], 1)
KINDS = {
    "LoRA": (Asks(LowRank), X[:1], "self"),
    "LoRA, two": (Asks(LowRank), X[:2], "cross"),
    "eight bits": (Asks(EightBits), X[:1], "self"),
    "eight bits, two": (Asks(EightBits), X[:2], "cross"),
    "own norms": (Asks(lambda layer: nn.Sequential(nn.LayerNorm(16), layer)), X[:1], "self"),
    "own norms, two": (Asks(lambda layer: nn.Sequential(nn.LayerNorm(16), layer)), X[:2], "cross"),
    "sums": (AfterSums(), X[:2], "self"),
    "sums, two": (AfterSums(), X, "cross"),
    "positions at the queries": (Asks(streams=lambda x, at: (x + at, x)), X[:2], "self"),
    "the same positions": (
        Asks(streams=lambda x, y: (x + positions(), y + positions())),
        [x[:1] for x in X[:2]],
        "cross",
    ),
    "reduced keys": (Reduced(), X[:1], "self"),
    "packed": (Packed(), X[:1], "self"),
    "cut along tokens": (Asks(streams=lambda x: x.chunk(2, 1)), [PAIR], "cross"),
    "cut along the batch": (Asks(streams=lambda x: x.chunk(2)), X[:1], "cross"),
    "cut in unequal parts": (Asks(streams=lambda x: (x[:, :3], x[:, 3:])), [PAIR], "cross"),
    "cut after a layer": (Asks(streams=lambda x: F.gelu(2 * x).split(4, 1)), [PAIR], "cross"),
    "a stack": (Asks(streams=lambda x: x.unbind(1)), [torch.stack(X[:2], 1)], "cross"),
    "one token asks all": (Asks(streams=lambda x: (x[:, :1], x)), X[:1], "self"),
    "some of both": (
        Asks(streams=lambda x, y, z: (torch.cat([x, y], 1), torch.cat([y, z], 1))),
        X[:3],
        "unknown",
    ),
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("case", KINDS)
def test_kinds_follow_the_tokens_through_whatever_projects_them(case, context):
    model, inputs, kind = KINDS[case]
    with CONTEXTS[context]():
        (found,) = recorded(model, *inputs).records
    assert found.kind == kind


def test_two_branches_of_one_input_ask_each_other():
    class Branches(Attention):
        def __init__(self):
            super().__init__()
            self.one, self.other, self.norm = Attention(), Attention(), nn.LayerNorm(16)

        def forward(self, x):
            return super().forward(self.norm(x + self.one(x)), self.norm(x + self.other(x)))

    kinds = {found.name: found.kind for found in recorded(Branches(), X[0]).records}
    assert kinds == {"one": "self", "other": "self", "": "cross"}


@pytest.mark.parametrize("written", ["index_copy", "slice"])
def test_a_cache_that_is_written_into_leaves_it_self_attention(written):
    class Cached(Attention):
        def forward(self, x):
            parts = self.parts(x, x)
            if written == "slice":
                caches = [torch.zeros(2, 4, 8, 4) for _ in parts[1:]]
                for cache, part in zip(caches, parts[1:], strict=True):
                    cache[:, :, :4] = part
            else:
                places = torch.arange(4)
                caches = [torch.zeros(2, 4, 8, 4).index_copy(2, places, part) for part in parts[1:]]
            return F.scaled_dot_product_attention(parts[0], *caches)

    assert recorded(Cached(), X[0]).records[0].kind == "self"


def test_two_streams_that_ask_each_other_are_one_self_attention():
    class Joint(Attention):
        def forward(self, x, words):
            streams = zip(self.parts(x, x), self.parts(words, words), strict=True)
            q, k, v = (torch.cat(stream, 2) for stream in streams)
            return F.scaled_dot_product_attention(q, k, v)

    (found,) = recorded(Joint(), torch.randn(2, 5, 16), torch.randn(2, 3, 16)).records
    assert (found.kind, found.shape) == ("self", (2, 4, 8, 8))


def test_a_softmax_module_does_not_own_its_attention():
    class WithModules(Attention):
        def __init__(self):
            super().__init__()
            self.softmax, self.drop = nn.Softmax(-1), nn.Dropout(0.1)

        def forward(self, x):
            q, k, v = self.parts(x, x)
            return self.to_output(
                (self.drop(self.softmax(q @ k.mT)) @ v).transpose(1, 2).flatten(2)
            )

    (found,) = recorded(Stack(WithModules()), torch.randn(2, 5, 16)).records
    assert (found.name, found.class_name) == ("blocks.0", "WithModules")
    assert repr(found) == "Record(blocks.0, self, step 0, sub 0, 2 × 4 × 5 × 5, kept: full)"


def test_steps_and_sub_count_forwards_and_calls():
    block = Attention()
    model, x = Stack(block, block), torch.randn(1, 3, 16)
    with AttentionRecorder(model) as recording:
        for _ in range(3):
            model(x)
        block(x)  # not through the model: not its forward
    assert [(found.name, found.step, found.sub) for found in recording.records] == [
        ("blocks.0", step, sub) for step in range(3) for sub in (0, 1)
    ]


class Entries(nn.Module):
    """A model with other doors than `forward`."""

    def __init__(self):
        super().__init__()
        self.image, self.text = Attention(), Attention()

    def forward(self, x):
        return self.text(x)

    def encode_image(self, x):
        return self.image(self.text(x)) + self.image(x)

    def training_step(self, x):
        return self.encode_image(x).sum()

    def generate(self, x):
        for _ in range(2):
            x = self(x)
        return x

    def project(self, x):
        return self.text.to_query(x)


@pytest.mark.parametrize("context", CONTEXTS)
def test_methods_of_the_model_are_recorded_too(context):
    model, x = Entries(), torch.randn(2, 5, 16)
    in_two = [("text", 0, 0), ("image", 0, 0), ("image", 0, 1)]
    expected = {
        "encode_image": in_two,
        "training_step": in_two,
        "generate": [("text", 0, 0), ("text", 1, 0)],
        "forward": [("text", 0, 0)],
    }
    for name, places in expected.items():
        method = getattr(model, name)
        with CONTEXTS[context]():
            unseen = method(x)
            with AttentionRecorder(model) as recording:
                assert torch.equal(method(x), unseen)
        assert [(found.name, found.step, found.sub) for found in recording.records] == places
    with AttentionRecorder(model) as recording:
        for _ in range(2):
            model.encode_image(x)
        model.text(x)  # a part, called by somebody else
    assert [found.step for found in recording.records] == [0, 0, 0, 1, 1, 1]
    with (
        pytest.warns(UserWarning, match=r"Entries\.project ran parts of the model, and none"),
        AttentionRecorder(model),
    ):
        model.project(x)


def test_a_model_that_calls_itself_is_recorded_once():
    class Twice(Attention):
        def forward(self, x, again=True):
            return self(super().forward(x), False) if again else super().forward(x)

    assert [found.sub for found in recorded(Twice(), torch.randn(1, 3, 16)).records] == [0, 1]


# --------------------------------------------------------------------------------------------------
# Gradients


@pytest.mark.parametrize(("kind", "key_heads"), [(Attention, 4), (Attention, 2), (ByHand, 4)])
def test_gradients_are_those_of_the_weights(kind, key_heads):
    model = kind(key_heads=key_heads, **({"enable_gqa": True} if key_heads == 2 else {})).eval()
    x = torch.randn(2, 5, 16)
    q, k, v = (part.detach().repeat_interleave(4 // part.shape[1], 1) for part in model.parts(x, x))
    weights = (q @ k.mT / 2).softmax(-1).requires_grad_()
    model.to_output((weights @ v).transpose(1, 2).flatten(2)).square().sum().backward()
    recording = recorded(model, x, recorder_options={"gradients": True})
    assert "no gradient came" in str(recording)
    with AttentionRecorder(model, gradients=True) as recording:
        heard = model(x)
        heard.square().sum().backward()
    assert_close(recording.records[0].gradient, weights.grad, atol=1e-5)
    assert not recording.coverage()


def test_gradients_of_chosen_rows_and_of_the_last_backward():
    model, x = Stack(Attention(), Attention()), torch.randn(2, 5, 16)
    with (
        AttentionRecorder(model, [1, -1], gradients=True) as rows,
        AttentionRecorder(model, gradients=True) as full,
    ):
        heard = model(x)
    for output in (heard[..., 0].sum(), heard[..., 1].sum()):
        model.zero_grad()
        output.backward(retain_graph=True)
        for part, whole in zip(rows.records, full.records, strict=True):
            assert_close(part.gradient, whole.gradient[:, :, [1, -1]])
    with AttentionRecorder(model, gradients=True) as once:
        model(x)[..., 1].sum().backward()
    assert torch.equal(once.records[0].gradient, full.records[0].gradient)


def test_gradients_need_room():
    with pytest.raises(ValueError, match="no room for gradients"):
        AttentionRecorder(Attention(), "heads", gradients=True)
    model, x = Attention(), torch.randn(2, 5, 16)
    with (
        pytest.warns(UserWarning, match="no room for its gradient"),
        AttentionRecorder(model, gradients=True, budget=cost((2, 4, 5, 5), ("full",))) as recording,
    ):
        model(x).sum().backward()
    assert recording.records[0].gradient is None
    assert "no room for its gradient" in str(recording)


# --------------------------------------------------------------------------------------------------
# What is kept


@pytest.fixture(scope="module")
def long():
    """Attention over more tokens than a thumbnail shows, and its whole map."""
    torch.manual_seed(0)
    model, x = Attention(), torch.randn(2, 70, 16) * 3
    return model, x, recorded(model, x).records[0].weights


@pytest.mark.parametrize("chunk", [1 << 24, 2 * 4 * 70 * 3])
def test_policies_are_reductions_of_the_whole_map(long, chunk, monkeypatch):
    """Also when the map never exists as a whole."""
    model, x, full = long
    monkeypatch.setattr("course_lib.recorder.recording.CHUNK", chunk)
    kept = {
        keep: recorded(model, x, recorder_options={"keep": keep}).records[0]
        for keep in ("full", "heads", "thumbnail", "statistics", "shapes")
    }
    assert_close(kept["full"].weights, full)
    assert_close(kept["heads"].weights, full.mean(1, keepdim=True))
    blocks = torch.arange(70) * SIDE // 70
    onto = F.one_hot(blocks).float()
    assert_close(kept["thumbnail"].weights, (onto / onto.sum(0)).T @ full @ onto)
    torch.testing.assert_close(kept["thumbnail"].weights.sum(-1), torch.ones(2, 4, SIDE))
    assert kept["statistics"].weights is None is kept["shapes"].weights
    assert kept["shapes"].statistics == {}
    entropy = -(full.double() * full.double().log()).sum(-1)
    expected = {
        "max": full.amax((-2, -1)),
        "sparsity": (full < 0.01).float().mean((-2, -1)),
        "entropy": entropy.mean(-1).float(),
        "support": entropy.exp().mean(-1).float(),
        "sink": full.mean(-2).amax(-1),
    }
    for keep in ("full", "heads", "thumbnail", "statistics"):
        torch.testing.assert_close(kept[keep].statistics, expected, atol=1e-5, rtol=1e-5)
    for keep, found in kept.items():
        assert found.shape == tuple(full.shape)
        assert found.bytes == cost(found.shape, (keep,))
        assert keep == "shapes" or found.residual < 1e-5


def test_chosen_rows(long):
    model, x, full = long
    found = recorded(model, x, recorder_options={"keep": [3, 0, -1, 500]}).records[0]
    assert_close(found.weights, full[:, :, [3, 0, -1]])
    assert found.shape == tuple(full.shape)


def test_the_plan_says_what_a_recording_costs(long):
    model, x, full = long
    recorder = AttentionRecorder(Stack(model, model), "thumbnail", budget=1e6)
    plan = recorder.plan(x)
    assert plan.bytes("full") == 2 * full.nbytes
    with recorder as recording:
        recorder.model(x)
    assert plan.bytes("thumbnail") == sum(found.bytes for found in recording.records)
    assert "attention maps of one forward: 2" in str(plan)
    assert "2 of 2 × 4 × 70 × 70" in str(plan)
    assert "→ thumbnail" in str(plan)
    with pytest.warns(UserWarning, match="Linear has no attention"):
        assert "nothing to record" in str(
            AttentionRecorder(nn.Linear(2, 2)).plan(torch.zeros(1, 2))
        )


@pytest.mark.parametrize("fraction", [0.9, 0.4, 0.11, 0.0001])
def test_a_full_budget_steps_down_and_says_how(long, fraction):
    model, x, full = long
    stack, budget = (
        Stack(*(copy.deepcopy(model) for _ in range(4))),
        int(4 * full.nbytes * fraction),
    )
    with AttentionRecorder(stack) as reference:
        unseen = stack(x)
    with (
        pytest.warns(UserWarning, match="the budget of .* was full at blocks") as said,
        AttentionRecorder(stack, budget=budget) as recording,
    ):
        assert torch.equal(stack(x), unseen)
    assert sum(found.bytes for found in recording.records) <= budget
    assert len({found.kept for found in recording.records}) == 1
    (policies,) = {found.kept for found in recording.records}
    assert policies == ("full", "heads", "thumbnail", "statistics", "shapes")[: len(policies)]
    assert len(policies) == {0.9: 2, 0.4: 2, 0.11: 3, 0.0001: 5}[fraction]
    assert str(said[0].message) in str(recording)
    for found, whole in zip(recording.records, reference.records, strict=True):
        if policies[-1] == "heads":
            assert_close(found.weights, whole.weights.mean(1, keepdim=True))
        if policies[-1] != "shapes":
            torch.testing.assert_close(found.statistics, whole.statistics, atol=1e-5, rtol=1e-5)


class Unspeakable:
    def __repr__(self):
        raise ArithmeticError


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep": "everything"}, "keep='everything' says nothing"),
        ({"keep": []}, "says nothing"),
        ({"keep": 5}, "keep=5 says nothing"),
        ({"keep": [0.5]}, "says nothing"),
        ({"keep": Unspeakable()}, "keep=<Unspeakable instance.* says nothing"),
        ({"budget": -1}, "-1 bytes"),
        ({"budget": float("inf")}, "inf bytes; give a number"),
        ({"budget": "2 GB"}, "'2 GB' bytes"),
    ],
)
def test_bad_options(options, said):
    build = inspect.unwrap(AttentionRecorder.__init__)  # without the types that tests check
    with pytest.raises(ValueError, match=said):
        build(object.__new__(AttentionRecorder), Attention(), **options)


# --------------------------------------------------------------------------------------------------
# What is not recorded is said


def test_a_model_without_attention_says_so():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3), nn.Softmax(-1))
    with (
        pytest.warns(UserWarning, match="Sequential has no attention"),
        AttentionRecorder(model) as recording,
    ):
        model(torch.randn(2, 4))
    assert recording.records == []


def test_a_model_that_was_not_called_says_so():
    with (
        pytest.warns(UserWarning, match="Attention was not called; call the model itself"),
        AttentionRecorder(Attention()),
    ):
        pass


class LinearAttention(nn.Module):
    def forward(self, x):
        return F.relu(x) @ (F.relu(x).mT @ x)


def test_attention_without_softmax_is_reported_by_name():
    model = Stack(Attention(), LinearAttention())
    with (
        pytest.warns(UserWarning, match=r"blocks\.1: LinearAttention gave no weights"),
        AttentionRecorder(model) as recording,
    ):
        model(torch.randn(2, 5, 16))
    assert [gap.where for gap in recording.coverage()] == ["blocks.1"]
    assert "record(weights)" in str(recording)


@pytest.mark.parametrize(
    ("attend", "said"),
    [
        (lambda x: (x @ x.mT).sigmoid() @ x, "multiplies tensors as attention does, but no soft"),
        (lambda x: x.relu(), "Mine has no attention"),
        (lambda x: (x.mean(-1, True).softmax(1) * x).sum(1), "softmax over axis -2 of .* may be"),
    ],
    ids=["sigmoid", "none", "pooling"],
)
def test_where_nothing_is_recognised_a_sentence_says_why(attend, said):
    class Mine(nn.Module):
        def forward(self, x):
            return attend(x)

    model = Mine()
    with (
        pytest.warns(UserWarning, match=rf"{said}.*call `record\(weights\)`"),
        AttentionRecorder(model),
    ):
        model(X[0])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("context", CONTEXTS)
def test_nested_tensors_are_passed_over_in_a_sentence(context, gradients):
    model = Attention()
    tokens = [torch.randn(3, 16), torch.randn(5, 16)]
    x = torch.nested.nested_tensor(tokens, layout=torch.jagged)
    with CONTEXTS[context]():
        unseen = model(x)
        with (
            pytest.warns(UserWarning, match="come as a nested tensor.*pad them"),
            AttentionRecorder(model, gradients=gradients) as recording,
        ):
            seen = model(x)
        if context == "grad":
            seen.values().sum().backward()
    assert torch.equal(seen.values(), unseen.values())
    assert len(recording.gaps) == 1
    assert not recording.records


@torch.library.custom_op("course_tests::my_attention", mutates_args=())
def my_attention(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


def test_an_opaque_kernel_is_reported():
    class Opaque(nn.Module):
        def forward(self, x):
            return my_attention(x)

    model = Stack(Opaque())
    with (
        pytest.warns(UserWarning, match=r"my_attention.* is a kernel of its own"),
        AttentionRecorder(model) as recording,
    ):
        model(torch.randn(2, 5, 16))
    assert [gap.where for gap in recording.coverage()] == ["blocks.0"]


def test_a_router_is_no_attention():
    """A mixture of experts weighs its experts with a softmax, but no matrix product reads it."""

    class Router(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.experts = (
                nn.Linear(16, 4),
                nn.ModuleList(nn.Linear(16, 16) for _ in range(4)),
            )

        def forward(self, x):
            best, which = self.gate(x).softmax(-1).topk(2)
            answers = torch.stack([expert(x) for expert in self.experts], -2)
            chosen = answers.gather(-2, which[..., None].expand(*which.shape, 16))
            return (best[..., None] * chosen).sum(-2)

    recording = recorded(Stack(Router(), Attention()), torch.randn(2, 5, 16))
    assert [found.name for found in recording.records] == ["blocks.1"]
    (gap,) = recording.coverage()
    assert gap.where == "blocks.0"
    assert "softmax over axis -1" in gap.what


def test_gates_are_no_attention():
    class Gate(nn.Linear):
        def forward(self, x):
            return super().forward(x.softmax(-1) * torch.tanh(super().forward(x)))

    assert [
        found.name
        for found in recorded(Stack(Gate(16, 16), Attention()), torch.randn(2, 5, 16)).records
    ] == ["blocks.1"]


def test_record_takes_what_the_model_hands_over():
    class Handmade(Attention):
        def forward(self, x):
            q, k, v = self.parts(x, x)
            powers = (q @ k.mT / 2).exp()
            weights = record(powers / powers.sum(-1, keepdim=True))
            return (weights @ v).transpose(1, 2).flatten(2)

    model, x = Handmade(), torch.randn(2, 5, 16)
    with AttentionRecorder(model, gradients=True) as recording:
        model(x).sum().backward()
    (found,) = recording.records
    q, k, _ = model.parts(x, x)
    assert_close(found.weights, (q @ k.mT / 2).softmax(-1))
    assert (found.operator, found.kind) == ("record", "self")
    assert found.gradient.shape == found.weights.shape
    assert torch.equal(record(x), x)


def test_a_softmax_that_is_handed_over_counts_once():
    class Both(Attention):
        def forward(self, x):
            q, k, v = self.parts(x, x)
            return record((q @ k.mT).softmax(-1)) @ v

    assert [found.operator for found in recorded(Both(), torch.randn(2, 5, 16)).records] == [
        "record"
    ]


def test_an_exported_graph_says_that_names_are_lost():
    model, x = Stack(Attention()), torch.randn(2, 5, 16)
    graph = torch.export.export(model, (x,)).module()
    with pytest.warns(UserWarning, match="lost the names"), AttentionRecorder(graph) as recording:
        graph(x)
    assert len(recording.records) == 1


# --------------------------------------------------------------------------------------------------
# Nothing is disturbed


def global_state():
    from torch._dynamo.eval_frame import _stance
    from torch.nn.modules import module
    from torch.utils import _python_dispatch as modes

    return (
        len(module._global_forward_hooks),
        len(module._global_forward_pre_hooks),
        _stance.stance,
        nn.Module.__call__,
        torch._C._len_torch_dispatch_stack(),
        modes._is_in_torch_dispatch_mode,
    )


def test_the_model_is_left_as_it_was():
    model, x = (
        Stack(Attention(), nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()),
        torch.randn(2, 5, 16),
    )
    before, state = [dict(vars(module)) for module in model.modules()], global_state()
    with torch.no_grad(), AttentionRecorder(model):
        model(x)
        assert [dict(vars(module)) for module in model.modules()] == before
    assert global_state() == state


def test_an_exception_in_the_model_passes_and_leaves_nothing():
    class Breaks(nn.Module):
        def forward(self, x):
            raise ArithmeticError("the model's own")

    model, x, state = Stack(Attention(), Breaks()), torch.randn(2, 5, 16), global_state()
    with (
        pytest.raises(ArithmeticError, match="the model's own"),
        AttentionRecorder(model) as recording,
    ):
        model(x)
    assert global_state() == state
    assert [found.name for found in recording.records] == ["blocks.0"]
    with AttentionRecorder(model) as recording:
        with pytest.raises(ArithmeticError):
            model(x)
        Attention()(x)  # nobody watches any more
        assert global_state()[4:] == state[4:]
    assert len(recording.records) == 1


STOPS = [KeyboardInterrupt, SystemExit, GeneratorExit]


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("where", ["hook", "hook before", "forward", "backward"])
def test_whatever_stops_the_model_leaves_nothing(stop, where):
    model, x, state = Stack(Attention(), ByHand().eval()), torch.randn(2, 5, 16), global_state()
    unseen = model(x)

    def stops(*_):
        raise stop

    if where == "hook":
        handle = model.blocks[0].register_forward_hook(stops)
    elif where == "hook before":  # after the model has begun, before its forward
        handle = model.register_forward_pre_hook(stops)
    elif where == "backward":
        handle = model.blocks[0].register_full_backward_hook(stops)
    else:
        handle = model.blocks[1].to_query.register_forward_pre_hook(stops)
    visualizer = AttentionVisualizer().register_hooks(model)
    with pytest.raises(stop), AttentionRecorder(model, gradients=True) as recording:
        model(x).sum().backward()
    assert torch._C._len_torch_dispatch_stack() == 0
    handle.remove()
    count = len(recording.records)
    Attention()(x)  # a stranger
    assert torch.equal(model(x), unseen)  # watched by the visualizer, as its next call
    assert len(recording.records) == count
    assert len(visualizer.sequence[-1]) == 2
    visualizer.clear_hooks()
    assert global_state() == state


def calls_of_the_recorder(action, stop_at=None):
    """How often functions that watch a model are entered; the one numbered `stop_at` is interrupted."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        code = frame.f_code
        watching = "recorder/" in code.co_filename or "_python_dispatch" in code.co_filename
        # Python itself has no answer to an interrupt at the entry of the outermost `__exit__`
        if watching and code is not AttentionRecorder.__exit__.__code__:
            count += 1
            if count == stop_at:
                raise KeyboardInterrupt

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    except KeyboardInterrupt:
        assert stop_at is not None
    finally:
        sys.settrace(before)
    return count


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_at_any_moment_leaves_nothing():
    model, x, recordings = Stack(Attention(), ByHand().eval()), torch.randn(1, 3, 16), []
    unseen, state = model(x), global_state()

    def action():
        with AttentionRecorder(model, gradients=True) as recording:
            recordings.append(recording)
            with AttentionRecorder(model.blocks[0], "heads"):
                model(x).sum().backward()

    moments = range(1, calls_of_the_recorder(action) + 1)
    assert len(moments) > 300
    edges = {*moments[:60], *moments[-40:]}
    for moment in sorted(edges | set(random.Random(0).sample(moments, 60))):
        calls_of_the_recorder(action, moment)
        assert global_state() == state, moment
        count = sum(len(recording.records) for recording in recordings)
        assert torch.equal(model(x), unseen)
        assert count == sum(len(recording.records) for recording in recordings)


def test_a_recorder_that_cannot_open_leaves_nothing(monkeypatch):
    model, x, state = Attention(), torch.randn(2, 5, 16), global_state()
    for stop in STOPS:
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, "set_stance", Mock(side_effect=stop))
            with pytest.raises(stop), AttentionRecorder(model):
                pass
        assert global_state() == state
    assert len(recorded(model, x).records) == 1


def test_gradients_are_let_go_of():
    """A hook that held its own result would be a cycle through C++ that no collector sees."""
    kinds = operators.Attention, tracing.Tracer, tracing.Softmax, tracing.Weights

    def observed():
        gc.collect()
        return sum(type(one) in kinds for one in gc.get_objects())

    model, alive, before = Stack(Attention(), ByHand().eval()), [], observed()
    for _ in range(20):
        with AttentionRecorder(model, gradients=True) as recording:
            model(torch.randn(1, 3, 16)).sum().backward()
        assert not recording.coverage()
        alive += [weakref.ref(record) for record in recording.records]
        alive += [weakref.ref(record.weights) for record in recording.records]
    del recording
    assert observed() == before
    assert not any(reference() is not None for reference in alive)


def test_what_fails_in_the_recorder_never_reaches_the_model(monkeypatch):
    model, x = Attention(), torch.randn(2, 5, 16)
    unseen = model(x)
    monkeypatch.setattr(Recording, "add", lambda *_: 1 / 0)
    with (
        pytest.warns(UserWarning, match=r"recording .* failed \(ZeroDivisionError"),
        AttentionRecorder(model, gradients=True) as recording,
    ):
        assert torch.equal(model(x), unseen)
    assert recording.records == []


@pytest.mark.parametrize("order", ["nested", "overlapping"])
def test_two_recorders_at_once(order):
    outer, x, state = (
        Stack(Stack(Attention(), ByHand().eval()), Attention()),
        torch.randn(2, 5, 16),
        global_state(),
    )
    inner = outer.blocks[0]
    unseen = outer(x)
    first, second, third = (
        AttentionRecorder(outer),
        AttentionRecorder(inner, "heads"),
        AttentionRecorder(outer),
    )
    of_outer, of_inner, again = first.__enter__(), second.__enter__(), third.__enter__()
    assert torch.equal(outer(x), unseen)
    for recorder in (first, second, third) if order == "overlapping" else (third, second, first):
        recorder.__exit__(None, None, None)
    assert [found.name for found in of_outer.records] == [
        "blocks.0.blocks.0",
        "blocks.0.blocks.1",
        "blocks.1",
    ]
    assert [found.name for found in of_inner.records] == ["blocks.0", "blocks.1"]
    for a, b in zip(of_outer.records, again.records, strict=True):
        assert torch.equal(a.weights, b.weights)
    assert global_state() == state


def test_hooks_and_other_modes_live_beside_it():
    from torch.utils.flop_counter import FlopCounterMode

    model, x = Stack(Attention(), ByHand().eval()), torch.randn(2, 5, 16)
    model.blocks[0].register_forward_hook(lambda module, inputs, output: output * 2)
    with FlopCounterMode(display=False) as plain:
        unseen = model(x)
    with FlopCounterMode(display=False) as counted, AttentionRecorder(model) as recording:
        assert torch.equal(model(x), unseen)
    # what the recorder computes is not counted
    assert counted.get_total_flops() == plain.get_total_flops()
    assert len(recording.records) == 2


def test_training_mode_draws_the_same_random_numbers():
    model, x = (
        Stack(ByHand(), nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)).train(),
        torch.randn(2, 5, 16),
    )
    # dropout leaves nothing to compare with
    assert [found.residual for found in recorded(model, x).records] == [None, None]
    with torch.inference_mode():
        (found,) = recorded(Attention(dropout_p=0.5), x).records
    assert found.residual is None  # nor does dropout inside the kernel


# --------------------------------------------------------------------------------------------------
# The course's own modules


@pytest.mark.parametrize("keys", [1, 6])
def test_the_course_attention_fills_its_weights_inside_a_recorder(keys):
    module = VisualizableCrossAttention(16, 12, 12, heads=4, record=False)
    query, key = torch.randn(2, 5, 16), torch.randn(2, keys, 12)
    module(query, key, key, record=True)
    expected = module.last_attn_weights
    module(query, key, key)
    assert module.last_attn_weights is None
    (found,) = recorded(module, query, key, key).records
    assert_close(found.weights, expected)
    assert torch.equal(module.last_attn_weights, found.weights)
    assert not module.last_attn_weights.requires_grad
    assert found.kind == "cross"
    with AttentionRecorder(module, "heads"):
        module(query, key, key)
    assert module.last_attn_weights is None  # a head mean would be mistaken for weights
    (once,) = recorded(module, query, key, key, record=True).records
    assert_close(once.weights, expected)


def test_the_course_models():
    recording = recorded(
        CompletePersonalityModel().eval(), torch.randn(3, 512), torch.randn(3, 256)
    )
    (found,) = recording.records
    assert (found.name, found.shape) == ("cross_attention.attention", (3, 4, 1, 1))
    assert (found.weights == 1).all()  # the one-key trap
    model = TokenPersonalityModel().eval()
    tokens = next(module for module in model.modules() if isinstance(module, TokenCrossAttention))
    face, motion = torch.randn(2, 49, 2048), torch.randn(2, 8, 1024)
    recording = recorded(model, face, motion)
    (found,) = recording.records
    assert (found.name, found.shape, found.kind) == (
        "cross_attention.attention",
        (2, 4, 49, 8),
        "cross",
    )
    assert tokens.last_pooled_weights.shape == (2, 4, 8)
    (found,) = recorded(tokens, torch.randn(2, 5, 2048), torch.randn(2, 8, 1024)).records
    assert found.name == "attention"


def test_attend_inside_any_module():
    class Mine(nn.Module):
        def forward(self, q, k, v):
            return attend(q, k, v)[0]

    q, k, v = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 6, 4), torch.randn(2, 3, 6, 4)
    (found,) = recorded(Mine(), q, k, v).records
    assert_close(found.weights, attend(q, k, v)[1])
    assert found.kind == "cross"


# --------------------------------------------------------------------------------------------------
# Files


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("keep", ["full", "thumbnail", "statistics", [0, 2]], ids=str)
def test_a_recording_survives_its_file(suffix, keep, tmp_path):
    model, x = Stack(Attention(), LinearAttention()), torch.randn(2, 40, 16)
    with (
        warnings.catch_warnings(),
        AttentionRecorder(model, keep, gradients=not isinstance(keep, str)) as recording,
    ):
        warnings.simplefilter("ignore")
        model(x).sum().backward()
    path = recording.save(tmp_path / f"maps{suffix}")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    loaded = Recording.load(path)
    assert loaded.gaps == recording.gaps
    for found, expected in zip(loaded.records, recording.records, strict=True):
        for name, value in vars(expected).items():
            same = torch.equal if isinstance(value, torch.Tensor) else type(value).__eq__
            if name == "reduced_statistics":
                torch.testing.assert_close(getattr(found, name), value, atol=0, rtol=0)
            else:
                assert same(getattr(found, name), value), name
    assert str(loaded).splitlines()[0] == str(recording).splitlines()[0]


def test_bad_files(tmp_path):
    recording = Recording()
    with pytest.raises(ValueError, match=r"cannot be a \.pt; name it \.safetensors or \.npz"):
        recording.save(tmp_path / "maps.pt")
    np.savez(tmp_path / "other.npz", metadata="{}")
    np.savez(tmp_path / "another.npz", weights=np.ones(3))
    for name in ("other.npz", "another.npz"):
        with pytest.raises(ValueError, match="holds no recording"):
            Recording.load(tmp_path / name)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="choose a folder you may write to"):
        recording.save(tmp_path / "file" / "maps.npz")
    for suffix in (".npz", ".safetensors"):
        with pytest.raises(FileNotFoundError):
            Recording.load(tmp_path / f"missing{suffix}")
        for content in (
            b"",
            b"PK nothing",
            recording.save(tmp_path / f"good{suffix}").read_bytes()[:-9],
        ):
            (tmp_path / f"broken{suffix}").write_bytes(content)
            with pytest.raises(ValueError, match=rf"broken\{suffix}"):
                Recording.load(tmp_path / f"broken{suffix}")


ODD = [None, -1, 1e400, "odd", [], {}, [[]], True, 2**70, {"a": {"b": [None]}}]


def mutated(value, generator):
    """The same JSON with one thing in it gone or exchanged for something odd."""
    if isinstance(value, dict | list) and value and generator.random() < 0.85:
        value = copy.copy(value)
        place = generator.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if generator.random() < 0.2:
            del value[place]
        else:
            value[place] = mutated(value[place], generator)
        return value
    return generator.choice(ODD)


def use(recording):
    """What is done with a recording from a file."""
    str(recording), repr(recording.records)
    for found in recording.records:
        assert all(isinstance(value, torch.Tensor) for value in found.statistics.values())
    from_records(recording.records)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("keep", ["full", "statistics"])
def test_a_recording_from_elsewhere_is_one_or_refused_in_a_sentence(suffix, keep, tmp_path):
    model, generator, refusals = Stack(Attention(), Attention()), random.Random(0), []
    with AttentionRecorder(model, keep) as recording:
        model(torch.randn(1, 3, 16)).sum().backward()
    path = recording.save(tmp_path / f"good{suffix}")
    good, odd = path.read_bytes(), tmp_path / f"odd{suffix}"
    whole = Recording.load(path)
    use(whole)
    stored = {
        f"{index}.{name}": tensor.numpy()
        for index, found in enumerate(whole.records)
        for name, tensor in found.tensors().items()
    }
    if suffix == ".npz":
        metadata = json.loads(str(np.load(path)["metadata"]))
    else:
        metadata = files.load_tensors(path)[1]
    metadata["gaps"].append(vars(Gap("here", "nothing", "look")))
    metadata["notes"].append("a note")
    for round_ in range(120):
        kind = round_ % 3
        if kind == 0:  # bytes
            content = bytearray(good)
            for _ in range(generator.randint(1, 4)):
                content[generator.randrange(len(content))] = generator.randrange(256)
            odd.write_bytes(content[: generator.choice([len(content), generator.randrange(999)])])
        else:  # what is said, or the arrays
            said, arrays = metadata, dict(stored)
            if kind == 1:
                said = mutated(metadata, generator)
            else:
                name = generator.choice(list(arrays))
                arrays[generator.choice([name, "9.weights", "x.y", "weights", "0.odd"])] = (
                    generator.choice(
                        [
                            np.ones(3),
                            np.ones((2, 2), np.int8),
                            np.float32(1),
                            np.zeros((1, 4, 3, 0)),
                        ]
                    )
                )
            if suffix == ".npz":
                np.savez(odd, metadata=json.dumps(said), **arrays)
            else:
                tensors = {name: torch.tensor(array) for name, array in arrays.items()}
                save_file(tensors, odd, {"course_lib": json.dumps(said)})
        try:
            loaded = Recording.load(odd)
        except ValueError as error:
            refusals.append(str(error))
        else:
            use(loaded)
    assert len(refusals) > 60
    for sentence in refusals:
        assert "record again, or give another file" in sentence
        assert len(sentence.splitlines()) == 1
