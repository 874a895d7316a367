"""Finds the few packages that programs may import, each where it is, and nothing that lies beside them."""

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from shoal.sandbox.child.wire import PACKAGES


class Packages:
    """A finder for `sys.meta_path`: `places` is package -> its directory."""

    def __init__(self, places: dict[str, str]) -> None:
        self._places = places

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        place = self._places.get(name)
        if place is None:
            return None
        start = os.path.join(place, "__init__.py")  # noqa: PTH118 - pathlib is not needed in the child
        return importlib.util.spec_from_file_location(name, start, submodule_search_locations=[place])

    def have_ready(self, wanted: int) -> None:
        """Import what a job will want before it is forked, so that neither it nor the next pays for it."""
        for place, name in enumerate(PACKAGES):
            if wanted >> place & 1 and name in self._places and name not in sys.modules:
                with contextlib.suppress(Exception):  # the program that imports it is told by its own import
                    package = importlib.import_module(name)
                    if name == "z3":
                        package.main_ctx()  # half of what a small problem costs; a fork has its own copy
