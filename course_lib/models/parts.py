"""A generative model of a face's parts: a small transformer that turns noise into layers while it
looks at the image.

Rectified flow (Liu et al., arXiv 2209.03003): at time 0 the layers are noise, at time 1 they are
clean, on a straight line in between. Derived in lesson 13.
"""

import inspect
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn

from ..data.drawn import Layers, compose
from ..shapes import Float
from ..world.layers import PARTS, part_index
from .attention import VisualizableCrossAttention
from .backbones import fill, read_weights
from .inference import evaluating, to_model
from .static import check_images

__all__ = [
    "AdaptiveNorm",
    "ImageEncoder",
    "PartBlock",
    "PartLayers",
    "PartPipeline",
    "PartTransformer",
    "course_part_transformer",
    "euler_step",
    "part_attention",
    "wave_positions",
    "wave_time",
]


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

    def __init__(self, dim: int, channels: int = 64):
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


class PartBlock(nn.Module):
    """Self-attention between part tokens, cross-attention to the image, an MLP; with `local` the
    self-attention stays within each part.
    """

    def __init__(self, dim: int, heads: int, time_dim: int, tokens: int, local: bool):
        super().__init__()
        self.local, self.tokens = local, tokens
        self.norms = nn.ModuleList(AdaptiveNorm(dim, time_dim) for _ in range(3))
        self.self_attention = VisualizableCrossAttention(dim, dim, dim, heads, record=False)
        # Heads are twice as wide as usual: all information about the image passes through them.
        self.cross_attention = VisualizableCrossAttention(
            dim, dim, dim, heads, head_dim=2 * dim // heads, record=False
        )
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
        if self.local:
            h = rearrange(
                h, "batch (parts tokens) dim -> (batch parts) tokens dim", tokens=self.tokens
            )
        h = self.self_attention(h, h, h)
        x = x + h.reshape(x.shape)
        x = x + self.cross_attention(self.norms[1](x, time) + place, keys, values)
        return x + self.feed_forward(self.norms[2](x, time))


