"""Many binary attributes from image tokens: one learnable query an attribute, and what lets its
attention point.
"""

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn

from ..shapes import Float
from ..world.population import ATTRIBUTES
from .attention import VisualizableCrossAttention, check_width
from .inference import evaluating, in_chunks, to_model
from .static import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    StaticFeatureExtractor,
    check_images,
    resize,
    to_tokens,
)

__all__ = [
    "AttributeDecoder",
    "AttributeModel",
    "FinePointingDecoder",
    "FineTokenExtractor",
    "MixedTokenExtractor",
    "NetworkTokens",
    "PointingDecoder",
    "ResidualBlock",
    "TokenExtractor",
    "pool_over_tokens",
]

Logits = Float[Tensor, "batch attributes"]


def _convolution(before: int, after: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, size, stride, (size - stride) // 2, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside a skip connection: each place sees two places further. He et al.,
    arXiv 1512.03385.

    It starts as the identity on what is positive, because the last batch norm starts at 0 (arXiv
    1706.02677).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            _convolution(channels, channels, 3),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        nn.init.zeros_(self.layers[-1].weight)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        return F.relu(x + self.layers(x))


class TokenExtractor(nn.Module):
    """Face images in [0, 1] to 7×7 tokens that see 18 of 56 pixels each, and 32 more with each of
    the `blocks`.

    A token that sees the whole image may tell what lies anywhere; one that sees a patch can only
    tell what is there, so attention to it is a place. Strided kernels have even sides, because odd
    ones would look half a token up and left of their place. Brendel and Bethge, arXiv 1904.00760.
    """

    pixels = 56  # the sides of the images that it takes; others are resized

    def __init__(self, token_dim: int = 96, blocks: int = 0):
        super().__init__()
        self.token_dim, self.blocks = token_dim, blocks
        self.layers = nn.Sequential(
            _convolution(3, 16, 4, stride=2),
            _convolution(16, 24, 3),
            _convolution(24, 48, 4, stride=2),
            _convolution(48, 48, 1),
            _convolution(48, token_dim, 2, stride=2),
            _convolution(token_dim, token_dim, 1),
            *(ResidualBlock(token_dim) for _ in range(blocks)),
        )

    def tokens(
        self, images: Tensor, chunk: int | None = None
    ) -> Float[Tensor, "batch tokens channels"]:
        """One token per place, row by row, of images of any size; `chunk` at a time without
        gradients if given.
        """
        return in_chunks(self, self.forward, images, chunk)

    def forward(self, images: Tensor) -> Float[Tensor, "batch tokens channels"]:
        check_images(images)
        if images.shape[-2:] != (self.pixels, self.pixels):
            images = resize(images, self.pixels)
        return to_tokens(
            self.layers((2 * images - 1).contiguous(memory_format=torch.channels_last))
        )


class FineTokenExtractor(TokenExtractor):
    """Face images in [0, 1] to 14×14 tokens that see 28 of 112 pixels each: a quarter of the image,
    where the 7×7 tokens of a `TokenExtractor` see a third.

    The first kernel has stride 4 and the last has side 1, so that four times the places do not take
    four times as long.
    """

    pixels = 112

    def __init__(self, token_dim: int = 96):
        super().__init__(token_dim)
        self.layers = nn.Sequential(
            _convolution(3, 16, 8, stride=4),
            _convolution(16, 24, 3),
            _convolution(24, 48, 4, stride=2),
            _convolution(48, 48, 1),
            _convolution(48, token_dim, 1),
            _convolution(token_dim, token_dim, 1),
        )


class MixedTokenExtractor(TokenExtractor):
    """The same tokens after `layers` of self-attention, as in a vision transformer.

    After that a token may hold what was seen anywhere, and attention to it is a place no more.
    """

    def __init__(self, token_dim: int = 96, layers: int = 2, heads: int = 4):
        super().__init__(token_dim)
        self.positions = nn.Parameter(0.02 * torch.randn(49, token_dim))
        layer = nn.TransformerEncoderLayer(
            token_dim,
            heads,
            2 * token_dim,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.mix = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, images: Tensor) -> Float[Tensor, "batch 49 channels"]:
        return self.mix(super().forward(images) + self.positions)


class NetworkTokens(TokenExtractor):
    """Face images in [0, 1] to 7×7 tokens of any network that makes a map of features, brought to
    `token_dim` numbers each by one linear layer.

    `network` takes normalised images of `pixels` a side and gives `batch channels 7 7`. Where timm
    is installed: `NetworkTokens(timm.create_model("resnet50", pretrained=True, num_classes=0,
    global_pool=""), 224)`. Raises ValueError for a network that gives another shape.
    """

    def __init__(self, network: nn.Module, pixels: int, token_dim: int = 96):
        nn.Module.__init__(self)
        self.network, self.pixels, self.token_dim, self.blocks = network, pixels, token_dim, 0
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        (blank,) = to_model(network, torch.zeros(1, 3, pixels, pixels))
        with evaluating(network), torch.no_grad():
            shape = tuple(network(blank).shape)
        if len(shape) != 4 or shape[2:] != (7, 7):
            raise ValueError(
                f"the network turns images of {pixels} pixels into {shape}; expected a map of"
                " features (1, channels, 7, 7), so leave its pooling and classifier out, or give"
                " other pixels"
            )
        self.project = nn.Conv2d(shape[1], token_dim, 1).to(blank.device)

    def forward(self, images: Tensor) -> Float[Tensor, "batch 49 channels"]:
        check_images(images)
        if images.shape[-2:] != (self.pixels, self.pixels):
            images = resize(images, self.pixels)
        return to_tokens(self.project(self.network((images - self.mean) / self.std)))


class AttributeHead(nn.Module):
    """A linear classifier for each attribute, `attributes dim` in and one logit an attribute out.

    Each has weights of its own: a shared `Linear(dim, 1)` would force all classifiers to be the
    same.
    """

    def __init__(self, attributes: int, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(attributes, dim) / math.sqrt(dim))
        self.bias = nn.Parameter(torch.zeros(attributes))

    def forward(self, attended: Float[Tensor, "batch attributes dim"]) -> Logits:
        return (
            einsum(
                attended, self.weight, "batch attributes dim, attributes dim -> batch attributes"
            )
            + self.bias
        )


class CosineHead(AttributeHead):
    """The same with cosines of angle for logits, between -1 and 1, where the margin of `LDAMLoss`
    means something.
    """

    def forward(self, attended: Float[Tensor, "batch attributes dim"]) -> Logits:
        return F.cosine_similarity(attended, self.weight, dim=-1)


class DecoderLayer(nn.Module):
    """Each query attends to the tokens, then passes an MLP by itself: queries exchange nothing."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.query_norm = nn.LayerNorm(dim)
        self.attention = VisualizableCrossAttention(dim, dim, dim, heads, record=False)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
        )

    def forward(
        self,
        queries: Float[Tensor, "batch attributes dim"],
        keys: Float[Tensor, "batch tokens dim"],
        values: Float[Tensor, "batch tokens dim"],
        record: bool | None = None,
    ) -> Float[Tensor, "batch attributes dim"]:
        queries = queries + self.attention(self.query_norm(queries), keys, values, record=record)
        return queries + self.feed_forward(queries)


class AttributeDecoder(nn.Module):
    """Image tokens to a logit for each attribute: a learnable query an attribute, cross-attention,
    a classifier each.

    Queries do not attend to each other, as in Query2Label (arXiv 2107.10834) without its
    self-attention. Where tokens see the whole image, nothing makes it look where the answer is:
    score its maps before reading them. `cosine` is what `LDAMLoss` needs. Takes cached tokens, or
    is the second half of an `AttributeModel`. Derived in lesson 09.
    """

    def __init__(
        self,
        token_dim: int = 2048,
        attributes: int = len(ATTRIBUTES),
        dim: int = 96,
        heads: int = 4,
        layers: int = 1,
        cosine: bool = False,
        tokens: int = 49,
    ):
        super().__init__()
        self.token_dim = token_dim
        self.project = nn.Sequential(
            nn.LayerNorm(token_dim), nn.Linear(token_dim, dim), nn.LayerNorm(dim)
        )
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, dim))
        self.queries = nn.Parameter(0.3 * torch.randn(attributes, dim))
        self.layers = nn.ModuleList(DecoderLayer(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.head = (CosineHead if cosine else AttributeHead)(attributes, dim)

    def forward(self, tokens: Tensor, record: bool | None = None) -> Logits:
        """Logits from `batch tokens token_dim`; with `record`, `last_attn_weights` keeps where each
        query looked.

        Raises ValueError for tokens of another number or width than the decoder was built for.
        """
        values = self.project(self._checked(tokens))
        return self.decode(values + self.positions, values, record)

    def decode(
        self,
        keys: Float[Tensor, "batch tokens dim"],
        values: Float[Tensor, "batch tokens dim"],
        record: bool | None = None,
    ) -> Logits:
        """Logits from cross-attention of the learned queries to keys and values."""
        queries = self.queries.repeat(keys.shape[0], 1, 1)
        for layer in self.layers:
            queries = layer(queries, keys, values, record)
        return self.head(self.norm(queries))

    @property
    def last_attn_weights(self) -> Float[Tensor, "batch attributes tokens"] | None:
        """Where each attribute's query looked in the last layer, the mean over heads; None unless
        it was recorded.
        """
        weights = self.layers[-1].attention.last_attn_weights
        return None if weights is None else weights.mean(1)

    def example_inputs(self, batch: int = 8) -> tuple[Float[Tensor, "batch tokens token_dim"]]:
        """Blank tokens of the shape that the decoder takes, to measure it with."""
        return (self.queries.new_zeros(batch, len(self.positions), self.token_dim),)

    def _checked(self, tokens: Tensor) -> Tensor:
        check_width("tokens", tokens, "token_dim", self.token_dim)
        if tokens.ndim != 3 or tokens.shape[1] != len(self.positions):
            raise ValueError(
                f"tokens have the shape {tuple(tokens.shape)} and the decoder has positions for"
                f" {len(self.positions)} tokens an image; give batch tokens token_dim, or build it"
                f" with tokens={tokens.shape[-2]}"
            )
        return tokens


class PointingDecoder(AttributeDecoder):
    """An `AttributeDecoder` built to point: keys know the surroundings, values only their own
    place.

    Two convolutional blocks over the grid of tokens make the keys, so a query can look for "the
    mouth, which is under the nose"; what it then gets comes from that place alone. A classifier on
    every token teaches the values what to say: while training, the decoder returns the logits and,
    for `TokenLoss`, those of the tokens together. Needs tokens that see little, as
    `TokenExtractor()` makes them. Used in lesson 10.
    """

    def __init__(
        self,
        token_dim: int = 96,
        attributes: int = len(ATTRIBUTES),
        dim: int = 96,
        heads: int = 4,
        layers: int = 1,
        cosine: bool = False,
        tokens: int = 49,
    ):
        super().__init__(token_dim, attributes, dim, heads, layers, cosine, tokens)
        self.side = math.isqrt(tokens)
        if self.side**2 != tokens:
            raise ValueError(
                f"{tokens} tokens are no square grid, and keys need one to know their surroundings;"
                f" choose a square number such as {self.side**2}"
            )
        self.context = nn.Sequential(ResidualBlock(dim), ResidualBlock(dim))
        self.key_norm = nn.LayerNorm(dim)
        self.token_classifier = nn.Linear(dim, attributes)
        # most tokens hold nothing of most attributes
        nn.init.constant_(self.token_classifier.bias, -2.0)

    def forward(self, tokens: Tensor, record: bool | None = None) -> Logits | tuple[Logits, Logits]:
        """Logits from `batch tokens token_dim`; while training, a pair of these and the pooled
        logits of the tokens.
        """
        values = self.project(self._checked(tokens))
        logits = self.decode(self.keys_of(values), values, record)
        return (logits, self.pooled_logits(values)) if self.training else logits

    def pooled_logits(self, values: Float[Tensor, "batch tokens dim"]) -> Logits:
        """What the tokens say by themselves, for `TokenLoss`."""
        return pool_over_tokens(self.token_classifier(values))

    def keys_of(
        self, values: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """What the queries are compared with: the surroundings of each token, and its position."""
        grid = rearrange(
            values, "batch (height width) dim -> batch dim height width", height=self.side
        )
        return self.key_norm(to_tokens(self.around(grid))) + self.positions

    def around(
        self, grid: Float[Tensor, "batch dim height width"]
    ) -> Float[Tensor, "batch dim height width"]:
        """What surrounds each place."""
        return self.context(grid)


class FinePointingDecoder(PointingDecoder):
    """A `PointingDecoder` for a fine grid of tokens, as `FineTokenExtractor()` makes them.

    Its keys learn their surroundings on a grid of half as many rows and columns, where two blocks
    reach as far over the image as they do in a `PointingDecoder` at the same cost; each key adds
    what its own place and its neighbours hold, channel by channel. Raises ValueError for a grid
    that cannot be halved.
    """

    def __init__(
        self,
        token_dim: int = 96,
        attributes: int = len(ATTRIBUTES),
        dim: int = 96,
        heads: int = 4,
        layers: int = 1,
        cosine: bool = False,
        tokens: int = 196,
    ):
        super().__init__(token_dim, attributes, dim, heads, layers, cosine, tokens)
        if self.side % 2:
            raise ValueError(
                f"{tokens} tokens are {self.side} rows, and keys need an even number of them to"
                " know their surroundings; choose tokens=196, or a PointingDecoder"
            )
        self.neighbours = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        nn.init.zeros_(self.neighbours.weight)  # a key starts with the surroundings alone

    def around(
        self, grid: Float[Tensor, "batch dim height width"]
    ) -> Float[Tensor, "batch dim height width"]:
        """Each place with its neighbours, and what surrounds them."""
        surroundings = self.context(F.avg_pool2d(grid, 2))
        return self.neighbours(grid) + F.interpolate(surroundings, scale_factor=2)  # nearest


def pool_over_tokens(
    logits: Float[Tensor, "batch tokens attributes"], sharpness: float = 2.0
) -> Logits:
    """One logit an image from those of its tokens, between their mean and their maximum:
    log-sum-exp.

    A few sure tokens are enough, and the gradient goes to them most. Pinheiro and Collobert, arXiv
    1411.6228. Derived in lesson 09.
    """
    return (torch.logsumexp(sharpness * logits, dim=1) - math.log(logits.shape[1])) / sharpness


class AttributeModel(nn.Module):
    """Face images to attributes: tokens of a backbone, then a decoder on them.

    `backbone` is a `StaticFeatureExtractor`, whose tokens see the whole image, or a
    `TokenExtractor`.
    """

    def __init__(
        self, backbone: StaticFeatureExtractor | TokenExtractor, decoder: AttributeDecoder
    ):
        super().__init__()
        self.backbone, self.decoder = backbone, decoder

    def forward(self, images: Tensor, record: bool | None = None) -> Logits | tuple[Logits, Logits]:
        """What the decoder makes of images `batch 3 height width` in [0, 1]."""
        return self.decoder(self.backbone.tokens(images), record)

    def attention_maps(
        self, images: Tensor, chunk: int = 100
    ) -> Float[Tensor, "batch attributes rows columns"]:
        """Where each attribute's query looks, the mean over the last layer's heads, `chunk` images
        at a time.
        """

        def attribute_maps_of(part: Tensor) -> Tensor:
            self(part, record=True)
            weights = self.decoder.last_attn_weights
            return rearrange(
                weights,
                "batch attributes (rows columns) -> batch attributes rows columns",
                rows=math.isqrt(weights.shape[-1]),
            )

        return in_chunks(self, attribute_maps_of, images, chunk)

    def example_inputs(self, batch: int = 1) -> tuple[Float[Tensor, "batch 3 112 112"]]:
        """Blank faces, to measure the model with."""
        return (self.decoder.queries.new_zeros(batch, 3, 112, 112),)
