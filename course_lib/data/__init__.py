"""Data sets and what they read: drawn, photographs, videos, optical flow, samplers."""

from .arrays import ImageArrays, TokenArrays, gather, load_images
from .drawn import ClipDataset, FaceDataset, Layers, PartDataset, compose, to_image
from .first_impressions import (
    SPLITS,
    FirstImpressions,
    read_annotations,
    speaker_of,
    unpack_archives,
)
from .flow import (
    OpticalFlowComputer,
    OpticalFlowSequenceLoader,
    adjust_length,
    clip_and_scale,
    end_point_error,
    resize_flow,
    warp,
)
from .photographs import CelebA, fetch_celeba
from .samplers import (
    BalancedSampler,
    CurriculumSampler,
    EnrichedFaces,
    all_targets,
    easiest_weights,
    effective_numbers,
    faces_to_draw,
    rarest_weights,
)
from .video import (
    Clip,
    FaceTrack,
    crop_face,
    face_windows,
    read_clip,
    steady_box,
    to_rgb,
    track_face,
)

__all__ = [
    "SPLITS",
    "BalancedSampler",
    "CelebA",
    "Clip",
    "ClipDataset",
    "CurriculumSampler",
    "EnrichedFaces",
    "FaceDataset",
    "FaceTrack",
    "FirstImpressions",
    "ImageArrays",
    "Layers",
    "OpticalFlowComputer",
    "OpticalFlowSequenceLoader",
    "PartDataset",
    "TokenArrays",
    "adjust_length",
    "all_targets",
    "clip_and_scale",
    "compose",
    "crop_face",
    "easiest_weights",
    "effective_numbers",
    "end_point_error",
    "face_windows",
    "faces_to_draw",
    "fetch_celeba",
    "gather",
    "load_images",
    "rarest_weights",
    "read_annotations",
    "read_clip",
    "resize_flow",
    "speaker_of",
    "steady_box",
    "to_image",
    "to_rgb",
    "track_face",
    "unpack_archives",
    "warp",
]
