"""Timing: CPU time of this process, all threads, user and system; interleaved."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx

Run = Callable[[], Any]


def cpu(run: Run) -> float:
    """Seconds of CPU time that a call takes, in all threads of this process."""
    start = time.process_time()
    run()
    return time.process_time() - start


def interleaved(rounds: int, *runs: Run) -> list[list[float]]:
    """Time several things in turn, once each in every round. Returns the times of each."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, found in zip(runs, times):
            gc.collect()
            found.append(cpu(run))
    return times


def yardstick(count: int = 20_000) -> float:
    """Seconds that plain MLX takes to dispatch one op from Python."""
    x, w = mx.ones((4,)), mx.ones((4,))

    def run() -> None:
        y = x
        for k in range(count):
            y = mx.maximum(y, w) if k % 50 else x

    return cpu(run) / count
