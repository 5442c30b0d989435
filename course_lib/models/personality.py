"""From two streams to five traits: fusion, head, and the two complete models."""

import torch
from einops import rearrange
from torch import Tensor, nn

from ..shapes import Float
from .attention import CrossAttention, TokenCrossAttention, recording
from .backbones import fill, read_weights
from .dynamic import DynamicFeatureExtractor
from .inference import evaluating, to_model
from .static import StaticFeatureExtractor

__all__ = [
    "CompletePersonalityModel",
    "EndToEndPersonalityModel",
    "FeatureFusionModule",
    "PersonalityPredictionHead",
    "SideBySideModel",
    "TokenPersonalityModel",
    "attention_per_trait",
    "attention_times_gradient",
    "course_personality_model",
]


class FeatureFusionModule(nn.Module):
    """Steady the fused vector: batch norm, then dropout; the width stays. Derived in lesson 06."""

    def __init__(self, fusion_dim: int = 128, dropout_rate: float = 0.3):
        super().__init__()
        self.norm = nn.BatchNorm1d(fusion_dim)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(
        self, fused: Float[Tensor, "batch fusion_dim"]
    ) -> Float[Tensor, "batch fusion_dim"]:
        """Raises `ValueError` for a batch of one in training mode."""
        if self.training and len(fused) == 1:
            raise ValueError(
                "a batch of 1 has no spread for batch norm to learn from; train on batches of at"
                " least 2 (drop_last=True in the loader), or call model.eval() to predict"
            )
        return self.dropout(self.norm(fused))


class PersonalityPredictionHead(nn.Module):
    """Predict the five traits O C E A N from a fused vector: 64 hidden units, ReLU, a linear
    output. Derived in lesson 06.
    """

    def __init__(self, fusion_dim: int = 128, hidden_dim: int = 64, traits: int = 5):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(fusion_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, traits)
        )

    def forward(self, fused: Float[Tensor, "batch fusion_dim"]) -> Float[Tensor, "batch traits"]:
        return self.layers(fused)


class CompletePersonalityModel(nn.Module):
    """Two feature vectors to five traits: one-key cross-attention, fusion, head.

    By default 371,461 parameters, and 256 running statistics of batch norm: 371,717 numbers.
    Derived in lesson 06.
    """

    reads_tokens = False

    def __init__(
        self,
        static_dim: int = 512,
        dynamic_dim: int = 256,
        fusion_dim: int = 128,
        num_heads: int = 4,
        dropout_rate: float = 0.3,
    ):
        super().__init__()
        self.static_dim, self.dynamic_dim = static_dim, dynamic_dim
        self.cross_attention = CrossAttention(static_dim, dynamic_dim, fusion_dim, num_heads)
        self.fusion = FeatureFusionModule(fusion_dim, dropout_rate)
        self.head = PersonalityPredictionHead(fusion_dim)

    def forward(
        self, static: Float[Tensor, "batch static_dim"], dynamic: Float[Tensor, "batch dynamic_dim"]
    ) -> Float[Tensor, "batch traits"]:
        return self.head(self.fusion(self.cross_attention(static, dynamic)))

    def example_inputs(
        self, batch: int = 8
    ) -> tuple[Float[Tensor, "batch static_dim"], Float[Tensor, "batch dynamic_dim"]]:
        """Blank inputs of the shapes that the model takes, to measure it with."""
        weight = self.head.layers[0].weight
        return weight.new_zeros(batch, self.static_dim), weight.new_zeros(batch, self.dynamic_dim)


