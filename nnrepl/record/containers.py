"""Containers: what a list, a dict, a deque, a set or an object of the program's holds, read without asking it."""

from __future__ import annotations

import sys
from collections import OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Callable, Iterator
from copy import copy
from itertools import chain
from operator import is_
from types import BuiltinFunctionType, MemberDescriptorType, SimpleNamespace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from nnrepl.installed import is_library
from nnrepl.record.stack import is_module
from nnrepl.tape import UNBOUND, Holder
from nnrepl.tape.kept_array import Contents, is_small_array, kept_array

SEQUENCES = (list, tuple, deque, set, frozenset)
_FIXED = (tuple, frozenset)


def entries_of(thing: Any) -> Any:
    """Return what a container holds: a dict or a sequence. Never asks the object itself."""
    if isinstance(thing, dict):
        if type(thing) is dict:
            return thing
        items = dict(dict.items(thing))
        return {**items, **_beside(thing)} if getattr(thing, "__dict__", _NEW) != _NEW else items
    if isinstance(thing, SEQUENCES):
        return thing
    if is_small_array(thing):
        return [kept_array(thing)]
    slots = members_of(type(thing))
    return {**{slot.name: _held(slot, thing) for slot in slots}, **_attributes(thing)} if slots else thing.__dict__


def view_of(thing: Any) -> Any:
    """Return the entries of a container without their keys, as they are at any moment."""
    if type(thing) is dict:
        return thing.values()
    if isinstance(thing, dict):
        more = getattr(thing, "__dict__", _NEW) != _NEW  # a call less for each of the many that have none
        return _Module(thing) if more and _beside(thing) else dict.values(thing)
    if isinstance(thing, SEQUENCES):
        return thing
    if is_small_array(thing):
        return Contents(thing)
    return _Members(thing) if members_of(type(thing)) else thing.__dict__.values()


class _Members:
    """What an object with slots holds, as it is at any moment."""

    def __init__(self, thing: Any) -> None:
        self._thing = thing
        self._slots = members_of(type(thing))
        self._others = _attributes(thing)

    def __len__(self) -> int:
        return len(self._slots) + len(self._others)

    def __iter__(self) -> Iterator[Any]:
        for slot in self._slots:
            yield _held(slot, self._thing)
        yield from self._others.values()


class _Module:
    """What a module holds, its attributes among it, as it is at any moment."""

    def __init__(self, thing: dict[Any, Any]) -> None:
        self._items, self._attributes = dict.values(thing), thing.__dict__

    def __len__(self) -> int:
        return len(self._items) + len(self._attributes)

    def __iter__(self) -> Iterator[Any]:
        return chain(self._items, self._attributes.values())


def still_holds(thing: Any, last: list[Any] | None) -> bool:
    """Whether a container holds what it held when it was looked at last."""
    if thing is None or type(thing) is tuple:
        return True
    view = view_of(thing)
    return last is not None and len(view) == len(last) and all(map(is_, view, last))


_NEW: dict[str, Any] = {}
"""The attributes that every module has, as they are in a new one: that it is training, that nothing is frozen."""


def _beside(thing: Any) -> dict[str, Any]:
    """Return the attributes of a module that it does not hold as a dict (a counter, a name, that it is not training
    now); none where they are those of every module, as they are in a new one."""
    if not is_module(thing):
        return {}
    if not _NEW:
        _NEW.update(vars(sys.modules["mlx.nn.layers.base"].Module()))
    held = _attributes(thing)
    return held if held != _NEW else {}


def _attributes(thing: Any) -> dict[str, Any]:
    held = getattr(thing, "__dict__", None)
    return held if type(held) is dict else {}


def _held(slot: Member, thing: Any) -> Any:
    try:
        return slot.of(type(thing)).__get__(thing)
    except AttributeError:
        return UNBOUND


class Member(NamedTuple):
    """An attribute that lies in a slot.

    Attributes:
        name: What it is called.
        at: Where among the bases of a type the one is that has it.
    """

    name: str
    at: int

    def of(self, kind: type) -> Any:
        """Return what reads and sets it."""
        return kind.__mro__[self.at].__dict__[self.name]


def members_of(kind: type) -> tuple[Member, ...]:
    """Return the attributes of objects of a type that lie in slots."""
    known = _members.get(kind)
    if known is None:
        known = _members[kind] = () if issubclass(kind, (dict, *SEQUENCES)) else tuple(_slots(kind))
    return known


