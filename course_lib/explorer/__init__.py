"""The two widgets, and the pages that live without Python."""

from .attributes import AttentionExplorer, ImbalanceAwareAttentionExplorer
from .base import ATTENTION, OWN, Explorer, Item, explorer_script
from .clips import ClipLook, PersonalityExplorer, film, listen
from .figure import describe, explorer_figure, static_part
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
)
from .playground import AttentionPlayground
from .steps import attribute_map, attributes_of_rarity, blind_spots
from .widget import ExplorerWidget, PersonalityWidget

__all__ = [
    "ATTENTION",
    "COMMON",
    "OWN",
    "RARE",
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
    "attribute_map",
    "attributes_of_rarity",
    "blind_spots",
    "describe",
    "explorer_figure",
    "explorer_script",
    "film",
    "fitting_names",
    "listen",
    "look",
    "outline",
    "pack_item",
    "predict_all",
    "read_image",
    "remove_patches",
    "shares_of",
    "static_part",
    "unpack",
]
