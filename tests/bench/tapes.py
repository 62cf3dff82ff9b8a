"""Tapes: what it costs to record an op, to keep it, and to move on tapes of up to a million of them."""

from __future__ import annotations

import gc
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

import nnrepl
from nnrepl.record import catalog
from nnrepl.record.intercept import recording
from nnrepl.record.names import ProgramNames
from nnrepl.record.recorder import Recorder
from nnrepl.tape import Op, Value
from tests.bench.figures import Figure, figure, law
from tests.bench.timing import Run, cpu, interleaved
from tests.support import OpenSession

_FORWARD, _BACKWARD, _MOTION, _PAUSE, _BINDING = 4.0, 8.0, 10.0, 50.0, 2.0
"""Budgets: µs, µs, ms, ms, µs."""
_WARM = 3
"""Calls that are recorded before one is timed."""
_TEXT: Any = {"capture_output": True, "text": True}


@contextmanager
def recorder() -> Iterator[Recorder]:
    """Record on a tape of its own."""
    names = ProgramNames()
    made = Recorder(names.tape, strict=False)
    made.start()
    with recording(made):
        yield made


def chain(count: int) -> Callable[..., mx.array]:
    """A long forward pass of two-operand ops in one function: the least that an op can cost."""
    x, w = mx.ones((4,)), mx.ones((4,))

    def loss(w: mx.array = w) -> mx.array:
        y = x
        for _ in range(count // 2):
            y = mx.tanh(y) + w
        return y.sum()

    return loss


class Recurrent(nn.Module):
    """A recurrent net, a call of a layer for every few ops."""

    def __init__(self) -> None:
        super().__init__()
        self.taken, self.kept, self.out = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def __call__(self, x: mx.array) -> mx.array:
        h = mx.zeros((x.shape[0], 16))
        for t in range(x.shape[1]):
            h = mx.tanh(self.taken(x[:, t]) + self.kept(h))
        return self.out(h)


def models() -> Iterator[tuple[str, Callable[..., mx.array], Callable[..., Any]]]:
    """What is recorded: a name, the forward pass, the gradient."""
    from mlx_lm.models.llama import Model, ModelArgs

    straight = chain(2000)
    w = mx.ones((4,))
    yield "chain", lambda: straight(w), lambda: mx.value_and_grad(straight)(w)
    mx.random.seed(0)
    net, x = Recurrent(), mx.random.normal((4, 60, 8))
    yield "recurrent", *_with_gradient(net, lambda: net(x).square().mean())
    deep = nn.Sequential(*[layer for _ in range(30) for layer in (nn.Linear(8, 8), nn.ReLU())])
    given = mx.ones((2, 8))
    yield "mlp", *_with_gradient(deep, lambda: deep(given).square().mean())
    shape = ModelArgs(
        model_type="llama", hidden_size=64, num_hidden_layers=4, intermediate_size=128, num_attention_heads=4,
        num_key_value_heads=2, rms_norm_eps=1e-5, vocab_size=256,
    )  # fmt: skip
    llama, tokens = Model(shape), mx.random.randint(0, 256, (2, 33))

    def loss() -> mx.array:
        return nn.losses.cross_entropy(llama(tokens[:, :-1]), tokens[:, 1:], reduction="mean")

    yield "llama", *_with_gradient(llama, loss)


def _with_gradient(model: nn.Module, loss: Callable[[], mx.array]) -> tuple[Callable[..., mx.array], Run]:
    mx.eval(model.parameters())
    return loss, lambda: nn.value_and_grad(model, loss)()


def op_costs(rounds: int) -> Iterator[Figure]:
    """Microseconds that recording adds to an op, by what is recorded, once the first passes are over: to the ops of a
    model alone, in one function, and with the calls of functions that make them."""
    for name, forward, gradient in models():
        added, count = _added(forward, rounds)
        alone, calls = (added, 0) if name == "chain" else (_added(straight(forward), rounds)[0], calls_of(forward))
        apart = ", its calls apart" if calls else ""
        yield figure(f"recording a forward op adds, {name}{apart}", [time / count for time in alone], "µs", _FORWARD)
        base = statistics.median(added)
        if calls:
            each = [(time - statistics.median(alone)) / calls for time in added]
            note = f"{calls / count:.2g} calls an op: {base / count:.1f} µs an op with them"
            yield figure(f"recording a call of a function adds, {name}", each, "µs", None, note)
        whole, everything = _added(gradient, rounds)
        backward = [(time - base) / (everything - count) for time in whole]
        yield figure(f"recording a backward op adds, {name}", backward, "µs", _BACKWARD)


def calls_of(forward: Run) -> int:
    """How many calls of functions make the ops of a forward pass."""
    with recorder() as made:
        forward()
        scopes = {op.scope for op in made.tape.ops}
    for scope in list(scopes):
        while scope is not None and scope not in scopes:
            scopes.add(scope)
            scope = scope.parent
    return len(scopes)


def straight(forward: Run) -> Run:
    """The ops of a forward pass again, line by line in one function that calls no other and has few variables."""
    with recorder() as made:
        forward()
        start = len(made.tape)
        forward()
        ops = made.tape.ops[start:]
    given: list[Any] = []
    space: dict[str, Any] = {"mx": mx}
    exec(compile("\n".join(_lines(ops, given)), "straight.py", "exec"), space)
    mx.eval([one for one in given if isinstance(one, mx.array)])
    assert mx.array_equal(space["straight"](given), forward())
    return lambda: space["straight"](given)


def _lines(ops: list[Op], given: list[Any]) -> list[str]:
    """The source of a function that makes some ops; `given` is filled with what it takes."""
    callees = {catalog.operation(callee): callee for callee in catalog.CALLEES}
    last = {value: at for at, op in enumerate(ops) for value in op.inputs}
    names: dict[Value, str] = {}
    free: list[str] = []

    def text(part: Any) -> str:
        if isinstance(part, Value) and part in names:
            return names[part]
        given.append(part.array if isinstance(part, Value) else part)
        return f"given[{len(given) - 1}]"

    lines = ["def straight(given):"]
    for at, op in enumerate(ops):
        callee, written = callees[op.operation], list(map(text, op.args))
        named = [f"{name}={text(part)}" for name, part in op.kwargs.items()]
        method = callee.holder is mx.array
        call = f"{callee.key}(" if not method else f"{written[0]}.{callee.attribute}("
        call = call[:-1] if callee.treatment == "property" else f"{call}{', '.join(written[method:] + named)})"
        free += sorted({names[value] for value in op.inputs if value in names and last[value] == at})
        result = names[op.outputs[0]] = free.pop() if free else f"v{at}"
        lines.append(f" {result} = {call}")
    return [*lines, f" return {result}"]


def _added(run: Run, rounds: int) -> tuple[list[float], int]:
    """Microseconds that recording adds to a call, plain and recorded in turn; and how many ops the call has."""
    extra: list[float] = []
    count = 0
    for _ in range(3):
        plain = statistics.median(interleaved(rounds, run)[0])
        with recorder() as made:
            for k in range(_WARM + rounds):
                start = len(made.tape)
                recorded = cpu(run)
                count = len(made.tape) - start
                if k >= _WARM:
                    extra.append(1e6 * (recorded - plain))
    return extra, count


def bindings_cost(rounds: int) -> Iterator[Figure]:
    """Microseconds an op that it takes to note what the variables hold."""
    for name, forward, _ in models():
        with_watch, count = _added(forward, rounds)
        without = _unwatched(forward, rounds)
        values = [(time - statistics.median(without)) / count for time in with_watch]
        yield figure(f"of that, noting what variables hold, {name}", values, "µs", _BINDING)


def _unwatched(run: Run, rounds: int) -> list[float]:
    from nnrepl.record.watch import BindingWatch

    names = ("see", "belong", "leave", "settle", "loosen")
    kept = {name: getattr(BindingWatch, name) for name in names}

    def blind(self: BindingWatch, *_: Any) -> None:
        pass

    def belong(self: BindingWatch, frame: Any, scope: Any) -> None:
        self._frames[frame].scope = scope

    def leave(self: BindingWatch, frame: Any) -> None:
        self._frames.pop(frame, None)

    try:
        for name in names:
            setattr(BindingWatch, name, {"belong": belong, "leave": leave}.get(name, blind))
        return _added(run, rounds)[0]
    finally:
        for name, method in kept.items():
            setattr(BindingWatch, name, method)


_KEPT = """
from tests.bench.tapes import chain, recorder, resident
straight = chain({length})
before = resident()
with recorder() as made:
    straight()
    print((resident() - before) / len(made.tape))
"""


def bytes_kept(quick: bool) -> Iterator[Figure]:
    """What a recorded op holds, its array included, in a process of its own."""
    length = 50_000 if quick else 200_000
    kept = float(subprocess.run([sys.executable, "-c", _KEPT.format(length=length)], check=True, **_TEXT).stdout)
    yield figure(f"memory of an op, {length:,} ops", [kept], "B")


def resident() -> int:
    """The bytes of memory that this process has."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def sizes(quick: bool) -> list[int]:
    """How long the tapes are."""
    return [1_000, 10_000, 100_000] if quick else [1_000, 10_000, 100_000, 1_000_000]


def motions(quick: bool) -> Iterator[Figure]:
    """Milliseconds for motions on long tapes, their first step among them."""
    found: dict[str, list[float]] = {}
    lengths = sizes(quick)
    for length in lengths:
        gc.collect()
        straight = chain(length)
        trace = nnrepl.trace(straight)
        for name, times in _moves(trace, length).items():
            value = figure(f"{name}, {length:,} ops", times, "ms", _MOTION)
            found.setdefault(name, []).append(value.value)
            yield value
        del trace
    for name, values in found.items():
        yield law(name, lengths, values, 0.2)


def _moves(trace: nnrepl.Trace, length: int) -> dict[str, list[float]]:
    """Milliseconds of what is typed on a tape that has been evaluated: the first time, and then."""
    mx.eval(trace.value)
    session = OpenSession(trace)
    session.settings["peek"] = 0

    def ms(line: str, times: int = 5) -> list[float]:
        return [1e3 * cpu(lambda: str(session.run(line))) for _ in range(times)]

    far, near = length * 9 // 10, length // 2
    found = {"first step": ms("step", 1), "step": ms("step"), "back": ms("back")}
    found["first goto"] = ms(f"goto #{far}", 1)
    found["goto"] = [*ms(f"goto #{near}", 1), *ms(f"goto #{far}", 1), *ms(f"goto #{near}", 1)]
    for name, line in (("print", "print y"), ("list", "list"), ("ops", "ops"), ("info locals", "info locals")):
        found[f"first {name}"], found[name] = ms(line, 1), ms(line)
    found["reverse-step far"] = ms(f"reverse-step {near - 10}", 1)
    found["what, once"] = ms("what y", 1)
    return found


def typing(quick: bool) -> Iterator[Figure]:
    """Milliseconds for a key at the prompt on a long tape: what is completed, and the toolbar."""
    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document

    from nnrepl.shell.complete import NameCompleter, TapeIndex
    from nnrepl.shell.toolbar import Toolbar

    length = 10_000 if quick else 100_000
    straight = chain(length)
    session = OpenSession(nnrepl.trace(straight))
    index = TapeIndex(session)
    completer = NameCompleter(session.interpreter, index)
    toolbar = Toolbar(session)

    def key() -> None:
        list(completer.get_completions(Document("p y"), CompleteEvent()))
        toolbar.fragments(100)

    yield figure(f"a key at first, {length:,} ops", [1e3 * cpu(key) for _ in range(9)], "ms", _MOTION)
    while not index.advance():
        pass
    yield figure(f"a key then, {length:,} ops", [1e3 * cpu(key) for _ in range(9)], "ms", _MOTION)


def pauses(quick: bool) -> Iterator[Figure]:
    """The longest of many small passes: Python's collector must not walk the tape."""
    count = 1000 if quick else 8000
    straight = chain(20)
    w = mx.ones((4,))
    with recorder():
        gradient = mx.value_and_grad(straight)
        times = [1e3 * cpu(lambda: gradient(w)) for _ in range(count)]
    early, late = statistics.median(times[10:200]), statistics.median(times[-200:])
    yield figure(f"longest of {count:,} passes: cpu", [max(times[10:])], "ms", _PAUSE, f"the median is {late:.2f} ms")
    yield figure("the last passes against the first", [late / early], "x", 1.2)


def whole_step(rounds: int) -> Iterator[Figure]:
    """A recorded and evaluated gradient of the four models, in multiples of plain MLX."""
    for name, _, gradient in models():

        def plain(gradient: Run = gradient) -> None:
            mx.eval(gradient())

        with recorder():
            for _ in range(_WARM):
                plain()
            ours = [cpu(plain) for _ in range(rounds)]
        base = statistics.median(interleaved(rounds, plain)[0])
        yield figure(
            f"a recorded gradient, {name}", [time / base for time in ours], "x", None, f"plain {1e3 * base:.3g} ms"
        )
