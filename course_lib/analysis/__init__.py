"""Analysis: pictures of what the models see and where they look."""

from .activation_pictures import visualize_feature_maps
from .pictures import Animation, Picture

__all__ = ["Animation", "Picture", "visualize_feature_maps"]
