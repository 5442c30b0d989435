"""What the models refuse, and that the sentence names the value and a remedy."""

from functools import cache

import pytest
import torch
import torchvision
from refusals import each, refused
from torch import nn

from course_lib.models import (
    AttributeDecoder,
    CompletePersonalityModel,
    CrossAttention,
    DynamicFeatureExtractor,
    FinePointingDecoder,
    PartPipeline,
    PartTransformer,
    PointingDecoder,
    StaticFeatureExtractor,
    TokenCrossAttention,
    TokenExtractor,
    TokenPersonalityModel,
    VisualizableCrossAttention,
    attribute_head,
    course_personality_model,
    freeze_first,
    inflate,
)

SMALL = {"token_dim": 10, "attributes": 5, "dim": 8, "heads": 2, "layers": 2, "tokens": 9}
static = cache(lambda: StaticFeatureExtractor(weights=None).eval())
dynamic = cache(lambda: DynamicFeatureExtractor(weights=None).eval())
pipeline = cache(
    lambda: PartPipeline(PartTransformer(16, 2, dim=32, blocks=2, heads=2, photograph=32))
)
tokens = TokenPersonalityModel(static_dim=10, dynamic_dim=6, fusion_dim=8, num_heads=2)
PAIR = torch.rand(3, 32, 64)

