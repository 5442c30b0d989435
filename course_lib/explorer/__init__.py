"""The two widgets, and the pages that live without Python."""

from .attributes import AttentionExplorer, ImbalanceAwareAttentionExplorer
from .clips import ClipLook, PersonalityExplorer, film, listen
from .figure import describe, explorer_figure, static_part
from .packing import (
    ATTENTION,
    COMMON,
    OWN,
    RARE,
    Item,
    Look,
    Predictions,
    Removal,
    explorer_script,
    fitting_names,
    look,
    one_each,
    outline,
    pack_item,
    predict_all,
    read_image,
    remove_patches,
    unpack,
)
from .steps import attribute_map, attributes_of_rarity, blind_spots
from .widget import ExplorerWidget, PersonalityWidget

__all__ = [
    "ATTENTION",
    "COMMON",
    "OWN",
    "RARE",
    "AttentionExplorer",
    "ClipLook",
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
    "one_each",
    "outline",
    "pack_item",
    "predict_all",
    "read_image",
    "remove_patches",
    "static_part",
    "unpack",
]
