"""Seeing Cross-Attention: the library behind twelve lessons.

Imports run one way: `world → data → models → training → looking → pictures → recorder → explorer
→ lessons → commands`; `runtime`, `shapes`, `files` and `tables` are the ground floor that all use.
"""

from .runtime import assets, cache_dir, scale, setup

__all__ = ["assets", "cache_dir", "scale", "setup"]
__version__ = "0.1.0"
