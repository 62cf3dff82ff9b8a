"""health: each kind of finding in a program in which it is so, and none in the same program without the fault."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from mlx.utils import tree_map

import nnrepl
from nnrepl.explain.health import Report, health
from nnrepl.session.session import TapeSession
from nnrepl.tape import GRADIENT_PASS, claims
from tests.support import OpenSession

Program = Callable[[bool], None]
"""Trains something; with a fault if it is told so."""


def reports(program: Program, faulty: bool) -> list[Report]:
    """What health says about each pass of a program."""
    mx.random.seed(0)
    with nnrepl.recording() as recorded:
        program(faulty)
    session = TapeSession(recorded.tape, recorded.names)
    found = []
    for pass_ in session.tape.passes:
        if pass_.kind == GRADIENT_PASS:
            session.cursor = pass_.start
            found.append(health(session))
    if faulty:
        refute(session)
    return found


def refute(session: TapeSession) -> None:
    """Hold that health says nothing where the check of each of its claims says no."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "proved", lambda _: False)
        assert health(session).findings == []


def train(model: nn.Module, loss: Callable[..., mx.array], *args: Any, steps: int = 3, **options: Any) -> None:
    optimizer = options.get("optimizer") or optim.SGD(1e-2)
    mx.eval(model.parameters(), *args)
    step = nn.value_and_grad(model, loss)
    for _ in range(steps):
        _, grads = step(model, *args)
        if options.get("clip"):
            options["clip"](grads)
        optimizer.update(model, grads)
        if not options.get("lazy"):
            mx.eval(model.parameters(), optimizer.state)


def rows(count: int, width: int) -> mx.array:
    return mx.random.normal((count, width))


def squares(model: nn.Module, x: mx.array, y: mx.array) -> mx.array:
    return nn.losses.mse_loss(model(x), y)


def clipped(faulty: bool) -> None:
    def clip(grads: Any) -> None:
        if faulty:
            optim.clip_grad_norm(grads, 0.1)
        else:
            print(*[g.shape for _, g in nn.utils.tree_flatten(grads)])

    train(nn.Linear(3, 2), squares, rows(4, 3), rows(4, 2), clip=clip)


def clipped_weights(faulty: bool) -> None:
    model, optimizer, x, y = nn.Linear(3, 2), optim.SGD(1e-2), rows(4, 3), rows(4, 2)
    step = nn.value_and_grad(model, squares)
    for _ in range(3):
        _, grads = step(model, x, y)
        clipped, _ = optim.clip_grad_norm(model.trainable_parameters() if faulty else grads, 1.0)
        optimizer.update(model, clipped)
        mx.eval(model.parameters())


def applied(faulty: bool) -> None:
    weights = {"w": rows(4, 1), "b": mx.zeros((1,))}
    x, y = rows(8, 4), rows(8, 1)
    optimizer = optim.SGD(0.01)
    step = mx.value_and_grad(lambda p: ((x @ p["w"] + p["b"] - y) ** 2).mean())
    for _ in range(3):
        _, grads = step(weights)
        new = optimizer.apply_gradients(grads, weights)
        if not faulty:
            weights = new
        mx.eval(weights, optimizer.state)


def misdirected(faulty: bool) -> None:
    """The optimizer is given another model of the same shape; the gradient is of a closure."""
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    x, y = rows(4, 3), rows(4, 2)
    optimizer = optim.SGD(1e-2)
    for _ in range(3):
        _, grads = nn.value_and_grad(model, lambda: squares(model, x, y))()
        optimizer.update(other if faulty else model, grads)
        mx.eval(model.parameters(), other.parameters())


def captured(faulty: bool) -> None:
    """A compiled step takes a scale that the program lowers in each step."""
    model, scale = nn.Linear(3, 2), nn.Linear(1, 1)
    x, y = rows(4, 3), rows(4, 2)
    optimizer = optim.SGD(1e-2)
    state = [model.state, optimizer.state] + ([] if faulty else [scale.state])

    @partial(mx.compile, inputs=state, outputs=state)
    def step(x: mx.array, y: mx.array) -> mx.array:
        loss, grads = nn.value_and_grad(model, lambda m: (m(x) * scale.weight[0, 0] - y).square().mean())(model)
        optimizer.update(model, grads)
        return loss

    for _ in range(3):
        mx.eval(step(x, y), state)
        scale.weight = scale.weight * 0.5


