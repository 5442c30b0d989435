"""The attention of any model: recorded, kept, shown on a page."""

from .monitor import AttentionMonitor
from .packing import dequantise, pack_arrays, quantise, read_arrays, script
from .page import attention_page, pack, save_page, show_page
from .recorder import AttentionRecorder, record
from .recording import (
    BUDGET,
    CHUNK,
    KEEP,
    Gap,
    Plan,
    Record,
    Recording,
    Statistics,
    cost,
    finish,
    from_records,
    megabytes,
    reduce_rows,
)
from .visualizer import (
    AttentionVisualizer,
    get_attention_weights,
    record_folder,
    visualize_during_inference,
)

__all__ = [
    "BUDGET",
    "CHUNK",
    "KEEP",
    "AttentionMonitor",
    "AttentionRecorder",
    "AttentionVisualizer",
    "Gap",
    "Plan",
    "Record",
    "Recording",
    "Statistics",
    "attention_page",
    "cost",
    "dequantise",
    "finish",
    "from_records",
    "get_attention_weights",
    "megabytes",
    "pack",
    "pack_arrays",
    "quantise",
    "read_arrays",
    "record",
    "record_folder",
    "reduce_rows",
    "save_page",
    "script",
    "show_page",
    "visualize_during_inference",
]
