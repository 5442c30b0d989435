"""Analysis: pictures of what the models see and where they look."""

from .pictures import Animation, Picture

__all__ = ["Animation", "Picture"]