def half_kept(faulty: bool) -> None:
    """A step trains two models, and gives one of the optimizers a copy."""
    first, second = nn.Linear(3, 4), nn.Linear(4, 1)
    one, two = optim.SGD(1e-2), optim.SGD(1e-2)
    x, y = rows(8, 3), rows(8, 1)

    def loss(a: Any, b: Any) -> mx.array:
        first.update(a)
        second.update(b)
        return (second(mx.tanh(first(x))) - y).square().mean()

    def step() -> mx.array:
        value, grads = mx.value_and_grad(loss, argnums=(0, 1))(
            first.trainable_parameters(), second.trainable_parameters()
        )
        one.update(first, grads[0])
        two.update(copy.deepcopy(second) if faulty else second, grads[1])
        return value

    for _ in range(4):
        mx.eval(step(), first.state, second.state)


def of_the_data(faulty: bool) -> None:
    w, x, y = rows(4, 4) * 0.5, rows(4, 4), rows(4, 4)
    step = mx.value_and_grad(lambda x, w: ((x @ w - y) ** 2).mean(), argnums=0 if faulty else 1)
    for _ in range(3):
        _, grad = step(x, w)
        w = w - 0.01 * grad
        mx.eval(w)


class Holder:
    """A list of layers as PyTorch has it."""

    def __init__(self, layers: list[nn.Module]) -> None:
        self.layers = layers

    def __iter__(self) -> Any:
        return iter(self.layers)


def contained(kind: Callable[[list[nn.Module]], Any]) -> Program:
    class Net(nn.Module):
        def __init__(self, faulty: bool) -> None:
            super().__init__()
            blocks: list[nn.Module] = [nn.Linear(3, 3), nn.Linear(3, 3)]
            self.blocks = kind(blocks) if faulty else blocks
            self.out = nn.Linear(3, 1)

        def __call__(self, x: mx.array) -> mx.array:
            for block in self.blocks:
                x = mx.tanh(block(x))
            return self.out(x)  # type: ignore[no-any-return]

    return lambda faulty: train(Net(faulty), squares, rows(4, 3), rows(4, 1))


class Tied(nn.Module):
    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.emb = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        if faulty:
            self.head.weight = self.emb.weight

    def __call__(self, x: mx.array) -> mx.array:
        return self.head(mx.tanh(self.emb(x)))  # type: ignore[no-any-return]


def entropy(model: nn.Module, x: mx.array, y: mx.array) -> mx.array:
    return nn.losses.cross_entropy(model(x), y, reduction="mean")


def tied(faulty: bool) -> None:
    tokens = mx.random.randint(0, 7, (3, 5))
    train(Tied(faulty), entropy, tokens, tokens)


def test_weights_that_begin_as_one_array_have_a_gradient_each_in_the_list() -> None:
    with nnrepl.recording() as recorded:
        tied(True)
    session = OpenSession(recorded)
    session.cursor = len(session.tape)
    listed = str(session.run("info gradients"))
    assert listed.count("∂L/∂emb.weight") == listed.count("∂L/∂head.weight") == 1, listed
    assert "gradient calls that took it" not in listed


def noisy(faulty: bool) -> None:
    key = mx.random.key(3)

    def loss(model: nn.Module, x: mx.array, y: mx.array) -> mx.array:
        noise = mx.random.normal(x.shape, key=key) if faulty else mx.random.normal(x.shape)
        return squares(model, x + noise, y)

    train(nn.Linear(8, 1), loss, rows(16, 8), rows(16, 1))


def accumulated(faulty: bool) -> None:
    model, optimizer, batches = nn.Linear(8, 1), optim.SGD(0.01), [(rows(16, 8), rows(16, 1)) for _ in range(4)]
    step = nn.value_and_grad(model, squares)
    for start in (0, 2):
        one, other = [step(model, *batches[start if faulty else start + part])[1] for part in range(2)]
        optimizer.update(model, tree_map(lambda a, b: (a + b) / 2, one, other))


def outside(faulty: bool) -> None:
    table = nn.Embedding(6, 3)
    tokens = mx.array([[0, 5], [6 if faulty else -6, 2]])
    with mx.stream(mx.cpu):
        step = nn.value_and_grad(table, lambda t: table(t).sum())
        step(tokens)


def probabilities(faulty: bool) -> None:
    layers: list[Any] = [nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)]
    model = nn.Sequential(*layers, *([nn.Sigmoid()] if faulty else []))
    y = (rows(8, 1) > 0).astype(mx.float32)
    train(model, lambda m, x, y: nn.losses.binary_cross_entropy(m(x), y, reduction="mean"), rows(8, 3), y)


