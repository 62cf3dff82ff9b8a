"""Bounds: places outside of their axis. MLX does not check them: what is read there is anything, or a crash.

The places that an op takes are looked at before anything that depends on it is evaluated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.record.strays import raw
from nnrepl.tape import Op, Value
from nnrepl.tape.passes import inside_of, samples_of

if TYPE_CHECKING:
    from nnrepl.record.ledger import Ledger

_ALONG = ("take", "take_along_axis", "put_along_axis")
_BRACKETS = ("getitem", "setitem", "at.add", "at.subtract", "at.multiply", "at.divide", "at.maximum", "at.minimum")
_GATHERED = {"gather_mm": 2, "gather_qmm": 4}
"""Where the matrices that are chosen on the left stand among the arguments; those on the right come next."""
_SLICES = {"slice": 1, "slice_update": 2}
"""Where the places stand among the arguments at which a slice begins; its axes come next."""
INDEXING = frozenset((*_ALONG, *_BRACKETS, *_GATHERED, *_SLICES))
"""The operations that take places."""

_astype, _argmax, _logical_or, _flatten = map(raw, (mx.astype, mx.argmax, mx.logical_or, mx.flatten))
_greater_equal, _less = raw(mx.greater_equal), raw(mx.less)
_any, _stack = raw(mx.any), raw(mx.stack)
_item, _getitem, _tolist = mx.array.item, mx.array.__getitem__, mx.array.tolist
_REACH = 1 << 20
"""Elements outside of a tensor at which memory of the process may still be read; plain MLX ends with a fault beyond."""
_FEW, _DEEP = 512, 32
"""Elements that Python looks at faster than MLX; ops before a value that are looked at."""
_RESHAPING = frozenset(("expand_dims", "reshape", "flatten", "squeeze", "unflatten"))


class OutOfBounds(IndexError):
    """What would be evaluated lies outside of a tensor; the message is one line."""


@dataclass(frozen=True, slots=True)
class Outside:
    """A place outside of its axis.

    Attributes:
        op: The op that takes it.
        said: What to say about it.
        by: What to add where the op that takes it stands on the tape.
        crashes: Whether MLX must not be let do it: it writes over what is not the tensor's, or reads far from it.
    """

    op: Op
    said: str
    by: str = ""
    crashes: bool = False

    @property
    def text(self) -> str:
        """All of it."""
        return self.said + self.by


@dataclass(frozen=True, slots=True)
class TakenPlaces:
    """Places in a tensor that are taken.

    Attributes:
        index: Which, as whole numbers.
        table: The tensor.
        extent: How many places it has.
        axis: The axis that they count; None where they count its matrices, over all axes but the last two.
        entry: Where a slice begins along each axis: which entry of `index` this one is.
    """

    index: Any
    table: Any
    extent: int
    axis: int | None
    entry: int | None = None

    @property
    def lowest(self) -> int:
        """The first place: counted from the end, but for matrices and where a slice begins."""
        # `GatherMM` (mlx/backend/cpu/masked_mm.cpp) and `compute_dynamic_offset` (mlx/backend/cpu/primitives.cpp) read
        # places as unsigned numbers, and add nothing to them: there -1 is no last one.
        return 0 if self.axis is None or self.entry is not None else -self.extent

    def taken(self, index: mx.array) -> mx.array:
        """Return what of an index counts here."""
        return index if self.entry is None else _getitem(index, self.entry)

    def away(self, number: int) -> int:
        """How many elements of the tensor would lie between a place outside and those that there are."""
        shape: tuple[int, ...] = tuple(self.table.shape)
        if self.axis is None:
            behind = shape[-2:]
        else:
            behind = () if self.extent == self.table.size else shape[self.axis + 1 :]
        return max(number - self.extent, self.lowest - number) * prod(behind)

    @property
    def said(self) -> str:
        """What places there are, after the name of the tensor."""
        shape = tuple(self.table.shape)
        if self.axis is None:
            return f"{shape} holds the matrices 0 to {self.extent - 1}"
        if self.entry is not None:
            return f"{shape} has a slice of that size begin at 0 to {self.extent - 1}"
        return f"{shape} has the places 0 to {self.extent - 1}" if self.extent else f"{shape} has no places"


@dataclass(frozen=True, slots=True)
class _Sample:
    """What a function inside of `vmap`s sees of a tensor: the axes along which samples lie are left out."""

    name: str
    shape: tuple[int, ...]
    dtype: mx.Dtype

    @classmethod
    def of(cls, value: Value) -> _Sample:
        apart = {axis for _, axis in samples_of(value)}
        return cls(value.name, tuple([n for axis, n in enumerate(value.shape) if axis not in apart]), value.dtype)

    @property
    def size(self) -> int:
        return prod(self.shape)


def outside(ops: Iterable[Op]) -> Outside | None:
    """Return the first place outside of its axis that one of `ops` takes, in order. Looks at nothing but the places."""
    # MLX looks at no place: it adds the extent to a negative one and reads what lies there (`offset_neg_idx` in
    # mlx/backend/cpu/indexing.cpp). To evaluate an op that takes a wrong one may end the process.
    taking = dict.fromkeys([taken.of or taken for taken in ops])
    unknown: list[Op] = []
    for taken in taking:  # over a whole pass: most take no places, and have nothing inside
        if taken.operation.kind == "opaque":
            unknown += filter(_is_unknown, _with_inside(taken))
        elif _is_unknown(taken):
            unknown.append(taken)
    if _all_inside(unknown):
        for op in unknown:
            op.tape.notes.inside.add(op)
        return None
    return next(_each_outside(unknown), None)


def _each_outside(ops: Iterable[Op]) -> Iterator[Outside]:
    """Yield, op by op, the first place outside of its axis. Nothing is evaluated that MLX would not survive."""
    stopped: set[Op] = set()
    for op in ops:
        taken = list(places(op))
        if stopped and depends([place.index for place in taken if isinstance(place.index, Value)], stopped):
            continue
        found = _assigns_nothing(op) or next(filter(None, (_outside(op, place) for place in taken)), None)
        if found is None:
            op.tape.notes.inside.add(op)
            continue
        if found.crashes:
            # What is computed from it must not be evaluated either: to look at its places would.
            stopped.add(op)
        yield found


def depends(values: Iterable[Value], ops: Collection[Op]) -> bool:
    """Whether to evaluate some values would execute one of `ops`, or go back along it."""
    waiting, seen = list(values), set[Value]()
    while waiting:
        value = waiting.pop()
        if value in seen or value.evaluated:
            continue
        seen.add(value)
        if value.op is not None:
            waiting.extend(value.op.inputs)
            if any(op in ops for op in _with_inside(value.op.of or value.op)):
                return True
        elif value.origin is not None:  # a checkpoint's second run waits for its first
            waiting.append(value.origin)
    return False


def _with_inside(op: Op) -> list[Op]:
    """Return an op; before it, of a call that MLX runs by itself, what happens inside."""
    inside = inside_of(op)
    return [op] if inside is None else [*op.tape.ops[inside.start : inside.end], op]


def _is_unknown(op: Op) -> bool:
    """Whether an op takes places that have not been looked at. (A gradient goes back to those of its forward op.)"""
    return op.operation.name in INDEXING and op not in op.tape.notes.inside


def _all_inside(ops: Iterable[Op]) -> bool:
    """Whether all places of some ops lie on their axes, asked in one evaluation at most. False where one does not, and
    where that takes more: where the places of one op come from what another one takes."""
    flags: list[mx.array] = []
    for op in ops:
        if _assigns_nothing(op) is not None:
            return False
        for place in places(op):
            if isinstance(place.index, int):
                found = [place.index]
            else:
                value = _with_its_numbers(place.index)
                # MLX itself refuses others (`gather` in mlx/ops.cpp: "Indices must be integral").
                if not value.size or not mx.issubdtype(value.dtype, mx.integer):
                    continue
                if not value.evaluated:
                    if not _is_safe(value):
                        return False
                    flags.append(_any(_bad(place.taken(value.array), place)))
                    continue
                if value.size > _FEW:
                    flags.append(_any(_bad(value.array, place)))
                    continue
                found = _numbers(_tolist(place.taken(value.array)))
            if not all([place.lowest <= number < place.extent for number in found]):
                return False
    return not flags or not _item(_any(_stack(flags)))


def _with_its_numbers(value: Value) -> Value:
    """Return the nearest value with the numbers of `value` that has been evaluated, or the furthest one."""
    while not value.evaluated and value.op is not None and value.op.operation.name in _RESHAPING:
        value = value.op.inputs[0]
    return value


def _is_safe(value: Value) -> bool:
    """Whether a value can be evaluated: no op that takes unknown places stands before it. Looks at a few ops."""
    pending, seen = [value], 0
    while pending:
        value = pending.pop()
        if value.evaluated:
            continue
        op = value.op
        seen += 1
        if op is None:  # a checkpoint's second run is made to wait for all that its first one gave (`depends`)
            if value.origin is not None:
                return False
            continue
        if _is_unknown(op.of or op) or seen > _DEEP:
            return False
        pending.extend(op.inputs)
    return True


def _numbers(rows: Any) -> Any:
    """All numbers in nested lists."""
    if not isinstance(rows, list):
        return [rows]
    while rows and isinstance(rows[0], list):
        rows = [number for row in rows for number in row]
    return rows


def places(op: Op) -> Iterator[TakenPlaces]:
    """Yield the places that an op takes."""
    if not op.inputs or not op.args or not isinstance(op.args[0], Value):
        return
    args = (_Sample.of(op.args[0]), *op.args[1:]) if op.inner else op.args
    for place in places_of(op.operation.name, args, op.kwargs):
        if isinstance(place.index, (Value, int)):
            yield place


def places_of(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[TakenPlaces]:
    """Yield the places that a call of an operation takes, whatever stands for its tensors (they have a shape)."""
    table = args[0]
    if name in _ALONG:
        index = args[1] if len(args) > 1 else kwargs.get("indices")
        at = {"put_along_axis": 3}.get(name, 2)
        axis = args[at] if len(args) > at else kwargs.get("axis")
        if isinstance(index, (Value, mx.array)):
            if isinstance(axis, int) and table.shape:
                yield TakenPlaces(index, table, table.shape[axis], axis % len(table.shape))
            elif axis is None:
                yield TakenPlaces(index, table, table.size, 0)
    elif name in _GATHERED:
        at = _GATHERED[name]
        for number, (side, table) in enumerate((("lhs_indices", args[0]), ("rhs_indices", args[1]))):
            index = args[at + number] if len(args) > at + number else kwargs.get(side)
            if index is not None and len(table.shape) > 1:
                yield TakenPlaces(index, table, prod(table.shape[:-2]), None)
    elif name in _SLICES:
        yield from _beginnings(name, args, kwargs)
    elif name in _BRACKETS and len(args) > 1:
        yield from _in_brackets(args[1], table)


def _beginnings(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[TakenPlaces]:
    """Yield where along each axis a slice begins whose place is a tensor."""
    table, at = args[0], _SLICES[name]
    start = args[at] if len(args) > at else kwargs.get("start_indices")
    axes = args[at + 1] if len(args) > at + 1 else kwargs.get("axes")
    if name == "slice":
        size: Any = args[at + 2] if len(args) > at + 2 else kwargs.get("slice_size")
    else:
        update = args[1] if len(args) > 1 else kwargs.get("update")
        size = None if update is None else (1,) * (len(table.shape) - len(update.shape)) + tuple(update.shape)
    if not isinstance(start, (Value, mx.array)) or size is None or axes is None or len(size) != len(table.shape):
        return
    for entry, axis in enumerate([axes] if isinstance(axes, int) else axes):
        # A slice has to end on the axis, too: MLX moves none that would reach beyond (`DynamicSlice::eval_cpu`).
        yield TakenPlaces(start, table, table.shape[axis] - size[axis] + 1, axis % len(table.shape), entry)


def _in_brackets(index: Any, table: Any) -> Iterator[TakenPlaces]:
    shape = table.shape
    parts = list(index) if isinstance(index, tuple) else [index]
    used = sum(1 for part in parts if part is not None and part is not Ellipsis)
    axis = 0
    for part in parts:
        if part is None:
            continue
        if part is Ellipsis:
            axis += len(shape) - used
            continue
        tensor = isinstance(part, (Value, mx.array))
        # A mask holds no places (`mlx_set_item` in mlx/python/src/indexing.cpp: `masked_scatter`).
        if tensor and part.dtype == mx.bool_:
            return
        if axis < len(shape) and (tensor or type(part) is int):
            yield TakenPlaces(part, table, shape[axis], axis)
        axis += 1


def _outside(op: Op, place: TakenPlaces) -> Outside | None:
    index = place.index
    if isinstance(index, int):
        return None if place.lowest <= index < place.extent else _found(op, "", index, place)
    first = first_outside(index.array, place)
    if first is None:
        return None
    element, number = first
    if _is_typed(index):
        return _found(op, f"element {element} of the index is {number}, but " if element else "", number, place)
    return _found(op, f"{index.name}{element or ''} = {number}, but ", number, place)


def _is_typed(value: Any) -> bool:
    """Whether the line of an edit makes a value, which has no name and no address then."""
    return isinstance(value, Value) and value.op is not None and value.op.pass_.number < 0


def first_outside(index: mx.array, place: TakenPlaces) -> tuple[list[int], int] | None:
    """Return the first element of `index` that is none of the places that there are: where it stands and what it is."""
    if not index.size or not mx.issubdtype(index.dtype, mx.integer):
        return None
    array = _flatten(_astype(place.taken(index), mx.int64))
    bad = _bad(array, place)
    first = int(_item(_argmax(bad)))  # type: ignore[arg-type]
    if not _item(_getitem(bad, first)):
        return None
    number = int(_item(_getitem(array, first)))  # type: ignore[arg-type]
    element: list[int] = []
    if place.entry is not None:
        return [place.entry], number
    for length in reversed(index.shape):
        first, at = divmod(first, length)
        element.insert(0, at)
    return element, number


def _bad(index: mx.array, place: TakenPlaces) -> mx.array:
    """Where integers are none of the places that there are."""
    array = _astype(index, mx.int64)
    bad: mx.array = _logical_or(_greater_equal(array, place.extent), _less(array, place.lowest))
    return bad


def _found(op: Op, who: str, number: int, place: TakenPlaces) -> Outside:
    writes = op.operation.name in (*_BRACKETS[1:], "put_along_axis", "slice_update")
    axis = "" if place.axis is None else f"axis {place.axis} of "
    table = "a tensor" if _is_typed(place.table) else place.table.name
    said = f"index {number} is out of range: {who}{axis}{table} {place.said}"
    by = f"; {op.label} {op.name} {'writes' if writes else 'reads'} outside of it, which MLX does not check"
    return Outside(op, said, by, crashes=writes or place.away(number) > _REACH)


def _assigns_nothing(op: Op) -> Outside | None:
    """Return a masked assignment of an empty tensor, which ends a process in MLX."""
    if op.operation.name != "setitem" or len(op.args) < 3:
        return None
    array, mask, update = op.args[:3]
    masked = isinstance(mask, Value) and mask.dtype == mx.bool_
    if not masked or not isinstance(update, Value) or update.size or not array.size:
        return None
    what = f"{update.name} {tuple(update.shape)}" if update.op is not None and update.op.name != "array" else "it"
    said = (
        f"a masked assignment of nothing to {array.name} {tuple(array.shape)}: {what} is empty, and MLX crashes on that"
    )
    return Outside(op, said, f" ({op.label} {op.name})", crashes=True)


def check_bounds(recorder: Ledger, arrays: Iterable[mx.array]) -> None:
    """Look at the places that ops take, before the program evaluates `arrays`. It is told what is read outside of a
    tensor; what MLX must not do, and what an edit has sent there, is stopped where the arrays depend on it.

    Raises:
        IndexError: Then.
    """
    if not recorder.indexing:
        return
    ops, recorder.indexing = [op for op in recorder.indexing if not op.refusal], []
    if recorder.differentiating:
        indices = [place.index for op in ops for place in places(op)]
        new = [index for index in indices if isinstance(index, Value) and not index.evaluated]
        recorder.tape.notes.glimpsed.update(new)
    with recorder.muted():
        first = outside(ops)
        found = [] if first is None else list(_each_outside(filter(_is_unknown, ops)))
    if not found:
        return
    edits = recorder.tape.notes.edits
    edited = any(op in edits for op in recorder.tape.ops)
    stopped = {one.op: one for one in found if one.crashes or edited}
    told = {one.op for one in found if one.op not in stopped}
    # The program may catch the error, and evaluate it once more.
    recorder.indexing = [op for op in ops if _is_unknown(op) and op not in told]
    values = [recorder.live[id(array)] for array in arrays if id(array) in recorder.live]
    for one in found:
        if one.op not in stopped:
            _tell(recorder, one)
        elif depends(values, [one.op]):
            error = IndexError(one.text)
            recorder.tape.notes.errors[one.op] = error
            raise error


def _tell(recorder: Ledger, found: Outside) -> None:
    """Tell what is read outside of a tensor, once for each place of the program."""
    place = found.op.scope and found.op.scope.code, found.op.lasti
    if recorder.listener is not None and place not in recorder.told:
        recorder.told.add(place)
        recorder.listener.out_of_bounds(found.text)
