"""Records of attention: what is kept of each map, what that costs, and files of them."""

import json
import threading
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from .. import files
from ..shapes import Float
from .dispatch import Attention
from .keeping import BUDGET, CHUNK, KEEP, Statistics, cost, finish, megabytes, reduce_rows

__all__ = ["Gap", "Record", "Recording"]

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
    `shape` is that of the whole map. `kind` is "self" if queries and keys are projections of the
    same tensor, "cross" if not, "unknown" if that could not be followed. `residual` is the largest
    difference between the kernel's own output and weights @ values, or what the kernel puts out
    when it is asked again for its weights (0 if the model computed these very weights; None where
    dropout or the kernel hides it). `gradient` has the shape of `weights` and comes with the
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
        held = [self.weights, self.gradient, *self.reduced_statistics.values()]
        return sum(tensor.nbytes for tensor in held if tensor is not None)

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
        kept, residuals, statistics = [], [], Statistics()
        for start in range(0, len(chosen), step) if policies[-1] != "shapes" else ():
            rows = slice(start, start + step) if self.rows is None else chosen[start : start + step]
            weights = attention.rows(rows)
            residuals.append(attention.check(rows, weights))
            if policies != ("full",):
                statistics.add(weights)
            for policy in policies:
                weights = None if weights is None else reduce_rows(weights, policy)
            kept.append(weights)
        record.kept = policies
        record.residual = max(
            (residual for residual in residuals if residual is not None), default=None
        )
        if statistics.rows:
            record.reduced_statistics = statistics.of_heads()
        if kept and kept[0] is not None:
            with torch.inference_mode(False):  # what is kept may be used anywhere
                whole = (
                    kept[0]
                    if len(kept) == 1 and not kept[0].is_inference()
                    else torch.cat(kept, dim=-2)
                )
                record.weights = whole.detach().cpu()
            for policy in policies:
                record.weights = finish(record.weights, policy)
        with self.lock:
            # another thread has filled the budget meanwhile
            for policy in self.policies[len(policies) :]:
                record.reduce(policy)
            self.records.append(record)
        return record

    def add_gradient(self, record: Record, attention: Attention, result_gradient: Tensor) -> None:
        """File the gradient of a map when the backward pass delivers it; the last backward counts."""
        if record.kept != ("full",):
            return
        rows = slice(None) if self.rows is None else self._chosen(record.shape[2])
        gradient = attention.gradient(result_gradient, rows)
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
            while (
                self.reserved + cost(record.shape, self.policies, self.rows) > self.budget
                and self.policies[-1] != "shapes"
            ):
                policy = LADDER[LADDER.index(self.policies[-1]) + 1]
                self.policies = (*self.policies, policy)
                for kept in self.records:
                    kept.reduce(policy)
                self.reserved = sum(kept.bytes for kept in self.records)
                self.notes.append(
                    f"the budget of {megabytes(self.budget)} was full at"
                    f" {record.name or 'the model'}, step {record.step}: of every map this is kept:"
                    f" {KEEP[policy]}; raise `budget`, or choose what to keep with `keep`"
                )
            self.reserved += cost(record.shape, self.policies, self.rows)
            return self.policies

    def coverage(self) -> list[Gap]:
        """What could not be recorded, each with its remedy; gradients that never came among it."""
        missing = [
            record.name for record in self.records if self.gradients and record.gradient is None
        ]
        if not missing:
            return list(self.gaps)
        return [
            *self.gaps,
            Gap(
                ", ".join(dict.fromkeys(missing)),
                "no gradient came",
                "call backward on something "
                "that depends on it, outside torch.no_grad, checkpointing with use_reentrant=False",
            ),
        ]

    def warn(self) -> None:
        """Say what went missing or was reduced: silence would pass for success."""
        grave = [str(gap) for gap in self.gaps if gap.grave]
        more = f" (and {len(grave) - 1} more: print the recording)" if len(grave) > 1 else ""
        for sentence in [*self.notes[-1:], *(f"not recorded: {gap}{more}" for gap in grave[:1])]:
            warnings.warn(sentence, stacklevel=3)

    def __str__(self) -> str:
        modules, steps = (
            {record.name for record in self.records},
            {record.step for record in self.records},
        )
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
        tensors, described = {}, []
        for index, record in enumerate(self.records):
            held = {"weights": record.weights, "gradient": record.gradient} | {
                f"statistics.{name}": value for name, value in record.reduced_statistics.items()
            }
            tensors |= {
                f"{index}.{name}": tensor for name, tensor in held.items() if tensor is not None
            }
            described.append({name: getattr(record, name) for name in _DESCRIBED})
        metadata = {
            "records": described,
            "policies": self.policies,
            "rows": self.rows,
            "notes": self.notes,
            "gaps": [asdict(gap) for gap in self.gaps],
        }
        if _is_npz(path):
            with files.atomic(path) as temporary:
                np.savez_compressed(
                    temporary,
                    metadata=json.dumps(metadata),
                    **{name: tensor.numpy() for name, tensor in tensors.items()},
                )
        else:
            files.save_tensors(path, tensors, metadata)
        return Path(path)

    def to_html(self, path: str | Path, **options: Any) -> Path:
        """Write the maps as one page that any browser opens offline; `options` are those of
        `page.attention_page`.
        """
        from .page import from_records, save_page  # a page is made of records

        return save_page(path, **{**from_records(self.records), **options})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that `save` wrote; raises `FileNotFoundError`, or `ValueError` if it is no
        recording.
        """
        if _is_npz(path):
            try:
                with np.load(path, allow_pickle=False) as stored:
                    tensors = {
                        name: torch.from_numpy(stored[name])
                        for name in stored.files
                        if name != "metadata"
                    }
                    metadata = json.loads(str(stored["metadata"]))
            except (BadZipFile, EOFError, KeyError, ValueError) as error:
                raise ValueError(
                    f"{path} is truncated or holds no recording ({error}); record again, or give"
                    " another file"
                ) from error
        else:
            tensors, metadata = files.load_tensors(path)
        if "records" not in metadata:
            raise ValueError(f"{path} holds no recording; give a file written by `recording.save`")
        recording = cls(rows=metadata["rows"])
        recording.policies, recording.notes = tuple(metadata["policies"]), metadata["notes"]
        recording.gaps = {Gap(**gap): None for gap in metadata["gaps"]}
        for index, described in enumerate(metadata["records"]):
            held = {
                name.split(".", 1)[1]: tensor
                for name, tensor in tensors.items()
                if name.startswith(f"{index}.")
            }
            described |= {"shape": tuple(described["shape"]), "kept": tuple(described["kept"])}
            recording.records.append(
                Record(
                    **described,
                    weights=held.get("weights"),
                    gradient=held.get("gradient"),
                    reduced_statistics={
                        name.removeprefix("statistics."): tensor
                        for name, tensor in held.items()
                        if name.startswith("statistics.")
                    },
                )
            )
        return recording


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