class SideBySideModel(nn.Module):
    """Features side by side through a hidden layer to five traits: the arms without attention.

    Where a feature has an axis `steps`, each step meets the other features on its own, and the
    answers are averaged. Used in lesson 07.
    """

    def __init__(self, *feature_dims: int, fusion_dim: int = 128, dropout_rate: float = 0.3):
        super().__init__()
        self.projections = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, fusion_dim)) for dim in feature_dims
        )
        self.hidden = nn.Sequential(
            nn.ReLU(), nn.Linear(len(feature_dims) * fusion_dim, fusion_dim), nn.ReLU()
        )
        self.fusion = FeatureFusionModule(fusion_dim, dropout_rate)
        self.head = PersonalityPredictionHead(fusion_dim)

    def forward(self, *features: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch traits"]:
        """Traits from features `batch dim` or `batch steps dim`, as many as there are widths."""
        projected = [
            project(feature if feature.ndim == 3 else feature[:, None])
            for project, feature in zip(self.projections, features, strict=True)
        ]
        moments = self.hidden(torch.cat(torch.broadcast_tensors(*projected), dim=-1))
        return self.head(self.fusion(moments.mean(dim=1)))


class TokenPersonalityModel(nn.Module):
    """Face tokens and motion tokens to five traits: token cross-attention, fusion, head. Derived in
    lesson 06.
    """

    reads_tokens = True

    def __init__(
        self,
        static_dim: int = 2048,
        dynamic_dim: int = 1024,
        fusion_dim: int = 128,
        num_heads: int = 4,
        dropout_rate: float = 0.3,
    ):
        super().__init__()
        self.static_dim, self.dynamic_dim = static_dim, dynamic_dim
        self.cross_attention = TokenCrossAttention(static_dim, dynamic_dim, fusion_dim, num_heads)
        self.fusion = FeatureFusionModule(fusion_dim, dropout_rate)
        self.head = PersonalityPredictionHead(fusion_dim)

    def forward(
        self,
        face_tokens: Float[Tensor, "batch queries static_dim"],
        motion_tokens: Float[Tensor, "batch keys dynamic_dim"],
    ) -> Float[Tensor, "batch traits"]:
        return self.head(self.fusion(self.cross_attention(face_tokens, motion_tokens)))

    def example_inputs(
        self, batch: int = 8
    ) -> tuple[Float[Tensor, "batch 49 static_dim"], Float[Tensor, "batch 8 dynamic_dim"]]:
        """Blank inputs of the shapes that the extractors give for clips of 32 frames, to measure
        the model with.
        """
        weight = self.head.layers[0].weight
        return weight.new_zeros(batch, 49, self.static_dim), weight.new_zeros(
            batch, 8, self.dynamic_dim
        )


class EndToEndPersonalityModel(nn.Module):
    """A face image and optical flow to five traits: both extractors, then a model on their tokens
    or vectors.

    Derived in lesson 06.
    """

    def __init__(
        self,
        static: StaticFeatureExtractor,
        dynamic: DynamicFeatureExtractor,
        model: CompletePersonalityModel | TokenPersonalityModel,
    ):
        super().__init__()
        self.static, self.dynamic, self.model = static, dynamic, model

    def forward(self, face: Tensor, flow: Tensor) -> Float[Tensor, "batch traits"]:
        """`face` is `batch 3 height width` in [0, 1], `flow` `batch frames height width 2` in
        pixels.
        """
        if self.model.reads_tokens:
            return self.model(self.static.tokens(face), self.dynamic.tokens(flow))
        return self.model(self.static(face), self.dynamic(flow))

    def example_inputs(
        self, batch: int = 1
    ) -> tuple[Float[Tensor, "batch 3 112 112"], Float[Tensor, "batch 32 112 112 2"]]:
        """A blank face and a still clip of 32 frames, to measure the model with."""
        weight = next(self.parameters())
        return weight.new_zeros(batch, 3, 112, 112), weight.new_zeros(batch, 32, 112, 112, 2)


def course_personality_model(
    static: StaticFeatureExtractor, dynamic: DynamicFeatureExtractor
) -> TokenPersonalityModel:
    """The shipped model, in evaluation mode, for these extractors.

    Raises `ValueError` if they are not the ones whose tokens it was trained on. Used in lesson 00.
    """
    stored = read_weights("course", "weights/personality.safetensors")
    for name, extractor in (("static", static), ("dynamic", dynamic)):
        if extractor.hash != stored.metadata[name]:
            raise ValueError(
                f"the shipped personality model knows the tokens of another {name} extractor; build"
                " it with weights='course', or train a model on these tokens"
            )
    model = TokenPersonalityModel()
    fill(model, stored.tensors, "the course's personality model")
    return model.eval()


def attention_times_gradient(
    weights: Float[Tensor, "batch heads queries keys"],
    gradient: Float[Tensor, "traits batch heads queries dim"],
    value: Float[Tensor, "batch heads keys dim"],
) -> Float[Tensor, "batch traits queries keys"]:
    """Weights × their gradient, averaged over heads; `gradient` is each trait's, with respect to
    the attended values.

    attended = weights @ value, so the gradient of the weights is that of `attended` times value
    transposed. Source: Chefer et al., arXiv 2103.15679, equation 5, without its rectifier. Derived
    in lesson 06.
    """
    weights_gradient = gradient @ value.transpose(-2, -1)
    return (weights * weights_gradient).mean(dim=2).transpose(0, 1)


def attention_per_trait(
    model: TokenPersonalityModel,
    face_tokens: Float[Tensor, "batch queries static_dim"],
    motion_tokens: Float[Tensor, "batch keys dynamic_dim"],
) -> Float[Tensor, "batch traits queries keys"]:
    """Attention × gradient of each trait, averaged over heads: positive where attending raises the
    prediction.

    In evaluation mode, because in training mode batch norm mixes the clips. Derived in lesson 06.
    """
    face_tokens, motion_tokens = to_model(model, face_tokens, motion_tokens)
    attention, captured = model.cross_attention.attention, {}
    hooks = [
        attention.to_value.register_forward_hook(
            lambda _, inputs, output: captured.update(value=output.detach())
        ),
        attention.to_output.register_forward_pre_hook(
            lambda _, inputs: captured.update(attended=inputs[0])
        ),
    ]
    try:
        with recording(attention), evaluating(model), torch.enable_grad():
            traits = model(face_tokens.detach().requires_grad_(), motion_tokens).sum(dim=0)
    finally:
        for hook in hooks:
            hook.remove()
    (gradient,) = torch.autograd.grad(
        traits, captured["attended"], torch.eye(len(traits)).to(traits), is_grads_batched=True
    )
    gradient, value = (
        rearrange(x, "... tokens (heads dim) -> ... heads tokens dim", heads=attention.heads)
        for x in (gradient, captured["value"])
    )
    return attention_times_gradient(attention.last_attn_weights, gradient, value).cpu()
