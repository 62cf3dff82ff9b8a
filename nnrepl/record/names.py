"""Names: what people call the values of a tape, resolved when shown."""

from __future__ import annotations

import ast
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import chain
from types import CodeType
from typing import Any

import mlx.core as mx

from nnrepl.installed import is_library
from nnrepl.record import segments as sources
from nnrepl.record.calling import name_there
from nnrepl.record.glance import Glance
from nnrepl.record.gradient_names import sign_of
from nnrepl.record.homes import Home, Homes
from nnrepl.record.stack import is_call, is_module, is_module_type
from nnrepl.record.updated import changed_in_state, state_name, subject_of, weight_names
from nnrepl.tape import GRADIENT_PASS, UPDATE_PASS, Activation, Op, Source, Tape, Value


class ProgramNames:
    """Resolves the names, modules and sources of one tape.

    A value has one name that it is shown under, and may answer to more: an assignment target, the path of
    a parameter, the name of an argument, the words with which another op refers to it.

    Names and their tape need each other, and are made together: here, and nowhere else.

    Args:
        old: Another timeline's tape; the new one shares what lies before `position`, or only what is noted. None: none.

    Attributes:
        tape: The tape.
    """

    def __init__(self, old: Tape | None = None, position: int | None = None) -> None:
        self.tape = Tape(self) if old is None else old.grown(self, position)
        self.forget()

    def forget(self) -> None:
        """Note that ops lie elsewhere than they did: what is known of the tape is looked for anew."""
        self._homes: Homes | None = None
        self._passes_seen = self._indexed = self._noted = 0
        self._wrt: dict[str, list[Value]] = {}
        self._owners: dict[str, dict[Home | str, None]] = {}
        self._unknown_in: dict[str, tuple[Any, int]] = {}
        self._index: dict[str, list[tuple[int, Value]]] = {}
        self._leaves_seen: set[Value] = set()
        self._glance = Glance(self.tape)

    # -- places ----------------------------------------------------------------------------------------

    def source(self, op: Op) -> Source:
        """Where an op stands."""
        if op.scope is None:
            return Source("", 0, 0, -1, -1, "", "")
        return sources.locate(op.scope.code, op.lasti)

    def module(self, op: Op) -> str:
        """Return the path of the innermost Module whose code made the op, in the outermost one on its stack; in an
        update, the path of the parameter that is updated."""
        if op.pass_.kind == UPDATE_PASS:
            subject = subject_of(op)
            return "" if subject is None else subject.name
        modules = [step.owner for step in _path(op.scope) if is_module(step.owner)]
        return self._path_among(modules, modules[-1], op.position) if modules else ""

    def calls(self, op: Op) -> Iterator[tuple[str, Activation]]:
        """Yield the calls of modules in which an op was made, the outermost first, each with the module's path."""
        modules = [step for step in _path(op.scope) if is_module(step.owner)]
        seen: set[int] = set()
        for step in modules:
            if is_call(step) and id(step.owner) not in seen:
                seen.add(id(step.owner))
                yield self._path_among([one.owner for one in modules], step.owner, op.position), step

    def path_of(self, scope: Activation, module: Any) -> str:
        """Return the path of a module in the outermost one in whose call `scope` is."""
        roots = [step.owner for step in scope.path() if is_module(step.owner)]
        return self._path_among(roots, module, self._moment(scope)) if roots else ""

    def _moment(self, scope: Activation) -> int:
        """Where on the tape a call was looked at last."""
        return self.tape.bindings.seen.get(scope, sys.maxsize)

    def root_of(self, scope: Activation) -> Any:
        """Return the outermost module in whose call `scope` is that holds the one whose call it is."""
        roots = [step.owner for step in scope.path() if is_module(step.owner)]
        at = self._moment(scope)
        return next((root for root in roots if self.path_in(root, scope.owner, at)), scope.owner)

    def is_called(self, scope: Activation, path: str) -> bool:
        """Whether a call is one of the module with this path: bare, or from the variable that holds the model."""
        own = self.path_of(scope, scope.owner)
        return own == path or path.endswith(f".{own}") or (not own and path == type(scope.owner).__name__)

    def leaf_of(self, array: Any) -> Value | None:
        """Return the leaf that an array object came in as."""
        return self._glance.leaf_of(array)

    def _path_among(self, roots: list[Any], module: Any, position: int) -> str:
        """Return the path of a module in the outermost of these that holds it, there on the tape. What a loss function
        has as its first argument need not hold the models that it calls."""
        return next((path for root in roots if (path := self.path_in(root, module, position))), "")

    def path_in(self, root: Any, module: Any, position: int) -> str | None:
        """Return the path of a module in an outer one, there on the tape; None if it does not lie in that."""
        return self.homes.module_path(root, module, position)

    # -- the name of a value -------------------------------------------------------------------------------

    def name(self, value: Value) -> str:
        """Return the name that a value is shown under."""
        return next(self.all_names(value), None) or self._number(value) or value.kind

    def all_names(self, value: Value) -> Iterator[str]:
        """Everything that a value is called, its best name first."""
        if value.gradient_of is not None:
            yield sign_of(value) + value.gradient_of.name
            return
        if value.tangent_of is not None:
            yield f"the tangent of {value.tangent_of.name}"
        home = self.homes.of(value)
        if value.kind == "tracer":  # it has come by no name
            yield from filter(None, (self.placed(value, one) for one in self.homes.all_of(value)))
            yield from (name for _, _, name in self.tape.bindings.naming(value))
        if value.op in self.tape.notes.edits and value.label is not None:
            yield value.label
        elif value.op is not None:
            placed = None if home is None else self.placed(value, home)
            shared = None
            if home is not None and is_module_type(home.holder.kind):  # `weight`, as its layer's __init__ calls it
                shared = self.homes.path(home, self.homes.moment(value, home))[1]
            names = self._assigned(value, placed is not None)
            assigned = False
            for name in names:
                if name == placed or name != shared:
                    assigned = True
                    yield name
            if not assigned and home is not None:
                yield from changed_in_state(value, home.key)
            if placed is not None:
                yield placed
            elif value.op.pass_.kind == UPDATE_PASS:
                yield from weight_names(value)
        label = value.label
        if label is not None:
            if value.kind == "captured" and home is not None and is_module_type(home.holder.kind):
                yield from filter(None, [self.placed(value, home)])  # the label is the variable that had it first
            if self._is_shared(label):
                qualified = self.homes.qualified(value)
                if qualified is not None:
                    yield qualified
            yield label
        elif home is not None and len(homes := self.homes.all_of(value)) > 1:
            yield from filter(None, (self.placed(value, home) for home in homes))

    @property
    def homes(self) -> Homes:
        """In which containers of the program's the values of the tape lie."""
        if self._homes is None:
            self._homes = Homes(self.tape, self.leaf_of)
        return self._homes

    def now(self, value: Value) -> mx.array | None:
        """Return what lies now where a value lay, in the same model under the same name; None if no tensor does."""
        return self.homes.now(value)

    def placed(self, value: Value, home: Home | None = None, position: int | None = None) -> str | None:
        """Return a value by its place in a model or a dict, at a position or as long as it lay there: the bare path if
        only one has it, else with the variable."""
        home = home or self.homes.of(value)
        if home is None:
            return None
        root, path = self.homes.path(home, self.homes.moment(value, home) if position is None else position)
        if is_module_type(root.kind) and not self._is_shared(path):
            return path
        return self.homes.qualified(value, home, position)

    def name_at(self, value: Value, op: Op) -> str:
        """Return the name of an operand where an op takes it. It is the value's own, but for two things: of several
        models that hold one tensor the op's own is meant, and a name by which the program calls another tensor at that
        moment is not used (after `a, b = b, a`, in a recursion)."""
        name = value.name  # by the tape that it is on, which may be that of another timeline
        if value.gradient_of is not None:
            of, forward = value.gradient_of, op.of or op
            taken = op.pass_.kind == GRADIENT_PASS and (of.op is None or of in forward.inputs)
            return sign_of(value) + self.name_at(of, op) if taken else name
        op = op.of or op
        home, own = self.homes.of(value), None
        made = any(value is one for one in op.outputs)
        if home is not None:
            name = self._placed_then(value, home, name, op.position + made)
        if made:
            return name
        steps = _path(op.scope)[::-1]
        if value.op is None or value.op.pass_ is not op.pass_:
            own = self.homes.at(value, op.position, [step.owner for step in steps if is_module(step.owner)])
            if own is not None and is_module_type(own.holder.kind) and own != home:
                return self.placed(value, own) or name
        frames = [step for step in steps if not is_library(step.code.co_filename)]
        lies_in_model = home is not None and is_module_type(home.holder.kind)
        if not frames or not (name.isidentifier() or (not lies_in_model and name == self.placed(value))):
            return name
        return name_there(self, frames, value, op, name, home) or self._number(value) or name

    def _placed_then(self, value: Value, home: Home, name: str, position: int) -> str:
        """Return the name of a value, if that is its place, as that was called when the cursor stood at `position`: a
        variable may have held another model."""
        if self.homes.moved or ("." in name and name != self.homes.path(home)[1]):
            return (name == self.placed(value, home) and self.placed(value, home, position)) or name
        return name

    def _number(self, value: Value) -> str:
        op = value.op
        return "" if op is None else op.label if len(op.outputs) == 1 else f"{op.label}.{value.slot}"

    def _is_shared(self, label: str) -> bool:
        """Whether a path is one of several models on this tape."""
        owners = self._differentiated(label)
        models = {owner if isinstance(owner, str) else self.homes.path(owner)[0] for owner in owners}
        return len(models) > 1 or self.homes.is_of_several(label)

    def _differentiated(self, label: str) -> dict[Home | str, None]:
        """Whose parameters with this path gradients were taken of."""
        passes = self.tape.passes
        while self._passes_seen < len(passes) and (passes[self._passes_seen].wrt or not passes[self._passes_seen].open):
            for leaf in passes[self._passes_seen].wrt:
                if leaf.label is not None:
                    self._wrt.setdefault(leaf.label, []).append(leaf)
            self._passes_seen += 1
        leaves = self._wrt.get(label)
        if not leaves:
            return self._owners.get(label, {})
        owners = self._owners.setdefault(label, {})
        state = self.homes.state
        if self._unknown_in.get(label) == (state, len(leaves)):
            return owners  # nobody knows more of them than before: names are asked for by the thousand
        unknown = []
        for leaf in leaves:
            owner = self.identity(leaf)
            if owner is None:
                unknown.append(leaf)  # its model has not been looked at since
            else:
                owners[owner] = None
        self._wrt[label] = unknown[-_AHEAD:]
        self._unknown_in[label] = (state, len(self._wrt[label]))
        return owners

    def _assigned(self, value: Value, is_placed: bool) -> Iterator[str]:
        """Yield the variables that hold an op's output in its call and in those that called it: those of the program's
        own functions first, then those inside of mlx.nn's layers. Where a call has not been looked at since, what the
        source says it will be assigned to. What has a place in the program's model or optimizer is not called as a
        library calls it for a moment."""
        op = value.op
        assert op is not None
        bindings = self.tape.bindings
        inner: list[tuple[int, str]] = []
        seen = bindings.seen
        path = [scope for scope in _path(op.scope)[::-1] if not _hands_on(scope.code)]
        bound = bindings.first_names(path, value)
        over = all([seen.get(scope, -1) > op.position for scope in path])  # all of them have been looked at since
        expected = () if over else self._expected(op, value.slot)
        for scope, name in chain(bound, (one for one in expected if seen.get(one[0], -1) <= op.position)):
            shown = state_name(op, name) or self._in_module(name, scope)
            if _in_layer(scope):
                inner.append((-scope.depth, shown))
            elif not (is_placed and shown == name and is_library(scope.code.co_filename)):
                yield shown
        yield from (shown for _, shown in sorted(inner, key=lambda one: one[0]))

    def _expected(self, op: Op, slot: int) -> Iterator[tuple[Activation, str]]:
        """Yield the variables to which the program's source assigns an output, followed through returns, each with its
        call. A hint: what the variable then holds is known once its call has been looked at again."""
        scope, lasti = op.scope, op.lasti
        if self._is_one_of_several(op):
            return
        row, element = _row(op), -1
        while scope is not None:
            if _hands_on(scope.code):
                lasti, scope, slot = scope.lasti, scope.parent, 0
                continue
            name, up = None, None
            leaves = op.pass_.kind == GRADIENT_PASS and op.of is None and scope is op.pass_.scope
            for use in sources.uses_of(scope.code, sources.span_of(scope.code, lasti)):
                if use.returned:
                    up = use
                elif element >= 0:
                    name = name or next(iter(use.nested[element : element + 1]), None)
                elif name is None and use.rows == (row >= 0) and not (leaves and len(use.names) < 2):
                    name = use.target(row if use.rows else slot, len(op.outputs))
            if name is not None:
                yield scope, name
                if not self._is_returned(op, name, scope):
                    break
            elif up is None:
                break
            elif up.slot >= 0:
                slot = up.slot
            row = -1
            if op.pass_.kind == GRADIENT_PASS and op.of is None and scope.parent is op.pass_.scope:
                # The program gets the gradients alone; what a function of the backward pass returns, MLX gets.
                if not op.pass_.gives_loss or op.position >= op.pass_.backward:
                    break
                element, slot = (slot if op.pass_.gives_loss == "first" else -1), 0  # it comes first in what it gets
            lasti, scope = scope.lasti, scope.parent

    def _is_one_of_several(self, op: Op) -> bool:
        """Whether a call that is no operation itself (`reduce(operator.add, xs)`) has made several ops: then it is
        not said which of them it returns."""
        if op.scope is None or op.lasti < 0:
            return False
        near = self.tape.ops[max(op.position - 1, 0) : op.position + 2]
        if not any(other is not op and other.scope is op.scope and other.lasti == op.lasti for other in near):
            return False
        node = sources.node_at(op.scope.code, sources.span_of(op.scope.code, op.lasti))
        return isinstance(node, ast.Call) and sources.called(node) != op.operation.name.rpartition(".")[2]

    def _is_returned(self, op: Op, name: str, scope: Activation) -> bool:
        """Whether a variable is what its function returns, and no later op of the call has set it anew."""
        if not sources.returns(scope.code, name):
            return False
        for later in self.tape.ops[op.position + 1 : op.position + 1 + _AHEAD]:
            if later.scope is None or not later.scope.within(scope):
                return True
            if later.scope is scope:
                uses = sources.uses_of(scope.code, sources.span_of(scope.code, later.lasti))
                if any(name in use.names for use in uses):
                    return False
        return len(self.tape.ops) <= op.position + _AHEAD

    def _in_module(self, name: str, scope: Activation) -> str:
        """`self.weight` by the path of the module that `self` is; so are the local variables of mlx.nn's own
        layers, which would otherwise hide the program's."""
        local = not name.startswith("self.")
        if local and not _in_layer(scope):
            return name
        short = name.removeprefix("self.")
        if not is_module(scope.owner):
            if local:
                return f"{scope.code.co_name}.{short}"
            owner, inside = self.homes.name_of(scope.owner), short.removeprefix("state.")
            short = inside if isinstance(getattr(type(scope.owner), inside, None), property) else short
            return short if owner is None else f"{owner}.{short}"
        roots = [step.owner for step in scope.path() if is_module(step.owner)]
        roots = roots if "__init__" not in scope.code.co_name else [self.homes.root_of(scope.owner)]
        path = self._path_among(roots, scope.owner, self._moment(scope))
        path = path or (type(scope.owner).__name__ if local else "")
        return f"{path}.{short}" if path else short

    # -- looking values up by name ------------------------------------------------------------------------

    def versions(self, name: str) -> list[tuple[int, Value]]:
        """Every value that answers to a name, with the position from which it exists, in order. A bare path that
        several models have means the one that is differentiated, if it is one."""
        if self._indexed < len(self.tape.ops) and not self._glance.may_be(name):
            return self.homes.called(name) if "." in name else []
        self._catch_up()
        owners = self.owners(name)
        homes = [owner for owner in owners if isinstance(owner, Home)]
        if homes and len(homes) == len(owners) and not (len(homes) > 1 and self._is_shared(name)):
            return self.homes.lain_at(name, homes)
        if len(owners) > 1:
            return []
        laid = self.homes.called(name) if "." in name else []  # an op's own label tells of one moment only
        return laid or self._index.get(name, [])

    def newest(self, name: str, position: int) -> Value | None:
        """Return the newest value of that name that exists when the cursor stands at `position`."""
        versions = self.versions(name)
        found = bisect_right(versions, position, key=lambda version: version[0])
        return versions[found - 1][1] if found else None

    def spellings(self) -> list[str]:
        """Return the names on the tape; where that has not been indexed, those of the variables and labels alone."""
        far = len(self.tape.ops) - self._indexed > _SOON
        return [*self._glance.labels, *self.tape.bindings.names()] if far else self.known()

    def elsewhere(self, name: str) -> str:
        """Return where a name that this tape has not belongs; "" where nothing is known of it."""
        return ""

    def known(self) -> list[str]:
        """Every name on the tape."""
        self._catch_up()
        return list(self._index)

    @property
    def indexed(self) -> dict[str, list[tuple[int, Value]]]:
        """What has been indexed so far, by name; to be read only. `catch_up` goes on."""
        return self._index

    def catch_up(self, count: int) -> bool:
        """Index at most `count` more ops; whether everything is indexed now."""
        self._catch_up(self._indexed + count)
        return self._indexed >= len(self.tape.ops)

    def _catch_up(self, end: int | None = None) -> None:
        """Index what was recorded since the last look."""
        ops = self.tape.ops
        start, self._indexed = self._indexed, len(ops) if end is None else min(end, len(ops))
        for op in ops[start : self._indexed]:
            for value in (*op.inputs, *op.pass_.wrt) if op.position == op.pass_.start else op.inputs:
                if value.op is None and value not in self._leaves_seen:
                    self._leaves_seen.add(value)
                    self._enter_leaf(op, value)
            for value in op.outputs:
                if value.gradient_of is None:
                    for name in self.all_names(value):
                        self._enter(name, op.position + 1, value)
        log = self.tape.bindings.log
        while self._noted < len(log) and log[self._noted][0] <= self._indexed:
            position, scope, name, thing = log[self._noted]
            self._noted += 1
            if isinstance(thing, Value) and not _hands_on(scope.code):
                self._enter(self._in_module(name, scope), position, thing)

    def _enter_leaf(self, op: Op, value: Value) -> None:
        if value.gradient_of is not None or value.label is None:
            return
        start = op.pass_.start if op.pass_.kind == GRADIENT_PASS else op.position
        self._enter(value.label, start, value)

    def identity(self, value: Value) -> Home | str | None:
        """Return what tells a parameter from those of other models: its place in a module, or the variable of the dict
        that holds it (which may be a new dict in each step). None where no container is known to hold it."""
        home = self.homes.of(value)
        if home is None or is_module_type(self.homes.path(home)[0].kind):
            return home
        return self.homes.spelled(home)

    def path_from(self, root: Any, path: str) -> str:
        """Return a parameter by its path in a model: with the variable that holds the model where another has that
        path."""
        owner = self.homes.name_of(root) if self._is_shared(path) else None
        return path if owner is None else f"{owner}.{path}"

    def stands_for(self, leaf: Value, value: Value) -> bool:
        """Whether a leaf of a gradient pass is a value for the same model: a copy of a model has the first weights of
        the model itself, which alone is differentiated."""
        if leaf is value:
            return True
        if leaf.origin is not value:
            return False
        place, own = self.identity(leaf), self.identity(value)
        if isinstance(place, str):  # in a dict or list, which is another object where a compiled function is given it
            return isinstance(own, str) or own is None
        return place is None or own is None or place == own

    def paths(self) -> list[str]:
        """Return the names of all that lies in models: bare paths, and those with the variable that holds the model."""
        return self.homes.paths()

    def owners(self, path: str) -> list[Home | str]:
        """Whose parameters a bare path may mean: the differentiated models that have it, else all that do."""
        return list(self._differentiated(path) or self.homes.at_path(path))

    def _enter(self, name: str, position: int, value: Value) -> None:
        versions = self._index.setdefault(name, [])
        if any(known is value for _, known in versions[-4:]):
            return
        if versions and versions[-1][0] > position:
            versions.insert(bisect_left(versions, position, key=lambda version: version[0]), (position, value))
        else:
            versions.append((position, value))


_LAYERS = "/mlx/nn/"
_SOON = 5_000  # so many ops are indexed while somebody waits
_AHEAD = 64  # how many ops are looked at to see whether a variable is set anew


def _in_layer(scope: Activation) -> bool:
    """Whether a function is one of mlx.nn's own layers or losses."""
    return _LAYERS in scope.code.co_filename


def _hands_on(code: CodeType) -> bool:
    """Whether a function is nn.value_and_grad's own, which only hands on what the transform returns."""
    return code.co_name == "wrapped_value_grad_fn" and code.co_filename.endswith("/mlx/nn/utils.py")


def _path(scope: Activation | None) -> list[Activation]:
    return [] if scope is None else scope.path()


def _row(op: Op) -> int:
    """Which row of an iterated array an op gives, -1 if it is none."""
    if op.operation.spelling != "next":
        return -1
    return op.inputs[0].slot if op.operation.name == "squeeze" else int(op.args[1])