REFUSED = {
    "from 0 to 53": lambda: StaticFeatureExtractor(weights=None, freeze=54),
    "resnet51 … resnet50": lambda: StaticFeatureExtractor(backbone="resnet51", weights=None),
    "112 or 224": lambda: StaticFeatureExtractor(weights=None, image_size=128),
    "image_size=224": lambda: StaticFeatureExtractor(backbone="resnet18", weights=None),
    "hold a resnet50": lambda: StaticFeatureExtractor(backbone="resnet18", image_size=224),
    "-1 … from 0 to 20": lambda: freeze_first(torchvision.models.resnet18(), -1),
    "21 … from 0 to 20": lambda: freeze_first(torchvision.models.resnet18(), 21),
    "features of another extractor": lambda: attribute_head(static()),
    "of another extractor": lambda: attribute_head(StaticFeatureExtractor(feature_dim=8)),
    "no rule for inflation": lambda: inflate(nn.Sequential(nn.ReLU(), nn.LPPool2d(2, 2))),
    "ConvTranspose2d": lambda: inflate(nn.ConvTranspose2d(1, 1, 3)),
    "padding=same": lambda: inflate(nn.Conv2d(1, 1, 3, padding="same")),
    "padding_mode": lambda: inflate(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")),
    "'replicate' or 'zeros'": lambda: inflate(nn.Conv2d(1, 1, 3), padding="reflect"),
    "8 heads … query_dim=20": lambda: VisualizableCrossAttention(20, 20, 20),
    "4 heads … query_dim=10": lambda: AttributeDecoder(dim=10, heads=4),
    "queries for 1 items and keys for 3": lambda: VisualizableCrossAttention(8, 8, 8, 2)(
        torch.randn(1, 4, 8), torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    ),
    "static is 2048 wide … static_dim=512 … nn.Linear(2048, 512)": lambda: CrossAttention()(
        torch.randn(2, 2048), torch.randn(2, 256)
    ),
    "dynamic is 1024 wide … dynamic_dim=256 … nn.Linear(1024, 256)": lambda: CrossAttention()(
        torch.randn(2, 512), torch.randn(2, 1024)
    ),
    "face_tokens … static_dim=512 … nn.Linear(512, 2048)": lambda: TokenCrossAttention(2048, 1024)(
        torch.randn(2, 49, 512), torch.randn(2, 8, 1024)
    ),
    "motion_tokens … dynamic_dim=64": lambda: TokenCrossAttention(2048, 1024)(
        torch.randn(2, 49, 2048), torch.randn(2, 8, 64)
    ),
    "motion_tokens is 512 wide … dynamic_dim=512": lambda: TokenPersonalityModel()(
        torch.randn(2, 49, 2048), torch.randn(2, 8, 512)
    ),
    "batch of 1 … drop_last … model.eval()": lambda: CompletePersonalityModel()(
        torch.randn(1, 512), torch.randn(1, 256)
    ),
    "a batch of 1": lambda: tokens(torch.randn(1, 7, 10), torch.randn(1, 4, 6)),
    "another static extractor": lambda: course_personality_model(
        static(), DynamicFeatureExtractor()
    ),
    "another dynamic extractor": lambda: course_personality_model(
        StaticFeatureExtractor(), dynamic()
    ),
    "7 wide … token_dim": lambda: AttributeDecoder(**SMALL)(torch.rand(2, 9, 7)),
    "build it with tokens=16": lambda: AttributeDecoder(**SMALL)(torch.rand(2, 16, 10)),
    "give batch tokens token_dim": lambda: PointingDecoder(**SMALL)(torch.rand(9, 10)),
    "50 tokens are no square grid": lambda: PointingDecoder(tokens=50),
    "49 tokens are 7 rows": lambda: FinePointingDecoder(tokens=49),
    "(3, 56, 56); expected batch 3": lambda: TokenExtractor().tokens(torch.rand(3, 56, 56)),
    "images.float() / 255": lambda: TokenExtractor().tokens(torch.zeros(1, 3, 56, 56).byte()),
    "photograph=60 into cells": lambda: PartTransformer(photograph=60),
    "size=64 … 3×3 patches": lambda: PartTransformer(size=64, grid=3),
    "32×32 px … two photographs of 32×32": lambda: pipeline()(torch.rand(3, 32, 32)),
    "expected batch 3 height width": lambda: pipeline()(torch.rand(2, 1, 32, 32)),
    "expected numbers in [0, 1]": lambda: pipeline()(255 * PAIR),
    "expected floats": lambda: pipeline()(PAIR.byte()),
    "unknown part 'ears'": lambda: pipeline()(PAIR, 1)["ears"],
    "num_inference_steps is 0 … from 1 on": lambda: pipeline()(PAIR, num_inference_steps=0),
    "num_inference_steps is 2.5": lambda: pipeline()(PAIR, num_inference_steps=2.5),
    "callback_steps is 0": lambda: pipeline()(PAIR, callback_steps=0),
    "callback(step, timestep, latents) … too many": lambda: pipeline()(
        PAIR, callback=lambda step: None
    ),
    "a required argument: 'extra'": lambda: pipeline()(
        PAIR, callback=lambda step, timestep, latents, extra: None
    ),
}


@each(REFUSED)
def test_one_sentence_names_what_is_wrong(words, call):
    refused(words, call)


IMAGES = {
    "/ 255": torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
    "255": torch.full((1, 3, 8, 8), 255.0),
    "-0.5": torch.full((1, 3, 8, 8), -0.5),
    "nan": torch.full((1, 3, 8, 8), float("nan")),
    "(1, 4, 8, 8)": torch.zeros(1, 4, 8, 8),
    "batch axis": torch.zeros(3, 8, 8),
    "empty": torch.zeros(0, 3, 8, 8),
}
FLOWS = {
    "batch frames height width 2": torch.zeros(1, 2, 16, 32, 32),
    "batch axis": torch.zeros(16, 32, 32, 2),
    "uint8": torch.zeros(1, 16, 32, 32, 2, dtype=torch.uint8),
    "empty": torch.zeros(0, 16, 32, 32, 2),
    "finite": torch.full((1, 16, 32, 32, 2), float("nan")),
    "inf": torch.full((1, 16, 32, 32, 2), float("inf")),
    "2 frames": torch.zeros(1, 2, 32, 32, 2),
    "u and v": torch.zeros(1, 16, 32, 32, 3),
}


@pytest.mark.parametrize("method", ["forward", "tokens"])
@pytest.mark.parametrize(("words", "images"), IMAGES.items(), ids=list(IMAGES))
def test_bad_images_get_one_sentence(words, images, method):
    refused(words, getattr(static(), method), images)


@pytest.mark.parametrize("method", ["forward", "tokens", "space_time_tokens"])
@pytest.mark.parametrize(("words", "flow"), FLOWS.items(), ids=list(FLOWS))
def test_bad_flow_gets_one_sentence(words, flow, method):
    refused(words, getattr(dynamic(), method), flow)