def masked(faulty: bool, how: Callable[[mx.array, mx.array], mx.array] = mx.multiply) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def __call__(self, x: mx.array) -> mx.array:
            scores = self.q(x) @ self.k(x).swapaxes(-1, -2) / 2
            mask = mx.tril(mx.ones((x.shape[1], x.shape[1])))
            scores = how(scores, mask) if faulty else mx.where(mask > 0, scores, -mx.inf)
            return mx.softmax(scores, axis=-1) @ self.v(x)

    train(Attention(), squares, mx.random.normal((2, 5, 4)), mx.random.normal((2, 5, 4)))


def axes(make: Callable[[mx.array, mx.array, Any], mx.array], wrong: int | list[int] | None) -> Program:
    """Logits (2, 5, 4), classes in the last axis."""

    def program(faulty: bool) -> None:
        y = mx.random.randint(0, 4, (2, 5))
        train(nn.Linear(3, 4), lambda m, x, y: make(m(x), y, wrong if faulty else 2), mx.random.normal((2, 5, 3)), y)

    return program


def picked(logits: mx.array, y: mx.array, axis: int) -> mx.array:
    logp = logits - mx.logsumexp(logits, axis=axis, keepdims=True)
    return -mx.take_along_axis(logp, y[..., None], axis=-1).mean()


def hot(logits: mx.array, y: mx.array, axis: int) -> mx.array:
    return -(mx.log(mx.softmax(logits, axis=axis)) * (y[..., None] == mx.arange(4))).sum(-1).mean()


def attended(logits: mx.array, y: mx.array, axis: int) -> mx.array:
    scores = logits @ logits.swapaxes(-1, -2)
    return ((mx.softmax(scores, axis=axis) @ logits) ** 2).mean()


def labelled(logits: mx.array, y: mx.array, axis: Any) -> mx.array:
    """A GAN's loss, of which nothing but the layer tells what a row is."""
    return (
        mx.log(mx.softmax(logits.reshape(10, 4), axis=-1 if axis == 2 else axis)) * mx.array([0, 0, -2.0, 0])
    ).mean()


def whole(logits: mx.array, y: mx.array, axis: Any) -> mx.array:
    """Attention over all places of a picture is over several axes, and meant."""
    places = mx.softmax(logits.sum(-1), axis=None)
    return (places * mx.log(mx.softmax(logits, axis=axis))[..., 0]).mean()


def pooled(faulty: bool) -> None:
    """Pooling by masked shares: their axis is wrong where the batch comes first, and right where time does."""

    def loss(model: nn.Module, x: mx.array, y: mx.array) -> mx.array:
        scores = mx.where(x[..., 0] > -9, model(x).squeeze(-1), -1e9)
        shares = mx.softmax(scores, axis=0)[..., None]
        return mx.square((shares * x).sum(axis=1 if faulty else 0) - y).mean()

    train(nn.Linear(3, 1), loss, mx.random.normal((5, 5, 3)), rows(5, 3))


def broadcast(faulty: bool) -> None:
    y = mx.random.normal((4, 4)) if faulty else mx.random.normal((4, 4, 1))
    train(nn.Linear(3, 1), lambda m, x, y: mx.square(m(x) - y).mean(), mx.random.normal((4, 4, 3)), y)


def growing(faulty: bool) -> None:
    train(nn.Linear(3, 2), squares, rows(4, 3), rows(4, 2), steps=6, lazy=faulty)


def test_of_what_grows_three_are_named() -> None:
    def program(_: bool) -> None:
        train(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), squares, rows(4, 3), rows(4, 2), steps=6, lazy=True)

    texts = [finding.text for one in reports(program, True) for finding in one.warnings]
    assert any(" and 1 more when step" in text for text in texts), texts


@pytest.mark.parametrize("left", [True, False])
def test_shares_that_a_one_hot_table_picks_along_the_other_axis(left: bool) -> None:
    def program(_: bool) -> None:
        hot = mx.eye(3)[mx.array([0, 2, 1, 1])]

        def loss(model: nn.Module, x: mx.array, y: mx.array) -> mx.array:
            shares = mx.softmax(model(x), axis=0)
            picked = hot * shares if left else shares * hot
            return -mx.mean(mx.log(picked.sum(axis=1)))

        train(nn.Linear(3, 3), loss, rows(4, 3), rows(4, 3), steps=1)

    texts = [finding.text for one in reports(program, True) for finding in one.warnings]
    assert any("has its single ones along axis 1" in text for text in texts), texts