_members: WeakKeyDictionary[type, tuple[Member, ...]] = WeakKeyDictionary()
"""Nothing here may keep a type of the program's: with it all that its module has would live on."""


def _slots(kind: type) -> Iterator[Member]:
    known: set[str] = set()
    for at, base in enumerate(kind.__mro__):
        for name, slot in vars(base).items() if "__slots__" in base.__dict__ else ():
            if isinstance(slot, MemberDescriptorType) and name not in known:
                known.add(name)
                yield Member(name, at)


def fill(thing: Any, entries: Any) -> Callable[[], None] | None:
    """Let a container hold other entries (a dict or a list); what is UNBOUND it does not hold. Returns what puts back
    what it holds now; None where nothing can be put in."""
    if isinstance(thing, _FIXED):
        return None
    before = entries_of(thing)
    before = dict(before) if isinstance(before, dict) else list(before)
    _put(thing, entries)
    return lambda: _put(thing, before)


def _put(thing: Any, entries: Any) -> None:
    # By Python's own methods: a subclass's may do more than to hold what it is given, and nothing of that is to happen.
    if isinstance(thing, list):
        list.__setitem__(thing, slice(None), entries)
    elif isinstance(thing, deque):
        deque.clear(thing)
        deque.extend(thing, entries)
    elif isinstance(thing, set):
        set.clear(thing)
        set.update(thing, entries)
    elif isinstance(thing, OrderedDict):  # it keeps its order beside
        OrderedDict.clear(thing)
        for key, item in entries.items():
            OrderedDict.__setitem__(thing, key, item)
    else:
        if is_module(thing):
            entries = _put_beside(_attributes(thing), entries)
        slots = () if isinstance(thing, dict) else members_of(type(thing))
        held: dict[Any, Any] = thing if isinstance(thing, dict) else _attributes(thing)
        names = {slot.name for slot in slots}
        dict.clear(held)
        dict.update(held, {key: item for key, item in entries.items() if key not in names})
        for slot in slots:
            if entries.get(slot.name, UNBOUND) is not UNBOUND:
                slot.of(type(thing)).__set__(thing, entries[slot.name])
            elif _held(slot, thing) is not UNBOUND:
                slot.of(type(thing)).__delete__(thing)


def _put_beside(attributes: dict[str, Any], entries: Any) -> dict[Any, Any]:
    """Let a module have other attributes; returns what else it is to hold. Nothing is at once one of these and an
    attribute of it."""
    for key, new in _NEW.items():
        if key not in entries and attributes.get(key) != new:
            attributes[key] = copy(new)
    for key in attributes.keys() - entries.keys() - _NEW.keys():
        del attributes[key]  # it has got that since
    for key in attributes.keys() & entries.keys():
        if entries[key] is not UNBOUND:
            attributes[key] = entries[key]
    return {key: item for key, item in entries.items() if key not in attributes}


def blank(kind: type) -> Any:
    """Return an object of a type as it is before it holds anything. Raises TypeError, AttributeError."""
    if hasattr(kind, "__del__"):
        raise TypeError("what it does when it goes would be done once more")
    base: Any = next(base for base in kind.__mro__ if isinstance(base.__dict__.get("__new__"), BuiltinFunctionType))
    if base not in _PYTHONS:
        raise TypeError("it is more than what it holds")
    made: Any = base.__new__(kind)
    _attributes(made).clear()
    return made


_PYTHONS = frozenset((object, dict, OrderedDict, defaultdict, list, deque, set, SimpleNamespace))
"""Types of Python's own of which objects hold nothing that cannot be seen."""


def fixed(kind: type, items: list[Any]) -> Any:
    """Return a tuple, or what can be changed as little, that holds some things."""
    base = frozenset if issubclass(kind, frozenset) else tuple
    try:
        return base.__new__(kind, items)
    except TypeError:
        return base(items)


def holds_attributes(thing: Any) -> bool:
    """Whether an object holds attributes that can be read without asking it."""
    return type(getattr(thing, "__dict__", None)) is dict or bool(members_of(type(thing)))


_PLAIN = frozenset((int, float, bool, str, complex, type(None), bytes))


def is_data(thing: Any) -> bool:
    """Whether an object is what its attributes say, and those are nothing but numbers, texts and containers of these:
    settings. Then it can be made again."""
    return _is_settings(thing, type(thing)) and _is_plain(thing, _DEEP)


