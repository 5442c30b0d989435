"""Analysis: pictures, and what they are made from."""

from .visualizer import get_attention_weights

__all__ = ["get_attention_weights"]
