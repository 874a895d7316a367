"""What a request says of its tools, for engines on this machine: which the model sees, and which it must call."""

from typing import Any, Literal

from msgspec import Struct

from shoal.errors import BadRequest
from shoal.runtime.types import Request

TOOL_EXTRAS = frozenset({"tool_choice", "parallel_tool_calls"})
_NO_ARGUMENTS = {"type": "object", "properties": {}}


class Tools(Struct, frozen=True):
    """The tools that the model sees, and whether it may or must call one: `named` that of the name `function` alone.

    With "none" there are no tools: the model does not see any. `several` says that one reply may hold several calls.
    """

    shown: list[dict[str, Any]] = []
    choice: Literal["none", "auto", "required", "named"] = "none"
    function: str = ""
    several: bool = True

    @property
    def forced(self) -> bool:
        return self.choice in ("required", "named")


def tools_of(request: Request) -> Tools:
    """A request's tools, with `tool_choice` and `parallel_tool_calls` of its extras; BadRequest where one is wrong."""
    extra = request.params.extra.value() if request.params.extra else {}
    said = extra.get("tool_choice", "auto" if request.tools else "none")
    if not request.tools:
        if said not in ("none", "auto"):
            raise BadRequest("tool_choice asks for a call, and there are no tools")
        return Tools()
    if request.prompt is not None:
        raise BadRequest("tools need a conversation; a bare prompt has no place for them")
    shown = [tool.value() for tool in request.tools]
    names = [_function(tool)["name"] for tool in shown]
    if said == "none":
        return Tools()
    several = extra.get("parallel_tool_calls") is not False
    if said in ("auto", "required"):
        return Tools(shown, said, "", several)
    function = said.get("function") if isinstance(said, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if name is None:
        raise BadRequest("tool_choice is 'none', 'auto', 'required' or {'type': 'function', 'function': {'name': ...}}")
    if name not in names:
        raise BadRequest(f"tool_choice: no tool has the name {name!r}")
    return Tools(shown, "named", name, several)


def _function(tool: Any) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRequest("a tool is {'type': 'function', 'function': {'name': ..., 'parameters': ...}}")
    if not isinstance(function.get("parameters") or {}, dict):
        raise BadRequest(f"the parameters of the tool {function['name']!r} are no JSON schema of an object")
    return function


def parameters_of(tools: Tools) -> dict[str, dict[str, Any]]:
    """The schema of each function's arguments, by its name."""
    return {function["name"]: function.get("parameters") or _NO_ARGUMENTS for function in map(_function, tools.shown)}
