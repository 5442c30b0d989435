"""Data: the drawn world that knows its answers, and real video."""

from .celeba import CelebA
from .clips import ClipDataset, render_clip
from .faces import DIFFICULTIES, FaceDataset, draw_face
from .first_impressions import FirstImpressions
from .flow import OpticalFlowComputer, OpticalFlowSequenceLoader
from .population import ATTRIBUTES, sample_attributes
from .stories import TRAITS
from .video import read_clip, track_face

__all__ = [
    "ATTRIBUTES",
    "DIFFICULTIES",
    "TRAITS",
    "CelebA",
    "ClipDataset",
    "FaceDataset",
    "FirstImpressions",
    "OpticalFlowComputer",
    "OpticalFlowSequenceLoader",
    "draw_face",
    "read_clip",
    "render_clip",
    "sample_attributes",
    "track_face",
]
