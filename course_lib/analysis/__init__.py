"""Analysis: pictures of what the models see, and where they look."""

from .activation_pictures import visualize_feature_maps
from .attention_monitor import AttentionMonitor
from .attention_pictures import plot_attention_map
from .compare import compare_models, get_model_summary, get_param_count
from .dashboard import AttributeResults, performance_dashboard
from .explorer import AttentionExplorer, ImbalanceAwareAttentionExplorer
from .explorer_clips import PersonalityExplorer
from .localisation import pointing_game
from .pictures import Animation, Picture
from .recorder import AttentionRecorder, record
from .statistics import attention_rollout, attention_statistics, diagnose
from .visualizer import AttentionVisualizer, get_attention_weights, visualize_during_inference

__all__ = [
    "Animation",
    "AttentionExplorer",
    "AttentionMonitor",
    "AttentionRecorder",
    "AttentionVisualizer",
    "AttributeResults",
    "ImbalanceAwareAttentionExplorer",
    "PersonalityExplorer",
    "Picture",
    "attention_rollout",
    "attention_statistics",
    "compare_models",
    "diagnose",
    "get_attention_weights",
    "get_model_summary",
    "get_param_count",
    "performance_dashboard",
    "plot_attention_map",
    "pointing_game",
    "record",
    "visualize_during_inference",
    "visualize_feature_maps",
]
