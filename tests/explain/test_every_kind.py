"""health: no kind of finding is without a program in which it is so and the same program in which it is not."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_map

import nnrepl
from nnrepl.explain import health as checks
from nnrepl.tape import claims
from tests.explain.test_findings import KINDS, Program, captured, half_kept, reports, rows, squares, train
from tests.explain.test_loss_findings import PAIRS
from tests.support import OpenSession


def dead(faulty: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    model.layers[0].bias = mx.full((8,), -50.0 if faulty else 0.1)
    train(model, squares, rows(20, 3), rows(20, 2))


def saturated(faulty: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    train(model, squares, rows(20, 3) * (200 if faulty else 1), rows(20, 2), optimizer=optim.SGD(1e-4))


def whole(faulty: bool) -> None:
    def loss(m: nn.Module, x: mx.array, y: mx.array) -> mx.array:
        h = m(x) * 3
        return ((h.astype(mx.int32).astype(mx.float32) if faulty else h) + m(x) - y).square().mean()

    train(nn.Linear(3, 2), loss, rows(4, 3), rows(4, 2))


def cut(faulty: bool) -> None:
    def loss(m: nn.Module, x: mx.array, y: mx.array) -> mx.array:
        h = mx.tanh(m(x))
        return ((mx.array(np.array(h)) if faulty else h) + m(x) - y).square().mean()

    train(nn.Linear(3, 2), loss, rows(4, 3), rows(4, 2))


def huge(faulty: bool) -> None:
    train(nn.Linear(3, 2), squares, rows(4, 3) * (1e4 if faulty else 1), rows(4, 2), optimizer=optim.SGD(1e-12))


def vanishing(faulty: bool) -> None:
    layers = [part for _ in range(20) for part in (nn.Linear(4, 4), nn.Sigmoid() if faulty else nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(4, 1))
    for layer in model.layers[::2]:
        layer.weight = mx.eye(4)[: layer.weight.shape[0]]
    train(model, squares, mx.abs(rows(8, 4)), rows(8, 1), optimizer=optim.SGD(1e-3))


def zero(faulty: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    train(model, lambda m, x, y: (m.layers[1](m.layers[0](x) * (0.0 if faulty else 1.0)) - y).square().mean(),
          rows(4, 3), rows(4, 2))  # fmt: skip


def missing(faulty: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    train(model, lambda m, x, y: (m.layers[1](mx.stop_gradient(m.layers[0](x)) if faulty else m.layers[0](x)) - y)
          .square().mean(), rows(4, 3), rows(4, 2))  # fmt: skip


def broken(faulty: bool) -> None:
    train(nn.Linear(3, 2), lambda m, x, y: mx.log(mx.abs(m(x)) * (0 if faulty else 1) + (0 if faulty else 1)).mean(),
          rows(4, 3), rows(4, 2), steps=1)  # fmt: skip


def forgotten(faulty: bool) -> None:
    model, x, y = nn.Linear(3, 2), rows(4, 3), rows(4, 2)
    step, optimizer = nn.value_and_grad(model, squares), optim.SGD(1e-2)
    for _ in range(3):
        loss, grads = step(model, x, y)
        if not faulty:
            optimizer.update(model, grads)
        mx.eval(loss, model.parameters())


def leaping(faulty: bool) -> None:
    train(nn.Linear(3, 2), squares, rows(4, 3), rows(4, 2), optimizer=optim.SGD(50.0 if faulty else 1e-2))


def uphill(faulty: bool) -> None:
    model, x, y = nn.Linear(3, 2), rows(4, 3), rows(4, 2)
    optimizer = optim.SGD(1e-2)
    for _ in range(2):
        _, grads = nn.value_and_grad(model, squares)(model, x, y)
        if faulty:
            grads = {name: -grad for name, grad in grads.items()}
        optimizer.update(model, grads)
        mx.eval(model.parameters())


def lost(faulty: bool) -> None:
    model = nn.Linear(3, 2)
    model.set_dtype(mx.bfloat16 if faulty else mx.float32)
    kind = model.weight.dtype
    train(model, lambda m, x, y: squares(m, x, y).astype(mx.float32), rows(4, 3).astype(kind), rows(4, 2).astype(kind),
          optimizer=optim.SGD(1e-4))  # fmt: skip


def underflow(faulty: bool) -> None:
    model = nn.Linear(3, 2)
    model.set_dtype(mx.float16)
    scale = 1e-5 if faulty else 1.0
    train(model, lambda m, x, y: ((m(x) - y).square().mean() * scale).astype(mx.float32), rows(4, 3).astype(mx.float16),
          rows(4, 2).astype(mx.float16), optimizer=optim.SGD(0.1), steps=1)  # fmt: skip


def forced(faulty: bool) -> None:
    def loss(m: nn.Module, x: mx.array, y: mx.array) -> mx.array:
        value = squares(m, x, y)
        if faulty:
            mx.eval(value)
        return value

    train(nn.Linear(3, 2), loss, rows(4, 3), rows(4, 2))


def frozen(faulty: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    if faulty:
        model.layers[0].freeze()
    train(model, squares, rows(4, 3), rows(4, 2))


def asleep(faulty: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1), nn.Linear(4, 2))
    if faulty:
        model.eval()
    train(model, squares, rows(4, 3), rows(4, 2))


def awake(faulty: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1), nn.Linear(4, 2))
    x, y = rows(4, 3), rows(4, 2)
    train(model, squares, x, y, steps=1)
    if not faulty:
        model.eval()
    mx.eval(model(x))


class Made(nn.Module):
    """Keeps a weight where MLX sees it, or in a function."""

    def __init__(self, hidden: bool) -> None:
        super().__init__()
        self.bias = mx.zeros((2,))
        weight = mx.random.normal((3, 2)) * 0.5
        if hidden:
            self._get = lambda: weight
        else:
            self.weight = weight

    def __call__(self, x: mx.array) -> mx.array:
        return x @ (self._get() if "weight" not in self else self.weight) + self.bias


def hidden(faulty: bool) -> None:
    train(Made(faulty), squares, rows(4, 3), rows(4, 2))


def twice(faulty: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Softmax() if faulty else nn.Identity())
    targets = mx.array([0, 1, 2, 3])
    train(model, lambda m, x: nn.losses.cross_entropy(m(x), targets, reduction="mean"), rows(4, 3))


def symmetric(faulty: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    if faulty:
        model.layers[0].weight, model.layers[0].bias = mx.full((4, 3), 0.5), mx.zeros((4,))
        model.layers[2].weight = mx.full((2, 4), 0.5)
    train(model, squares, rows(6, 3), rows(6, 2))


def heaped(faulty: bool) -> None:
    """Gradients of all steps are added up; or those of two batches, and a momentum is made by hand."""
    model, optimizer = nn.Linear(3, 2), optim.SGD(1e-3)
    step, x, y = nn.value_and_grad(model, squares), rows(4, 3), rows(4, 2)
    heap: Any = None
    for turn in range(6):
        _, grads = step(model, x, y)
        if faulty:
            heap = grads if heap is None else tree_map(lambda a, b: a + b, heap, grads)
            optimizer.update(model, heap)
        elif turn % 2:
            heap = tree_map(lambda a, b: 0.9 * a + b, heap, grads)
            optimizer.update(model, heap)
        else:
            heap = grads if heap is None else tree_map(lambda a, b: a * 0 + b, heap, grads)
        mx.eval(model.parameters(), heap)


def heaped_over(how: str) -> Program:
    """Return a program that adds up the gradients of two batches, and does not begin anew after the update."""

    def program(faulty: bool) -> None:
        model, optimizer, heap = nn.Linear(3, 2), optim.SGD(1e-3), None
        step, x, y = nn.value_and_grad(model, squares), rows(4, 3), rows(4, 2)
        for turn in range(8):
            _, grads = step(model, x + turn, y)
            heap = grads if heap is None else tree_map(lambda a, b: a + b, heap, grads)
            if turn % 2:
                mean = tree_map(lambda a: a / 2, heap)
                if how == "clipped":
                    mean, _ = optim.clip_grad_norm(mean, 1.0)
                if how == "by hand":
                    model.update(tree_map(lambda w, g: w - 1e-3 * g, model.parameters(), mean))
                else:
                    optimizer.update(model, mean)
                heap = heap if faulty else None
            mx.eval(model.parameters(), heap or [])

    return program


def trailing(faulty: bool) -> None:
    """A loop that ends with a gradient, which no update takes any more; or whose last ones are all forgotten."""
    take, x = mx.value_and_grad(lambda x: (x - 1).square().sum()), mx.zeros((2,))
    _, grad = take(x)
    for _ in range(4):
        x = x - 0.1 * (x if faulty else grad)
        _, grad = take(x)
        mx.eval(x)


def unasked(faulty: bool) -> None:
    labels = mx.array([0, 1, 2, 3 if faulty else 2])

    def loss(m: nn.Module, x: mx.array) -> mx.array:
        hot = (mx.arange(3) == labels[:, None]).astype(mx.float32)
        return -(hot * nn.log_softmax(m(x))).sum(axis=-1).mean()

    train(nn.Linear(4, 3), loss, rows(4, 4))


def crept(faulty: bool) -> None:
    train(nn.Linear(3, 2), squares, rows(4, 3), rows(4, 2), optimizer=optim.SGD(1e-7 if faulty else 1e-2))


class Normed(nn.Module):
    """A model with a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.BatchNorm(4), nn.Linear(4, 2)

    def __call__(self, x: mx.array) -> mx.array:
        return self.last(mx.tanh(self.norm(self.first(x))))


