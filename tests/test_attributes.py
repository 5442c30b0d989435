"""The attribute decoders against the letter of their formula, what each part can see, and attention
that points.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from course_lib.looking import chance_of_pointing, get_param_count, pointing_game, profile_model
from course_lib.models import (
    AttributeDecoder,
    AttributeModel,
    FinePointingDecoder,
    FineTokenExtractor,
    MixedTokenExtractor,
    PointingDecoder,
    StaticFeatureExtractor,
    TokenExtractor,
    pool_over_tokens,
)
from course_lib.recorder import AttentionRecorder
from course_lib.training import (
    LDAMLoss,
    ModelSerializer,
    StuckDetector,
    TokenLoss,
    WeightedBCELoss,
    fit,
)

SMALL = {"token_dim": 10, "attributes": 5, "dim": 8, "heads": 2, "layers": 2, "tokens": 9}


def awake(module: nn.Module) -> nn.Module:
    """In evaluation mode, with random numbers where a module starts with 0 or 1."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.eval()


def literal(decoder: AttributeDecoder, tokens: torch.Tensor) -> torch.Tensor:
    """One attribute, one head and one token at a time."""
    logits = torch.empty(len(tokens), len(decoder.queries))
    for item, image in enumerate(tokens):
        values = decoder.project(image)
        keys = values + decoder.positions
        for attribute, query in enumerate(decoder.queries):
            for layer in decoder.layers:
                attention, heard = layer.attention, []
                asked = attention.to_query(layer.query_norm(query)).chunk(attention.heads)
                for head, q in enumerate(asked):
                    k = attention.to_key(keys).chunk(attention.heads, 1)[head]
                    v = attention.to_value(values).chunk(attention.heads, 1)[head]
                    scores = torch.stack([torch.dot(q, row) / len(q) ** 0.5 for row in k]).exp()
                    heard.append(
                        sum(
                            score * row for score, row in zip(scores / scores.sum(), v, strict=True)
                        )
                    )
                query = query + attention.to_output(torch.cat(heard))
                query = query + layer.feed_forward(query)
            said = decoder.norm(query)
            logits[item, attribute] = (
                torch.dot(said, decoder.head.weight[attribute]) + decoder.head.bias[attribute]
            )
    return logits


def test_the_decoder_by_the_letter():
    decoder, tokens = awake(AttributeDecoder(**SMALL)), torch.randn(3, 9, 10)
    assert_close(decoder(tokens), literal(decoder, tokens), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [AttributeDecoder, PointingDecoder])
def test_no_query_hears_another(kind):
    decoder, tokens = awake(kind(**SMALL)), torch.randn(3, 9, 10)
    before = decoder(tokens)
    with torch.no_grad():
        decoder.queries[2] += torch.randn(8)
    changed = (decoder(tokens) != before).any(0)
    assert changed.tolist() == [False, False, True, False, False]


def test_places_matter_to_keys_alone():
    """Without positions the order of the tokens is nothing; with them it is."""
    decoder, tokens = awake(AttributeDecoder(**SMALL)), torch.randn(3, 9, 10)
    assert not torch.allclose(decoder(tokens), decoder(tokens.flip(1)), atol=1e-3)
    nn.init.zeros_(decoder.positions)
    assert_close(decoder(tokens), decoder(tokens.flip(1)), atol=1e-5, rtol=1e-4)


def test_values_know_their_place_and_keys_the_surroundings():
    decoder, tokens, seen = awake(PointingDecoder(**SMALL)), torch.randn(2, 9, 10), []
    decoder.layers[0].attention.register_forward_pre_hook(lambda _, args: seen.append(args[1:]))
    decoder(tokens)
    tokens[:, 4] += torch.randn(10)
    decoder(tokens)
    (keys, values), (other_keys, other_values) = seen
    assert (values != other_values).any(2)[0].tolist() == [place == 4 for place in range(9)]
    assert (keys != other_keys).any(2).all()


