"""Late-bound built-ins: what a call does is decided when it runs, by the registry that holds there."""

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

from shoal.errors import UsageError, did_you_mean
from shoal.runtime import registry
from shoal.runtime.program import Program
from shoal.runtime.registry import Binding

P = ParamSpec("P")
T = TypeVar("T")


class Builtin(Generic[P, T]):
    """A function whose implementation can be replaced; calling it gives a Program. Made by `builtin`."""

    def __init__(self, function: Callable[P, Coroutine[Any, Any, T]]) -> None:
        self._own = function
        self._signature = inspect.signature(function)
        self._key = f"{function.__module__}.{function.__qualname__}"
        self.name = function.__name__
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Program[T]:
        return Program(self._run, args, kwargs, name=self.name)

    async def _run(self, *args: Any, **kwargs: Any) -> Any:
        binding = registry.current().binding(self._key)
        if binding is None:
            self._refuse_unknown(self._own, kwargs)
            return await self._own(*args, **kwargs)
        given = dict(binding.defaults) | self._named(args, kwargs)
        implementation = binding.implementation or self._own
        self._refuse_unknown(implementation, given)
        result: Any = implementation(**given)  # type: ignore[call-arg]
        return await result if isinstance(result, Awaitable) else result

    def configure(self, implementation: Callable[..., Any] | None = None, /, **defaults: Any) -> None:
        """Use `implementation` (async or not; None: what is used already) in the registry that holds here.

        It is called with this built-in's arguments by name. `defaults` are arguments for calls that give none or None.
        """
        scope = registry.current()
        if implementation is None:
            known = scope.binding(self._key) or Binding()
            implementation, defaults = known.implementation, {**known.defaults, **defaults}
        self._refuse_unknown(implementation or self._own, defaults)
        scope.bind(self._key, Binding(implementation, defaults))

    def _named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """What a call gives, by name; None is nothing given."""
        names = list(self._signature.parameters)
        if len(args) > len(names):
            raise UsageError(f"{self.name} takes at most {len(names)} arguments, not {len(args)}")
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        return {name: value for name, value in given.items() if value is not None}

    def _refuse_unknown(self, implementation: Callable[..., Any], given: Mapping[str, Any]) -> None:
        known = _parameters(implementation)
        for name in given:
            if known is not None and name not in known:
                what = f"{self.name}: {getattr(implementation, '__qualname__', implementation)}"
                what = self.name if implementation is self._own else what
                raise UsageError(f"{what} takes no {name!r}; {did_you_mean(name, known)}")

    def __repr__(self) -> str:
        return self._key


def builtin(function: Callable[P, Coroutine[Any, Any, T]]) -> Builtin[P, T]:
    """Declare a built-in: `function` is its signature and what it does where nothing else is configured."""
    return Builtin(function)


def _parameters(function: Callable[..., Any]) -> frozenset[str] | None:
    """The names a function takes; None where it takes any."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C, without one
        return None
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    return None if inspect.Parameter.VAR_KEYWORD in kinds else frozenset(signature.parameters)
