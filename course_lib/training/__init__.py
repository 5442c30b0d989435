"""Training: scores, and tokens of frozen extractors."""

from .metrics import concordance

__all__ = ["concordance"]