@pytest.mark.parametrize(("blocks", "pixels"), [(0, 18), (1, 50), (2, 56)])
def test_how_much_of_the_image_a_token_sees(blocks, pixels):
    """By the gradient of a token in the middle, over several images because a ReLU hides some
    pixels.
    """
    extractor = awake(TokenExtractor(16, blocks))
    images = torch.rand(40, 3, 56, 56, requires_grad=True)
    tokens = extractor.tokens(images)
    assert tokens.shape == (40, 49, 16)
    tokens[:, 24].square().sum().backward()
    seen = images.grad.abs().sum((0, 1)) > 0
    assert seen.any(0).sum() == seen.any(1).sum() == pixels
    rows = seen.any(1).nonzero()
    assert rows[-1] - rows[0] + 1 == pixels  # in one piece, around the middle
    assert (rows[-1] + rows[0]).item() / 2 == 27.5


def test_how_much_of_the_image_a_fine_token_sees():
    """The first, the last, and one inside: each around its own place."""
    extractor = awake(FineTokenExtractor(16))
    for place in (0, 7 * 14 + 5, 195):
        images = torch.rand(40, 3, 112, 112, requires_grad=True)
        tokens = extractor.tokens(images)
        assert tokens.shape == (40, 196, 16)
        tokens[:, place].square().sum().backward()
        seen = images.grad.abs().sum((0, 1)) > 0
        for index, axis in zip(divmod(place, 14), (1, 0), strict=True):
            start, end = 8 * index - 10, 8 * index + 18
            expected = list(range(max(0, start), min(112, end)))
            assert seen.any(axis).nonzero()[:, 0].tolist() == expected


def test_fine_values_know_their_place_and_keys_the_surroundings():
    decoder = awake(FinePointingDecoder(10, 5, 8, 2, tokens=36))
    tokens, seen = torch.randn(4, 36, 10), []
    decoder.layers[0].attention.register_forward_pre_hook(lambda _, args: seen.append(args[1:]))
    decoder(tokens)
    tokens[:, 14] += torch.randn(10)
    decoder(tokens)
    (keys, values), (other_keys, other_values) = seen
    assert (values != other_values).any(2)[0].tolist() == [place == 14 for place in range(36)]
    assert (keys != other_keys).any(2).any(0).all()


def test_fine_keys_begin_with_their_surroundings_alone():
    decoder = FinePointingDecoder(10, 5, 8, 2, tokens=16).eval()
    nn.init.zeros_(decoder.positions)
    keys = decoder.keys_of(torch.randn(2, 16, 8)).unflatten(1, (2, 2, 2, 2))
    assert_close(keys, keys[:, :, :1, :, :1].expand_as(keys))  # alike in each two by two
    nn.init.normal_(decoder.neighbours.weight)
    keys = decoder.keys_of(torch.randn(2, 16, 8)).unflatten(1, (2, 2, 2, 2))
    assert not torch.allclose(keys, keys[:, :, :1, :, :1].expand_as(keys), atol=0.01)


def test_tokens_stand_row_by_row_and_images_of_any_size_fit():
    extractor = TokenExtractor(16).eval()
    image = torch.zeros(1, 3, 56, 56)
    dark = extractor.tokens(image)
    image[:, :, 19:21, 43:45] = 1  # row 2, column 5 of 7
    moved = (extractor.tokens(image) - dark).norm(dim=2)[0]
    assert moved.argmax() == 2 * 7 + 5
    large = F.interpolate(image, scale_factor=2)
    assert_close(extractor.tokens(large), extractor.tokens(image), atol=0.05, rtol=0.05)
    many = torch.rand(5, 3, 64, 64)
    assert_close(extractor.tokens(many, chunk=2), extractor.tokens(many), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [AttributeDecoder, PointingDecoder])
