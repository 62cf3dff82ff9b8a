"""health: the faults of the gallery are found, sound programs get a clean bill."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from rich.console import Console

import nnrepl
from nnrepl.explain.health import Report, health
from nnrepl.explain.limits import THRESHOLDS
from nnrepl.session.session import TapeSession
from nnrepl.tape import GRADIENT_PASS
from nnrepl.view.health import health_view
from tests.corpus import layers, lm
from tests.corpus.checks import SEED, Call, some
from tests.shell.test_transcripts import TRANSCRIPTS
from tests.support import EXAMPLES, OpenSession, nnrepl_cli

BROKEN = sorted(path for path in (EXAMPLES / "broken").glob("*.py") if not path.stem.endswith("_sound"))


def look_over(path: Path) -> str:
    result = nnrepl_cli("--batch", "-c", "c", "-c", "goto #1", "-c", "health", str(path))
    assert not result.stderr, result.stderr
    return result.stdout


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_the_sound_twin_is_sound(path: Path) -> None:
    """That the fault itself is found is what `tests/transcripts/broken_*.txt` show."""
    assert (TRANSCRIPTS / f"broken_{path.stem}.txt").exists()
    twin = look_over(path.with_name(f"{path.stem}_sound.py"))
    assert "✓ nothing is wrong" in twin
    assert "\n· " not in twin
    assert "\n✗ " not in twin


def report(call: Call) -> Report | None:
    mx.random.seed(SEED)
    trace = nnrepl.trace(call.fn, *call.args, wrt=call.wrt)
    if not any(pass_.kind == GRADIENT_PASS for pass_ in trace.tape.passes):
        return None
    return health(OpenSession(trace))


def test_findings_of_another_step_than_the_cursors_say_so() -> None:
    model, optimizer = nn.Linear(2, 1), optim.SGD(0.1)
    with nnrepl.recording() as recorded:
        for _ in range(2):
            x = mx.ones((3, 2)) - 40
            _, grads = nn.value_and_grad(model, lambda model, x: nn.relu(model(x) - 90).sum())(model, x)
            optimizer.update(model, grads)
    session = TapeSession(recorded.tape, recorded.names)
    told: dict[tuple[int, str], str] = {}
    for pass_ in session.tape.passes:
        session.cursor, console = pass_.start, Console(width=120)
        with console.capture() as shown:
            console.print(health_view(health(session)))
        told[pass_.step.number, pass_.kind] = shown.get()
    assert all("zero gradient" in one for one in told.values())
    others = [at for at, one in told.items() if ", not of the step at the cursor:" in one]
    assert [number for number, kind in others if kind != GRADIENT_PASS] == [number for number, _ in others] == [2]
    assert told[others[0]].startswith("Of step 1 · ")


DELIBERATE = {
    "Step": "a step has no slope",
    "BatchNorm eval": "is in evaluation mode",
    "binary_cross_entropy probabilities": "the corpus takes the logarithm of negative probabilities",
    "gaussian_nll_loss": "the corpus divides by variances that are almost 0",
}


def test_sound_layers_and_losses_get_a_clean_bill() -> None:
    wrong: list[str] = []
    for make, names in (
        (layers.layer_call, list(layers.LAYERS)),
        (layers.loss_call, list(layers.LOSSES)),
        (layers.input_call, [name for name in layers.LAYERS if layers.has_parameters(name)]),
    ):
        for name in some(names, 3):
            found = None if name in DELIBERATE else report(make(name))
            if found is not None:
                wrong.extend(f"{name}: {finding.kind}: {finding.text}" for finding in found.warnings)
    assert wrong == []


def test_the_models_of_mlx_lm_get_a_clean_bill() -> None:
    wrong: list[str] = []
    for name in some([name for name in lm.MODELS if name not in lm.UNTRAINABLE], 9):
        model = lm.tiny(name).train()
        found = report(Call(lm.loss_of(model), [lm.tokens_for(name)], model))
        assert found is not None
        wrong.extend(f"{name}: {finding.kind}: {finding.text}" for finding in found.warnings)
    assert wrong == []


class Planted(nn.Module):
    """A sound model into which a fault can be planted at a layer."""

    def __init__(self, widths: list[int], fault: str = "", at: int = 0) -> None:
        super().__init__()
        self.layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        self._fault, self._at = fault, at

    def __call__(self, x: mx.array) -> mx.array:
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number == self._at:
                x = self.plant(x)
            if number < len(self.layers) - 1:
                x = nn.gelu(x)
        return x

    def plant(self, x: mx.array) -> mx.array:
        match self._fault:
            case "dead":
                return mx.maximum(x - 100, 0)
            case "stop":
                return mx.stop_gradient(x)
            case "sqrt":
                return mx.sqrt(mx.maximum(x, 0))
            case "overflow":
                return mx.exp(x + 100)
            case "round":
                return mx.round(x)
            case "log":
                return mx.log(x)
        return x


@pytest.mark.parametrize("widths", [[3, 7, 5, 2], [8, 16, 16, 16, 4]])
@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize(
    ("fault", "operation"),
    [
        ("dead", "maximum"),
        ("stop", "stop_gradient"),
        ("sqrt", "sqrt"),
        ("overflow", "exp"),
        ("round", "round"),
        ("log", "log"),
    ],
)
def test_a_planted_fault_is_named(widths: list[int], at: int, fault: str, operation: str) -> None:
    """Other models, other sizes, other places: the op that a finding names is the one that was planted."""
    mx.random.seed(4)
    x, y = mx.random.normal((12, widths[0])), mx.random.normal((12, widths[-1]))
    model = Planted(widths, fault, at)
    found = report(Call(lambda x, y: nn.losses.mse_loss(model(x), y), [x, y], model))
    assert found is not None
    named = [(finding.op.of or finding.op).name for finding in found.warnings if finding.op is not None]
    assert operation in named, found.findings
    model = Planted(widths)
    sound = report(Call(lambda x, y: nn.losses.mse_loss(model(x), y), [x, y], model))
    assert sound is not None
    assert sound.findings == []


class Weights(nn.Module):
    """Weights by their names, and what is made of them."""

    def __init__(self, made: Callable[..., mx.array], **weights: mx.array) -> None:
        super().__init__()
        for name, weight in weights.items():
            setattr(self, name, weight)
        self._made = made

    def __call__(self) -> mx.array:
        return self._made(**{name: self[name] for name in self})


X = mx.random.normal((20, 3), key=mx.random.key(5))
NAMED = mx.array([[3.0, 1.0], [1.0, 4.0]])
GIVEN = mx.array([[6.0, 8.0], [6.0, 8.0]])  # the gradient of `plain`
OFF = mx.array([0.0, 0.0, 0.0, -100.0])


def plain(w: mx.array) -> mx.array:
    return (w * GIVEN).sum()


def two(w: mx.array, v: mx.array) -> mx.array:
    return (w * GIVEN).sum() + (v * GIVEN * 0.01).sum()


def units(w: mx.array, v: mx.array) -> mx.array:
    return (mx.maximum(X @ w + OFF, 0) @ v).sum()


def ends(w: mx.array) -> mx.array:
    return mx.tanh(w * mx.array([[0.0, 100.0], [0.1, -100.0]])).sum()


UNITS = {"w": mx.random.normal((3, 4), key=mx.random.key(6)), "v": mx.ones((4, 2))}
SIZE = float(mx.linalg.norm(GIVEN) / mx.linalg.norm(NAMED))
THRESHOLD: dict[str, tuple[Callable[..., mx.array], dict[str, mx.array], float, str, bool]] = {
    "update": (plain, {"w": NAMED}, 0.1 * SIZE, "leaping update", True),
    "idle": (plain, {"w": NAMED}, 0.1 * SIZE, "idle update", False),
    "tiny": (plain, {"w": NAMED}, SIZE, "vanishing gradients", False),
    "huge": (plain, {"w": NAMED}, float(mx.linalg.norm(GIVEN)), "huge gradients", True),
    "spread": (two, {"w": NAMED, "v": NAMED}, 0.01, "vanishing gradients", False),
    "dead": (units, UNITS, 0.25, "dead units", True),
    "dead-rows": (units, UNITS, 20.0, "dead units", True),
    "saturated": (ends, {"w": NAMED}, 0.5, "saturated units", True),
    "lost": (plain, {"w": mx.array([[3.0, 1e4], [2e4, 3e4]], mx.float16)}, 0.75, "lost update", True),
}
"""A program; what is measured there; and what is said of it if that is larger than the threshold, or smaller."""


def trained(made: Callable[..., mx.array], weights: dict[str, mx.array]) -> TapeSession:
    """A step of gradient descent."""
    model, optimizer = Weights(made, **weights), optim.SGD(0.1)
    with nnrepl.recording() as recorded:
        loss, grads = nn.value_and_grad(model, lambda: model())()
        optimizer.update(model, grads)
        mx.eval(model.parameters(), loss)
    return TapeSession(recorded.tape, recorded.names)


def test_every_threshold_has_a_program() -> None:
    assert set(THRESHOLD) == set(THRESHOLDS)


@pytest.mark.parametrize("name", THRESHOLD)
def test_a_threshold_is_where_a_finding_begins(name: str) -> None:
    made, weights, measured, kind, larger = THRESHOLD[name]
    session = trained(made, weights)
    more = {"dead": 0.2} if name == "dead-rows" else {}
    found = [any(finding.kind == kind for finding in health(session, **more, **{name: limit}).findings)
             for limit in (measured * 0.98, measured * 1.02)]  # fmt: skip
    assert found == [larger, not larger]


WORST: dict[str, tuple[tuple[float, float, float], dict[str, float], mx.Dtype]] = {
    "leaping update": ((100.0, 200.0, 1.0), {}, mx.float32),
    "huge gradients": ((10.0, 20.0, 1.0), {"huge": 10, "update": 1e9}, mx.float32),
    "vanishing gradients": ((1e-2, 1e-3, 1.0), {"spread": 0.1, "tiny": 0}, mx.float32),
    "lost update": ((1e-4, 1e-3, 10.0), {}, mx.float16),
}
"""How large the gradients of three weights are of which the second is the worst, and with which thresholds."""


@pytest.mark.parametrize("kind", WORST)
@pytest.mark.parametrize("order", [(1, 2, 0), (0, 2, 1)])
def test_of_several_weights_the_worst_is_named(kind: str, order: tuple[int, int, int]) -> None:
    sizes, limits, dtype = WORST[kind]
    names = [f"w{number}" for number in order]
    shares = {"w0": [2.0, 2.0, 2.0, 0.0], "w1": [2.0, 2.0, 2.0, 2.0], "w2": [0.0, 0.0, 2.0, 2.0]}

    def made(**weights: mx.array) -> mx.array:
        factors = {name: sizes[int(name[1])] * (1 + mx.arange(4.0).reshape(2, 2) / 9).astype(dtype) for name in names}
        return mx.stack([(weights[name] * factors[name]).sum() for name in names]).sum()

    weights = {name: mx.array(shares[name] if kind == "lost update" else [1.0, 2.0, 1.0, 2.0], dtype).reshape(2, 2) * 4
               for name in names}  # fmt: skip
    findings = [one for one in health(trained(made, weights), **limits).findings if one.kind == kind]
    assert len(findings) == 1
    assert re.findall(r"\bw\d", str(findings[0].text))[0] == "w1"