def sleeping(faulty: bool) -> None:
    """A BatchNorm that sleeps while it is trained; or one whose model is put to sleep after the training."""
    model = Normed()
    if faulty:
        model.eval()
    train(model, squares, rows(8, 3), rows(8, 2))
    model.eval()
    mx.eval(model(rows(2, 3)))


def one_term(faulty: bool) -> None:
    train(nn.Linear(3, 2), lambda m, x, y: squares(m, x, y) + mx.square(m(x)).sum() * (0.0 if faulty else 0.1),
          rows(4, 3), rows(4, 2))  # fmt: skip


def divided_away(faulty: bool) -> None:
    def loss(m: nn.Module, x: mx.array, y: mx.array) -> mx.array:
        big = mx.exp(mx.stop_gradient(m(x)) * 0 + (100 if faulty else 1)).sum()
        return squares(m, x, y) + 1 / big

    train(nn.Linear(3, 2), loss, rows(4, 3), rows(4, 2))


def stopped(faulty: bool) -> None:
    def loss(m: nn.Module, x: mx.array, y: mx.array) -> mx.array:
        h = mx.tanh(m(x))
        return ((mx.stop_gradient(h) if faulty else h) + m(x) - y).square().mean()

    train(nn.Linear(3, 2), loss, rows(4, 3), rows(4, 2))


