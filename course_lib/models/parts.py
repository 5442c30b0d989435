"""A generative model of a face's parts: a small transformer that turns noise into the layers of one
of two people while it looks at the photographs of both.

Rectified flow (Liu et al., arXiv 2209.03003): at time 0 the layers are noise, at time 1 they are
clean, on a straight line in between. Derived in lesson 13.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from torch import Tensor, nn

from ..data.drawn import Layers
from ..shapes import Float
from ..world.layers import PARTS, part_index
from .attention import VisualizableCrossAttention
from .backbones import fill, read_weights
from .inference import evaluating, to_model
from .static import check_images

__all__ = [
    "DRAWN",
    "LAYERS",
    "AdaptiveNorm",
    "ImageEncoder",
    "PairEncoder",
    "PartBlock",
    "PartLayers",
    "PartPipeline",
    "PartTransformer",
    "as_strip",
    "course_part_transformer",
    "drawn_layers",
    "euler_step",
    "part_attention",
    "shifted_time",
    "wave_positions",
    "wave_time",
    "with_side",
]


DRAWN = ("skin", "hair", "eyes", "glasses", "mouth", "hat")  # the parts that the model draws
LAYERS = (*DRAWN, "left")  # and a layer that is full if the person on the left is drawn, else empty
SHIFT = 8.0  # of the times of the steps towards the noise
PEOPLE = 2  # photographs side by side; the layers are those of one of the two people


# ---- the model -----------------------------------------------------------------------------------
def wave_positions(side: int, dim: int) -> Float[Tensor, "tokens dim"]:
    """Where the tokens of a grid lie in the image, as waves: grids of any fineness share one
    measure of place.
    """
    rates = torch.logspace(math.log10(1.6), math.log10(22), dim // 4)  # radians an image height
    waves = torch.outer((torch.arange(side) + 0.5) / side, rates)
    line = torch.cat([waves.sin(), waves.cos()], 1)
    down, across = line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)
    return torch.cat([down, across], 2).flatten(0, 1)


def wave_time(time: Float[Tensor, " batch"], dim: int = 64) -> Float[Tensor, "batch dim"]:
    """A number in [0, 1] as waves, from slow to fast."""
    waves = torch.outer(time.float(), torch.logspace(-1, 2, dim // 2, device=time.device))
    return torch.cat([waves.sin(), waves.cos()], 1).to(time.dtype)


class AdaptiveNorm(nn.Module):
    """Layer norm whose scale and shift depend on the time: Peebles and Xie, arXiv 2212.09748.

    It starts as a plain layer norm, because what it adds starts at 0.
    """

    def __init__(self, dim: int, time_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = nn.Linear(time_dim, 2 * dim)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], time: Float[Tensor, "batch time_dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        scale, shift = self.modulation(time)[:, None].chunk(2, dim=-1)
        return self.norm(x) * (1 + scale) + shift


class ResidualConvolution(nn.Module):
    """Two 3×3 convolutions beside a skip connection."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        return x + self.layers(x)