def test_weights_are_kept_when_asked(kind):
    decoder, tokens = awake(kind(**SMALL)), torch.randn(3, 9, 10)
    logits = decoder(tokens)
    assert decoder.last_attn_weights is None
    assert_close(decoder(tokens, record=True), logits)  # looking changes nothing
    assert decoder.last_attn_weights.shape == (3, 5, 9)
    assert_close(decoder.last_attn_weights.sum(2), torch.ones(3, 5))
    last = decoder.layers[-1].attention.last_attn_weights
    assert_close(decoder.last_attn_weights, (last[:, 0] + last[:, 1]) / 2)
    decoder(tokens)
    assert decoder.last_attn_weights is None
    with AttentionRecorder(decoder) as recording:
        decoder(tokens)
    assert len(recording.records) == 2
    assert_close(recording.records[1].weights.float(), last, atol=1e-3, rtol=1e-2)


def test_maps_of_a_model():
    model, images = AttributeModel(TokenExtractor(96), PointingDecoder()), torch.rand(5, 3, 56, 56)
    model.train()
    maps = model.attention_maps(images, chunk=2)
    assert model.training
    assert maps.shape == (5, 33, 7, 7)
    model.eval()(images, record=True)
    assert_close(maps.flatten(2), model.decoder.last_attn_weights, atol=1e-5, rtol=1e-4)
    assert not maps.requires_grad


@pytest.mark.parametrize(
    "make",
    [
        lambda: AttributeModel(
            StaticFeatureExtractor("resnet18", weights=None, image_size=224), AttributeDecoder(512)
        ),
        lambda: AttributeModel(TokenExtractor(), PointingDecoder(layers=2)),
        lambda: AttributeModel(FineTokenExtractor(), FinePointingDecoder()),
        lambda: AttributeDecoder(64),
        lambda: PointingDecoder(64, cosine=True),
    ],
)
def test_models_can_be_measured_by_their_own_examples(make):
    model = make()
    profile = profile_model(model, rounds=1)
    assert profile.parameters == get_param_count(model)
    assert profile.flops > 0
    assert model.eval()(*model.example_inputs()).shape[1] == 33


def test_a_decoder_is_kept_in_versions_and_exported(tmp_path):
    decoder = awake(PointingDecoder(**SMALL))
    keeper = ModelSerializer(tmp_path)
    tokens = torch.randn(4, 9, 10)
    keeper.save(decoder, "decoder", SMALL)
    again, _ = keeper.load(PointingDecoder, "decoder")
    assert torch.equal(again(tokens), decoder(tokens))
    program = torch.export.load(keeper.export(PointingDecoder, "decoder", [tokens])).module()
    assert_close(program(tokens), decoder(tokens), atol=1e-5, rtol=1e-4)


def test_pooling_by_the_letter():
    logits = torch.randn(4, 9, 5, dtype=torch.float64)
    pooled = pool_over_tokens(logits)
    expected = ((2 * logits).exp().mean(1)).log() / 2
    assert_close(pooled, expected)
    assert (logits.mean(1) < pooled).all()
    assert (pooled < logits.amax(1)).all()
    assert_close(pool_over_tokens(logits, 1000.0), logits.amax(1), atol=0.01, rtol=0)
    assert pool_over_tokens(torch.full((1, 9, 5), 100.0)).eq(100).all()


def test_a_pair_while_training_and_its_loss():
    decoder, tokens = PointingDecoder(**SMALL), torch.randn(6, 9, 10)
    targets = (torch.rand(6, 5) < 0.5).float()
    logits, token_logits = decoder(tokens)
    loss = TokenLoss(WeightedBCELoss(3.0))((logits, token_logits), targets)
    one, other = (WeightedBCELoss(3.0)(z, targets) for z in (logits, token_logits))
    assert_close(loss, one + other)
    mixed = TokenLoss(WeightedBCELoss(3.0), WeightedBCELoss())((logits, token_logits), targets)
    assert_close(mixed, one + WeightedBCELoss()(token_logits, targets))
    loss.backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())
    alone = decoder.eval()(tokens)
    assert_close(TokenLoss(WeightedBCELoss())(alone, targets), WeightedBCELoss()(alone, targets))


