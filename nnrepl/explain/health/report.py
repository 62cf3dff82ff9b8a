"""Report: what a check looks at, and what `health` found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import field
from functools import cached_property

from nnrepl.classes import dataclass
from nnrepl.explain.limits import THRESHOLDS
from nnrepl.explain.look import Look
from nnrepl.explain.paths import same_function
from nnrepl.ops import Trait, has
from nnrepl.session.errors import UserError
from nnrepl.session.reading import Reading
from nnrepl.tape import GRADIENT_PASS, UPDATE_PASS, Op, Pass
from nnrepl.tape.claims import Claim, Said, say

WARNING, NOTE = "warning", "note"
_FAR = 10_000
"""So many ops before a pass are looked at."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that matters.

    Attributes:
        kind: What it is in a word: `dead units`.
        text: What was found, with numbers.
        command: What shows the evidence.
        op: The op that it is about.
        level: "warning", or "note" for what may be meant.
    """

    kind: str
    text: Said
    command: str
    op: Op | None = None
    level: str = WARNING


def findings(
    claim: Claim[str], kind: str, command: str, op: Op | None = None, level: str = WARNING
) -> Iterator[Finding]:
    """Yield a finding, if what it claims holds."""
    yield from (Finding(kind, said, command, op, level) for said in say(claim))


@dataclass(slots=True)
class Report:
    """What `health` found.

    Attributes:
        pass_: The pass that was looked at.
        also: Other gradient passes of its step that were looked at: of another function, or of another model.
        findings: What matters, warnings first.
        checks: How many checks were made.
        looked: How many tensors were looked at.
        ops: How many ops were evaluated.
        refused: How many tensors could not be looked at.
        unsafe: Whether nothing but the indices was looked at, because one of them is out of range.
        unseen: What was not looked at, because it is not on the tape.
        others: How many other gradient calls the step has, which were not looked at.
        elsewhere: Whether the cursor stands in another step, before the gradient call of that one.
    """

    pass_: Pass
    also: list[Pass] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    checks: int = 0
    looked: int = 0
    ops: int = 0
    refused: int = 0
    unsafe: bool = False
    unseen: list[str] = field(default_factory=list)
    others: int = 0
    elsewhere: bool = False

    @property
    def warnings(self) -> list[Finding]:
        """The findings that are faults."""
        return [finding for finding in self.findings if finding.level == WARNING]


@dataclass
class Checkup:
    """What a check looks at.

    Attributes:
        session: Whose tape it is.
        pass_: The gradient pass.
        look: Sees numbers.
        limits: The thresholds by name.
        broken: Whether non-finite numbers were found: then other numbers say little.
        unsafe: Whether an index points outside of its tensor: then no number after it says anything.
        unapplied: Whether the program drops what the update makes.
        hidden: The `id`s of arrays in containers that MLX does not look into.
    """

    session: Reading
    pass_: Pass
    look: Look
    limits: dict[str, float]
    broken: bool = False
    unsafe: bool = False
    unapplied: bool = False
    hidden: set[int] = field(default_factory=set)

    @cached_property
    def forward(self) -> list[Op]:
        """The forward ops that succeeded."""
        return [op for op in self.pass_.forward if op.error is None]

    @cached_property
    def sharing(self) -> list[Op]:
        """Those of them that share out: a softmax, a whole attention."""
        return [op for op in self.forward if has(op.name, Trait.DISTRIBUTES, Trait.ATTENDS)]

    @cached_property
    def prepared(self) -> list[Op]:
        """The ops before the pass from which the data that it takes was made, in order."""
        stack = [taken for op in self.forward for taken in op.inputs if taken not in self.pass_.wrt]
        found: set[Op] = set()
        while stack and len(found) < _FAR:
            value = stack.pop()
            op = value.op or (value.origin.op if value.origin is not None else None)
            if op is not None and op not in found and op.pass_.kind not in (GRADIENT_PASS, UPDATE_PASS):
                found.add(op)
                stack.extend(op.inputs)
        return sorted((op for op in found if op.error is None), key=lambda op: op.position)

    @property
    def after(self) -> list[Pass]:
        """The passes after this one, up to the next gradient pass: clipping, the update, what is logged."""
        found: list[Pass] = []
        passes = self.session.tape.passes
        for later in passes[passes.index(self.pass_) + 1 :]:
            if later.kind == GRADIENT_PASS:
                break
            found.append(later)
        return found

    @property
    def updating(self) -> bool:
        """Whether the program waits in the midst of the update after this pass: at the last op so far."""
        last = self.session.tape.ops[-1].pass_
        return self.session.running and last.kind == UPDATE_PASS and last in self.after

    @cached_property
    def series(self) -> list[Pass]:
        """The gradient passes of the same function, this one among them."""
        return same_function(self.session, self.pass_)

    @property
    def before(self) -> Pass | None:
        """The last gradient pass of the same function before this one, None if it is the first."""
        at = self.series.index(self.pass_)
        return self.series[at - 1] if at else None

    @property
    def next(self) -> Pass | None:
        """The next gradient pass of the same function, None if there is none yet."""
        return next(iter(self.series[self.series.index(self.pass_) + 1 :]), None)


Check = Callable[[Checkup], Iterator[Finding]]


def parse_limits(text: str) -> dict[str, float]:
    """`dead=0.9 huge=100`.

    Raises:
        UserError: If there is no such threshold, or no number.
    """
    limits: dict[str, float] = {}
    for word in text.replace(",", " ").split():
        name, _sign, number = word.partition("=")
        if name not in THRESHOLDS:
            raise UserError(f"health has no threshold {name}; it has {', '.join(THRESHOLDS)}")
        try:
            limits[name] = float(number)
        except ValueError:
            raise UserError(f"a threshold is set with a number: health {name}={THRESHOLDS[name].value:g}") from None
    return limits
