"""The options of every command, with their defaults and help: flags, YAML keys and function
arguments in one place.
"""

from dataclasses import Field, dataclass, field
from typing import Any, Literal

__all__ = [
    "Answers",
    "Data",
    "Evaluate",
    "Files",
    "Logging",
    "Model",
    "Preprocess",
    "Site",
    "Train",
    "Training",
    "Visualize",
    "is_positional",
]


def option(default: Any, help: str, positional: bool = False) -> Any:
    """A field of a dataclass that knows what `--help` says about it."""
    return field(default=default, metadata={"help": help, "positional": positional})


@dataclass(frozen=True)
class Preprocess:
    """Turn a folder of videos into faces and flow, and these into tokens and features that `train`
    reads.

    Run it again to go on after a stop; each clip is done once. Shards and processes may share the
    output folder.
    """

    folder: str = option("", "the videos, however deep", positional=True)
    output: str = option("", "where to write; default: data/ and the folder's name")
    labels: str = option(
        "",
        "CSV with the columns clip and the five traits (and speaker), or First Impressions' "
        "annotation .pkl, or a folder of those",
    )
    speakers: str = option(
        "", "CSV with the columns clip and speaker; default: First Impressions' names tell"
    )
    features: Literal["tokens", "none"] = option(
        "tokens", "'tokens' also runs both extractors; 'none' stops at flow"
    )
    frames: int = option(32, "flow fields in the window from the middle of each clip")
    size: int = option(112, "side of faces and flow in pixels")
    method: Literal["dis", "farneback", "raft"] = option("dis", "how flow is estimated")
    on_missing: Literal["raise", "centre"] = option(
        "raise", "a clip without a face is left out, or cut in its centre"
    )
    workers: int = option(2, "processes that decode, track and compute flow")
    batch_size: int = option(8, "clips that go through the extractors together")
    shard: str = option("1/1", "which part to do: 2/8 is the second of eight")


@dataclass(frozen=True)
class Files:
    """Features, labels and speakers whose rows belong together."""

    dataset: str = option(
        "", "'synthetic' for drawn clips, or a folder that `preprocess` wrote; or name the files:"
    )
    static_features: str = option("", ".npy, `n dim`, or tokens `n tokens dim`")
    dynamic_features: str = option("", ".npy, of the same rank")
    labels: str = option("", ".npy `n 5` in [0, 1], or CSV whose header names the traits")
    speakers: str = option(
        "", ".npy of `n` numbers or names, or CSV with a column speaker; without, the split leaks"
    )
    traits: str = option(
        "", "what the label columns are, such as extraversion,neuroticism,…; default: O C E A N"
    )
    clips: int = option(400, "how many clips to draw for 'synthetic'")


@dataclass(frozen=True)
class Data(Files):
    """Features, labels and speakers whose rows belong together."""

    val_split: float = option(0.2, "share of the rows, whole speakers, to validate on")
    split_seed: int = option(0, "which split")


@dataclass(frozen=True)
class Model:
    """Vectors make a CompletePersonalityModel, tokens a TokenPersonalityModel."""

    fusion_dim: int = option(128, "width of the fused vector")
    num_heads: int = option(4, "heads of the cross-attention")
    dropout_rate: float = option(0.3, "share of the fused values that training hides")


@dataclass(frozen=True)
class Training:
    """How to learn: Adam, a warm-up, a cosine, and an end when validation no longer improves."""

    batch_size: int = option(32, "of all processes together")
    epochs: int = option(50, "passes over the training rows, at most")
    learning_rate: float = option(1e-3, "the largest; 1e-4 to 1e-3 is usual")
    weight_decay: float = option(
        0.0, "of AdamW, which without it is Adam; 0.5 helps where clips are few"
    )
    warmup: float = option(0.1, "share of the steps in which the learning rate rises")
    clip: float = option(1.0, "longest gradient")
    patience: int = option(10, "epochs without improvement before the end")
    accumulate: int = option(1, "batches for one step, where memory is short")
    shuffle_moments: bool = option(
        False, "show motion tokens in a new order each time, where moments are equals"
    )
    precision: Literal["auto", "no", "bf16", "fp16"] = option(
        "auto", "mixed precision; 'auto' fits the machine"
    )
    seed: int = option(0, "of weights, batches and dropout")


@dataclass(frozen=True)
class Logging:
    """Where the run is kept."""

    output: str = option(
        "", "the run's folder; default: results/ and a name made of data and settings"
    )
    minutes: float = option(10.0, "between checkpoints within an epoch")
    tensorboard: bool = option(False, "write event files for TensorBoard too")


@dataclass(frozen=True)
class Train:
    """Train a personality model on features, and keep log, checkpoints, curves, model and manifest
    in one folder.

    Killed at any moment, the same command goes on. Under `accelerate launch` it runs on several
    processes.
    """

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    training: Training = field(default_factory=Training)
    logging: Logging = field(default_factory=Logging)


@dataclass(frozen=True)
class Evaluate(Files):
    """Score a run on its validation split, or on other files, with intervals over speakers and
    baselines beside.
    """

    run: str = option("", "the run's folder", positional=True)
    against: str = option(
        "", "another run's folder: how much better is the first, on the same clips?"
    )
    attention: bool = option(False, "keep the attention of every clip beside the predictions")
    output: str = option("", "where to write; default: the run's folder, evaluation/")


@dataclass(frozen=True)
class Visualize:
    """Draw the training curves of a run and, if `evaluate --attention` kept it, its attention, at
    300 dpi.
    """

    run: str = option("", "the run's folder", positional=True)
    format: Literal["png", "svg", "pdf"] = option("png", "of the pictures")
    clip: int = option(0, "the clip, of those evaluated, whose heads are drawn")
    output: str = option("", "where to write; default: the run's folder, visualizations/")


@dataclass(frozen=True)
class Answers:
    """Write the notebooks with every exercise answered by the library's own source, for who
    teaches.
    """

    output: str = option("answers", "the folder to write to")


@dataclass(frozen=True)
class Site:
    """Run the lessons and write them as pages that need no server and no network; a lesson
    unchanged is not run again.

    Stopped at any moment, the same command goes on with the lesson it was at.
    """

    output: str = option("site", "the folder to write to")
    lessons: str = option("", "which to write, such as 04,08; default: all")


def is_positional(setting: Field) -> bool:
    """Whether the option is named by its place, not by a flag."""
    return setting.metadata.get("positional", False)
