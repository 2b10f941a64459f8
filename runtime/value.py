"""Frozen values that cost nothing to define.

`@dataclass(frozen=True, slots=True)` compiles six functions for each class when its module is imported, about half
a millisecond; thirty classes of it were a fifth of a whole `container run`. `@value` shares one set of functions
between all classes and leaves `dataclasses.replace`, `fields` and `asdict` working. It is for the classes that every
command imports; creating an instance costs a few microseconds more.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, dataclass_transform

_Class = TypeVar("_Class")
_MISSING = dataclasses.MISSING
_assign = object.__setattr__


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def value(cls: type[_Class]) -> type[_Class]:
    """Make `cls` a frozen value with slots: equal and hashed by its fields, which its annotations name in order.

    No inheritance, and of `dataclasses.field` only `default` and `default_factory`.
    """
    body = {name: item for name, item in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    fields = {}
    for name, annotation in cls.__annotations__.items():
        default = body.pop(name, _MISSING)
        field: Any = default if isinstance(default, dataclasses.Field) else dataclasses.field(default=default)
        field.name, field.type = name, annotation
        # What `dataclasses` itself writes there; without it `fields` and `replace` do not see the field.
        field._field_type = dataclasses._FIELD  # type: ignore[attr-defined]
        fields[name] = field
    body |= {
        "__slots__": tuple(fields),
        "__match_args__": tuple(fields),
        "__dataclass_fields__": fields,
        "__init__": _init,
        "__repr__": _repr,
        "__eq__": _eq,
        "__hash__": _hash,
        "__setattr__": _refuse,
        "__delattr__": _refuse,
        "__getstate__": _getstate,
        "__setstate__": _setstate,
    }
    made: type[_Class] = type(cls.__name__, cls.__bases__, body)
    return made


def _init(self: Any, *arguments: Any, **named: Any) -> None:
    fields = self.__dataclass_fields__
    if len(arguments) > len(fields):
        raise TypeError(f"{type(self).__name__} takes {len(fields)} values, {len(arguments)} were given")
    for name, item in zip(fields, arguments, strict=False):
        if name in named:
            raise TypeError(f"{type(self).__name__} was given {name} twice")
        named[name] = item
    for name, field in fields.items():
        if name in named:
            _assign(self, name, named.pop(name))
        elif field.default is not _MISSING:
            _assign(self, name, field.default)
        elif field.default_factory is not _MISSING:
            _assign(self, name, field.default_factory())
        else:
            raise TypeError(f"{type(self).__name__} lacks {name}")
    if named:
        raise TypeError(f"{type(self).__name__} has no {min(named)}")


def _items(self: Any) -> tuple[Any, ...]:
    return tuple([getattr(self, name) for name in self.__slots__])


def _repr(self: Any) -> str:
    shown = (f"{name}={getattr(self, name)!r}" for name in self.__slots__)
    return f"{type(self).__name__}({', '.join(shown)})"


def _eq(self: Any, other: Any) -> Any:
    return _items(self) == _items(other) if type(self) is type(other) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_items(self))


def _refuse(self: Any, name: str, *_: Any) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot change {name} of {type(self).__name__}")


def _getstate(self: Any) -> tuple[Any, ...]:
    return _items(self)


def _setstate(self: Any, state: tuple[Any, ...]) -> None:
    for name, item in zip(self.__slots__, state, strict=True):
        _assign(self, name, item)
