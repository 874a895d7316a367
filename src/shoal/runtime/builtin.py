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
        self._own = Binding(function, _parameters(function))
        self._names = tuple(inspect.signature(function).parameters)
        self._key = f"{function.__module__}.{function.__qualname__}"
        self.name = function.__name__
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Program[T]:
        return Program(self._run, args, kwargs, name=self.name, kind="builtin", declared=self._own.implementation)

    async def _run(self, *args: Any, **kwargs: Any) -> Any:
        binding = registry.current().binding(self._key)
        if binding is None:
            self._refuse_unknown(self._own, kwargs)
            return await self._own.implementation(*args, **kwargs)
        given = dict(binding.defaults) | self._named(args, kwargs)
        self._refuse_unknown(binding, given)
        result = binding.implementation(**given)
        return await result if isinstance(result, Awaitable) else result

    def configure(self, implementation: Callable[..., Any] | None = None, /, **defaults: Any) -> None:
        """Use `implementation` (async or not; None: what is used already) in the registry that holds here.

        It is called with this built-in's arguments by name. `defaults` are arguments for calls that give none or None.
        """
        scope = registry.current()
        if implementation is None:
            used = scope.binding(self._key) or self._own
            binding = Binding(used.implementation, used.known, {**used.defaults, **defaults})
        else:
            binding = Binding(implementation, _parameters(implementation), defaults)
        self._refuse_unknown(binding, defaults)
        scope.bind(self._key, binding)

    def _named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """What a call gives, by name; None is nothing given."""
        names = self._names
        if len(args) > len(names):
            raise UsageError(f"{self.name} takes at most {len(names)} arguments, not {len(args)}")
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        return {name: value for name, value in given.items() if value is not None}

    def _refuse_unknown(self, binding: Binding, given: Mapping[str, Any]) -> None:
        if binding.known is None:
            return
        for name in given:
            if name not in binding.known:
                function = binding.implementation
                own = function is self._own.implementation
                what = self.name if own else f"{self.name}: {getattr(function, '__qualname__', function)}"
                raise UsageError(f"{what} takes no {name!r}; {did_you_mean(name, binding.known)}")

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
