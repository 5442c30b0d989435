"""Small seeded models and data sets that the explorer's tests and benches share."""

import torch
import torch.nn.functional as F
from torch import nn

from course_lib.data import ClipDataset, FaceDataset
from course_lib.explorer import (
    AttentionExplorer,
    ImbalanceAwareAttentionExplorer,
    PersonalityExplorer,
)
from course_lib.models import (
    AttributeDecoder,
    AttributeModel,
    DynamicFeatureExtractor,
    EndToEndPersonalityModel,
    StaticFeatureExtractor,
    TokenExtractor,
    TokenPersonalityModel,
)
from course_lib.world import CELEBA_RATES


class Patches(TokenExtractor):
    """Images cut into `side` × `side` patches, each a linear token."""

    def __init__(self, side, dim):
        nn.Module.__init__(self)
        self.pool, self.project, self.token_dim = (
            nn.AdaptiveAvgPool2d(2 * side),
            nn.Conv2d(3, dim, 2, 2),
            dim,
        )

    def forward(self, images):
        return self.project(self.pool(images)).flatten(2).transpose(1, 2)


def small_model(side=7, attributes=33, layers=2, heads=3, seed=0):
    torch.manual_seed(seed)
    dim = 8 * heads
    model = AttributeModel(
        Patches(side, dim), AttributeDecoder(dim, attributes, dim, heads, layers, tokens=side**2)
    )
    with torch.no_grad():  # sharper than at the start of training
        for layer in model.decoder.layers:
            layer.attention.to_query.weight *= 40
    return model


def small_explorer(n=24, aware=True, **options):
    model, faces = small_model(), FaceDataset(n, "test", size=56)
    return (
        ImbalanceAwareAttentionExplorer(model, faces, CELEBA_RATES, **options)
        if aware
        else AttentionExplorer(model, faces, **options)
    )


class Faces(StaticFeatureExtractor):
    """49 places of a face, each a token of its colours."""

    def __init__(self):
        nn.Module.__init__(self)
        self.frozen = ()

    def tokens(self, images):
        return (
            F.adaptive_avg_pool2d(images, 14)
            .unfold(2, 2, 2)
            .unfold(3, 2, 2)
            .permute(0, 2, 3, 1, 4, 5)
            .flatten(3)
            .flatten(1, 2)
        )


class Motions(DynamicFeatureExtractor):
    """A token for each four frames of flow."""

    def __init__(self):
        nn.Module.__init__(self)

    def tokens(self, flow):
        return (
            F.adaptive_avg_pool3d(flow.permute(0, 4, 1, 2, 3), (flow.shape[1] // 4, 4, 4))
            .permute(0, 2, 1, 3, 4)
            .flatten(2)
        )


def small_personality_model(seed=0):
    torch.manual_seed(seed)
    model = EndToEndPersonalityModel(Faces(), Motions(), TokenPersonalityModel(12, 32, 16, 2))
    with torch.no_grad():
        model.model.cross_attention.attention.to_query.weight *= 20
    return model.eval()


def small_clips(n=4, **options):
    return PersonalityExplorer(
        small_personality_model(), ClipDataset(n, "test", size=48, method="true", **options)
    )