def outsized(faulty: bool) -> None:
    def loss(m: nn.Module, x: mx.array, y: mx.array) -> mx.array:
        return (mx.sin(m(x) * (1e9 if faulty else 10.0)) + m(x) - y).square().mean()

    train(nn.Linear(3, 2), loss, rows(4, 3), rows(4, 2))


def absorbed(faulty: bool) -> None:
    train(nn.Linear(3, 2), lambda m, x, y: squares(m, x, y) + mx.square(m(x)).sum() * (1e-9 if faulty else 0.1),
          rows(4, 3), rows(4, 2))  # fmt: skip


def taught(faulty: bool, how: Any) -> None:
    """A frozen layer, whose numbers are made all the same, or whole ones; a mask of them is none of that."""
    mx.random.seed(5)
    teacher = nn.Linear(3, 4)
    mx.eval(teacher.parameters())

    def loss(m: nn.Module, x: mx.array, y: mx.array) -> mx.array:
        h = teacher(x)
        sure = (h > 0).astype(mx.float32).mean(axis=-1, keepdims=True)
        return (mx.square(m(how(h) if faulty else mx.clip(h, -0.5, 0.5)) - y) * sure).mean()

    train(nn.Linear(4, 2), loss, rows(4, 3), rows(4, 2))


def scaled_for_nothing(faulty: bool) -> None:
    model, optimizer = nn.Linear(3, 2), optim.SGD(0.1)
    step = nn.value_and_grad(model, squares)
    for _ in range(3):
        _, grads = step(model, rows(4, 3), rows(4, 2))
        grads = tree_map(lambda grad: grad / 128, grads)
        if not faulty:
            optimizer.update(model, grads)
        mx.eval(model.parameters())


