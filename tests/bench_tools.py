"""What all tables of `make bench` share: timing in turns, and a row."""

import time
from collections.abc import Callable

import numpy as np


def seconds(
    *actions: Callable[[], object],
    rounds: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """The median time of each action, all run in turns after one warm-up."""
    for action in actions:
        action()
    times = [[] for _ in actions]
    for _ in range(rounds):
        for action, kept in zip(actions, times, strict=True):
            started = clock()
            action()
            kept.append(clock() - started)
    return [float(np.median(kept)) for kept in times]


def row(what: str, value: str, peer: str, ratio: float, asked: str = "") -> None:
    print(f"| {what} | {value} | {peer} | {ratio:.2f} | {asked} |")
