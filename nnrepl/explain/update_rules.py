"""Updates: one step of an optimizer, explained with the numbers of one element."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.cases import operand
from nnrepl.explain.elements import Index, number_at
from nnrepl.explain.look import Look
from nnrepl.ops import Trait, has
from nnrepl.ops.case import EPSILON
from nnrepl.ops.evaluated import Defined, Evaluated, Line, NumberChange, worked_out
from nnrepl.ops.expression import Node, quantity
from nnrepl.ops.numbers import element
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
    if op is None or op.pass_.kind != UPDATE_PASS or op.scope is None or not has(op.name, Trait.DIFFERENCE):
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
    rate = next(
        (other.outputs[0] for other in ops if has(other.name, Trait.CASTS) and other.inputs[0].shape == ()), None
    )
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
              if has(other.name, Trait.SUM) and other.outputs and other.outputs[0].shape == ()]  # fmt: skip
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
            (
                op
                for op in ops
                if has(op.name, Trait.MULTIPLIES) and _scalar(op) == factor and _other(op) is not update.gradient
            ),
            None,
        )
        if start is None:
            return False
        end = next((op for op in ops if has(op.name, Trait.SUM) and start.outputs[0] in op.inputs), None)
        if end is None:
            return False
        update.state[name] = (_other(start), end.outputs[0])
    return True


def _scalar(op: Op) -> float | None:
    return next((arg for arg in op.args if isinstance(arg, float)), None)


def _other(op: Op) -> Value:
    return op.inputs[0]


# -- numbers -------------------------------------------------------------------------------------------------------


def update_lines(look: Look, update: Update, index: Index) -> list[Evaluated]:
    """Return the step for one element, in symbols and numbers; empty if the numbers do not give what the optimizer
    gave."""
    numbers = _Numbers(look, update, index)
    told, new = _sgd(numbers) if update.recipe.name == "SGD" else _adam(numbers)
    after, before = (operand(look, value, words.name) for value in (update.after, update.before))
    # The optimizer computes in the parameter's dtype; a step is a sum of a few such numbers.
    step = abs(numbers.w - after.at(index))
    coarse = 8 * EPSILON.get(update.before.dtype, 1e-7)
    room = coarse * (abs(numbers.w) + 4 * step) / max(abs(after.at(index)), 1e-37)
    ends = worked_out(Line("w", new, epsilon=room, sign="←", is_brief=True), after, index)
    return [] if ends is None else [*told, ends, NumberChange(before, after, index)]


class _Numbers:
    """The numbers that take part in the update of one element."""

    def __init__(self, look: Look, update: Update, index: Index) -> None:
        self.look, self.update, self.index = look, update, index
        self.w = self.of(update.before)
        self.g = self.of(update.gradient)
        self.lr = float(number_at(look, update.rate, ()))
        self.t = float(number_at(look, update.step, ())) if update.step is not None else 1.0
        self.old = {name: self.of(pair[0]) for name, pair in update.state.items()}

    def of(self, value: Value) -> float:
        return float(number_at(self.look, value, self.index))

    def option(self, name: str) -> Node:
        """Return one of the optimizer's settings."""
        return quantity(name, self.update.options[name])

    def begin(self) -> Defined:
        """Return what g is."""
        gradient = element(words.name(self.update.gradient), self.index)
        return Defined("g", quantity(gradient, self.g))


SoFar = tuple[list[Evaluated], Node]
ONE = Node("number", text="1", value=1)


def _plus(*parts: Node) -> Node:
    return Node("sum", parts, "+" * len(parts))


def _less(a: Node, b: Node) -> Node:
    return Node("sum", (a, b), "+−")


def _times(*parts: Node) -> Node:
    return Node("product", parts, "·" * len(parts))


def _sgd(n: _Numbers) -> SoFar:
    options, w, lr = n.update.options, quantity("w", n.w), quantity("lr", n.lr)
    told: list[Evaluated] = [n.begin()]
    g = quantity("g", n.g)
    if options["weight_decay"]:
        decayed = Defined("g", _plus(g, _times(n.option("weight_decay"), w)), "←")
        told.append(decayed)
        g = quantity("g", decayed.value)
    direction = g
    if options["momentum"] > 0:
        momentum, dampening = n.option("momentum"), n.option("dampening")
        share = _times(_less(ONE, dampening), g) if options["dampening"] else g
        kept = Defined("v", _plus(_times(momentum, quantity("v", n.old["v"])), share), "←")
        told.append(kept)
        direction = quantity("v", kept.value)
        if options["nesterov"]:
            direction = _plus(g, _times(momentum, direction))
    return told, _less(w, _times(lr, direction))


def _adam(n: _Numbers) -> SoFar:
    options, w, lr = n.update.options, quantity("w", n.w), quantity("lr", n.lr)
    g = quantity("g", n.g)
    told: list[Evaluated] = [n.begin()]
    means: list[Node] = []
    squared = Node("power", (g, Node("number", text="2", value=2)))
    for name, sign, beta, new in zip("mv", "₁₂", options["betas"], (g, squared)):
        rate = quantity(f"β{sign}", beta)
        mean = Defined(name, _plus(_times(rate, quantity(name, n.old[name])), _times(_less(ONE, rate), new)), "←")
        told.append(mean)
        means.append(quantity(name, mean.value))
    if options["bias_correction"]:
        step = quantity("t", int(n.t))
        for at, (name, sign, beta) in enumerate(zip("mv", "₁₂", options["betas"])):
            whole = _less(ONE, Node("power", (quantity(f"β{sign}", beta), step)))
            remark = f"t = {n.t:.0f}, the number of this step" if not at else ""
            corrected = Defined(f"{name}̂", Node("product", (means[at], whole), "·/"), remark=remark)
            told.append(corrected)
            means[at] = quantity(f"{name}̂", corrected.value)
    if n.update.recipe.name == "AdamW" and options.get("weight_decay"):
        shrunk = Defined("w", _times(w, _less(ONE, _times(lr, n.option("weight_decay")))), "←")
        told.append(shrunk)
        w = quantity("w", shrunk.value)
    root = _plus(Node("root", (means[1],)), quantity("ε", options["eps"]))
    return told, _less(w, Node("product", (lr, means[0], root), "··/"))