def test_fit_trains_the_pair_and_validates_the_logits():
    decoder, tokens = PointingDecoder(**SMALL), torch.randn(24, 9, 10)
    data = DataLoader(TensorDataset(tokens, (tokens[:, 3, :5] > 0).float()), 8)
    detector, before = StuckDetector("abcde"), decoder.token_classifier.weight.clone()
    options = {"loss_function": TokenLoss(WeightedBCELoss()), "callbacks": [detector]}
    run = fit(decoder, data, data, epochs=2, **options)
    logits, targets = decoder.eval()(tokens), data.dataset.tensors[1]
    assert run.log["valid_loss"] == pytest.approx(
        WeightedBCELoss()(logits, targets).item(), rel=1e-4
    )
    assert run.log["loss"] > 1.3 * run.log["valid_loss"]  # two losses while training
    assert run.log["valid_positive_rate"] == pytest.approx((logits >= 0).float().mean().item())
    assert not torch.equal(decoder.token_classifier.weight, before)


def test_cosines_for_ldam():
    decoder, tokens = PointingDecoder(**SMALL, cosine=True), torch.randn(6, 9, 10)
    logits, _ = decoder(tokens)
    assert logits.abs().max() <= 1
    with torch.no_grad():
        decoder.head.weight *= 7
    assert_close(decoder(tokens)[0], logits)
    vector, weight = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])
    head = AttributeDecoder(10, 1, 2, 1, cosine=True).head
    with torch.no_grad():
        head.weight.copy_(weight[None])
    assert head(vector.expand(1, 1, 2)).item() == pytest.approx(0.8)
    ldam = LDAMLoss([0.2] * 5, pos_weight=4.0, weight_from=2)
    loss, targets = TokenLoss(ldam, WeightedBCELoss()), (torch.rand(6, 5) < 0.5).float()
    early = loss(decoder(tokens), targets)
    loss.set_epoch(2)
    assert ldam.epoch == 2
    assert loss(decoder(tokens), targets) != early
    TokenLoss(WeightedBCELoss()).set_epoch(1)  # one that does not want to know


def test_attention_learns_to_point():
    """A world of 16 places: what decides an attribute stands at one of them, and keys must find it."""
    generator = torch.Generator().manual_seed(0)
    signs = 5 * torch.linalg.qr(torch.randn(10, 4, generator=generator)).Q.T

    def world(images: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        tokens = torch.randn(images, 16, 10, generator=generator)
        targets = (torch.rand(images, 4, generator=generator) < 0.4).float()
        places = torch.rand(images, 16, generator=generator).argsort(1)[:, :4]
        regions = (
            F.one_hot(places, 16).reshape(images, 4, 4, 4).bool() & targets.bool()[:, :, None, None]
        )
        return (
            tokens + torch.einsum("nap,na,ad->npd", F.one_hot(places, 16).float(), targets, signs),
            targets,
            regions,
        )

    decoder = PointingDecoder(10, 4, 16, 2, tokens=16)
    optimizer, loss = torch.optim.Adam(decoder.parameters(), 1e-2), TokenLoss(WeightedBCELoss())
    for _ in range(200):
        tokens, targets, _ = world(64)
        optimizer.zero_grad()
        loss(decoder(tokens), targets).backward()
        optimizer.step()
    tokens, targets, regions = world(300)
    logits = decoder.eval()(tokens, record=True)
    assert ((logits > 0) == targets.bool()).float().mean() > 0.9
    points = pointing_game(decoder.last_attn_weights.unflatten(2, (4, 4)), regions).nanmean()
    assert points > 0.8
    assert chance_of_pointing(regions, (4, 4)).nanmean() < 0.1


def test_tokens_hear_each_other_only_when_they_are_mixed():
    torch.manual_seed(0)
    images = torch.rand(1, 3, 56, 56)
    changed = images.clone()
    changed[..., :18, :18] = torch.rand(1, 3, 18, 18)  # a corner
    for extractor, reaches in ((TokenExtractor(16), False), (MixedTokenExtractor(16), True)):
        extractor = awake(extractor)
        moved = (extractor(images) - extractor(changed)).abs().amax(-1)[0].reshape(7, 7)
        assert moved[0, 0] > 1e-4
        assert bool(moved[6, 6] > 1e-4) == reaches
