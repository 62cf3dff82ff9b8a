"""Classes: dataclasses whose methods are written when they are called for the first time.

`dataclasses.dataclass` writes the methods of a class as text and compiles it as soon as the class is made: a third of a
millisecond each, and half of all that the start of nnrepl took. Most of these classes are not used in a session. Here a
class begins with its slots alone; what is written then, for the first object, is written by `dataclasses` itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

C = TypeVar("C", bound=type)

_METHODS = {"init": ("__init__",), "repr": ("__repr__",), "eq": ("__eq__", "__hash__")}
"""What `dataclasses` is asked to write, and which methods that gives."""
_DESCRIPTION = ("__dataclass_fields__", "__dataclass_params__", "__match_args__")


class _Description:
    """What others ask of a dataclass (`replace`, `asdict`, a class that stands on it), put together when they do."""

    __slots__ = ("name", "writer")

    def __init__(self, writer: _Writer, name: str) -> None:
        self.writer = writer
        self.name = name

    def __get__(self, it: object, owner: type) -> Any:
        self.writer.describe()
        return getattr(owner, self.name)


class _Writer:
    """Has the methods of one class written."""

    def __init__(self, cls: type, options: dict[str, bool]) -> None:
        self.made = cls
        self.bases = cls.__bases__
        self.body = {name: it for name, it in vars(cls).items() if name not in ("__dict__", "__weakref__")}
        self.body |= {"__qualname__": cls.__qualname__, "__annotations__": cls.__annotations__}
        self.options = options

    def written(self, **which: bool) -> Any:
        """Return a class like this one, with these methods."""
        model = type(self.made)(self.made.__name__, self.bases, dict(self.body))
        asked = {"init": False, "repr": False, "eq": False, "frozen": self.options["frozen"]} | which
        return dataclasses.dataclass(**asked)(model)

    def describe(self) -> None:
        """Enter the fields."""
        model = self.written()
        for name in _DESCRIPTION:
            setattr(self.made, name, vars(model)[name])

    def later(self, kind: str, name: str) -> Callable[..., Any]:
        """Return a method that has itself written."""

        def method(it: object, *args: Any, **kwargs: Any) -> Any:
            model = self.written(**{kind: True})
            for one in _METHODS[kind]:
                if one not in self.body and one in vars(model):
                    setattr(self.made, one, vars(model)[one])
            return getattr(self.made, name)(it, *args, **kwargs)

        return method

    def enter(self) -> None:
        """Give the class what is to be written later."""
        for name in _DESCRIPTION:
            setattr(self.made, name, _Description(self, name))
        kinds = ("init", "repr", "eq") if self.options["eq"] else ("init", "repr")
        for kind in kinds:
            for name in _METHODS[kind]:
                if name not in self.body:
                    setattr(self.made, name, self.later(kind, name))
        if self.options["eq"] and not self.options["frozen"] and "__hash__" not in self.body:
            self.made.__hash__ = None  # type: ignore[assignment]  # as Python does it where there is an __eq__


def _made(cls: C, *, frozen: bool = False, slots: bool = False, eq: bool = True) -> C:
    writer = _Writer(cls, {"frozen": frozen, "eq": eq})
    own = [name for name, said in cls.__annotations__.items() if not said.startswith("ClassVar")]
    if slots:
        writer.made = cls = _slotted(cls, writer.body, own)
    else:
        _defaults(cls, own)
    writer.enter()
    if frozen:
        _freeze(cls, {*own}, slots)
    return cls


def _slotted(cls: C, body: dict[str, Any], own: list[str]) -> C:
    """Return a class as this one, with slots for its fields."""
    inherited = {name for base in cls.__mro__[1:] for name in vars(base).get("__slots__", ())}
    taken = {name: it for name, it in body.items() if name not in own}
    taken["__slots__"] = tuple(name for name in own if name not in inherited)
    made: C = type(cls)(cls.__name__, cls.__bases__, taken)
    return made


def _defaults(cls: type, own: list[str]) -> None:
    """Leave in the class, of what `field(...)` says, the default."""
    for name in own:
        said = vars(cls).get(name)
        if isinstance(said, dataclasses.Field):
            if said.default is dataclasses.MISSING:
                delattr(cls, name)
            else:
                setattr(cls, name, said.default)


def _freeze(cls: Any, own: set[str], slots: bool) -> None:
    """Let nothing be set in an object of a class."""

    def refuse(it: object, name: str, doing: str, *value: Any) -> None:
        if type(it) is cls or name in own:
            _refused(doing, name)
        getattr(super(cls, it), "__setattr__" if value else "__delattr__")(name, *value)

    cls.__setattr__ = lambda it, name, value: refuse(it, name, "assign to", value)
    cls.__delattr__ = lambda it, name: refuse(it, name, "delete")
    if slots:
        cls.__getstate__, cls.__setstate__ = _state, _set_state


def _refused(doing: str, name: str) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot {doing} field {name!r}")


def _state(it: Any) -> list[Any]:
    """Return what a copy takes over."""
    return [getattr(it, one.name) for one in dataclasses.fields(it)]


def _set_state(it: Any, state: list[Any]) -> None:
    for one, value in zip(dataclasses.fields(it), state, strict=True):
        object.__setattr__(it, one.name, value)


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(cls=None, /, **options):
        """Make a class a dataclass, as `dataclasses.dataclass` does, its methods later."""
        return partial(_made, **options) if cls is None else _made(cls, **options)