def buffers(faulty: bool) -> None:
    model = Normed()
    tree = model.parameters() if faulty else model.trainable_parameters()

    def loss(parameters: Any, x: mx.array) -> mx.array:
        model.update(parameters)
        return mx.square(model(x)).mean()

    mx.value_and_grad(loss)(tree, rows(8, 3))


def thrown(faulty: bool) -> None:
    train(nn.Linear(3, 2), squares, rows(4, 3), rows(4, 2), optimizer=optim.Adam(90.0 if faulty else 0.01))


def leapt_first(faulty: bool) -> None:
    """One update throws a weight out, and those after it are small: a learning rate that falls at once."""
    rates = iter([50.0 if faulty else 1e-3, 1e-3, 1e-3])
    optimizer = optim.SGD(0.0)

    def loss(m: nn.Module, x: mx.array, y: mx.array) -> mx.array:
        optimizer.learning_rate = next(rates)
        out = m(x)
        return -(out / mx.linalg.norm(out, axis=-1, keepdims=True) * y).sum(axis=-1).mean()

    train(nn.Linear(3, 2), loss, rows(4, 3), rows(4, 2), optimizer=optimizer)


def erased(faulty: bool) -> None:
    class Erasing(optim.Optimizer):
        def init_single(self, parameter: mx.array, state: dict[str, Any]) -> None:
            state["base"] = mx.zeros(parameter.shape) if faulty else mx.ones(parameter.shape)

        def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, Any]) -> mx.array:
            return (parameter - 1e-2 * gradient) * state["base"]

    train(nn.Linear(3, 2), squares, rows(4, 3), rows(4, 2), optimizer=Erasing())


def following(faulty: bool) -> None:
    """A target follows what is trained, slowly; the averages go nowhere, or into it."""
    model, target, x = nn.Linear(3, 2), nn.Linear(3, 2), rows(4, 3)
    optimizer, step = optim.SGD(1e-2), nn.value_and_grad(model, squares)
    for _ in range(3):
        y = target(x)
        _, grads = step(model, x, y)
        optimizer.update(model, grads)
        slow = nn.utils.tree_map(lambda t, w: 0.9 * t + 0.1 * w, target.parameters(), model.parameters())
        if not faulty:
            target.update(slow)
        mx.eval(model.parameters(), slow)


def averaged(faulty: bool) -> None:
    """A target follows itself, or what is trained."""
    model, target, x = nn.Linear(3, 2), nn.Linear(3, 2), rows(4, 3)
    optimizer, step = optim.SGD(1e-2), nn.value_and_grad(model, squares)
    for _ in range(3):
        _, grads = step(model, x, target(x))
        optimizer.update(model, grads)
        followed = (target if faulty else model).parameters()
        target.update(nn.utils.tree_map(lambda t, w: 0.9 * t + 0.1 * w, target.parameters(), followed))
        mx.eval(model.parameters(), target.parameters())


def standing(faulty: bool) -> None:
    """An average of the weights, with a decay of 1, or of less."""
    model, x, y = nn.Linear(3, 2), rows(4, 3), rows(4, 2)
    optimizer, step, decay = optim.SGD(1e-2), nn.value_and_grad(model, squares), 1.0 if faulty else 0.9
    average = tree_map(lambda w: w + 0, model.parameters())
    for _ in range(2):
        _, grads = step(model, x, y)
        optimizer.update(model, grads)
        average = tree_map(lambda a, w: decay * a + (1 - decay) * w, average, model.parameters())
        mx.eval(model.parameters(), average)


def left_behind(faulty: bool) -> None:
    """A compiled step whose outputs are forgotten leaves tracers in the model."""
    model, x, y = nn.Linear(3, 2), rows(4, 3), rows(4, 2)
    step, optimizer = nn.value_and_grad(model, squares), optim.SGD(1e-2)
    state = [model.state, optimizer.state]

    def whole(x: mx.array, y: mx.array) -> mx.array:
        loss, grads = step(model, x, y)
        optimizer.update(model, grads)
        return loss

    compiled = mx.compile(whole, inputs=state, outputs=None if faulty else state)
    mx.eval(compiled(x, y))


