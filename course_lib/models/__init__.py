"""The two extractors, the attention that fuses them, and the models of personality, attributes and
parts.
"""

from .attention import CrossAttention, TokenCrossAttention, VisualizableCrossAttention, attend
from .attributes import AttributeDecoder, AttributeModel, PointingDecoder, TokenExtractor
from .dynamic import I3D, DynamicFeatureExtractor, inflate
from .parts import PartPipeline, PartTransformer, course_part_transformer
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
    "PartPipeline",
    "PartTransformer",
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
    "course_part_transformer",
    "course_personality_model",
    "freeze_first",
    "global_average",
    "inflate",
    "to_tokens",
]
