"""Pass: a stretch of ops that belong together; Mark: a point where the program forced an evaluation."""

from __future__ import annotations

from dataclasses import field
from types import CodeType
from typing import TYPE_CHECKING

from nnrepl.classes import dataclass
from nnrepl.tape.face import Face

if TYPE_CHECKING:
    from nnrepl.tape.op import Op
    from nnrepl.tape.origins import Activation
    from nnrepl.tape.steps import Step
    from nnrepl.tape.tape import Tape
    from nnrepl.tape.value import Value

SETUP_PASS, GRADIENT_PASS, UPDATE_PASS, RUN_PASS = "setup", "gradient", "update", "run"

GRADIENTS = ("grad", "value_and_grad", "vjp")
"""The transforms that take gradients."""
_PHASES = {SETUP_PASS: "setup", UPDATE_PASS: "update", RUN_PASS: "forward"}


@dataclass(eq=False, slots=True)
class Pass(Face):
    """A stretch of ops that belong together.

    Attributes:
        tape: The tape it lies on.
        number: 0 for what comes before the first forward pass, then 1, 2, ...
        kind: "setup"; "gradient" for one call of a function made by `value_and_grad` (forward and
            backward); "update" for one optimizer update; "run" for ops at the top level of a program.
        title: What was called: the name of the loss function, the optimizer, the script.
        start, end: The positions of its first op and after its last.
        backward: The position of its first backward op; `end` where there is none (while a gradient pass
            runs forward, a position that is never reached).
        loss: The value that was differentiated, if any.
        gives_loss: How the program gets that, before the gradients: "alone", or "first" in a tuple with what else the
            function returns; "" where it gets the gradients alone (`grad`), or a list (`vjp`).
        wrt: The leaves with respect to which it was.
        roots: What was differentiated, each with the gradient that the sweep started from.
        grads: For each forward value that got a gradient, its versions in order; the last is the whole.
        handed: What else its function was given.
        given: The gradient that the program got for each of `wrt`: zeros where none flows.
        error: The exception that ended it, if one did.
        scope, lasti: Where it was called from.
        returned: What the function gave back that its forward ops had made; None where that is not known.
        code: The code of the function that was differentiated; None where it has none, and on a saved tape.
        within: The pass around it, where it is what happened inside of one call (see `Inside`).
        turn: Of a closed turn of the setup, with the how manyth evaluation of the run it begins; else 0.
        by_hand: Of a closed gradient call, whether the program updates weights by hand between it and the next one.
    """

    tape: Tape
    number: int
    kind: str
    title: str
    start: int
    end: int = 0
    backward: int = 0
    loss: Value | None = None
    gives_loss: str = "alone"
    wrt: tuple[Value, ...] = ()
    handed: tuple[Value, ...] = ()
    roots: tuple[tuple[Value, Value], ...] = ()
    grads: dict[Value, list[Value]] = field(default_factory=dict)
    given: tuple[Value, ...] = ()
    error: BaseException | None = None
    scope: Activation | None = None
    lasti: int = -1
    returned: tuple[Value, ...] | None = None
    code: CodeType | None = None
    open: bool = True
    within: Pass | None = None
    turn: int = 0
    by_hand: bool = False

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def ops(self) -> list[Op]:
        """Its ops in order of execution."""
        return self.tape.ops[self.start : self.end]

    def phase_at(self, position: int) -> str:
        """Return the phase of the op at `position`."""
        if self.kind == GRADIENT_PASS:
            return "forward" if position < self.backward else "backward"
        return _PHASES[self.kind]

    def count(self, phase: str) -> int:
        """How many of its ops belong to `phase`."""
        if self.kind == GRADIENT_PASS:
            return self.end - self.backward if phase == "backward" else self.backward - self.start
        return len(self)

    @property
    def forward(self) -> list[Op]:
        """Its own forward ops, without what happened inside of calls that are ops themselves."""
        ops, inner = self.tape.ops[self.start : min(self.backward, self.end)], self.within is not None
        return [op for op in ops if (op.pass_ is self if inner else not op.inner)]

    def adds_to(self, value: Value) -> Value | None:
        """Return the whole gradient of which a gradient is only a part; None where it is whole itself, or none."""
        of = value.gradient_of
        grads = self.grads.get(of.canonical, []) if of is not None else []
        return grads[-1] if len(grads) > 1 and grads[-1] is not value else None

    @property
    def outermost(self) -> Pass:
        """The pass of the tape's list in which it lies: itself, unless it is what happened inside of a call."""
        pass_ = self
        while pass_.within is not None:
            pass_ = pass_.within
        return pass_

    @property
    def step(self) -> Step:
        """The training step that it belongs to; number 0 is the setup."""
        return self.tape.steps.at(self.start)

    @property
    def address(self) -> str:
        """`step 3`, or `step 3 · pass 7` where that step has several gradient calls."""
        step = self.step
        others = sum(other.kind == GRADIENT_PASS for other in step.passes)
        return f"{step.title} · pass {self.number}" if others > 1 and self.kind == GRADIENT_PASS else step.title

    def __repr__(self) -> str:
        return f"<Pass {self.number} {self.kind} {self.title!r} {len(self)} ops>"