class ImageEncoder(nn.Module):
    """Face images in [0, 1] to one token for each 8×8 pixels; coarser grids tell it what it is a
    part of.
    """

    def __init__(self, dim: int, channels: int = 32):
        super().__init__()
        self.fine = nn.Sequential(
            nn.Conv2d(3, channels // 2, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(channels // 2, channels, 4, 2, 1),
            ResidualConvolution(channels),
        )
        self.coarse = nn.Sequential(
            nn.Conv2d(channels, channels, 2, 2), ResidualConvolution(channels)
        )
        self.coarsest = nn.Sequential(
            nn.Conv2d(channels, channels, 2, 2),
            ResidualConvolution(channels),
            ResidualConvolution(channels),
        )
        self.merge_coarse, self.merge_fine = (
            ResidualConvolution(channels),
            ResidualConvolution(channels),
        )
        self.project = nn.Conv2d(channels, dim, 2, 2)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch tokens dim"]:
        fine = self.fine((4 * image - 2).contiguous(memory_format=torch.channels_last))
        coarse = self.coarse(fine)
        coarse = self.merge_coarse(coarse + F.interpolate(self.coarsest(coarse), scale_factor=2.0))
        fine = self.merge_fine(fine + F.interpolate(coarse, scale_factor=2.0))
        return self.norm(
            rearrange(self.project(fine), "batch dim rows columns -> batch (rows columns) dim")
        )


class PairEncoder(nn.Module):
    """Two photographs side by side to one token for each 8×8 pixels, row by row over both; each
    token has in it whether it is of the left or of the right one.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.photograph = ImageEncoder(dim)
        self.side = nn.Parameter(0.5 * torch.randn(PEOPLE, 1, dim))

    def forward(
        self, pair: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch keys dim"]:
        photographs = rearrange(
            pair,
            "batch rgb height (people width) -> (batch people) rgb height width",
            people=PEOPLE,
        )
        return self.side_by_side(self.photograph(photographs))

    def side_by_side(
        self, tokens: Float[Tensor, "photographs tokens dim"]
    ) -> Float[Tensor, "batch keys dim"]:
        """Tokens of single photographs, two and two."""
        tokens = rearrange(
            tokens, "(batch people) tokens dim -> batch people tokens dim", people=PEOPLE
        )
        return as_strip(tokens + self.side)


def as_strip(
    tokens: Float[Tensor, "batch people tokens dim"],
) -> Float[Tensor, "batch keys dim"]:
    """Two square grids side by side as one, row by row over both."""
    return rearrange(
        tokens,
        "batch people (rows columns) dim -> batch (rows people columns) dim",
        rows=math.isqrt(tokens.shape[2]),
    )


class PartBlock(nn.Module):
    """Part tokens attend to each other, then to the image, then an MLP works on each by itself."""

    def __init__(self, dim: int, heads: int, time_dim: int):
        super().__init__()
        self.norms = nn.ModuleList(AdaptiveNorm(dim, time_dim) for _ in range(3))
        self.self_attention = VisualizableCrossAttention(dim, dim, dim, heads, record=False)
        self.cross_attention = VisualizableCrossAttention(dim, dim, dim, heads, record=False)
        # Queries and keys begin as the same projection: each token first looks at its own place.
        nn.init.orthogonal_(self.cross_attention.to_query.weight, gain=1.6)
        self.cross_attention.to_key.weight.data.copy_(self.cross_attention.to_query.weight)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
        )

    def forward(
        self,
        x: Float[Tensor, "batch queries dim"],
        place: Float[Tensor, "queries dim"],
        keys: Float[Tensor, "batch keys dim"],
        values: Float[Tensor, "batch keys dim"],
        time: Float[Tensor, "batch time_dim"],
    ) -> Float[Tensor, "batch queries dim"]:
        h = self.norms[0](x, time)
        x = x + self.self_attention(h, h, h)
        x = x + self.cross_attention(self.norms[1](x, time) + place, keys, values)
        return x + self.feed_forward(self.norms[2](x, time))


class PartTransformer(nn.Module):
    """Noisy layers, a time and the tokens of two photographs to the logits of clean layers, those of
    *one* of the two people.

    Each part has `grid`² tokens. What the model adds to is `base`, the logits of the mean layer.
    Derived in lesson 13.
    """

    def __init__(
        self,
        size: int = 32,
        grid: int = 4,
        dim: int = 80,
        blocks: int = 3,
        heads: int = 4,
        parts: int = len(LAYERS),
        photograph: int = 64,
    ):
        super().__init__()
        if size % grid or photograph % 16:
            raise ValueError(
                f"size={size} does not divide into {grid}×{grid} patches, or"
                f" photograph={photograph} into cells of 16 px; choose multiples, for example"
                " size=32, grid=4, photograph=64"
            )
        time_dim, patch = 64, size // grid
        self.size, self.grid, self.parts, self.photograph = size, grid, parts, photograph
        self.encoder = PairEncoder(dim)
        self.segment = nn.Linear(dim, len(DRAWN) * (8 * size // photograph) ** 2)
        self.read = nn.Linear(patch * patch, dim)
        self.part = nn.Parameter(0.3 * torch.randn(parts, 1, dim))
        self.time = nn.Sequential(
            nn.Linear(64, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim), nn.SiLU()
        )
        self.blocks = nn.ModuleList(PartBlock(dim, heads, time_dim) for _ in range(blocks))
        self.norm = AdaptiveNorm(dim, time_dim)
        self.write = nn.Linear(dim, patch * patch)
        self.register_buffer("base", torch.full((parts, size, size), -3.0))
        self.register_buffer("part_place", wave_positions(grid, dim), persistent=False)
        self.register_buffer("image_place", wave_positions(photograph // 8, dim), persistent=False)

    def forward(
        self,
        layers: Layers,
        time: Float[Tensor, " batch"],
        image_tokens: Float[Tensor, "batch keys dim"],
    ) -> Layers:
        """Logits of the clean layers from noisy ones in [-1, 1], their times in [0, 1], and
        `encoder(pair)`.
        """
        when = self.time(wave_time(time))
        patches = rearrange(
            layers,
            "batch parts (rows down) (columns across) -> batch parts (rows columns) (down across)",
            rows=self.grid,
            columns=self.grid,
        )
        x = self.read(patches) + self.part + self.part_place
        x, place = x.flatten(1, 2), self.part_place.repeat(self.parts, 1)
        keys = image_tokens + as_strip(self.image_place.expand(1, PEOPLE, -1, -1))
        for block in self.blocks:
            x = block(x, place, keys, image_tokens, when)
        return self.base + rearrange(
            self.write(self.norm(x, when)),
            "batch (parts rows columns) (down across) -> batch parts (rows down) (columns across)",
            parts=self.parts,
            rows=self.grid,
            down=self.size // self.grid,
        )

    def segmentation(self, tokens: Float[Tensor, "batch tokens dim"]) -> Layers:
        """What the tokens of one photograph, `encoder.photograph(image)`, know by themselves, as
        logits: how the encoder learns to see before there is a generator.
        """
        cell = 8 * self.size // self.photograph
        return self.base[: len(DRAWN)] + rearrange(
            self.segment(tokens),
            "batch (rows columns) (parts down across) -> batch parts (rows down) (columns across)",
            rows=self.photograph // 8,
            down=cell,
            across=cell,
        )


def course_part_transformer() -> PartTransformer:
    """The shipped model, in evaluation mode. Derived in lesson 13."""
    stored = read_weights("course", "weights/parts.safetensors")
    model = PartTransformer()
    fill(model, stored.tensors, "the course's part transformer")
    return model.eval()


def drawn_layers(layers: Layers, size: int = 32) -> Float[Tensor, "batch drawn rows columns"]:
    """The layers of `PartDataset` as the model draws them: the parts of `DRAWN`, `size` pixels wide."""
    return F.adaptive_avg_pool2d(layers[:, [PARTS.index(part) for part in DRAWN]], size)


def with_side(
    layers: Float[Tensor, "batch drawn rows columns"], left: Float[Tensor, " batch"]
) -> Layers:
    """The layers of a person and one more, which says whether this person is the left one."""
    rows, columns = layers.shape[-2:]
    side = repeat(left, "batch -> batch 1 rows columns", rows=rows, columns=columns)
    return torch.cat([layers, side], 1)


# ---- sampling ------------------------------------------------------------------------------------
def shifted_time(share: Tensor | float, shift: float = SHIFT) -> Tensor | float:
    """The time at which a share of the steps is done: with a `shift` above 1 many steps are early.

    Early is where the choice falls: layers have thousands of pixels, and together they tell one
    person from the other through strong noise. Esser et al., arXiv 2403.03206. Derived in lesson 13.
    """
    return share / (share + shift * (1 - share))


def euler_step(
    layers: Float[Tensor, "*shape"], clean: Float[Tensor, "*shape"], time: float, next_time: float
) -> Float[Tensor, "*shape"]:
    """Go from `time` to `next_time` on the straight line that leads from `layers` to the predicted
    `clean` ones.

    The velocity is (clean − layers) / (1 − time): the step that ends at time 1 arrives there.
    Derived in lesson 13.
    """
    return layers + (next_time - time) * (clean - layers) / (1 - time)


@dataclass(frozen=True)
class PartLayers:
    """What the pipeline returns: `layers` in [0, 1], those of one of the two people, by `LAYERS`."""

    layers: Layers

    def __getitem__(self, part: str) -> Float[Tensor, "batch height width"]:
        """The layers of one part, by name. Raises ValueError for an unknown one."""
        return self.layers[:, part_index(part, LAYERS)]


class PartPipeline(nn.Module):
    """From two photographs to the layers of one person in steps, in the shape that diffusion
    pipelines have. Derived in lesson 13.
    """

    def __init__(self, model: PartTransformer):
        super().__init__()
        self.model = model

    @torch.no_grad()
    def forward(
        self,
        image: Tensor,
        num_inference_steps: int | float = 20,
        callback: Callable[[int, float, Tensor], object] | None = None,
        callback_steps: int | float = 1,
        seed: int = 0,
    ) -> PartLayers:
        """Layers for one pair of photographs side by side, `3 height 2·height` in [0, 1], or for
        several, `batch 3 height 2·height`.

        `callback(step, timestep, latents)` is called after every `callback_steps` steps with the
        time in [0, 1] at which the step began and the layers in [-1, 1] that it led to. The noise
        of the i-th pair is that of `seed` + i. Raises ValueError for images of another size, for
        less than one step, and for a callback that does not take these three arguments.
        """
        image = self._checked(image)
        for name, count in (
            ("num_inference_steps", num_inference_steps),
            ("callback_steps", callback_steps),
        ):
            if not isinstance(count, int) or count < 1:
                raise ValueError(
                    f"{name} is {count!r}, expected a whole number from 1 on; try {name}=20"
                )
        _check_callback(callback)
        model = self.model
        with evaluating(model):
            tokens = model.encoder(image)
            layers = self.noise(len(image), seed).to(image)
            for step in range(num_inference_steps):
                time = shifted_time(step / num_inference_steps)
                next_time = shifted_time((step + 1) / num_inference_steps)
                covered = model(layers, image.new_full((len(image),), time), tokens).sigmoid()
                layers = euler_step(layers, 2 * covered - 1, time, next_time)
                if callback is not None and (step + 1) % callback_steps == 0:
                    callback(step, time, layers)
        return PartLayers(covered.cpu())

    def noise(self, batch: int, seed: int) -> Layers:
        """Drawn on the CPU and item by item, so that it depends neither on the device nor on the
        other items.
        """
        shape = (self.model.parts, self.model.size, self.model.size)
        return torch.stack(
            [
                torch.randn(shape, generator=torch.Generator().manual_seed(seed + item))
                for item in range(batch)
            ]
        )

    def _checked(self, image: Tensor) -> Float[Tensor, "batch 3 height width"]:
        image = image[None] if image.ndim == 3 else image
        check_images(image)
        side = self.model.photograph
        if image.shape[-2:] != (side, PEOPLE * side):
            height, width = image.shape[-2:]
            raise ValueError(
                f"images are {height}×{width} px but the model takes two photographs of {side}×"
                f"{side} px side by side; put them together with torch.cat([left, right], -1)"
            )
        return to_model(self.model, image)[0]


def _check_callback(callback: Callable | None) -> None:
    try:
        if callback is not None:
            inspect.signature(callback).bind(0, 0.0, None)
    except TypeError as error:
        raise ValueError(
            f"the callback cannot be called as callback(step, timestep, latents) ({error}); give it"
            " these three arguments"
        ) from error
    except ValueError:
        pass  # functions written in C may not say what they take


# ---- looking -------------------------------------------------------------------------------------
def part_attention(
    weights: Float[Tensor, "batch heads queries keys"], layers: Layers
) -> Float[Tensor, "batch parts rows columns"]:
    """Where in the two photographs each part looks: the mean over heads, and over its tokens by how
    much of the part they hold.

    Most of a part's tokens may hold nothing of it, so the plain mean would hide the others. A part
    that `layers` do not show has an empty map. The maps are twice as wide as high, like the pair.
    Derived in lesson 13.
    """
    parts = layers.shape[1]
    grid = math.isqrt(weights.shape[2] // parts)
    rows = math.isqrt(weights.shape[3] // PEOPLE)
    held = F.adaptive_avg_pool2d(layers, grid).flatten(2)
    share = held / held.sum(2, keepdim=True).clamp(min=1e-6)
    token_maps = rearrange(
        weights.mean(1), "batch (parts tokens) keys -> batch parts tokens keys", parts=parts
    )
    return rearrange(
        einsum(
            share, token_maps, "batch parts tokens, batch parts tokens keys -> batch parts keys"
        ),
        "batch parts (rows columns) -> batch parts rows columns",
        rows=rows,
    )
