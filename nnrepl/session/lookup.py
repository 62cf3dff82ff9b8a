"""Lookup: from the words at the prompt to the values of the tape."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import mlx.core as mx

from nnrepl.record.gradient_names import GRADIENT_SIGN, lies_inside, sign_of, without_sign
from nnrepl.record.homes import Home
from nnrepl.record.names import ProgramNames
from nnrepl.record.stack import is_module
from nnrepl.record.updated import weight_before
from nnrepl.session.errors import NoGradient, NoTensor, NotYet, UserError, alike, meant, not_made
from nnrepl.session.frames import Frames, Held
from nnrepl.session.parsed import dotted
from nnrepl.tape import GRADIENT_PASS, UNBOUND, Activation, ClosedOp, Holder, Inside, Leaf, Op, Pass, Tape, Value

NUMBER = re.compile(r"(?:(?P<step>\d{1,9})|(?P<setup>setup))?#(?P<number>\d{1,12})(?:\.(?P<slot>\d{1,9}))?")
"""The address of an op, or of one of its outputs: `#12`, `#12.1`, `30#12` (op 12 of step 30), `setup#3`."""


def _is_newer(value: Value, other: Value) -> bool:
    return value.op is not None and (other.op is None or value.op.position > other.op.position)


class _Here:
    """The call in which the op at the cursor is made."""


HERE = _Here()


class Lookup:
    """Finds values by name, by version and by number, as seen from a position on the tape."""

    def __init__(self, tape: Tape, names: ProgramNames) -> None:
        self.tape = tape
        self.names = names
        self.frames = Frames(tape, names)

    def op(self, text: str) -> Op:
        """Return the op with an address: `#12` in the step in which the user stands, `30#12`, `setup#3`.

        Raises:
            UserError: If there is none.
        """
        step, number = self.address(text)
        try:
            return self.tape.at(number, step)
        except IndexError:
            raise UserError(f"there is no op {text.strip()}; {self.extent(step)}") from None

    def address(self, text: str) -> tuple[int | None, int]:
        """Return the step (0: the setup; None: where the user stands) and the number in an op's address.

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
            return f"the tape holds {_several(len(steps)) if len(steps) else 'only the setup' + self.tape.turns.said}"
        found = steps[here - 1] if here else steps.setup
        if not len(found):
            return f"the {found.title} has no op"
        if any(isinstance(op, ClosedOp) for op in self.tape.ops[found.start : found.end]):
            alone = not here and not len(steps) and self.tape.turns.said
            return f"the tape holds only the setup{alone}" if alone else f"{found.title} is closed"
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
        held = {value for _, _, value in self.tape.bindings.called(name)}
        for value in op.outputs:
            if value in held or name in self.names.all_names(value):
                return value
        made = [value.op.label.removeprefix("#") for _, value in self.names.versions(name) if value.op is not None]
        if not made:
            raise UserError(f"{name} was not made by any op on the tape")
        near = ", ".join(f"{name}@{number}" for number in made[:8]) + (", ..." if len(made) > 8 else "")
        raise UserError(f"{op.label} ({op.name}) did not make {name}; its versions are {near}")

    def held(
        self,
        name: str,
        position: int,
        scope: Activation | _Here | None = HERE,
        labels: bool = True,
    ) -> Held | None:
        """Return what a name or a dotted path means where the cursor stands: a tensor of the tape, or an object of the
        program's; None if nothing is called so. The one rule of all commands (DESIGN 5).

        Args:
            scope: In which call to look; the one in which the op at `position` is made, unless it is given.
            labels: Whether to ask what the tape calls values that no variable has, which takes a look at every op.

        Raises:
            NotYet: If it is not made yet.
            UserError: If several fit.
        """
        if isinstance(scope, _Here):
            scope = self.frames.scope_at(position)
        if "." in name:
            return self._path(name, position, scope, labels)
        frames = self.frames
        try:
            found = frames.in_frames(name, position, scope)
        except NotYet as answer:
            try:
                found = self._loss(name, position)
            except NotYet:
                raise answer from None
            if found is None or found.whose:
                raise
        return (
            found
            or self._parameter(name, position, scope)
            or frames.left_behind(name, position)
            or self._known(name, position)
            or self._loss(name, position)
            or frames.in_frames(name, position, scope, True)
        )

    def find(self, name: str, position: int, scope: Activation | _Here | None = HERE) -> Value | None:
        """Return the tensor that a name means where the cursor stands; None if it means none. Raises as `held` does."""
        found = self.held(name, position, scope)
        return found.thing if found is not None and isinstance(found.thing, Value) else None

    def lying(self, array: mx.array, position: int, scope: Activation | _Here | None = HERE) -> Value | None:
        """Return the tensor that an array object of the program's is where the cursor stands, by the model, dict or
        list in which it lies: after a gradient call a model holds other objects than the call was given. Raises as
        `by_words` does."""
        home = self.names.homes.place_of(array)
        thing = None if home is None else self.tape.bindings.entry(home.holder, home.key, position)
        if isinstance(thing, Value):
            return thing
        name = None if home is None else self.names.homes.spelled(home)
        return None if name is None else self.by_words(name, position, scope)

    # -- paths -----------------------------------------------------------------------------------------------

    def _path(self, path: str, position: int, scope: Activation | None, labels: bool) -> Held | None:
        """`critic.layers.0.weight` from a variable that holds a model, `layers.0.weight` where one model has it,
        `layers.1.weights` for a local variable of a module's call."""
        first, _, rest = path.partition(".")
        unset: NotYet | None = None
        module = None
        try:
            holder = self.frames.in_frames(first, position, scope)
            holder = holder or self.frames.in_frames(first, position, scope, True)
        except NotYet as answer:
            holder, unset = None, answer
        if holder is not None:
            if not isinstance(holder.thing, Holder):
                return None
            words = rest.split(".")
            thing, within = (self._walk(holder.thing, part, position) for part in (words, words[:-1]))
            if isinstance(thing, Value):
                self.names.homes.ask(thing, within, words[-1])
            if thing is not UNBOUND:
                return Held(thing)
            module = within.refer() if isinstance(within, Holder) else None
            if isinstance(getattr(type(module), words[-1], None), property):
                return None  # what Python computes from what the object holds now, not what had that name once
        found = self._parameter(path, position, scope) or self._local_of_module(path, position, module)
        if found is None and labels:
            found = self._known(path, position)
        if found is None and unset is not None:
            raise unset
        return found

    def _walk(self, thing: Any, words: list[str], position: int) -> Any:
        """Return what lies at a path in a container; UNBOUND where the tape does not know."""
        for at, word in enumerate(words):
            if not isinstance(thing, Holder):
                return UNBOUND
            entries = self.tape.bindings.contents(thing, position)
            if isinstance(entries, dict):
                longer = ".".join(words[at:])
                if longer in entries:  # a dict whose keys are paths
                    return self.frames.taken(entries[longer])
                other = int(word) if word.isdigit() else f"_{word}"  # an optimizer's `state` is its `_state`
                thing = entries.get(word, entries.get(other, UNBOUND))
                if thing is UNBOUND and "_state" in entries:  # its `learning_rate` and `step` lie in that
                    thing = self.tape.bindings.entry(entries["_state"], word, position)
            elif isinstance(entries, list) and word.lstrip("-").isdigit() and -len(entries) <= int(word) < len(entries):
                thing = entries[int(word)]
            else:
                return UNBOUND
        return self.frames.taken(thing)

    def _parameter(self, path: str, position: int, scope: Activation | None) -> Held | None:
        """Return the parameter at a bare path: of the differentiated model that has it, or of the only one."""
        owners = self.names.owners(path)
        pass_ = self.tape.pass_at(position)
        leaves = [] if pass_ is None else [leaf for leaf in pass_.wrt if leaf.label == path]
        model = self.names.homes.model_of([owner for owner in owners if isinstance(owner, Home)])
        if model is not None:
            thing = leaves[0] if leaves else self._walk(model, path.split("."), position)
            if not isinstance(thing, Value):
                raise UserError(f"the model has no {path} here: it has other layers at another moment")
            return Held(thing)
        if len(owners) > 1:
            near = [owner for owner in owners if self._is_at_hand(owner, position, scope)]
            if len(near) != 1:
                called = [self._owner_name(owner, path) for owner in owners]
                raise UserError(f"{path} is a parameter of several models: {', '.join(called)}")
            owners, leaves = near, [leaf for leaf in leaves if self.names.identity(leaf) == near[0]]
        if leaves:
            return Held(leaves[0])
        if not owners:
            return None
        owner = owners[0]
        if isinstance(owner, str):
            return self.held(owner, position, scope) if owner != path else None
        thing = self.tape.bindings.entry(owner.holder, owner.key, position)
        if isinstance(thing, Value):
            self.names.homes.ask(thing, owner.holder, owner.key)
        return Held(thing) if isinstance(thing, Value) else None

    def _is_at_hand(self, owner: Home | str, position: int, scope: Activation | None) -> bool:
        """Whether a variable of the calls in which the cursor stands holds the model itself in which a parameter lies:
        of models that one variable has held in turn, or that a list keeps, it is the one that is meant."""
        root = None if isinstance(owner, str) else self.names.homes.path(owner)[0]
        called = None if root is None else self.names.homes.name(root)
        if called is None or "." in called:
            return False
        try:
            held = self.frames.in_frames(called, position, scope)
            held = held or self.frames.in_frames(called, position, scope, True)
        except NotYet:
            return False
        return held is not None and held.thing is root

    def _owner_name(self, owner: Home | str, path: str) -> str:
        if isinstance(owner, str):
            return owner
        name = self.names.homes.name(owner.holder)
        return f"{name}.{owner.key}" if name else path

    def _local_of_module(self, path: str, position: int, owner: Any = None) -> Held | None:
        """`layers.1.weights`: a variable of the call of a module, by the module's path.

        Args:
            owner: The module itself, where the path begins at a variable that holds its model.

        Raises:
            NotYet: If it is not made yet.
            UserError: If modules of several models have that path, and have been called here.
        """
        module, _, variable = path.rpartition(".")
        pass_ = self.tape.pass_at(position)
        found = [
            (at, step, value)
            for at, step, value in self.tape.bindings.called(variable)
            if is_module(step.owner)
            and (step.owner is owner if is_module(owner) else self.names.is_called(step, module))
        ]
        if not found:
            return None
        made = [one for one in found if one[0] <= position and (one[2].op is None or one[2].op.position < position)]
        here = [one for one in made if self.tape.pass_at(one[0]) is pass_]
        here = here or [
            one for one in made if not self.frames.whose_step(one[0], position)
        ]  # another call of this step
        if not is_module(owner):
            self._one_model(path, here)
        last = made[-1][2] if made else None
        given = self._returned(path, variable, made[-1][1], owner, position) if made else None
        if given is not None and last is not None and _is_newer(given, last) and not self.frames.whose(given, position):
            return Held(given)  # what its call returned at once, nobody has seen
        if here:
            return Held(here[-1][2])
        ahead = next((value for _, _, value in found if value.op is not None and value.op.position >= position), None)
        address = "" if last is None else self.frames.address(variable, last)
        whose = "" if last is None else self.frames.whose_step(made[-1][0], position)
        maker = None if ahead is None else ahead.op
        raise not_made(path, " in this step" if last else "", maker, position, address, last, whose)

    def _returned(self, path: str, variable: str, call: Activation, owner: Any, position: int) -> Value | None:
        """Return what a variable of a module's call held last, where the call returned it at once: nobody saw it
        there."""
        if not is_module(owner):
            return self.names.newest(path, position)
        versions = self.names.versions(f"{self.names.path_of(call, owner)}.{variable}")
        own = [value for at, value in versions if at <= position and value.op and value.op.scope]
        return next((value for value in reversed(own) if value.op.scope.owner is owner), None)  # type: ignore[union-attr]

    def _one_model(self, path: str, here: list[tuple[int, Activation, Value]]) -> None:
        """Raise UserError if the calls of modules in which a variable is found belong to several models."""
        calls = {id(step.owner): step for _, step, _ in here}
        if len(calls) > 1:
            variable = path.rpartition(".")[2]
            roots = [self.names.root_of(step) for step in calls.values()]
            paths = [self.names.path_of(step, step.owner) for step in calls.values()]
            names = [f"{self.names.homes.name_of(root)}.{within}.{variable}" for root, within in zip(roots, paths)]
            raise UserError(f"{path} is a variable of several models: {', '.join(names)}")

    def _known(self, name: str, position: int) -> Held | None:
        """Return a tensor that the tape knows by a name that no variable has: the label of an input or an edit, a
        variable inside of a layer, the state of an optimizer. An older one is only named."""
        versions = self.names.versions(name)
        if not versions:
            return None
        value = self.names.newest(name, position)
        if value is not None and not (whose := self._whose_known(name, value, position)):
            return Held(value)
        ahead = next((later for at, later in versions if at > position and later is not value), None)
        if ahead is not None and ahead.op is None:
            raise NotYet(f"{name} enters with pass {_part_of(self.tape, versions[-1][0])}; it is not there yet")
        maker = None if ahead is None else ahead.op
        if value is None:
            raise not_made(name, "", maker, position)
        raise not_made(name, " in this step", maker, position, self.frames.address(name, value), value, whose)

    def _whose_known(self, name: str, value: Value, position: int) -> str:
        """ "step 2's", where a tensor that the tape knows by a name is none of the step in which the cursor stands:
        what a variable of a library's call held in another step, what a pass of another step made. What an
        optimizer's state holds (`weight.m`) stays."""
        held = [at for at, _, variable in self.tape.bindings.naming(value) if variable == name and at <= position]
        if held:
            return self.frames.whose_step(held[-1], position)
        gradient = value.op is not None and value.op.pass_.kind == GRADIENT_PASS
        return self.frames.whose(value, position) if gradient else ""

    def _loss(self, name: str, position: int) -> Held | None:
        """`loss` means what the pass differentiates, whatever the program calls it."""
        if name != "loss":
            return None
        pass_ = next((p for p in reversed(self.tape.passes) if p.loss is not None and p.start <= position), None)
        if pass_ is None or pass_.loss is None:
            return None
        loss = pass_.loss
        if loss.op is not None and loss.op.position >= position:
            raise not_made("loss", " in this step", loss.op, position)
        return Held(loss, "", self.frames.whose(loss, position))

    # -- gradients -------------------------------------------------------------------------------------------

    def gradient(self, value: Value, position: int) -> Value:
        """Return the gradient of the loss with respect to a value, as far as it has been summed up before `position`.

        Raises:
            NotYet: If it is not made yet: in this step, for a parameter.
            NoGradient: If none flows.
        """
        name = self.name_here(value, position)
        if value.inside is not None:
            return self._gradient_inside(value, name, value.inside, position)
        found = self.passes_of(value, position)
        for pass_, target in found:
            grads = pass_.grads.get(target.canonical)
            if not grads:
                continue
            before = [grad for grad in grads if grad.op is None or grad.op.position < position]
            last = before[-1] if before else None
            own = last is None or (value.op is not None and value.op.pass_ is pass_)
            whose = "" if own else self._whose(pass_, position)
            if last is not None and not whose:
                return last
            ahead = grads[-1].op if last is None else None
            if last is None:
                last, whose = self._older(found, position)
            address = "" if last is None else last.op.label if last.op is not None else ""
            where = " in this step" if last is not None else ""
            raise not_made(f"{GRADIENT_SIGN}{name}", where, ahead, position, address, last, whose)
        raise NoGradient(f"there is no gradient with respect to {name}", value)  # `missing.told` says why

    def _gradient_inside(self, value: Value, name: str, inside: Inside, position: int) -> Value:
        """Return the gradient of what a call differentiated with respect to a value inside of it."""
        pass_: Pass | None = inside
        while isinstance(pass_, Inside):
            grads = pass_.grads.get(value.canonical)
            if grads:
                before = [grad for grad in grads if grad.op is None or grad.op.position < position]
                if before:
                    return before[-1]
                raise not_made(f"{sign_of(grads[-1])}{name}", "", grads[-1].op, position)
            pass_ = pass_.within
        raise NoGradient(f"no gradient is known with respect to {name}: {lies_inside(inside)}", value)

    def name_here(self, value: Value, position: int) -> str:
        """Return what a value is called where the cursor stands."""
        ops, name = self.tape.ops, value.name
        plain = name.removeprefix(GRADIENT_SIGN).isidentifier() and position < len(ops)
        return self.names.name_at(value, ops[position]) if plain else name

    def passes_of(self, value: Value, position: int) -> Iterator[tuple[Pass, Value]]:
        """Yield the gradient passes that speak of a value, the last one first, each with the value as it is there: a
        parameter enters each pass as a leaf of its own, and an update makes a new one of it."""
        own, before = self.names.identity(value), weight_before(value)
        for pass_ in reversed(self.tape.passes):
            if pass_.kind != GRADIENT_PASS or pass_.start > position:
                continue
            for target in (value, *pass_.wrt):
                same = self.names.stands_for(target, value) or target is before
                if not same and own is not None and target.label is not None:
                    same = self.names.identity(target) == own
                elif not same and own is None and isinstance(value, Leaf) and value.label is not None:
                    same = target.label == value.label and self.names.identity(target) is None
                if same and (pass_.grads.get(target.canonical) or target in pass_.wrt):
                    yield pass_, target
                    break

    def _whose(self, pass_: Pass, position: int) -> str:
        return self.frames.whose_step(pass_.start, position)

    def _older(self, others: Iterator[tuple[Pass, Value]], position: int) -> tuple[Value | None, str]:
        """Return the gradient that the step before gave a parameter."""
        for other, target in others:
            grads = other.grads.get(target.canonical)
            if grads:
                return grads[-1], self._whose(other, position)
        return None, ""

    def by_words(self, text: str, position: int, scope: Activation | _Here | None = HERE) -> Value:
        """Return a value by anything that names one: `z1`, `z1@12`, `#12`, `∂L/∂z1`, `layers.0.weight`.

        Raises:
            UserError: If nothing is called so.
        """
        text = text.strip()
        if NUMBER.fullmatch(text):
            return self.by_number(text)
        bare = without_sign(text)
        if bare is not None:
            return self.gradient(self.by_words(bare, position, scope), position)
        gradient = re.fullmatch(r"grad\((.+)\)", text)
        if gradient:
            return self.gradient(self.by_words(gradient[1], position, scope), position)
        name, at, address = text.rpartition("@")
        if at and re.fullmatch(r"(?:(?:\d+|setup)?#)?\d+", address):
            return self.version(name, address)
        found = self.held(text, position, scope)
        if found is None and (path := dotted(text)) != text:
            with suppress(NotYet):  # `z1[0]`: no path, and what is said of an element is said elsewhere
                found = self.held(path, position, scope)
        if found is not None and not isinstance(found.thing, Value):
            raise NoTensor(f"{text} is no tensor of the tape; p {text} shows what it is")
        if found is None:
            raise UserError(f"nothing on the tape is called {text}{self.suggest(text)}")
        value: Value = found.thing
        return value

    def is_known(self, name: str) -> bool:
        """Whether any tensor of the tape was ever called so."""
        return bool(self.tape.bindings.called(name) or self.names.versions(name))

    def suggest(self, name: str) -> str:
        """Return a hint at a name like this one: where it belongs, else a path that ends so, or what is much alike."""
        return self.belongs(name) or meant(alike(name, self.names.spellings()))

    def belongs(self, name: str) -> str:
        """Return where a name belongs that nothing has here; "" where nothing is known of it."""
        from nnrepl.session.other_call import said_of_call  # needed where a name is unknown

        return self.names.elsewhere(name) or said_of_call(self.tape, name)


def _several(steps: int) -> str:
    return "step 1" if steps == 1 else f"steps 1 to {steps}"


def _part_of(tape: Tape, position: int) -> int:
    pass_ = tape.pass_at(position)
    return pass_.number if pass_ is not None else 0