def test_shares_over_the_rows_of_the_batch() -> None:
    def program(_: bool) -> None:
        def loss(model: nn.Module, x: mx.array, y: mx.array) -> mx.array:
            return mx.mean(mx.square(mx.softmax(model(x), axis=0) - y))

        train(nn.Linear(3, 2), loss, rows(4, 3), rows(4, 2), steps=1)

    texts = [finding.text for one in reports(program, True) for finding in one.findings]
    assert any("the rows of the batch" in text for text in texts), texts


def summed(faulty: bool) -> None:
    """A running loss that is kept lazily, while the weights are evaluated: each step's forward pass lives on."""
    model = nn.Linear(3, 2)
    total: Any = mx.array(0.0)
    x, y = rows(4, 3), rows(4, 2)
    step = nn.value_and_grad(model, squares)
    optimizer = optim.SGD(1e-2)
    for _ in range(6):
        loss, grads = step(model, x, y)
        optimizer.update(model, grads)
        total = total + (loss if faulty else loss.item())
        mx.eval(model.parameters(), optimizer.state)
    print(total)


def wide(faulty: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())
    model.set_dtype(mx.float16)
    scale = mx.array([0.5, 0.25, 2.0, 1.0], dtype=mx.float32 if faulty else mx.float16)
    x = rows(4, 4).astype(mx.float16)
    mx.eval(scale)
    train(model, lambda m, x: m(x * scale).astype(mx.float32).mean(), x)


def still(faulty: bool) -> None:
    train(nn.Linear(3, 2), squares, rows(4, 3), rows(4, 2), optimizer=optim.SGD(0.0 if faulty else 1e-2))


def pixels(shift: Callable[[mx.array], mx.array]) -> Program:
    """Bytes: less than nothing goes around; what is drawn from 32 bits means to."""

    def program(faulty: bool) -> None:
        raw = mx.array([[3, 200, 130, 7], [250, 128, 0, 90]], dtype=mx.uint8)
        state = mx.array([3, 4], dtype=mx.uint32) * 2654435761

        def loss(model: nn.Module, raw: mx.array) -> mx.array:
            drawn = (state * 1664525 + 1013904223).astype(mx.float32) / 2**32
            turned = shift(raw if faulty else raw.astype(mx.float32)) / 255
            return squares(model, turned, mx.zeros((2, 2))) + drawn.sum()

        train(nn.Linear(4, 2), loss, raw)

    return program


def prepared(faulty: bool) -> None:
    """Bytes that go around before the first gradient is taken."""
    raw = mx.array([[3, 200, 130, 7], [250, 128, 0, 90]], dtype=mx.uint8)
    train(nn.Linear(4, 2), squares, (raw if faulty else raw.astype(mx.float32)) * 2 / 255, mx.zeros((2, 2)))


