"""The benchmark: `python -m tests.bench`. Ratios against plain MLX, interleaved in one run.

What it prints: the cost of recording one forward and one backward op; the time of a recorded and evaluated
training step against a plain one, on an MLP, a convolutional net and mlx-lm's Llama in small; the time of the
motions on a long tape; the time from start to prompt against importing what any such program imports.
`--quick` takes fewer rounds.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

import nnrepl
from nnrepl.record.intercept import recording
from nnrepl.record.names import ProgramNames
from nnrepl.record.recorder import Recorder

Step = Callable[[], Any]


def recorder() -> Recorder:
    """A recorder on a tape of its own."""
    names = ProgramNames()
    tape = names.tape
    made = Recorder(tape, strict=False)
    made.start()
    return made


def seconds(run: Step) -> float:
    """How long one call takes, with the collector in a known state."""
    gc.collect()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def recorded(run: Step) -> tuple[float, Recorder]:
    """How long one call takes under recording."""
    made = recorder()
    with recording(made):
        return seconds(run), made


# -- the cost of an op -----------------------------------------------------------------------------------


def chain(count: int) -> tuple[Step, Step]:
    """A long forward pass of two-operand ops, and the same with its gradient."""
    x, w = mx.ones((4,)), mx.ones((4,))

    def forward(w: mx.array = w) -> mx.array:
        y = x
        for _ in range(count // 2):
            y = mx.maximum(y * x, w)
        return y

    def loss(w: mx.array) -> mx.array:
        y = x
        for _ in range(count // 2):
            y = mx.tanh(y) + w
        return y.sum()

    return forward, lambda: mx.value_and_grad(loss)(w)


def op_costs(rounds: int, count: int = 4000) -> None:
    """Microseconds that recording adds to a forward and to a backward op."""
    forward, gradient = chain(count)
    plain_forward, forward_costs, backward_costs, plain_vjp = [], [], [], []
    for _ in range(rounds):
        plain = seconds(forward)
        taken, made = recorded(forward)
        plain_forward.append(plain / count)
        forward_costs.append((taken - plain) / len(made.tape))
        taken, made = recorded(gradient)
        part = made.tape.passes[-1]
        backward = part.count("backward")
        backward_costs.append((taken - part.count("forward") * (forward_costs[-1] + plain / count)) / backward)
        plain_vjp.append(_one_vjp())
    micro = 1e6
    print(f"dispatching one op in plain MLX       {micro * statistics.median(plain_forward):8.2f} µs")
    print(f"recording a forward op adds           {micro * statistics.median(forward_costs):8.2f} µs")
    print(f"one mx.vjp of one op                  {micro * statistics.median(plain_vjp):8.2f} µs")
    print(f"a recorded backward op, all in all    {micro * statistics.median(backward_costs):8.2f} µs")


def _one_vjp(count: int = 2000) -> float:
    x, w = mx.ones((4,)), mx.ones((4,))

    def run() -> None:
        for _ in range(count):
            mx.vjp(mx.multiply, [x, w], [x])

    return seconds(run) / count


# -- a training step ---------------------------------------------------------------------------------------


def mlp() -> tuple[nn.Module, Callable[..., mx.array], tuple[Any, ...]]:
    """Four layers of 1,024 units on a batch of 512."""
    mx.random.seed(0)
    model = nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))
    x, y = mx.random.normal((512, 784)), mx.random.randint(0, 10, (512,))
    return model, lambda x, y: nn.losses.cross_entropy(model(x), y, reduction="mean"), (x, y)


def convolutional() -> tuple[nn.Module, Callable[..., mx.array], tuple[Any, ...]]:
    """Three convolutions with batch norm on 32 images of 32 by 32."""
    mx.random.seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), lambda x: x.reshape(x.shape[0], -1), nn.Linear(4096, 10),
    )  # fmt: skip
    x, y = mx.random.normal((32, 32, 32, 3)), mx.random.randint(0, 10, (32,))
    return model, lambda x, y: nn.losses.cross_entropy(model(x), y, reduction="mean"), (x, y)


def llama() -> tuple[nn.Module, Callable[..., mx.array], tuple[Any, ...]]:
    """mlx-lm's Llama with four layers of width 256, on 4 sequences of 128 tokens."""
    from mlx_lm.models.llama import Model, ModelArgs

    mx.random.seed(0)
    model = Model(
        ModelArgs(
            model_type="llama", hidden_size=256, num_hidden_layers=4, intermediate_size=512, num_attention_heads=8,
            num_key_value_heads=4, rms_norm_eps=1e-5, vocab_size=1024,
        )
    )  # fmt: skip
    x = mx.random.randint(0, 1024, (4, 129))

    def loss(x: mx.array) -> mx.array:
        return nn.losses.cross_entropy(model(x[:, :-1]), x[:, 1:], reduction="mean")

    return model, loss, (x,)