class Next(nn.Module):
    """Says which token comes next, by attention written out, or by MLX's."""

    def __init__(self, seen: int, fused: bool) -> None:
        super().__init__()
        self.table, self.query, self.head = nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5)
        self.rest = (mx.tril(mx.ones((6, 6)), k=seen) > 0, fused)

    def __call__(self, ids: mx.array) -> mx.array:
        h = self.table(ids)
        q = self.query(h)
        mask, fused = self.rest
        if fused:
            keys = h[:, None]
            read = mx.fast.scaled_dot_product_attention(q[:, None], keys, keys, scale=0.5, mask=mask)
            return self.head(h + read[:, 0])
        return self.head(h + mx.softmax(mx.where(mask, q @ h.swapaxes(1, 2), -1e9), axis=-1) @ h)


def peeking(faulty: bool, fused: bool = False) -> None:
    ids = mx.random.randint(0, 5, (3, 7), key=mx.random.key(2))

    def loss(m: nn.Module, x: mx.array, y: mx.array) -> mx.array:
        return nn.losses.cross_entropy(m(x), y).mean()

    train(Next(int(faulty), fused), loss, ids[:, :-1], ids[:, 1:])


def echo(faulty: bool) -> None:
    """Targets that are the tokens themselves, where no later one is seen; what sees all of them is an autoencoder."""
    ids = mx.random.randint(0, 5, (3, 7), key=mx.random.key(2))[:, :-1]

    def loss(m: nn.Module, x: mx.array, y: mx.array) -> mx.array:
        return nn.losses.cross_entropy(m(x), y).mean()

    train(Next(0 if faulty else 6, False), loss, ids, ids)


def term(faulty: bool, read: Any = lambda one: mx.array(np.mean(np.abs(np.array(one))))) -> None:
    """A term of the loss is computed through NumPy, or Python, or is the same number in each step."""

    def loss(m: nn.Module, x: mx.array, y: mx.array) -> mx.array:
        out = m(x)
        return (out - y).square().mean() + 0.5 * (read(out) if faulty else mx.array(0.3)) + 0.25

    train(nn.Linear(3, 2), loss, rows(4, 3), rows(4, 2))


def masked(faulty: bool) -> None:
    """Attention of which the mask comes after the softmax; soundly, the rows are divided again, or only scaled by
    dropout."""
    keep = mx.array([[1.0, 1, 0], [1, 1, 1], [1, 0, 0]])[:, None]

    def loss(m: nn.Module, x: mx.array, y: mx.array) -> mx.array:
        shares = mx.softmax(m(x) @ x.swapaxes(-1, -2), axis=-1)
        cut = shares * keep
        if not faulty:
            cut = cut / cut.sum(axis=-1, keepdims=True)
            cut = mx.softmax(cut, axis=-1) * mx.random.bernoulli(0.5, cut.shape)
        return squares(m, cut @ x, y)

    train(nn.Linear(4, 4), loss, rows(3 * 3, 4).reshape(3, 3, 4), rows(3 * 3, 4).reshape(3, 3, 4))


def unseen(how: str) -> Program:
    """Return a program whose attention may look at nothing from one place, or at that alone; what is asked of a place
    that sees nothing does not count."""

    def program(faulty: bool) -> None:
        keep = mx.array([[1, 1, 0], [1, 1, 0], [0, 0, 0 if faulty or how == "padded" else 1]]) > 0
        asked = mx.array([1.0, 1.0, 0.0 if how == "padded" and not faulty else 1.0])[:, None]

        def loss(m: nn.Module, x: mx.array, y: mx.array) -> mx.array:
            q = m(x)
            if how == "fused":
                read = mx.fast.scaled_dot_product_attention(q[:, None], x[:, None], x[:, None], scale=1.0, mask=keep)
                return ((read[:, 0] - y) * asked).square().mean()
            scores = q @ x.swapaxes(-1, -2)
            scores = scores + mx.where(keep, 0, -1e9) if how == "added" else mx.where(keep, scores, -1e9)
            return ((mx.softmax(scores, axis=-1) @ x - y) * asked).square().mean()

        x, y = (rows(2 * 3, 4).reshape(2, 3, 4) for _ in range(2))
        train(nn.Linear(4, 4), loss, x, y)

    return program


def drawn(faulty: bool) -> None:
    """A read-out that is made where it is used; soundly, one whose numbers are the model's."""
    made = nn.Linear(4, 2)

    def loss(m: nn.Module, x: mx.array, y: mx.array) -> mx.array:
        head = nn.Linear(4, 2)
        if not faulty:
            head.update(made.parameters())
        return squares(head, m(x), y)

    train(nn.Linear(3, 4), loss, rows(5, 3), rows(5, 2))


