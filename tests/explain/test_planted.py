"""Faults planted in small models of several kinds, each in one line of this file: health or why names that line."""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import nnrepl
from nnrepl.explain.health import health
from nnrepl.explain.why import why
from tests.support import OpenSession

Fault = Callable[[mx.array], mx.array]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell, self.head = nn.Embedding(12, 8), nn.GRU(8, 8), nn.Linear(8, 4)

    def __call__(self, x: mx.array) -> mx.array:
        return self.head(self.cell(self.embed(x))[:, -1])


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp, self.head = nn.Linear(5, 8), nn.Linear(8, 4)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, norm_first=True)

    def __call__(self, x: mx.array) -> mx.array:
        return self.head(self.layer(self.inp(x), None).mean(axis=1))


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Linear(4, 4)

    def __call__(self, x: mx.array) -> mx.array:
        return self.head(nn.silu(self.norm(self.conv(x))).mean(axis=(1, 2)))


def deep() -> nn.Module:
    return nn.Sequential(*(part for _ in range(3) for part in (nn.Linear(6, 6), nn.Tanh())), nn.Linear(6, 4))


MODELS: list[tuple[Callable[[], nn.Module], mx.array]] = [
    (deep, mx.sin(mx.arange(30)).reshape(5, 6)),
    (Recurrent, mx.arange(24).reshape(4, 6) % 12),
    (Attentive, mx.sin(mx.arange(75)).reshape(3, 5, 5)),
    (Convolutional, mx.sin(mx.arange(108)).reshape(3, 6, 6, 1)),
]

NAN: list[Fault] = [
    lambda x: mx.log(-mx.abs(x) - 1),
    lambda x: x / (x - x),
    lambda x: mx.sqrt(x - x - 1),
    lambda x: mx.exp(x * 0 + 100 + x),
    lambda x: x + mx.sqrt(mx.abs(x - mx.stop_gradient(x))),
    lambda x: (mx.abs(x) + 1e6).astype(mx.float16).astype(x.dtype),
    lambda x: x + mx.linalg.norm(x * 0, axis=-1, keepdims=True),
    lambda x: x + float("inf"),
    lambda x: mx.arccos(mx.abs(x) + 1.5),
    lambda x: (-mx.abs(x) - 0.1) ** 0.5,
    lambda x: mx.exp(x + 1e3) - mx.exp(x + 1e3),
    lambda x: x.at[tuple(0 for _ in x.shape)].add(float("nan")),
]
ZERO: list[Fault] = [
    lambda x: x * 0,
    lambda x: mx.maximum(x - 1e4, 0),
    lambda x: mx.tanh(x * 0 + 500 + x),
    lambda x: mx.clip(x, 1e5, 2e5),
    lambda x: mx.where(x > 1e9, x, 0.5),
    lambda x: mx.concatenate([x * 1, mx.zeros(x.shape)], axis=-1)[..., x.shape[-1] :],
    lambda x: mx.softmax(x[..., None], axis=-1)[..., 0],
    lambda x: mx.round(x),
    lambda x: x.astype(mx.int32).astype(mx.float32),
]
NONE: list[Fault] = [
    lambda x: mx.stop_gradient(x),
    lambda x: mx.argmax(x, axis=-1, keepdims=True) + mx.zeros(x.shape),
    lambda x: mx.array(np.array(x)),
]
SIZE: list[Fault] = [lambda x: x * 1e-14, lambda x: x * 1e12]


def planted(model: nn.Module, fault: Fault, number: int) -> str:
    """Put a fault after a layer of a model; gives the path of the layer."""
    kinds = (nn.Linear, nn.Conv2d, nn.Embedding)
    last = ("head", "layers.6")
    places = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, kinds) and path not in last]
    path, layer = random.Random(number).choice(places)
    kind: Any = type(layer)

    def call(self: Any, x: mx.array) -> mx.array:
        return fault(kind.__call__(self, x))

    layer.__class__ = type(kind.__name__, (kind,), {"__call__": call})
    return path


CASES = [(fault, kind) for kind, faults in (("nan", NAN), ("zero", ZERO), ("none", NONE), ("size", SIZE))
         for fault in faults]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_line_of_the_fault_is_named(number: int) -> None:
    fault, kind = CASES[number]
    mx.random.seed(number)
    make, x = MODELS[number % len(MODELS)]
    model = make()
    path = planted(model, fault, number)
    targets = mx.arange(len(x)) % 4
    session = OpenSession(
        nnrepl.trace(lambda m: nn.losses.cross_entropy(m(x), targets, reduction="mean"), model, wrt=model)
    )
    line = re.compile(rf"test_planted\.py:{inspect.getsourcelines(fault)[1]}\b")
    texts = [found.text for found in health(session).findings]
    if kind == "nan":
        answers = [why(session, "nan"), why(session, "")]
    else:
        own = [f"{path}.{name}" for name, _ in tree_flatten(dict(model.named_modules())[path].parameters())]
        answers = [why(session, f"grad({name})") for name in own]
    texts += [" ".join([answer.headline, *answer.reasons, *answer.also]) for answer in answers]
    assert any(line.search(text) for text in texts), (path, line, texts)
    if kind in ("nan", "zero"):
        assert all(line.search(text) for text in texts[-len(answers) :]), texts
