"""From two streams to five traits: fusion, head, and the two complete models."""

import torch
from einops import einsum, rearrange
from torch import Tensor, nn

from ..shapes import Float
from .attention import CrossAttention, TokenCrossAttention
from .backbones import fill, read_weights
from .dynamic import DynamicFeatureExtractor
from .static import StaticFeatureExtractor

__all__ = ["CompletePersonalityModel", "FeatureFusionModule", "PersonalityPredictionHead", "TokenPersonalityModel",
           "attention_per_trait", "course_personality_model"]


class FeatureFusionModule(nn.Module):
    """Steady the fused vector: batch norm, then dropout; the width stays. Derived in lesson 05."""

    def __init__(self, fusion_dim: int = 128, dropout_rate: float = 0.3):
        super().__init__()
        self.norm = nn.BatchNorm1d(fusion_dim)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, fused: Float[Tensor, "batch fusion_dim"]) -> Float[Tensor, "batch fusion_dim"]:
        """Raises ``ValueError`` for a batch of one in training mode."""
        if self.training and len(fused) == 1:
            raise ValueError("a batch of 1 has no spread for batch norm to learn from; train on batches of at least 2 "
                             "(drop_last=True in the loader), or call model.eval() to predict")
        return self.dropout(self.norm(fused))


class PersonalityPredictionHead(nn.Module):
    """Predict the five traits O C E A N from a fused vector: 64 hidden units, ReLU, a linear output."""

    def __init__(self, fusion_dim: int = 128, hidden_dim: int = 64, traits: int = 5):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(fusion_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, traits))

    def forward(self, fused: Float[Tensor, "batch fusion_dim"]) -> Float[Tensor, "batch traits"]:
        return self.layers(fused)


class CompletePersonalityModel(nn.Module):
    """Two feature vectors to five traits: one-key cross-attention, fusion, head (371,717 values by default).

    Of those, 371,461 are trained; 256 are batch norm's running statistics. Derived in lesson 05.
    """

    def __init__(self, static_dim: int = 512, dynamic_dim: int = 256, fusion_dim: int = 128, num_heads: int = 4,
                 dropout_rate: float = 0.3):
        super().__init__()
        self.cross_attention = CrossAttention(static_dim, dynamic_dim, fusion_dim, num_heads)
        self.fusion = FeatureFusionModule(fusion_dim, dropout_rate)
        self.head = PersonalityPredictionHead(fusion_dim)

    def forward(self, static: Float[Tensor, "batch static_dim"],
                dynamic: Float[Tensor, "batch dynamic_dim"]) -> Float[Tensor, "batch traits"]:
        return self.head(self.fusion(self.cross_attention(static, dynamic)))


class TokenPersonalityModel(nn.Module):
    """Face tokens and motion tokens to five traits: token cross-attention, fusion, head. Derived in lesson 05."""

    def __init__(self, static_dim: int = 2048, dynamic_dim: int = 1024, fusion_dim: int = 128, num_heads: int = 4,
                 dropout_rate: float = 0.3):
        super().__init__()
        self.cross_attention = TokenCrossAttention(static_dim, dynamic_dim, fusion_dim, num_heads)
        self.fusion = FeatureFusionModule(fusion_dim, dropout_rate)
        self.head = PersonalityPredictionHead(fusion_dim)

    def forward(self, face_tokens: Float[Tensor, "batch queries static_dim"],
                motion_tokens: Float[Tensor, "batch keys dynamic_dim"]) -> Float[Tensor, "batch traits"]:
        return self.head(self.fusion(self.cross_attention(face_tokens, motion_tokens)))


def course_personality_model(static: StaticFeatureExtractor, dynamic: DynamicFeatureExtractor) -> TokenPersonalityModel:
    """The shipped model, in evaluation mode, for these extractors.

    Raises ``ValueError`` if they are not the ones whose tokens it was trained on. Used in lesson 00.
    """
    kept = read_weights("course", "weights/personality.safetensors")
    for name, extractor in (("static", static), ("dynamic", dynamic)):
        if extractor.hash != kept.metadata[name]:
            raise ValueError(f"the shipped personality model knows the tokens of another {name} extractor; build it "
                             "with weights='course', or train a model on these tokens")
    model = TokenPersonalityModel()
    fill(model, kept.tensors, "the course's personality model")
    return model.eval()


def attention_per_trait(model: TokenPersonalityModel, face_tokens: Float[Tensor, "batch queries static_dim"],
                        motion_tokens: Float[Tensor, "batch keys dynamic_dim"],
                        ) -> Float[Tensor, "batch traits queries keys"]:
    """Attention × gradient of each trait, averaged over heads: positive where listening raises the prediction.

    In evaluation mode (batch norm would mix the batch). Source: Chefer et al., arXiv 2103.15679, equation 5,
    without its rectifier. Derived in lesson 05.
    """
    if model.training:
        raise ValueError("the model is in training mode, where batch norm mixes the clips; call model.eval() first")
    attention, seen = model.cross_attention.attention, {}
    hooks = [attention.to_value.register_forward_hook(lambda _, inputs, output: seen.update(value=output.detach())),
             attention.to_output.register_forward_pre_hook(lambda _, inputs: seen.update(heard=inputs[0]))]
    record, attention.record = attention.record, True
    try:
        with torch.enable_grad():
            traits = model(face_tokens.detach().requires_grad_(), motion_tokens).sum(dim=0)
    finally:
        attention.record = record
        for hook in hooks:
            hook.remove()
    gradient, = torch.autograd.grad(traits, seen["heard"], torch.eye(len(traits)).to(traits), is_grads_batched=True)
    # heard = weights @ value, so the gradient of the weights is that of what was heard, times value transposed
    return einsum(attention.last_attn_weights,
                  rearrange(gradient, "traits batch queries (heads dim) -> traits batch heads queries dim",
                            heads=attention.heads),
                  rearrange(seen["value"], "batch keys (heads dim) -> batch heads keys dim", heads=attention.heads),
                  "batch heads queries keys, traits batch heads queries dim, batch heads keys dim "
                  "-> batch traits queries keys") / attention.heads
