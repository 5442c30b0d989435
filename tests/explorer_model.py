"""A small seeded model and data set that the explorer's tests and benches share."""

import torch
from torch import nn

from course_lib.analysis.explorer import AttentionExplorer, ImbalanceAwareAttentionExplorer
from course_lib.data import FaceDataset
from course_lib.data.population import CELEBA_RATES
from course_lib.models import AttributeDecoder, AttributeModel, TokenExtractor


class Patches(TokenExtractor):
    """Images cut into `side` × `side` patches, each a linear token."""

    def __init__(self, side, dim):
        nn.Module.__init__(self)
        self.pool, self.project, self.token_dim = nn.AdaptiveAvgPool2d(2 * side), nn.Conv2d(3, dim, 2, 2), dim

    def forward(self, images):
        return self.project(self.pool(images)).flatten(2).transpose(1, 2)


def small_model(side=7, attributes=33, layers=2, heads=3, seed=0):
    torch.manual_seed(seed)
    dim = 8 * heads
    model = AttributeModel(Patches(side, dim), AttributeDecoder(dim, attributes, dim, heads, layers, tokens=side**2))
    with torch.no_grad():                                    # sharper than at the start of training
        for layer in model.decoder.layers:
            layer.attention.to_query.weight *= 40
    return model


def small_explorer(n=24, aware=True, **options):
    model, faces = small_model(), FaceDataset(n, "test", size=56)
    return ImbalanceAwareAttentionExplorer(model, faces, CELEBA_RATES, **options) if aware \
        else AttentionExplorer(model, faces, **options)
