"""Lookup: from the words at the prompt to the values of the tape."""

from __future__ import annotations

import re

from nnrepl.record.names import GRADIENT_SIGN, ProgramNames
from nnrepl.session.errors import NoGradient, NotYet, UserError
from nnrepl.tape import GRADIENT_PASS, Op, Pass, Tape, Value

NUMBER = re.compile(r"(?:(?P<step>\d{1,9})|(?P<setup>setup))?#(?P<number>\d{1,12})(?:\.(?P<slot>\d{1,9}))?")
"""The address of an op, or of one of its outputs: `#12`, `#12.1`, `30#12` (op 12 of step 30), `setup#3`."""


class Lookup:
    """Finds values by name, by version and by number, as seen from a position on the tape."""

    def __init__(self, tape: Tape, names: ProgramNames) -> None:
        self.tape = tape
        self.names = names

    def op(self, text: str) -> Op:
        """The op with an address: `#12` in the step in which the user stands, `30#12`, `setup#3`.

        Raises:
            UserError: If there is none.
        """
        step, number = self.address(text)
        try:
            return self.tape.at(number, step)
        except IndexError:
            raise UserError(f"there is no op {text.strip()}; {self.extent(step)}") from None

    def address(self, text: str) -> tuple[int | None, int]:
        """The step (0: the setup; None: where the user stands) and the number in an op's address.

        Raises:
            UserError: If it is none.
        """
        match = NUMBER.fullmatch(text.strip())
        if match is None:
            raise UserError(f"{text} is no op number; write #12, 30#12 for op 12 of step 30, or setup#3")
        step = 0 if match["setup"] else int(match["step"]) if match["step"] else None
        return step, int(match["number"])

    def extent(self, step: int | None = None) -> str:
        """Which ops there are: in a step (0: the setup; None: in which the user stands), and which steps."""
        steps = self.tape.steps
        if not self.tape.ops:
            return "nothing has been recorded yet"
        here = self.tape.here if step is None else step
        if steps.start_of(here) is None:
            return f"the tape holds {_several(len(steps))}" if len(steps) else "the tape holds only the setup"
        found = steps[here - 1] if here else steps.setup
        if not len(found):
            return f"the {found.title} has no op"
        return f"{'the ' if not here else ''}{found.title} has #1 to #{len(found)}"

    def by_number(self, text: str) -> Value:
        """`#12`, `#12.1`, `30#12`: an output of an op, on either side of the cursor."""
        op = self.op(text)
        match = NUMBER.fullmatch(text.strip())
        slot = int((match and match["slot"]) or 0)
        if slot >= len(op.outputs):
            if op.error is not None:
                raise UserError(f"{op.label} {op.name} has no result: it raised {type(op.error).__name__}")
            raise UserError(f"{op.label} {op.name} has {len(op.outputs)} output(s), counted from 0")
        return op.outputs[slot]

    def version(self, name: str, address: str) -> Value:
        """`z1@12`, `z1@30#12`: the version of a name that an op made, on either side of the cursor."""
        op = self.op(address if "#" in address else f"#{address}")
        for value in op.outputs:
            if name in self.names.all_names(value):
                return value
        made = [value.op.label.removeprefix("#") for _, value in self.names.versions(name) if value.op is not None]
        if not made:
            raise UserError(f"{name} was not made by any op on the tape")
        near = ", ".join(f"{name}@{number}" for number in made[:8]) + (", ..." if len(made) > 8 else "")
        raise UserError(f"{op.label} ({op.name}) did not make {name}; its versions are {near}")

    def find(self, name: str, position: int) -> Value | None:
        """The newest version of a name before `position`; None if the tape has no such name.

        Raises:
            NotYet: If every version lies ahead.
        """
        value = self.names.newest(name, position)
        if value is not None:
            return value
        versions = self.names.versions(name)
        if not versions:
            return self._loss(name, position)
        first = versions[0][1]
        if first.op is None:
            raise NotYet(f"{name} enters with pass {_part_of(self.tape, versions[0][0])}; it lies ahead")
        raise NotYet(f"{name} lies ahead: {first.op.label} ({first.op.name}) will make it")

    def _loss(self, name: str, position: int) -> Value | None:
        """`loss` means what the pass differentiates, whatever the program calls it."""
        if name != "loss":
            return None
        for part in reversed(self.tape.passes):
            loss = part.loss
            if loss is not None and loss.op is not None and part.start <= position:
                if loss.op.position < position:
                    return loss
                raise NotYet(f"the loss lies ahead: {loss.op.label} ({loss.op.name}) will make it")
        return None

    def gradient(self, value: Value, position: int) -> Value:
        """The gradient of the loss with respect to a value, as far as it has been summed up before
        `position`.

        Raises:
            NotYet: If it lies ahead.
            NoGradient: If none flows.
        """
        name = value.name
        ahead: Value | None = None
        for candidate in self._incarnations(value, name):
            for part in reversed(self.tape.passes):
                if part.kind != GRADIENT_PASS or part.start > position:
                    continue
                grads = part.grads.get(candidate.canonical)
                if not grads:
                    continue
                before = [grad for grad in grads if grad.op is None or grad.op.position < position]
                if before:
                    return before[-1]
                ahead = ahead or grads[-1]
        if ahead is not None and ahead.op is not None:
            raise NotYet(f"∂L/∂{name} lies ahead: {ahead.op.label} ({ahead.op.name}) will make it")
        raise NoGradient(self._why_none(value, name))

    def _incarnations(self, value: Value, name: str) -> list[Value]:
        """A value, and the older ones of its name: after an update, `grad(w)` means the last one taken."""
        versions = [older for _, older in self.names.versions(name)]
        cut = versions.index(value) + 1 if value in versions else len(versions)
        return [value, *reversed(versions[:cut])]

    def _why_none(self, value: Value, name: str) -> str:
        part = self._gradient_pass_of(value)
        if part is None:
            return f"no gradient was taken with respect to {name}: it is in no gradient pass"
        if part.error is not None:
            return f"∂L/∂{name} was not computed: the pass ended with {type(part.error).__name__}"
        cut = self._cut(value)
        if cut is not None:
            return f"no gradient flows to {name}: it is cut by the edit {cut.source.text!r}, {cut.label}"
        return f"no gradient flows to {name} (disconnected): the loss does not depend on it, or not differentiably"

    def _cut(self, value: Value) -> Op | None:
        """The edit that took the place of a value, or of one that was made from it."""
        edits = {target: op for op, target in self.tape.edits.items() if self._holds(op)}
        if not edits:
            return None
        pending, seen = [value], {value}
        while pending:
            held = pending.pop()
            if held in edits:
                return edits[held]
            for made in (output for op in self.tape.consumers(held) if op.of is None for output in op.outputs):
                if made not in seen:
                    seen.add(made)
                    pending.append(made)
        return None

    def _holds(self, op: Op) -> bool:
        return op.position < len(self.tape) and self.tape.ops[op.position] is op

    def _gradient_pass_of(self, value: Value) -> Pass | None:
        if value.op is not None and value.op.part.kind == GRADIENT_PASS:
            return value.op.part
        for op in value.consumers:
            if op.part.kind == GRADIENT_PASS:
                return op.part
        return next((part for part in self.tape.passes if value in part.wrt), None)

    def by_words(self, text: str, position: int) -> Value:
        """A value by anything that names one: `z1`, `z1@12`, `#12`, `∂L/∂z1`, `layers.0.weight`.

        Raises:
            UserError: If nothing is called so.
        """
        text = text.strip()
        if NUMBER.fullmatch(text):
            return self.by_number(text)
        if text.startswith(GRADIENT_SIGN):
            return self.gradient(self.by_words(text.removeprefix(GRADIENT_SIGN), position), position)
        gradient = re.fullmatch(r"grad\((.+)\)", text)
        if gradient:
            return self.gradient(self.by_words(gradient[1], position), position)
        name, at, address = text.rpartition("@")
        if at and re.fullmatch(r"(?:(?:\d+|setup)?#)?\d+", address):
            return self.version(name, address)
        value = self.find(text, position)
        if value is None:
            raise UserError(f"nothing on the tape is called {text}{self.suggest(text)}")
        return value

    def suggest(self, name: str) -> str:
        """A hint at a name like this one."""
        from difflib import get_close_matches

        close = get_close_matches(name, self.names.known(), 1)
        return f"; did you mean {close[0]}?" if close else ""


def _several(steps: int) -> str:
    return "step 1" if steps == 1 else f"steps 1 to {steps}"


def _part_of(tape: Tape, position: int) -> int:
    part = tape.pass_at(position)
    return part.number if part is not None else 0