def timed_before(faulty: bool) -> None:
    t, x = mx.array([3, 20, 47, 11]), rows(4, 3)
    part = (t // 50 if faulty else t / 50)[:, None] * mx.array([1.0, 10.0, 100.0])
    train(nn.Linear(3, 2), squares, x + mx.sin(part), rows(4, 2))


def shuffled(kind: str) -> Program:
    """Rows of a data set and of its labels, drawn each for itself, or of which one lies in another order since before;
    a series is held against what comes next in it."""

    def program(faulty: bool) -> None:
        model, optimizer, data = nn.Linear(3, 4), optim.SGD(1e-2), rows(20, 3)
        labels = mx.argmax(data @ rows(3, 4), axis=1)
        if kind == "before" and faulty:
            data = data[mx.random.permutation(20)]
        step = nn.value_and_grad(model, squares if kind == "series" else named)
        for _ in range(2):
            picked = mx.random.permutation(20)[:8]
            other = mx.random.permutation(20)[:8] if kind == "drawn" and faulty else picked
            batch = (data[picked] - 0.5) / 2, labels[other]
            _, grads = step(model, data[2:10], rows(20, 4)[3:11]) if kind == "series" else step(model, *batch)
            optimizer.update(model, grads)
            mx.eval(model.parameters())

    return program


def named(model: nn.Module, x: mx.array, y: mx.array) -> mx.array:
    return nn.losses.cross_entropy(model(x), y, reduction="mean")


def looking(whole: bool) -> Program:
    """Attention of long keys, each place to those before it, scaled or not: by hand, or as MLX's one op."""

    def program(faulty: bool) -> None:
        mask = mx.triu(mx.full((6, 6), -mx.inf), k=1)
        scale = 1.0 if faulty else 1 / 150

        def loss(model: nn.Module, x: mx.array, y: mx.array) -> mx.array:
            q = model(x)
            if whole:
                made = mx.fast.scaled_dot_product_attention(q[:, None], x[:, None], y[:, None], scale=scale, mask=mask)
                return mx.mean(made * y[:, None])
            scores = q @ x.swapaxes(-1, -2)
            shares = mx.softmax((scores if faulty else scores * scale) + mask, axis=-1)
            return mx.mean((shares @ (y + 1)) * y)

        train(nn.Linear(16, 16), loss, (rows(18, 16) * 8).reshape(3, 6, 16), rows(18, 16).reshape(3, 6, 16))

    return program


def timed(faulty: bool) -> None:
    """A time of 50 that goes into an embedding as a whole number; numbers of blocks are whole, and may be all 0."""
    t, x = mx.array([3, 20, 47, 11]), rows(4, 3)

    def loss(model: nn.Module, x: mx.array, y: mx.array) -> mx.array:
        part = (t // 50 if faulty else t / 50)[:, None] * mx.array([1.0, 10.0, 100.0])
        same = (t[:, None] // 64) == (t[None] // 64)
        return squares(model, x + mx.sin(part), same @ y)

    train(nn.Linear(3, 2), loss, x, rows(4, 2))


def ended(faulty: bool) -> None:
    """A ReLU behind all weights that the first update kills: the answers are below 0, or a hinge that is satisfied."""
    x = mx.array([[1.0, 2.0, 0.5, 1.0], [0.5, 1.0, 2.0, 1.5]])
    model = nn.Linear(4, 1)
    model.weight, model.bias = mx.full((1, 4), 0.25), mx.array([-1.1])
    wanted = mx.array([[-3.0], [-4.0]])

    def loss(m: nn.Module, x: mx.array) -> mx.array:
        y = nn.relu(m(x))
        return nn.losses.mse_loss(y, wanted) if faulty else y.mean()

    train(model, loss, x, optimizer=optim.SGD(0.02))


KINDS: dict[str, tuple[str, str, Program]] = {
    "clipped": ("discarded gradients", "clip_grad_norm", clipped),
    "clipped weights": ("forgotten update", "which is made of the weights", clipped_weights),
    "applied": ("discarded update", "used by nothing", applied),
    "misdirected": ("discarded update", "changes none of the weights", misdirected),
    "data": ("gradient of another", "with respect to x and not to w", of_the_data),
    "tuple": ("hidden weights", "blocks[1].weight", contained(tuple)),
    "object": ("hidden weights", "blocks.layers[0].weight", contained(Holder)),
    "tied": ("untied weights", "emb.weight and head.weight were one array", tied),
    "noise": ("repeated randomness", "random.normal", noisy),
    "micro-batches": ("same batch again", "2 times in step 1 with the same", accumulated),
    "outside": ("index out of range", "[1,0] = 6", outside),
    "sigmoid": ("double sigmoid", "probabilities already", probabilities),
    "masked": ("mask of zeros", "the masked scores 0", masked),
    "added": ("mask of zeros", "adds 0 or 1 to the scores", lambda faulty: masked(faulty, mx.add)),
    "axis 0": ("softmax axis", "picks one of axis 2", axes(picked, 0)),
    "axis 1": ("softmax axis", "picks one of axis 2", axes(picked, 1)),
    "axis of ones": ("softmax axis", "along axis 2", axes(hot, 1)),
    "axis of attention": ("softmax axis", "sums over axis 2", axes(attended, 1)),
    "no axis": ("softmax axis", "over all axes, since none is given, of (2, 5, 4), but", axes(picked, None)),
    "no axis of ones": ("softmax axis", "along axis 2", axes(hot, None)),
    "no axis of rows": ("softmax axis", "of (10, 4), the rows of the batch", axes(labelled, None)),
    "several axes": ("softmax axis", "over axes [0, 2]", axes(picked, [0, 2])),
    "meant axes": ("softmax axis", "the rows of the batch", axes(whole, 0)),
    "axis of pooling": ("softmax axis", "the rows of the batch", pooled),
    "broadcast": ("silent broadcasting", "(4, 4, 4)", broadcast),
    "growing": ("growing graph", "nothing has evaluated", growing),
    "summed": ("growing graph", "total", summed),
    "wide": ("runs in float32", "in float32", wide),
    "bytes": ("went around", "would be −125 and is 131", pixels(lambda raw: raw - 128)),
    "bytes turned": ("went around", "would be −190 and is 66", pixels(lambda raw: 10 - raw)),
    "bytes doubled": ("went around", "would be 400 and is 144", pixels(lambda raw: raw * 2)),
    "bytes prepared": ("went around", "would be 400 and is 144", prepared),
    "floored before": ("floored", "t // 50", timed_before),
    "drawn apart": ("rows apart", "and row 0 of y, with which its answer is compared", shuffled("drawn")),
    "shuffled before": ("rows apart", "and row 0 of y, with which its answer is compared", shuffled("before")),
    "sharp": ("sharp attention", "Nothing scales its scores", looking(whole=False)),
    "sharp as a whole": ("sharp attention", "1 / √16 is usual", looking(whole=True)),
    "floored": ("floored", "t // 50", timed),
    "still": ("idle update", "are not 0: optimizer.learning_rate is 0", still),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_fault_is_found_once_and_its_twin_is_sound(name: str) -> None:
    kind, said, program = KINDS[name]
    found = reports(program, True)
    for one in found:
        assert [finding.kind for finding in one.warnings][:1] == [kind] or one is not found[0], one.findings
    first = [finding for one in found for finding in one.warnings if finding.kind == kind]
    assert first
    assert said in first[0].text, first[0].text
    for one in found:
        kinds = [finding.kind for finding in one.warnings]
        assert len(kinds) == len(set(kinds)), kinds
    sound = reports(program, False)
    assert [finding for one in sound for finding in one.warnings] == []


def test_a_series_is_held_against_what_comes_next_in_it() -> None:
    assert [finding for one in reports(shuffled("series"), False) for finding in one.warnings] == []


@pytest.mark.parametrize("make", [lambda: optim.Adam(1e-3), lambda: optim.SGD(1e-2), lambda: optim.AdamW(1e-3)])
def test_a_weight_that_begins_at_zero_leaps_and_is_sound(make: Callable[[], optim.Optimizer]) -> None:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(6, 6)
            self.a, self.b = rows(6, 2), mx.zeros((2, 6))

        def __call__(self, x: mx.array) -> mx.array:
            return self.base(x) + x @ self.a @ self.b

    found = reports(lambda _: train(Adapted(), squares, rows(8, 6), rows(8, 6), optimizer=make()), False)
    assert [finding for one in found for finding in one.warnings] == []


def test_a_learning_rate_that_is_warmed_up_is_no_fault() -> None:
    schedule = optim.linear_schedule(0.0, 1e-2, 4)
    found = reports(lambda _: train(nn.Linear(3, 2), squares, rows(4, 3), rows(4, 2), optimizer=optim.SGD(schedule)),
                    False)  # fmt: skip
    assert [finding for one in found for finding in one.warnings] == []
    assert "idle update" in [finding.kind for finding in found[0].findings]


@pytest.mark.parametrize("decay", [0.0, 1e-3])
def test_the_last_update_by_hand_is_looked_at_as_those_before(decay: float) -> None:
    """No later pass takes what it makes, and weights in a list have no name of their own."""

    def program(faulty: bool) -> None:
        x, weights = rows(6, 3), [rows(3, 2), mx.zeros((2,))]
        take = mx.value_and_grad(lambda w, b: (mx.tanh(x @ w + b) - 1).square().mean(), argnums=[0, 1])
        rate = -0.1 if faulty else 0.1
        for _ in range(3):
            _, grads = take(*weights)
            weights = [(w if not decay else w * (1 - decay)) - rate * g for w, g in zip(weights, grads)]
            mx.eval(weights)

    assert [[finding.kind for finding in one.warnings] for one in reports(program, True)] == [["uphill"]] * 3
    assert [finding for one in reports(program, False) for finding in one.warnings] == []


def test_a_sampler_that_takes_its_proposal_or_not_makes_no_idle_update() -> None:
    """The last gradient of a leapfrog moves the momentum, and by that only what is asked of the place."""

    def program(_: bool) -> None:
        take = mx.grad(lambda q: 0.5 * q.square().sum())
        q = mx.array([1.0, -1.0])
        for _ in range(3):
            before, p = q, rows(2, 1)[:, 0]
            for _ in range(2):
                p = p - 0.05 * take(q)
                q = q + 0.1 * p
            p = p - 0.05 * take(q)
            q = mx.where(p.square().sum() < 100, q, before)
            mx.eval(q)

    assert [finding for one in reports(program, False) for finding in one.warnings] == []


def test_a_clean_bill_names_what_lies_ahead() -> None:
    found = reports(growing, False)
    assert found[0].unseen == []
    assert found[-1].unseen == []
    assert reports(lambda _: train(nn.Linear(3, 2), squares, rows(4, 3), rows(4, 2), steps=1), False)[0].unseen == [
        "what differs from step to step"]  # fmt: skip


def test_what_came_of_the_step_before_is_told_in_the_last_step() -> None:
    found = reports(applied, True)
    assert [finding.kind for finding in found[-1].warnings] == ["discarded update"]


@pytest.mark.parametrize("faulty", [True, False])
def test_an_update_of_summed_gradients_that_reaches_no_weight_is_told_in_every_step(faulty: bool) -> None:
    def program(faulty: bool) -> None:
        model, optimizer = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), optim.SGD(1e-2)
        for _ in range(3):
            sums: Any = None
            for _ in range(2):
                _, grads = nn.value_and_grad(model, squares)(model, rows(4, 3), rows(4, 2))
                sums = grads if sums is None else tree_map(mx.add, sums, grads)
            optimizer.update({"layers": list(model.layers)} if faulty else model, sums)
            mx.eval(model.parameters())

    kinds = [[finding.kind for finding in one.warnings] for one in reports(program, faulty)]
    assert kinds[1:] == [["discarded update"] if faulty else []] * (len(kinds) - 1)


def test_gradients_that_are_printed_are_used() -> None:
    def program(faulty: bool) -> None:
        grad = mx.grad(lambda x: (x**3).sum())(mx.array([1.0, 2.0]))
        if not faulty:
            print(grad)

    with nnrepl.recording() as recorded:
        program(False)
        mx.grad(lambda x: (x**2).sum())(mx.array([1.0, 2.0]))  # another pass: the first is over
    session = TapeSession(recorded.tape, recorded.names)
    first = next(pass_ for pass_ in session.tape.passes if pass_.kind == GRADIENT_PASS)
    session.cursor = first.start
    assert "forgotten update" not in [finding.kind for finding in health(session).findings]
    with nnrepl.recording() as recorded:
        program(True)
        program(True)
    session = TapeSession(recorded.tape, recorded.names)
    session.cursor = next(pass_ for pass_ in session.tape.passes if pass_.kind == GRADIENT_PASS).start
    assert "forgotten update" in [finding.kind for finding in health(session).findings]


def test_an_update_that_is_forgotten_is_one_finding() -> None:
    model, x = nn.Linear(3, 2), rows(4, 3)

    def program(_: bool) -> None:
        for _ in range(2):
            mx.eval(nn.value_and_grad(model, lambda: model(x).sum())())

    kinds = [finding.kind for finding in reports(program, True)[-1].warnings]
    assert kinds.count("forgotten update") <= 1


def test_a_second_model_that_other_passes_train_is_not_hidden() -> None:
    """The networks of a GAN, a teacher after stop_gradient: neither is a forgotten weight."""

    def program(shared: bool) -> None:
        maker, judge = nn.Linear(3, 3), nn.Linear(3, 1)
        x = rows(8, 3)
        for _ in range(2):
            for model, loss in (
                (judge, lambda: judge(mx.stop_gradient(maker(x))).square().mean()),
                (maker, lambda: judge(maker(x)).square().mean()),
            ):
                _, grads = nn.value_and_grad(model, loss)()
                if model is judge or not shared:
                    optim.SGD(1e-2).update(model, grads)
                mx.eval(model.parameters())

    assert "hidden weight" not in [finding.kind for one in reports(program, False) for finding in one.findings]


@pytest.mark.parametrize("faulty", [True, False])
def test_a_weight_that_another_loss_of_the_step_teaches_is_no_fault(faulty: bool) -> None:
    """Two tasks with a head each, whose gradients are added up; or both take the first head."""

    class Tasks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.heads = nn.Linear(3, 4), [nn.Linear(4, 1), nn.Linear(4, 1)]

    def program(faulty: bool) -> None:
        model, optimizer, x, y = Tasks(), optim.SGD(1e-2), rows(6, 3), rows(6, 1)

        def first(m: nn.Module) -> mx.array:
            return (m.heads[0](mx.tanh(m.body(x))) - y).square().mean()

        def second(m: nn.Module) -> mx.array:
            return (m.heads[0 if faulty else 1](mx.tanh(m.body(x))) + y).square().mean()

        for _ in range(3):
            grads = [nn.value_and_grad(model, task)(model)[1] for task in (first, second)]
            optimizer.update(model, tree_map(lambda a, b: a + b, *grads))
            mx.eval(model.parameters())

    found = reports(program, faulty)
    told = {
        (finding.kind, "heads.1.weight, heads.1.bias get" in finding.text) for one in found for finding in one.findings
    }
    assert told == ({("no gradient", True)} if faulty else set())
    assert found[-1].unseen == []  # the update lies behind the other call of the step


def test_gradients_of_one_vjp_that_are_0_for_two_reasons_are_two_findings() -> None:
    """Weights of 0 everywhere: the second layer's gradient is 0 because of its input, the first's because of the
    second's weight."""

    def program(_: bool) -> None:
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        model.apply(mx.zeros_like)
        train(model, squares, rows(8, 3), rows(8, 1), steps=2)

    texts = [finding.text for finding in reports(program, True)[1].warnings if finding.kind == "zero gradient"]
    assert len(texts) == 2
    assert "layers.2.weight is a parameter that is 0" in texts[0]
    assert "layers.2.weight" not in texts[0].partition(":")[0]
    assert texts[1].startswith("∂L/∂layers.2.weight is 0: it became 0 at ")
    assert "Sequential.xᵀ is 0" in texts[1]


def test_what_a_compiled_step_captured_and_the_program_has_replaced_is_stale() -> None:
    assert [finding.kind for finding in reports(captured, True)[-1].warnings] == ["stale constant"]
    assert [finding for one in reports(captured, False) for finding in one.warnings] == []


def test_a_model_whose_new_weights_a_step_does_not_keep_is_named() -> None:
    for one in reports(half_kept, True)[1:]:
        (found,) = one.warnings
        assert found.kind == "discarded update"
        assert "does not keep the new ones" in found.text
        assert "second.weight" in found.text or "b.weight" in found.text
        assert "first.weight" not in found.text
        assert "a.weight" not in found.text
    assert [finding for one in reports(half_kept, False) for finding in one.warnings] == []


def test_one_weight_that_a_step_does_not_keep_is_named() -> None:
    def scaled(faulty: bool) -> None:
        first, second = nn.Linear(3, 1, bias=False), nn.Linear(1, 1, bias=False)
        x, y = rows(8, 3), rows(8, 1)

        def loss(a: Any, b: Any) -> mx.array:
            first.update(a)
            second.update(b)
            return (second(first(x)) - y).square().mean()

        def step() -> mx.array:
            value, grads = mx.value_and_grad(loss, argnums=(0, 1))(
                first.trainable_parameters(), second.trainable_parameters()
            )
            optim.SGD(1e-2).update(first, grads[0])
            optim.SGD(1e-2).update(copy.deepcopy(second) if faulty else second, grads[1])
            return value

        for _ in range(3):
            mx.eval(step(), first.state, second.state)

    (found,) = reports(scaled, True)[1].warnings
    assert found.kind == "discarded update"
    assert "b.weight" in found.text or "second.weight" in found.text
    assert [finding for one in reports(scaled, False) for finding in one.warnings] == []


class Headed(nn.Module):
    """A frozen body; its head is trained, and nobody calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(4, 3), nn.BatchNorm(3), nn.Linear(4, 3)

    def __call__(self, x: mx.array) -> mx.array:
        return self.norm(self.body(x))


@pytest.mark.parametrize("everything", [True, False])
def test_what_one_module_keeps_from_training_is_not_kept_in_another(everything: bool) -> None:
    model, x = Headed(), rows(4, 4)
    model.body.freeze()

    def loss(parameters: Any) -> mx.array:
        model.update(parameters)
        return mx.square(model(x)).mean()

    trace = nnrepl.trace(loss, model.parameters() if everything else model.trainable_parameters(), wrt=0)
    found = [str(finding.text) for finding in health(OpenSession(trace)).findings if finding.kind == "no gradient"]
    kept = [text for text in found if "keeps them from training" in text]
    assert not any("head" in text for text in kept)
    assert bool(kept) == everything
    assert any("head" in text for text in found)


def test_what_a_frozen_target_keeps_from_training_is_not_kept_in_the_model_of_the_same_names() -> None:
    online = nn.Sequential(nn.Sequential(nn.Linear(4, 3)), nn.Linear(3, 3))
    target, x = nn.Sequential(nn.Linear(4, 3)).freeze(), rows(4, 4)

    def loss(model: nn.Sequential, x: mx.array) -> mx.array:
        return mx.square(model.layers[1](mx.stop_gradient(model.layers[0](x))) - target(x)).mean()

    (found,) = health(OpenSession(nnrepl.trace(loss, online, x, wrt=online))).warnings
    assert found.kind == "no gradient"
    assert "layers.0.layers.0.weight" in str(found.text)


@pytest.mark.parametrize("faulty", [True, False])
def test_a_last_relu_that_has_died_with_a_loss_left_is_no_hinge(faulty: bool) -> None:
    *_, last = reports(ended, faulty)
    assert [finding.kind for finding in last.warnings] == (["zero gradient", "dead units"] if faulty else [])
    assert "zero gradient" in {finding.kind for finding in last.findings}