def step_ratios(rounds: int) -> None:
    """A recorded and evaluated training step against a plain one, interleaved."""
    for build in (mlp, convolutional, llama):
        model, loss, args = build()
        mx.eval(model.parameters(), args)

        def plain(model: nn.Module = model, loss: Any = loss, args: Any = args) -> None:
            mx.eval(nn.value_and_grad(model, loss)(*args))

        def traced(model: nn.Module = model, loss: Any = loss, args: Any = args) -> None:
            trace = nnrepl.trace(loss, *args, wrt=model)
            mx.eval(trace.value, trace.grads)

        plain(), traced()
        pairs = [(seconds(plain), seconds(traced)) for _ in range(rounds)]
        ratio = statistics.median(b / a for a, b in pairs)
        base = 1e3 * statistics.median(a for a, _ in pairs)
        print(f"training step, {build.__name__:14}         {ratio:8.2f} x plain ({base:.0f} ms)")


# -- motions and start ---------------------------------------------------------------------------------------


def motion_costs(length: int = 100_000) -> None:
    """Milliseconds for a motion on a tape of 100,000 ops."""
    forward, _ = chain(length)
    trace = nnrepl.trace(lambda: forward())
    session = nnrepl.Session(trace)
    session.settings["peek"] = 0
    for name, run in (
        ("step", session.step),
        ("back", session.back),
        ("goto #90000", lambda: session.goto("#90000")),
        ("reverse-step 50000", lambda: session.back(50_000)),
    ):
        times = [seconds(run) for _ in range(5)]
        print(f"{name:28} of {length} {1e3 * statistics.median(times):8.2f} ms")


def typing_costs(length: int = 100_000) -> None:
    """Milliseconds for a key at the prompt on a tape of 100,000 ops: what is completed, and the toolbar."""
    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document

    from nnrepl.shell.complete import NameCompleter, TapeIndex
    from nnrepl.shell.toolbar import Toolbar

    forward, _ = chain(length)
    session = nnrepl.Session(nnrepl.trace(lambda: forward()))
    index = TapeIndex(session)
    completer = NameCompleter(session.interpreter, index)
    toolbar = Toolbar(session)

    def key() -> None:
        list(completer.get_completions(Document("p y"), CompleteEvent()))
        toolbar.fragments(100)

    first = [seconds(key) for _ in range(9)]
    while not index.advance():
        pass
    then = [seconds(key) for _ in range(9)]
    print(f"a key on a tape of {length}          {1e3 * max(first):8.2f} ms at first, {1e3 * max(then):.2f} ms then")


def start_ratio(rounds: int) -> None:
    """From start to prompt, against importing MLX, prompt-toolkit and rich."""
    base = [sys.executable, "-c", "import mlx.nn, prompt_toolkit, rich"]
    ours = [sys.executable, "-m", "nnrepl", "--batch", "-c", "quit"]

    def run(command: list[str]) -> float:
        return seconds(lambda: subprocess.run(command, check=True, capture_output=True))

    run(base), run(ours)
    pairs = [(run(base), run(ours)) for _ in range(rounds)]
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"start to prompt                       {ratio:8.2f} x importing mlx.nn, prompt_toolkit, rich")


def main() -> None:
    """Print everything."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 3 if options.parse_args().quick else 9
    op_costs(rounds)
    step_ratios(rounds)
    motion_costs()
    typing_costs()
    start_ratio(rounds)


if __name__ == "__main__":
    main()
