"""An attribute computed when first asked for, and kept with its object."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

_R = TypeVar("_R")


class CachedProperty(Generic[_R]):
    """`functools.cached_property` as it is from Python 3.12 on: without a lock.

    Before, one lock for all objects of a class let a single thread at a time compute a property: layers that are
    scored side by side waited for each other's decomposition. Threads that ask one object at once may each compute it.
    """

    def __init__(self, compute: Callable[[Any], _R]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> _R:
        value = self._compute(instance)
        # From now on the object's own attribute is found first.
        vars(instance)[self._name] = value
        return value


# As functools writes it: it is used as a decorator.
cached_property = CachedProperty
