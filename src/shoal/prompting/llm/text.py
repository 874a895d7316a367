"""Built-ins that give text."""

from typing import Unpack

from shoal.errors import InvalidOutput
from shoal.prompting.llm.asking import Prompt, Sampling, capabilities, chat_request, request_for
from shoal.prompting.template import prompt as library
from shoal.runtime import registry
from shoal.runtime.builtin import builtin
from shoal.runtime.outlet import call, calls
from shoal.runtime.types import Completion, Message

_ATTEMPTS = 3  # draws of an answer that must have a form


@builtin
async def completion(prompt: Prompt, **params: Unpack[Sampling]) -> Completion:
    """What the model says to a prompt, with its usage, finish reason and log-probabilities.

    A text is the user's turn, or is continued as it stands where `bare` says so; a list of messages is a conversation.
    Every other built-in that gives text asks through this one.
    """
    model = registry.current().model
    return await call(model, request_for(prompt, model, params))


@builtin
async def completions(prompt: Prompt, n: int, **params: Unpack[Sampling]) -> list[Completion]:
    """`n` draws of `completion`, asked at once; 8 after 5 costs 3."""
    model = registry.current().model
    return await calls(model, request_for(prompt, model, params), n)


@builtin
async def generate_text(prompt: Prompt, **params: Unpack[Sampling]) -> str:
    """The model's text for a prompt.

    `stop`, `max_tokens`, `regex`, `choices`, `json_schema` and `grammar` constrain it.

    Raises Unsupported, before anything is asked, where the model's backend cannot do a constraint.
    """
    return (await completion(prompt, **params)).text


@builtin
async def generate_texts(prompt: Prompt, n: int, **params: Unpack[Sampling]) -> list[str]:
    """`n` independent texts for a prompt, in the order of their draws."""
    return [drawn.text for drawn in await completions(prompt, n, **params)]


@builtin
async def chat(messages: Prompt, *, system: str | None = None, **params: Unpack[Sampling]) -> str:
    """The assistant's next turn of a conversation: messages with the roles system, user, assistant and tool."""
    request = chat_request(messages, system, params)
    return (await completion(request.messages, **params)).text


@builtin
async def instruct(
    prompt: Prompt, *, assistant_prefix: str = "", system: str | None = None, **params: Unpack[Sampling]
) -> str:
    """The answer to an instruction, from after `assistant_prefix` on: the answer is made to begin with that.

    A backend that can continue the assistant's turn does so; another is asked for it in words, up to three times, and
    InvalidOutput is raised where no answer begins so.
    """
    request = chat_request(prompt, system, params)
    if not assistant_prefix:
        return (await completion(request.messages, **params)).text
    if capabilities(registry.current().model).prefill:
        return (await completion((*request.messages, Message("assistant", assistant_prefix)), **params)).text
    *before, last = request.messages
    asked = library("begin_with").fill({"instruction": last.text, "prefix": assistant_prefix})
    turns = (*before, Message(last.role, asked))
    said = ""
    for _ in range(_ATTEMPTS):
        said = (await completion(turns, **params)).text.lstrip()
        if said.startswith(assistant_prefix):
            return said.removeprefix(assistant_prefix)
    raise InvalidOutput(f"the answer does not begin with {assistant_prefix!r}: {said[:100]!r}")
