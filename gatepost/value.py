"""Immutable records: what every module hands to the next.

Promises: a subclass of `Value` is a keyword-only, frozen record with typed fields, defaults, equality and a repr; a type
checker sees it as a frozen dataclass.
Never: imports anything. `dataclasses` (by way of `inspect`) costs every message of the pipe script 13 ms, about a third of
its whole run: docs/decisions/0001-start-up-is-the-cost.md.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, Self, dataclass_transform
else:

    def dataclass_transform(**_options):
        return lambda cls: cls


__all__ = ["Value"]


@dataclass_transform(frozen_default=True, kw_only_default=True, eq_default=True)
class Value:
    """A record. Subclasses list their fields as annotations, with a default where there is one (immutable ones only)."""

    _fields: ClassVar[tuple[str, ...]] = ()
    #: Every field in its order, with its default or None; and the fields that have none.
    _template: ClassVar[dict[str, Any]] = {}
    _required: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        own = tuple(n for n, kind in cls.__annotations__.items() if not str(kind).startswith("ClassVar"))
        cls._fields = cls._fields + tuple(n for n in own if n not in cls._fields)
        cls._template = {name: getattr(cls, name, None) for name in cls._fields}
        cls._required = frozenset(name for name in cls._fields if not hasattr(cls, name))

    def __init__(self, **given: Any) -> None:
        values = self.__dict__
        values.update(self._template)  # first all of them: __hash__ counts on one order
        values.update(given)
        if len(values) != len(self._template) or not self._required <= given.keys():
            self._refuse(given)

    def _refuse(self, given: dict[str, Any]) -> None:
        name = type(self).__name__
        missing = [repr(each) for each in self._fields if each in self._required and each not in given]
        if missing:
            raise TypeError(f"{name}: field {missing[0]} is missing")
        raise TypeError(f"{name}: no field {', '.join(repr(each) for each in given if each not in self._template)}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: cannot delete {name!r}")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in self.__dict__.items())})"

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; raises TypeError for a field that does not exist."""
        return type(self)(**{**self.__dict__, **changes})