def looked_up(faulty: bool) -> None:
    """Numbers of rows that begin at 0, of which 1 is taken off."""
    model, ids = nn.Embedding(5, 2), mx.array([0, 3, 4, 1])
    train(model, squares, ids - 1 if faulty else ids, rows(4, 2))


OTHERS: dict[str, tuple[str, Program]] = {
    **{f"old gradients, {how}": ("old gradients", heaped_over(how)) for how in ("as they are", "clipped", "by hand")},
    "forgotten, at the end": ("forgotten update", trailing),
    **{f"all masked, {how}": ("all masked", unseen(how)) for how in ("chosen", "added", "padded", "fused")},
    "late mask": ("late mask", masked), "made anew": ("made anew", drawn), "from the end": ("from the end", looked_up),
    "term from Python": ("term from Python", term),
    "term, read": ("term from Python", lambda faulty: term(faulty, lambda one: one.max().item())),
    "peeking": ("peeking", peeking), "peeking, fused": ("peeking", lambda faulty: peeking(faulty, True)),
    "echo": ("echo", echo),
    "of itself": ("idle update", averaged), "standing average": ("standing average", standing),
    "unkept": ("discarded update", following),
    "thrown": ("leaping update", thrown), "leapt first": ("leaping update", leapt_first),
    "erased weight": ("erased weight", erased),
    "made for nothing": ("forgotten update", scaled_for_nothing), "kept from training": ("no gradient", buffers),
    "all the same": ("all the same", lambda faulty: taught(faulty, lambda h: mx.maximum(h - 50, 0.25))),
    "cut between": ("whole numbers", lambda faulty: taught(faulty, lambda h: (h > 0).astype(mx.float32))),
    "kept out": ("kept out", stopped), "own number": ("own number", outsized),
    "lost in a sum": ("lost in a sum", absorbed),
    "dead units": ("dead units", dead), "saturated units": ("saturated units", saturated),
    "whole numbers": ("whole numbers", whole), "cut gradient": ("cut gradient", cut),
    "huge gradients": ("huge gradients", huge), "vanishing gradients": ("vanishing gradients", vanishing),
    "zero gradient": ("zero gradient", zero), "no gradient": ("no gradient", missing),
    "non-finite": ("non-finite", broken), "forgotten update": ("forgotten update", forgotten),
    "leaping update": ("leaping update", leaping), "uphill": ("uphill", uphill), "lost update": ("lost update", lost),
    "float16 underflow": ("float16 underflow", underflow), "forced evaluation": ("forced evaluation", forced),
    "frozen": ("frozen", frozen), "asleep": ("wrong mode", asleep), "awake": ("wrong mode", awake),
    "hidden weight": ("hidden weight", hidden), "double softmax": ("double softmax", twice),
    "stale constant": ("stale constant", captured), "same units": ("same units", symmetric),
    "old gradients": ("old gradients", heaped), "no answer": ("no answer", unasked),
    "creeping": ("idle update", crept), "sleeping": ("wrong mode", sleeping), "one term": ("zero gradient", one_term),
    "left behind": ("left behind", left_behind),
    "divided away": ("non-finite", divided_away), "half kept": ("discarded update", half_kept),
}  # fmt: skip
ELSEWHERE = {"hole"}
"""No program of the tests makes an array that nothing has recorded."""


CLAIMED = {
    **{f"old gradients, {how}": "old gradients" for how in ("as they are", "clipped", "by hand")},
    "forgotten, at the end": "forgotten update",
    **{f"all masked, {how}": "all masked" for how in ("chosen", "added", "padded", "fused")},
    "asleep": "asleep or not called", "sleeping": "asleep", "half kept": "half kept", "divided away": "gone again",
    "one term": "dead way", "leapt first": "leaping update", "peeking, fused": "peeking",
    "term, read": "term from Python",
    "creeping": "creeping update", "non-finite": "not finite", "double softmax": "double",
    "forced evaluation": "forced", "cut gradient": "the very numbers",
}  # fmt: skip
"""What is claimed where the kind of the finding is called otherwise, by the name of the program."""