def as_it_is(thing: Any) -> Any:
    """Return what shows what a thing holds at this moment, also when that has changed: of objects that tell what they
    hold, of containers and of small arrays of NumPy's, copies; all else itself."""
    return _copied(thing, {}, _DEEP)


def _copied(thing: Any, known: dict[int, Any], depth: int) -> Any:
    kind = type(thing)
    if id(thing) in known:
        return known[id(thing)]
    if is_small_array(thing):
        return thing.copy()
    if not depth or kind in _PLAIN or not _tells(thing, kind) or len(view_of(thing)) > _SETTINGS:
        return thing
    entries = entries_of(thing)
    if isinstance(thing, _FIXED):
        parts = [_copied(part, known, depth - 1) for part in thing]
        return fixed(kind, parts) if any(a is not b for a, b in zip(parts, thing)) else thing
    try:
        made = known[id(thing)] = deque(maxlen=thing.maxlen) if kind is deque else blank(kind)
    except (TypeError, AttributeError):
        return thing
    if isinstance(entries, dict):
        _put(made, {key: _copied(part, known, depth - 1) for key, part in list(entries.items())})
    else:
        _put(made, [_copied(part, known, depth - 1) for part in list(entries)])
    return made


def _tells(thing: Any, kind: type) -> bool:
    """Whether what a thing looks like says what it holds. A model is shown by views of its own."""
    if is_module(thing) or kind is defaultdict or isinstance(thing, type):
        return False
    return isinstance(thing, (dict, *SEQUENCES)) or (
        holds_attributes(thing)
        and "__repr__" in {name for base in kind.__mro__[:-1] for name in base.__dict__}
        and _can_be_made(kind)
    )


def _is_settings(thing: Any, kind: type) -> bool:
    return type(getattr(thing, "__dict__", None)) is dict and _can_be_made(kind)


def _can_be_made(kind: type) -> bool:
    known = _made.get(kind)
    if known is None:
        try:
            blank(kind)
            known = True
        except (TypeError, AttributeError):  # something in it is not Python's own: it is more than its attributes
            known = False
        _made[kind] = known
    return known


_made: WeakKeyDictionary[type, bool] = WeakKeyDictionary()


def _is_plain(thing: Any, depth: int) -> bool:
    """Whether a thing is a number, a text, or a container of few of these, counted in all of its depth: this is asked
    of whatever a variable holds, half a framework among it."""
    pending, count = [(thing, depth)], 0
    while pending:
        one, deep = pending.pop()
        kind = type(one)
        if kind in _PLAIN:
            continue
        if not deep or not (isinstance(one, (dict, *SEQUENCES)) or _is_settings(one, kind)):
            return False
        view = view_of(one)
        count += len(view)
        if count > _SETTINGS:
            return False
        pending += [(part, deep - 1) for part in list(view)]
    return True


_SETTINGS, _DEEP = 256, 4


def is_foreign_kind(kind: type) -> bool:
    """Whether objects of a type are Python's own, nnrepl's, or those of an installed package: nothing in them is the
    program's, and one may reach half of a framework through them. Those of MLX (an optimizer, a cache) are looked at.
    """
    room = kind.__module__.partition(".")[0]
    if kind in (UserDict, UserList):
        return False
    if room in sys.stdlib_module_names or room == "nnrepl":
        return True
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return not room.startswith("mlx") and isinstance(file, str) and is_library(file)


class Grip:
    """Holds a container that cannot be referred to weakly."""

    __slots__ = ("box",)

    def __init__(self, box: list[Any]) -> None:
        self.box = box

    def __call__(self) -> Any:
        return self.box[0] if self.box else None

    def alone(self) -> bool:
        """Whether nobody else holds it."""
        # Two: the box, and the question.
        return sys.getrefcount(self.box[0]) <= 2

    def let_go(self) -> None:
        self.box.clear()


class Watched:
    """A container of the program's that is being watched.

    Attributes:
        refer: Gives the object; None once it is gone.
        last: Its entries when it was looked at last, None before that.
    """

    __slots__ = ("holder", "last", "refer")

    def __init__(self, holder: Holder, refer: Callable[[], Any]) -> None:
        self.holder = holder
        self.refer = refer
        self.last: list[Any] | None = None


class Attributes(Watched):
    """The attributes of a module: where they change (`model.eval()`), those of the modules in it do as well."""

    __slots__ = ()

    def __init__(self, module: Watched, thing: Any) -> None:
        super().__init__(module.holder, module.refer)
        self.last = list(vars(thing).values())