@dataclass(eq=False, slots=True)
class Inside(Pass):
    """What happened inside of a call that MLX ran by itself (`vmap`, `jvp`, `grad` in a loss): the ops before the
    call's own op. They are for looking at; the pass around them takes the call as the one op that it is.

    A `grad` has a forward and a backward stretch like any gradient pass, with its own loss; what another transform
    runs belongs to the phase around it.

    Attributes:
        transform: Which of MLX's transforms it is: "vmap", "jvp", "vjp", "grad", "value_and_grad", ...
        size: How many the samples are of a `vmap`; 0 for the others.
        axes: For each value that differs from sample to sample, along which axis they lie.
        out_axes: Along which axis a `vmap` puts the samples in its results, by slot, where that is not axis 0.
        leaves: What stands there for the arrays that went in.
        results: Which of its values the outputs of the call's op are, with the slots of those.
        sheets: What has the further runs of functions in it, in order; those of the outermost of calls in each other.
        runs: Of the outermost: how often functions in it have begun that may run more than once.
        number_of_run: The how-manieth of those it is, if it is one.
        swept: Of the outermost: which of those the sweep of the pass around has run once more, by their first run.
        unfollowed: Why not all that MLX did there is on the tape; "" if it is.
    """

    transform: str = ""
    size: int = 0
    axes: dict[Value, int] = field(default_factory=dict)
    out_axes: dict[int, int] = field(default_factory=dict)
    leaves: tuple[Value, ...] = ()
    results: tuple[tuple[Value, int], ...] = ()
    sheets: list[Tape] = field(default_factory=list)
    runs: int = 0
    number_of_run: int = -1
    swept: list[int] = field(default_factory=list)
    unfollowed: str = ""

    def phase_at(self, position: int) -> str:
        """Return the phase of the op at `position`."""
        if self.differentiates or self.within is None:
            return "forward" if position < self.backward else "backward"
        return self.within.phase_at(position)

    @property
    def differentiates(self) -> bool:
        """Whether it has a backward stretch of its own."""
        return self.transform in GRADIENTS

    def differs(self, value: Value) -> bool:
        """Whether a value differs from sample to sample of a `vmap`: then it means nothing outside of it."""
        apart = {leaf for leaf in self.leaves if leaf in self.axes}
        for op in self.ops:
            if not apart.isdisjoint(op.inputs):
                apart.update(op.outputs)
        return value in apart

    @property
    def call(self) -> Op | None:
        """The op of the call; None while it is being made."""
        return self.tape.ops[self.end] if self.end < len(self.tape.ops) else None

    def __repr__(self) -> str:
        return f"<Inside {self.transform} {self.title!r} {len(self)} ops>"


def outermost(pass_: Pass) -> Inside:
    """Of the calls that MLX ran by itself in which something lies, the outermost."""
    while isinstance(pass_.within, Inside):
        pass_ = pass_.within
    assert isinstance(pass_, Inside)
    return pass_


def inside_of(op: Op) -> Inside | None:
    """Return what happened inside of a call that MLX ran by itself, by the op of the call; None if that is not on the
    tape."""
    ops = op.pass_.tape.ops
    pass_: Pass | None = ops[op.position - 1].pass_ if op.operation.kind == "opaque" and op.position else None
    while isinstance(pass_, Inside):
        if pass_.end == op.position:
            return pass_
        pass_ = pass_.within
    return None


def result_inside(value: Value) -> Value | None:
    """Return the value inside of a nested gradient call that is its result; None if `value` is no such result, or more
    was done with it."""
    inside = inside_of(value.op) if value.op is not None else None
    if inside is None or not inside.differentiates or isinstance(inside.within, Inside):
        return None
    found = next((inner for inner, slot in inside.results if slot == value.slot), None)
    return found if found is not None and found.shape == value.shape else None


def samples_of(value: Value) -> list[tuple[int, int]]:
    """How many samples lie along which axis of a value inside of `vmap`s, the outermost first."""
    found: list[tuple[int, int]] = []
    inside: Pass | None = value.inside
    while isinstance(inside, Inside):
        if value in inside.axes:
            outer = inside.axes[value]
            found = [(inside.size, outer), *((size, axis + (axis >= outer)) for size, axis in found)]
        inside = inside.within
    return found


@dataclass(frozen=True, slots=True)
class Mark:
    """The program forced an evaluation here (`mx.eval`, `.item()`, `print` of an array, ...).

    Attributes:
        position: The position of the op that had not run yet.
        how: What forced it: `mx.eval`, `array.item`.
        values: What was to be evaluated, as far as it is on the tape.
        scope, lasti: Where in the program.
    """

    position: int
    how: str
    values: tuple[Value, ...]
    scope: Activation | None
    lasti: int


@dataclass(frozen=True, slots=True)
class Hole:
    """An array that appeared in an op without having been recorded: the tape does not know its history.

    Attributes:
        value: The leaf that stands for it in the tape.
        position: The op in which it first appeared.
        reason: What is known about it.
    """

    value: Value
    position: int
    reason: str