class PartTransformer(nn.Module):
    """Noisy layers, a time and an image's tokens to the logits of clean layers; each part has
    `grid`² tokens.

    Blocks are local and global in turn. What it adds to is `base`, the logits of the mean layer.
    Derived in lesson 13.
    """

    def __init__(
        self,
        size: int = 64,
        grid: int = 4,
        dim: int = 128,
        blocks: int = 4,
        heads: int = 4,
        parts: int = len(PARTS),
    ):
        super().__init__()
        if size % 16 or size % grid:
            raise ValueError(
                f"size={size} does not divide into {grid}×{grid} patches and cells of 16 px; choose"
                " a multiple of both, for example size=64, grid=4"
            )
        time_dim, patch = 64, size // grid
        self.size, self.grid, self.parts = size, grid, parts
        self.encoder = ImageEncoder(dim)
        self.segment = nn.Linear(dim, parts * 64)
        self.read = nn.Linear(patch * patch, dim)
        self.part = nn.Parameter(0.3 * torch.randn(parts, 1, dim))
        self.time = nn.Sequential(
            nn.Linear(64, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim), nn.SiLU()
        )
        self.blocks = nn.ModuleList(
            PartBlock(dim, heads, time_dim, grid * grid, local=index % 2 == 0)
            for index in range(blocks)
        )
        self.norm = AdaptiveNorm(dim, time_dim)
        self.write = nn.Linear(dim, patch * patch)
        self.register_buffer("base", torch.full((parts, size, size), -3.0))
        self.register_buffer("part_place", wave_positions(grid, dim), persistent=False)
        self.register_buffer("image_place", wave_positions(size // 8, dim), persistent=False)

    def forward(
        self,
        layers: Layers,
        time: Float[Tensor, " batch"],
        image_tokens: Float[Tensor, "batch keys dim"],
    ) -> Layers:
        """Logits of the clean layers from noisy ones in [-1, 1], their times in [0, 1], and
        `encoder(image)`.
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
        keys = image_tokens + self.image_place
        for block in self.blocks:
            x = block(x, place, keys, image_tokens, when)
        return self.base + rearrange(
            self.write(self.norm(x, when)),
            "batch (parts rows columns) (down across) -> batch parts (rows down) (columns across)",
            parts=self.parts,
            rows=self.grid,
            down=self.size // self.grid,
        )

    def segmentation(self, image_tokens: Float[Tensor, "batch keys dim"]) -> Layers:
        """What the image's tokens know by themselves, as logits: no noise, no steps, no attention.

        It gives the encoder something to learn from at once, and stands beside the generator as a
        baseline.
        """
        return self.base + rearrange(
            self.segment(image_tokens),
            "batch (rows columns) (parts down across) -> batch parts (rows down) (columns across)",
            rows=self.size // 8,
            down=8,
            across=8,
        )


def course_part_transformer() -> PartTransformer:
    """The shipped model, in evaluation mode. Derived in lesson 13."""
    stored = read_weights("course", "weights/parts.safetensors")
    model = PartTransformer()
    fill(model, stored.tensors, "the course's part transformer")
    return model.eval()


# ---- sampling ------------------------------------------------------------------------------------
def euler_step(layers: Layers, clean: Layers, time: float, next_time: float) -> Layers:
    """Go from `time` to `next_time` on the straight line that leads from `layers` to the predicted
    `clean` ones.

    The velocity is (clean − layers) / (1 − time): the step that ends at time 1 arrives there.
    Derived in lesson 13.
    """
    return layers + (next_time - time) * (clean - layers) / (1 - time)


@dataclass(frozen=True)
class PartLayers:
    """What the pipeline returns: `layers` in [0, 1], how sure the model is of each part, and a
    picture made of them.

    `confidence` is the mean of a layer over the eight pixels it covers most: near 1 if it shows the
    part, near 0 if the part is absent. `picture` fills each layer with the mean colour of the image
    under it.
    """

    layers: Layers
    confidence: Float[Tensor, "batch parts"]
    picture: Float[Tensor, "batch 3 height width"]

    def __getitem__(self, part: str) -> Float[Tensor, "batch height width"]:
        """The layers of one part, by name."""
        return self.layers[:, part_index(part)]


class PartPipeline(nn.Module):
    """From images to layers in steps, in the shape that diffusion pipelines have. Derived in lesson
    13.
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
        """Layers of one image, `3 height width` in [0, 1], or of several, `batch 3 height width`.

        `callback(step, timestep, latents)` is called after every `callback_steps` steps with the
        time in [0, 1] at which the step began and the layers in [-1, 1] that it led to. The noise
        of the i-th image is that of `seed` + i. Warns of an image without a face. Raises ValueError
        for images of another size, for less than one step, and for a callback that does not take
        these three arguments.
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
            layers = self._noise(len(image), seed).to(image)
            for step in range(num_inference_steps):
                time, next_time = step / num_inference_steps, (step + 1) / num_inference_steps
                covered = model(layers, image.new_full((len(image),), time), tokens).sigmoid()
                layers = euler_step(layers, 2 * covered - 1, time, next_time)
                if callback is not None and (step + 1) % callback_steps == 0:
                    callback(step, time, layers)
        return self._finished(covered, image)

    def _noise(self, batch: int, seed: int) -> Layers:
        """Drawn on the CPU and image by image, so that it depends neither on the device nor on the
        other images.
        """
        shape = (self.model.parts, self.model.size, self.model.size)
        return torch.stack(
            [
                torch.randn(shape, generator=torch.Generator().manual_seed(seed + item))
                for item in range(batch)
            ]
        )

    def _finished(self, covered: Layers, image: Tensor) -> PartLayers:
        confidence = covered.flatten(2).topk(8).values.mean(2)
        for item, sure in enumerate(confidence[:, part_index("skin")].tolist()):
            if sure < 0.5:
                warnings.warn(
                    f"image {item} shows no face: the model is {sure:.0%} sure of skin in it; give"
                    " a face that fills most of the image",
                    stacklevel=6,
                )
        return PartLayers(
            *(result.cpu() for result in (covered, confidence, compose(covered, image)))
        )

    def _checked(self, image: Tensor) -> Float[Tensor, "batch 3 height width"]:
        image = image[None] if image.ndim == 3 else image
        check_images(image)
        if image.shape[-2:] != (self.model.size, self.model.size):
            height, width = image.shape[-2:]
            raise ValueError(
                f"images are {height}×{width} px but the model was built for {self.model.size}×"
                f"{self.model.size}; resize them with torch.nn.functional.interpolate(images, "
                f"({self.model.size}, {self.model.size}), mode='bilinear', antialias=True)"
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
    """Where in the image each part looks: the mean over heads, and over its tokens by how much of
    the part they hold.

    Most of a part's tokens hold nothing of it, so the plain mean over them would hide the others. A
    part that `layers` do not show has an empty map. Derived in lesson 13.
    """
    parts = layers.shape[1]
    grid, side = (math.isqrt(count) for count in (weights.shape[2] // parts, weights.shape[3]))
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
        rows=side,
    )
