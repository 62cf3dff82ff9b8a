"""Updates: one step of an optimizer, explained with the numbers of one element."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nnrepl.explain import words
from nnrepl.explain.elements import Index, named, number_at
from nnrepl.explain.look import Look
from nnrepl.ops.case import EPSILON
from nnrepl.ops.optimizers import RECIPES, UpdateRule
from nnrepl.record.stack import is_optimizer
from nnrepl.tape import UPDATE_PASS, Leaf, Op, Value


@dataclass(slots=True)
class Update:
    """One step of an optimizer for one parameter, as the tape holds it.

    Attributes:
        recipe: The optimizer's formula.
        options: Its settings.
        after, before, gradient: The parameter and its gradient.
        rate, step: The learning rate and the number of the step.
        state: What it kept, before and after the step.
    """

    recipe: UpdateRule
    options: dict[str, Any]
    after: Value
    before: Value
    gradient: Value
    rate: Value
    step: Value | None
    state: dict[str, tuple[Value, Value]] = field(default_factory=dict)


_OPTIONS = ("momentum", "weight_decay", "dampening", "nesterov", "betas", "eps", "bias_correction")


def update_of(value: Value) -> Update | None:
    """Return the update that made a parameter's new value; None if the value is no such thing or the optimizer is
    unknown."""
    op = value.op
    if op is None or op.pass_.kind != UPDATE_PASS or op.scope is None or op.name != "subtract":
        return None
    owner = next((step.owner for step in reversed(op.scope.path()) if is_optimizer(step.owner)), None)
    recipe = RECIPES.get(type(owner).__name__)
    if recipe is None:
        return None
    ops = [other for other in op.pass_.ops if other.scope is not None and _same_call(other, op)]
    taken = [given for other in ops for given in other.inputs]
    gradient = next((given for given in taken if given.gradient_of is not None), None)
    parameters = [given for given in taken if isinstance(given, Leaf) and given.kind == "parameter"]
    before = next((given for given in parameters if given.shape == value.shape and given is not gradient), None)
    rate = next((other.outputs[0] for other in ops if other.name == "astype" and other.inputs[0].shape == ()), None)
    if gradient is None or before is None or rate is None:
        return None
    options = {name: getattr(owner, name) for name in _OPTIONS if hasattr(owner, name)}
    found = Update(recipe, options, value, before, gradient, rate, _step_of(op))
    return found if _add_state(found, ops) else None


def _same_call(other: Op, op: Op) -> bool:
    """Whether two ops belong to the update of the same parameter (AdamW calls Adam's)."""
    assert other.scope is not None
    assert op.scope is not None
    outer = [step for step in op.scope.path() if step.code.co_name == "apply_single"]
    return bool(outer) and other.scope.within(outer[0])


def _step_of(op: Op) -> Value | None:
    counts = [other.outputs[0] for other in op.pass_.ops[: op.position - op.pass_.start + 1]
              if other.name == "add" and other.outputs and other.outputs[0].shape == ()]  # fmt: skip
    return counts[0] if counts else None


def _add_state(update: Update, ops: list[Op]) -> bool:
    """Find what was kept: `beta · old` is how each begins."""
    factors: dict[str, float] = {}
    if update.recipe.name == "SGD":
        if update.options["momentum"] <= 0:
            return True
        factors["v"] = update.options["momentum"]
    else:
        factors["m"], factors["v"] = update.options["betas"]
    for name, factor in factors.items():
        start = next(
            (op for op in ops if op.name == "multiply" and _scalar(op) == factor and _other(op) is not update.gradient),
            None,
        )
        if start is None:
            return False
        end = next((op for op in ops if op.name == "add" and start.outputs[0] in op.inputs), None)
        if end is None:
            return False
        update.state[name] = (_other(start), end.outputs[0])
    return True


def _scalar(op: Op) -> float | None:
    return next((arg for arg in op.args if isinstance(arg, float)), None)


def _other(op: Op) -> Value:
    return op.inputs[0]


# -- numbers -------------------------------------------------------------------------------------------------------


def update_lines(look: Look, update: Update, index: Index) -> list[str]:
    """Return the step for one element, in symbols and numbers; empty if the numbers do not give what the optimizer
    gave."""
    numbers = _Numbers(look, update, index)
    lines = _sgd(numbers) if update.recipe.name == "SGD" else _adam(numbers)
    expected = numbers.of(update.after)
    # The optimizer computes in the parameter's dtype; a step is a sum of a few such numbers.
    coarse = 8 * EPSILON.get(update.before.dtype, 1e-7)
    if not abs(numbers.result - expected) <= coarse * (abs(numbers.w) + 4 * abs(numbers.w - expected)) + 1e-37:
        return []
    lines.append(f"{named(update.before, index)} goes from {words.number(numbers.w)} to {words.number(expected)}")
    return lines


class _Numbers:
    """The numbers that take part in the update of one element."""

    def __init__(self, look: Look, update: Update, index: Index) -> None:
        self.look, self.update, self.index = look, update, index
        self.w = self.of(update.before)
        self.g = self.of(update.gradient)
        self.lr = float(number_at(look, update.rate, ()))
        self.t = float(number_at(look, update.step, ())) if update.step is not None else 1.0
        self.old = {name: self.of(pair[0]) for name, pair in update.state.items()}
        self.result = 0.0

    def of(self, value: Value) -> float:
        return float(number_at(self.look, value, self.index))


def _sgd(n: _Numbers) -> list[str]:
    options, f, p = n.update.options, words.factor, words.number
    lines = [f"g = {named(n.update.gradient, n.index)} = {p(n.g)}"]
    g, decay, mu = n.g, options["weight_decay"], options["momentum"]
    if decay:
        g = n.g + decay * n.w
        lines.append(f"g ← g + weight_decay · w = {p(n.g)} + {p(decay)} · {f(n.w)} = {p(g)}")
    direction, name = g, "g"
    if mu > 0:
        share = 1 - options["dampening"]
        v = mu * n.old["v"] + share * g
        kept = "g" if share == 1 else f"{p(share)} · g"
        plugged = f(g) if share == 1 else f"{p(share)} · {f(g)}"
        lines.append(f"v ← momentum · v + {kept} = {p(mu)} · {f(n.old['v'])} + {plugged} = {p(v)}")
        direction, name = v, "v"
        if options["nesterov"]:
            direction, name = g + mu * v, "(g + momentum · v)"
    n.result = n.w - n.lr * direction
    lines.append(f"w ← w − lr · {name} = {p(n.w)} − {p(n.lr)} · {f(direction)} = {p(n.result)}")
    return lines


def _adam(n: _Numbers) -> list[str]:
    options, f, p = n.update.options, words.factor, words.number
    b1, b2 = options["betas"]
    m = b1 * n.old["m"] + (1 - b1) * n.g
    v = b2 * n.old["v"] + (1 - b2) * n.g * n.g
    lines = [
        f"g = {named(n.update.gradient, n.index)} = {p(n.g)}",
        f"m ← β₁ · m + (1 − β₁) · g = {p(b1)} · {f(n.old['m'])} + {p(1 - b1)} · {f(n.g)} = {p(m)}",
        f"v ← β₂ · v + (1 − β₂) · g² = {p(b2)} · {f(n.old['v'])} + {p(1 - b2)} · {f(n.g)}² = {p(v)}",
    ]
    w, names = n.w, ("m", "v")
    if options["bias_correction"]:
        m, v, names = m / (1 - b1**n.t), v / (1 - b2**n.t), ("m̂", "v̂")
        lines.append(f"m̂ = m / (1 − β₁ᵗ) = {p(m)},  v̂ = v / (1 − β₂ᵗ) = {p(v)}   at step t = {n.t:.0f}")
    decay = options.get("weight_decay", 0.0) if n.update.recipe.name == "AdamW" else 0.0
    if decay:
        w = n.w * (1 - n.lr * decay)
        lines.append(f"w ← w · (1 − lr · weight_decay) = {p(n.w)} · (1 − {p(n.lr)} · {p(decay)}) = {p(w)}")
    n.result = w - n.lr * m / (v**0.5 + options["eps"])
    lines.append(
        f"w ← w − lr · {names[0]} / (√{names[1]} + ε) = {p(w)} − {p(n.lr)} · {f(m)} / "
        f"({p(v**0.5)} + {p(options['eps'])}) = {p(n.result)}"
    )
    return lines
