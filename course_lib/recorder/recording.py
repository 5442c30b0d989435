"""What was recorded: maps and what is known of them, kept within a budget, read from files and
written to them.
"""

import json
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from .. import files
from ..shapes import Float
from .operators import Attention
from .page import save_page

__all__ = [
    "BUDGET",
    "CHUNK",
    "KEEP",
    "Gap",
    "Plan",
    "Record",
    "Recording",
    "Statistics",
    "cost",
    "finish",
    "from_records",
    "megabytes",
    "reduce_rows",
]

KEEP = {
    "full": "every weight",
    "heads": "the mean of the heads",
    "thumbnail": "at most 32 × 32 blocks, keys summed and queries averaged",
    "statistics": "five numbers for each head",
    "shapes": "shapes only",
}

SIDE = 32  # of a thumbnail

CHUNK = 1 << 24  # weights that exist at once while a map is reduced

BUDGET = 2_000_000_000


class Statistics:
    """Numbers for each head, gathered from some rows of the map at a time."""

    def __init__(self):
        self.rows, self.received = [], 0

    def add(self, weights: Float[Tensor, "batch heads queries keys"]) -> Self:
        entropy = torch.special.entr(weights).sum(-1)
        self.rows.append(
            torch.stack(
                [
                    weights.amax(-1),
                    (weights < 0.01).to(weights.dtype).mean(-1),
                    entropy,
                    entropy.exp(),
                ]
            ).cpu()
        )
        self.received = self.received + weights.sum(-2).cpu()
        return self

    def of_heads(self) -> dict[str, Float[Tensor, "batch heads"]]:
        largest, sparsity, entropy, support = torch.cat(self.rows, dim=-1)
        return {
            "max": largest.amax(-1),
            "sparsity": sparsity.mean(-1),
            "entropy": entropy.mean(-1),
            "support": support.mean(-1),
            "sink": self.received.amax(-1) / largest.shape[-1],
        }


def _fold(weights: Tensor, axis: int) -> Tensor:
    """Sum neighbours along an axis until at most `SIDE` blocks are left."""
    size = weights.shape[axis]
    if size <= SIDE:
        return weights
    shape = list(weights.shape)
    shape[axis] = SIDE
    blocks = torch.arange(size, device=weights.device) * SIDE // size
    return weights.new_zeros(shape).index_add_(axis, blocks, weights)


def reduce_rows(weights: Tensor, policy: str) -> Tensor | None:
    """What a policy leaves of some rows: row by row, so that a large map never exists as a whole."""
    if policy in ("statistics", "shapes"):
        return None
    if policy == "heads":
        return weights.mean(1, keepdim=True)
    return _fold(weights, -1) if policy == "thumbnail" else weights


def finish(weights: Tensor | None, policy: str) -> Tensor | None:
    """What a policy does to all rows together."""
    if weights is None or policy != "thumbnail":
        return weights
    return _fold(weights, -2) / _fold(torch.ones(weights.shape[-2], 1), -2)


def cost(shape: Sequence[int], policies: Sequence[str], rows: Sequence[int] | None = None) -> int:
    """The bytes that a map of this shape takes, in float32, when reduced by these policies."""
    batch, heads, queries, keys = shape
    queries = queries if rows is None else len(rows)
    numbers = 5 * batch * heads if policies[-1] not in ("full", "shapes") else 0
    if policies[-1] not in ("statistics", "shapes"):
        side = SIDE if "thumbnail" in policies else max(queries, keys)
        numbers += (
            batch * (1 if "heads" in policies else heads) * min(queries, side) * min(keys, side)
        )
    return 4 * numbers