@pytest.mark.parametrize("name", OTHERS)
def test_it_is_said_where_it_is_so_and_not_in_its_twin(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, program = OTHERS[name]
    proved, held = claims.proved, []
    monkeypatch.setattr(claims, "proved", lambda claim: proved(claim) and (held.append(claim) or True))
    said = [{finding.kind for report in reports(program, faulty) for finding in report.findings} for faulty in (1, 0)]
    assert kind in said[0], said[0]
    assert kind not in said[1]
    wanted = CLAIMED.get(name, name)
    assert f"finding: {wanted}" in [claim.kind for claim in held]
    for claim in held:
        if isinstance(claim, claims.Possibility):
            assert any(hedge in claim.what() for hedge in claims.HEDGES), claim.what()


def test_a_leap_of_the_first_step_is_told_later_where_the_weights_stayed_large() -> None:
    *_, last = reports(leapt_first, True)
    (said,) = [one.text for one in last.findings if one.kind == "leaping update"]
    assert said.startswith("the update in step 1 of weight was "), said


def test_what_an_update_has_erased_is_told_later_as_well() -> None:
    first, *_, last = reports(erased, True)
    (now,) = [one.text for one in first.findings if one.kind == "erased weight"]
    (later,) = [one.text for one in last.findings if one.kind == "erased weight"]
    assert now.startswith("the update makes all numbers of weight 0: ")
    assert later.startswith("all numbers of weight are 0, and were not in step 1"), later


def test_which_update_took_the_gradients_of_what_is_not_kept_is_told() -> None:
    said = [one.text for report in reports(half_kept, True) for one in report.findings]
    assert said
    assert all(text.startswith("the update takes the gradients of b.weight, b.bias (") for text in said)


@pytest.mark.parametrize("noise", ["normal", "coins"])
def test_a_few_numbers_with_a_fraction_are_enough_to_tell_a_repeat(noise: str) -> None:
    def program(faulty: bool) -> None:
        key = mx.random.key(3)

        def loss(m: nn.Module, x: mx.array) -> mx.array:
            drawn = mx.random.normal((4, 2), key=key) if noise == "normal" else mx.random.bernoulli(0.5, (4, 2), key)
            return (m(x) + drawn).square().mean()

        train(nn.Linear(3, 2), loss, rows(4, 3))

    told = any(one.kind == "repeated randomness" for report in reports(program, True) for one in report.findings)
    assert told == (noise == "normal")


@pytest.mark.parametrize("fixed", [True, False])
def test_what_is_drawn_alike_before_each_pass_is_a_note(fixed: bool) -> None:
    model, optimizer, key = nn.Linear(3, 2), optim.SGD(0.01), mx.random.key(3)
    with nnrepl.recording() as tape:
        step = nn.value_and_grad(model, lambda x: model(x).square().mean())
        for _ in range(3):
            x = mx.random.normal((4, 3), key=key if fixed else None) * 2 + 1
            optimizer.update(model, step(x)[1])
    session = OpenSession(tape)
    session.run("goto end")
    assert [one.level for one in checks.health(session).findings if one.kind == "repeated randomness"] == [
        "note"
    ] * fixed


def test_every_kind_has_such_a_pair() -> None:
    shown = {kind for kind, *_ in itertools.chain(KINDS.values(), PAIRS.values(), OTHERS.values())} | ELSEWHERE
    claimed = {
        *CLAIMED.values(),
        *OTHERS,
        *shown,
        "not kept",
        "changes none",
        "axes that happen to fit",
        "underscored weights",
        "classes elsewhere",
        "erased since",
    }  # the last are what pairs of the other two modules claim
    found, kinds = set(), set()
    for path in Path(checks.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "findings":
                kinds |= {node.args[1].value} if isinstance(node.args[1], ast.Constant) else set()
            for one in ast.walk(node) if isinstance(node, ast.Call) else ():
                text = one.value if isinstance(one, ast.Constant) and isinstance(one.value, str) else ""
                found |= {text.partition(": ")[2]} if text.startswith("finding: ") else set()
    assert not kinds - shown, f"{kinds - shown}: no faulty program and sound twin; they belong in test_findings.KINDS"
    assert not found - claimed, f"{found - claimed}: claimed in no pair of programs; CLAIMED names that of another kind"
