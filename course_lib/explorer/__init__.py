"""The two widgets, and the pages that live without Python."""

from .attributes import AttentionExplorer, ImbalanceAwareAttentionExplorer
from .base import ATTENTION, MEAN, OWN, UNTRAINED, Explorer, Item, explorer_script
from .clips import ClipLook, PersonalityExplorer, film, listen
from .figure import View, describe, explorer_figure, static_part, still, verdict
from .packing import (
    COMMON,
    RARE,
    Look,
    Predictions,
    Removal,
    fitting_names,
    look,
    outline,
    pack_item,
    predict_all,
    read_image,
    remove_patches,
    shares_of,
    unpack,
    untrained_copy,
)
from .playground import AttentionPlayground
from .steps import attribute_map, attributes_of_rarity, blind_spots
from .widget import ExplorerWidget, PersonalityWidget
from .words import find_terms, near_words, spaced

__all__ = [
    "ATTENTION",
    "COMMON",
    "MEAN",
    "OWN",
    "RARE",
    "UNTRAINED",
    "AttentionExplorer",
    "AttentionPlayground",
    "ClipLook",
    "Explorer",
    "ExplorerWidget",
    "ImbalanceAwareAttentionExplorer",
    "Item",
    "Look",
    "PersonalityExplorer",
    "PersonalityWidget",
    "Predictions",
    "Removal",
    "View",
    "attribute_map",
    "attributes_of_rarity",
    "blind_spots",
    "describe",
    "explorer_figure",
    "explorer_script",
    "film",
    "find_terms",
    "fitting_names",
    "listen",
    "look",
    "near_words",
    "outline",
    "pack_item",
    "predict_all",
    "read_image",
    "remove_patches",
    "shares_of",
    "spaced",
    "static_part",
    "still",
    "unpack",
    "untrained_copy",
    "verdict",
]