@dataclass(frozen=True)
class Plan:
    """What recording one forward would cost: the maps it makes, and their bytes under each policy."""

    shapes: tuple[tuple[int, ...], ...]
    keep: str
    rows: tuple[int, ...] | None
    budget: int

    def bytes(self, keep: str) -> int:
        return sum(cost(shape, (keep,), self.rows) for shape in self.shapes)

    def __str__(self) -> str:
        if not self.shapes:
            return "one forward shows no attention: there is nothing to record"
        counted = ", ".join(
            f"{count} of {' × '.join(map(str, shape))}"
            for shape, count in Counter(self.shapes).items()
        )
        lines = [
            f"attention maps of one forward: {len(self.shapes)} (batch × heads × queries × keys:"
            f" {counted})"
        ]
        if self.rows is not None:
            lines.append(f"of each, {len(self.rows)} chosen queries")
        for keep, what in KEEP.items():
            fits = int(self.budget // self.bytes(keep)) if self.bytes(keep) else None
            lines.append(
                f"{'→' if keep == self.keep else ' '} {keep:10} {megabytes(self.bytes(keep)):>11}  "
                f" {what}" + ("" if fits is None else f"; the budget holds {fits} forwards")
            )
        return "\n".join(
            [
                *lines,
                f"budget {megabytes(self.budget)}: when it is full, every map steps down this list",
            ]
        )


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"


LADDER = list(KEEP)


@dataclass(frozen=True)
class Gap:
    """Something the recorder could not record: where, what, and the remedy."""

    where: str
    what: str
    remedy: str
    grave: bool = True  # worth a warning; the others are only listed

    def __str__(self) -> str:
        return f"{self.where or 'the model'}: {self.what}; {self.remedy}"


@dataclass(repr=False)
class Record:
    """One attention map: the `sub`-th of module `name` in the `step`-th forward of the model.

    `weights` is `batch heads queries keys`, reduced as `kept` says, None if nothing of it is kept;
    `shape` is that of the whole map. `kind` is "self" if queries ask the tokens they are
    computed from, "cross" if others, "unknown" if some of both, or if that could not be followed. `residual` is the largest
    difference between what the model got and weights @ values, or what the kernel puts out when it
    is asked again for its weights (None where that cannot be measured: dropout, a kernel that hides
    it, weights that the model handed over). `gradient` has the shape of `weights` and comes with the
    backward pass.
    """

    name: str
    class_name: str
    kind: str
    operator: str
    shape: tuple[int, ...]
    step: int
    sub: int
    kept: tuple[str, ...] = ("full",)
    residual: float | None = None
    weights: Tensor | None = None
    gradient: Tensor | None = None
    reduced_statistics: dict[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        shape = " × ".join(map(str, self.shape))
        return (
            f"Record({self.name or self.class_name}, {self.kind}, step {self.step}, sub {self.sub},"
            f" {shape}, kept: {', '.join(self.kept)})"
        )

    @property
    def statistics(self) -> dict[str, Float[Tensor, "batch heads"]]:
        """Max, sparsity (share below 0.01), entropy (nats), support (keys) and sink of each head;
        no shape, no dict.
        """
        if self.kept == ("full",) and self.weights is not None:
            return Statistics().add(self.weights).of_heads()
        return self.reduced_statistics

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """What is kept of the map, by name."""
        tensors = {"weights": self.weights, "gradient": self.gradient}
        tensors |= {f"statistics.{name}": value for name, value in self.reduced_statistics.items()}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def reduce(self, policy: str) -> None:
        """Keep less of the map: one step further down the ladder."""
        self.reduced_statistics, self.gradient = self.statistics if policy != "shapes" else {}, None
        if self.weights is not None:
            self.weights = finish(reduce_rows(self.weights, policy), policy)
        self.kept = (*self.kept, policy)


class Recording:
    """The attention maps of the forwards that ran, and what could not be recorded; `print` it for a
    summary.
    """

    def __init__(
        self,
        keep: str = "full",
        rows: Sequence[int] | None = None,
        budget: int = BUDGET,
        gradients: bool = False,
    ):
        self.policies, self.rows, self.budget, self.gradients = (keep,), rows, budget, gradients
        self.records: list[Record] = []
        self.notes: list[str] = []
        self.gaps: dict[Gap, None] = {}  # a set that remembers the order
        self.reserved = 0
        self.lock = threading.RLock()  # several threads may run the model at once

    def add(self, record: Record, attention: Attention) -> Record:
        """Compute what the policy keeps of this map, some rows at a time, and file it."""
        policies = self._make_room(record)
        batch, heads, queries, keys = record.shape
        chosen = self._chosen(queries)
        step = max(1, CHUNK // max(1, batch * heads * keys))
        parts, residuals, statistics = [], [], Statistics()
        for start in range(0, len(chosen), step) if policies[-1] != "shapes" else ():
            rows = slice(start, start + step) if self.rows is None else chosen[start : start + step]
            weights = attention.rows(rows)
            residuals.append(attention.check(rows, weights))
            if policies != ("full",):
                statistics.add(weights)
            for policy in policies:
                weights = None if weights is None else reduce_rows(weights, policy)
            parts.append(weights)
        record.kept = policies
        record.residual = max((value for value in residuals if value is not None), default=None)
        if statistics.rows:
            record.reduced_statistics = statistics.of_heads()
        if parts and parts[0] is not None:
            with torch.inference_mode(False):  # what is kept may be used anywhere
                single = len(parts) == 1 and not parts[0].is_inference()
                whole = parts[0] if single else torch.cat(parts, dim=-2)
                record.weights = whole.detach().cpu()
            for policy in policies:
                record.weights = finish(record.weights, policy)
        with self.lock:
            # another thread has filled the budget meanwhile
            for policy in self.policies[len(policies) :]:
                record.reduce(policy)
            self.records.append(record)
        return record

    def add_gradient(
        self, record: Record, of_weights: Callable[..., Tensor], result_gradient: Tensor
    ) -> None:
        """File the gradient of a map when the backward pass delivers it; the last backward counts.

        `of_weights` is what `Attention.gradient` returned.
        """
        if record.kept != ("full",):
            return
        rows = slice(None) if self.rows is None else self._chosen(record.shape[2])
        gradient = of_weights(result_gradient, rows)
        gradient = gradient.detach().to(record.weights.dtype).cpu().clone()
        with self.lock:
            if record.gradient is None and self.reserved + gradient.nbytes > self.budget:
                return self.miss(
                    record.name, "the budget has no room for its gradient", "raise `budget`"
                )
            self.reserved += gradient.nbytes if record.gradient is None else 0
            record.gradient = gradient

    def miss(self, where: str, what: str, remedy: str, grave: bool = True) -> None:
        """Note once what could not be recorded."""
        self.gaps[Gap(where, what, remedy, grave)] = None

    def _chosen(self, queries: int) -> list[int]:
        """The queries whose rows are kept, of a map that has so many."""
        return [row for row in self.rows or range(queries) if -queries <= row < queries]

    def _make_room(self, record: Record) -> tuple[str, ...]:
        """Reserve the bytes of a map; while they do not fit, all maps, also those kept so far, step
        down the ladder.
        """
        with self.lock:
            while self.policies[-1] != "shapes":
                if self.reserved + cost(record.shape, self.policies, self.rows) <= self.budget:
                    break
                policy = LADDER[LADDER.index(self.policies[-1]) + 1]
                self.policies = (*self.policies, policy)
                for earlier in self.records:
                    earlier.reduce(policy)
                self.reserved = sum(earlier.bytes for earlier in self.records)
                self.notes.append(
                    f"the budget of {megabytes(self.budget)} was full at"
                    f" {record.name or 'the model'}, step {record.step}: of every map this is kept:"
                    f" {KEEP[policy]}; raise `budget`, or choose what to keep with `keep`"
                )
            self.reserved += cost(record.shape, self.policies, self.rows)
            return self.policies

    def coverage(self) -> list[Gap]:
        """What could not be recorded, each with its remedy; gradients that never came among it."""
        gaps = list(self.gaps)
        missing = [
            record.name for record in self.records if self.gradients and record.gradient is None
        ]
        if missing:
            remedy = (
                "call backward on something that depends on it, outside torch.no_grad, checkpointing"
                " with use_reentrant=False"
            )
            gaps.append(Gap(", ".join(dict.fromkeys(missing)), "no gradient came", remedy))
        return gaps

    def warn(self) -> None:
        """Say what went missing or was reduced: silence would pass for success."""
        grave = [str(gap) for gap in self.gaps if gap.grave or not self.records]
        more = f" (and {len(grave) - 1} more: print the recording)" if len(grave) > 1 else ""
        for sentence in [*self.notes[-1:], *(f"not recorded: {gap}{more}" for gap in grave[:1])]:
            warnings.warn(sentence, stacklevel=3)

    def __str__(self) -> str:
        modules = {record.name for record in self.records}
        steps = {record.step for record in self.records}
        residuals = [record.residual for record in self.records if record.residual is not None]
        lines = [
            f"attention maps: {len(self.records)} (modules: {len(modules)}, forwards:"
            f" {len(steps)}), {megabytes(sum(record.bytes for record in self.records))}"
            f" ({KEEP[self.policies[-1]]})"
        ]
        if residuals:
            lines.append(
                f"the maps give the kernels' own output again, within {max(residuals):.1g}"
            )
        return "\n".join(
            [*lines, *self.notes, *(f"not recorded: {gap}" for gap in self.coverage())]
        )

    def save(self, path: str | Path) -> Path:
        """Write all records as one file, atomically: `.safetensors`, or `.npz` for NumPy."""
        tensors = {
            f"{index}.{name}": tensor
            for index, record in enumerate(self.records)
            for name, tensor in record.tensors().items()
        }
        metadata = {
            "records": [
                {name: getattr(record, name) for name in _DESCRIBED} for record in self.records
            ],
            "policies": self.policies,
            "rows": self.rows,
            "notes": self.notes,
            "gaps": [asdict(gap) for gap in self.gaps],
        }
        if _is_npz(path):
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            with files.atomic(path) as temporary:
                np.savez_compressed(temporary, metadata=json.dumps(metadata), **arrays)
        else:
            files.save_tensors(path, tensors, metadata)
        return Path(path)

    def to_html(self, path: str | Path, **options: Any) -> Path:
        """Write the maps as one page that any browser opens offline; `options` are those of
        `page.attention_page`.
        """
        return save_page(path, **{**from_records(self.records), **options})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that `save` wrote; raises `FileNotFoundError`, or `ValueError` if it is no
        recording.
        """
        path, read = Path(path), _read_npz if _is_npz(path) else files.load_tensors
        if not path.is_file():
            raise FileNotFoundError(f"no recording {path}; check the path")
        try:
            return cls._assembled(*read(path))
        except Exception as error:  # a file from elsewhere can fail in any way
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise ValueError(
                f"{path} is truncated or holds no recording ({reason}); record again, or give"
                " another file"
            ) from error

    @classmethod
    def _assembled(cls, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Self:
        """A recording from what a file holds; an exception says what is wrong with it."""
        recording = cls(rows=metadata["rows"])
        recording.policies, recording.notes = tuple(metadata["policies"]), metadata["notes"]
        recording.gaps = {Gap(**gap): None for gap in metadata["gaps"]}
        _require("policies", set(recording.policies) <= set(KEEP) and recording.policies)
        _require("rows", recording.rows is None or _all_of(int, recording.rows))
        _require("notes", _all_of(str, recording.notes))
        for gap in recording.gaps:
            _require("gaps", _all_of(str, [gap.where, gap.what, gap.remedy]))
        of_records = [{} for _ in metadata["records"]]
        for name, tensor in tensors.items():
            index, name = name.split(".", 1)
            of_records[int(index)][name] = tensor
        for described, held in zip(metadata["records"], of_records, strict=True):
            described |= {"shape": tuple(described["shape"]), "kept": tuple(described["kept"])}
            record = Record(**described, weights=held.pop("weights", None))
            record.gradient = held.pop("gradient", None)
            record.reduced_statistics = {
                name.removeprefix("statistics."): tensor for name, tensor in held.items()
            }
            _check(record)
            recording.records.append(record)
        return recording


def _read_npz(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
    metadata = json.loads(str(arrays.pop("metadata")))
    return {name: torch.from_numpy(array) for name, array in arrays.items()}, metadata


def _require(what: str, fits: Any) -> None:
    if not fits:
        raise ValueError(f"its {what} cannot be")


def _all_of(kind: type, values: Any) -> bool:
    return isinstance(values, list | tuple) and all(type(value) is kind for value in values)


def _check(record: Record) -> None:
    """Whether a record from a file can be one."""
    names = [record.name, record.class_name, record.kind, record.operator]
    _require("names", _all_of(str, names))
    numbers = [*record.shape, record.step, record.sub]
    _require("numbers", _all_of(int, numbers) and min(numbers) >= 0 and len(record.shape) == 4)
    _require(
        "policies", record.kept and _all_of(str, record.kept) and set(record.kept) <= set(KEEP)
    )
    _require("residual", record.residual is None or isinstance(record.residual, int | float))
    for tensor in record.tensors().values():
        _require("arrays", tensor.is_floating_point() and len(tensor) == record.shape[0])
    if record.weights is not None:
        _require("weights", record.weights.ndim == 4 and 0 not in record.weights.shape[1:])
    if record.gradient is not None:
        _require("gradient", record.weights is not None)
        _require("gradient", record.gradient.shape == record.weights.shape)
    for statistic in record.reduced_statistics.values():
        _require("statistics", statistic.shape == record.shape[:2])


_DESCRIBED = [
    entry.name
    for entry in fields(Record)
    if entry.name not in ("weights", "gradient", "reduced_statistics")
]


def _is_npz(path: str | Path) -> bool:
    suffix = Path(path).suffix
    if suffix not in (".npz", ".safetensors"):
        raise ValueError(
            f"a recording cannot be a {suffix or 'file without suffix'}; name it .safetensors or"
            " .npz"
        )
    return suffix == ".npz"


def as_shares(weights: Tensor) -> tuple[Tensor, str]:
    """Weights as they can be drawn, and what has to be said of it: a model that edits or mixes them
    after the softmax leaves no distribution over keys, so each key's share of the absolute weights.
    """
    sums, size = weights.sum(-1), weights.abs()
    off = torch.where(sums == 0, 0, (sums - 1).abs())
    if not weights.numel() or (weights.min() >= 0 and off.max() <= 1e-2):
        return weights, ""
    total = size.sum(-1, keepdim=True)
    return size / total.where(total > 0, 1), "no distribution: shares of the absolute weights"


def layer_name(record: Record) -> str:
    """The module's name; its second map in one forward is `name [1]`."""
    return (record.name or "model") + (f" [{record.sub}]" if record.sub else "")


def from_records(records: Iterable[Record]) -> dict[str, Any]:
    """The maps of a recording with what is known of them, as arguments of `save_page`.

    A module that attends several times in one forward, or to differently many tokens (a cache that
    grows), gives one layer for each.
    """
    records = [record for record in records if record.weights is not None]
    shapes: dict[tuple[str, int], set] = {}
    for record in records:
        shapes.setdefault((record.name, record.sub), set()).add(record.weights.shape[1:])
    runs: dict[str, dict[int, Tensor]] = {}
    notes, cross = {}, set()
    for record in records:
        name = layer_name(record)
        if len(shapes[record.name, record.sub]) > 1:
            name += " {} × {}".format(*record.weights.shape[-2:])
        runs.setdefault(name, {})[record.step], remark = as_shares(record.weights)
        kind = "kind unknown" if record.kind == "unknown" else f"{record.kind}-attention"
        notes[name] = ", ".join(filter(None, [record.class_name, kind, remark]))
        if record.kind == "cross":
            cross.add(name)
    steps = sorted({record.step for record in records})
    return {
        "maps": {name: [run.get(step) for step in steps] for name, run in runs.items()},
        "notes": notes,
        "cross": cross,
    }
