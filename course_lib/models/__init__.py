"""The two extractors, the attention that fuses them, and the personality models."""

from .attention import CrossAttention, TokenCrossAttention, VisualizableCrossAttention, attend
from .attributes import AttributeDecoder, AttributeModel, PointingDecoder, TokenExtractor
from .dynamic import I3D, DynamicFeatureExtractor, inflate
from .personality import (
    CompletePersonalityModel,
    EndToEndPersonalityModel,
    FeatureFusionModule,
    PersonalityPredictionHead,
    ProjectedPersonalityModel,
    TokenPersonalityModel,
    attention_per_trait,
    course_personality_model,
)
from .static import StaticFeatureExtractor, attribute_head, freeze_first, global_average, to_tokens

__all__ = [
    "I3D",
    "AttributeDecoder",
    "AttributeModel",
    "CompletePersonalityModel",
    "CrossAttention",
    "DynamicFeatureExtractor",
    "EndToEndPersonalityModel",
    "FeatureFusionModule",
    "PersonalityPredictionHead",
    "PointingDecoder",
    "ProjectedPersonalityModel",
    "StaticFeatureExtractor",
    "TokenCrossAttention",
    "TokenExtractor",
    "TokenPersonalityModel",
    "VisualizableCrossAttention",
    "attend",
    "attention_per_trait",
    "attribute_head",
    "course_personality_model",
    "freeze_first",
    "global_average",
    "inflate",
    "to_tokens",
]
