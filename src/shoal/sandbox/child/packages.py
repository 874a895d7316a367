"""Finds the few packages that programs may import, each where it is, and nothing that lies beside them."""

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from shoal.sandbox.child.wire import PACKAGES

_WARMING_UP = (
    (r"\frac{\sqrt{2}}{2}", r"1/\sqrt{2}"),
    ("(x+1)^2", "x^2+2x+1"),
    ("y=2x-1", "2x-y-1=0"),
    ("(1,2]", "1<x<2"),
    (r"\{1,2\}", "2,1"),
    (r"\sin^2 2x", r"\pi \log_2 8"),
)


class Packages:
    """A finder for `sys.meta_path`: `places` is package -> its directory, `descriptions` where metadata is."""

    def __init__(self, places: dict[str, str], descriptions: Sequence[str] = ()) -> None:
        self._places = places
        self._descriptions = descriptions

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        place = self._places.get(name)
        if place is None:
            return None
        start = os.path.join(place, "__init__.py")  # noqa: PTH118 - pathlib is not needed in the child
        return importlib.util.spec_from_file_location(name, start, submodule_search_locations=[place])

    def find_distributions(self, context: Any) -> Iterator[Any]:
        """What `importlib.metadata` asks of a finder."""
        import pathlib  # a program that asks for no version does without
        from importlib.metadata import Distribution

        for place in self._descriptions:
            found = Distribution.at(pathlib.Path(place))
            if context.name is None or found.metadata["Name"].lower() == context.name.lower():
                yield found

    def have_ready(self, wanted: int) -> None:
        """Import what a job will want before it is forked, so that neither it nor the next pays for it."""
        for place, name in enumerate(PACKAGES):
            if wanted >> place & 1 and name in self._places and name not in sys.modules:
                with contextlib.suppress(Exception):  # the program that imports it is told by its own import
                    package = importlib.import_module(name)
                    # Half of what a small problem costs; a fork has its own copy.
                    if name == "z3":
                        package.main_ctx()
                    elif name == "math_verify":
                        for pair in _WARMING_UP:
                            formulas = [package.parse(f"${text}$", parsing_timeout=None) for text in pair]
                            package.verify(*formulas, timeout_seconds=None)
