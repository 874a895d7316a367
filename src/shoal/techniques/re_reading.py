"""Re-reading: the question is put twice, so that its first reading informs the second (arXiv:2309.06275)."""

from msgspec import structs

from shoal.prompting.template import prompt
from shoal.runtime.model import Model, answer
from shoal.runtime.types import Completion, Json, Message, Request


async def re_reading(model: Model, request: Request) -> Completion:
    """Put the question twice: "Q: ... Read the question again: ...".

    The question is the user's last turn, wherever it stands; all else stays as it is. Images are shown once.
    """
    return await answer(model, _twice(request))


def _twice(request: Request) -> Request:
    if request.prompt is not None:
        return structs.replace(request, prompt=_read_again(request.prompt))
    messages = list(request.messages)
    last = next((i for i in reversed(range(len(messages))) if messages[i].role == "user"), None)
    if last is None or not messages[last].text.strip():
        return request
    messages[last] = _asked_twice(messages[last])
    return structs.replace(request, messages=tuple(messages))


def _asked_twice(message: Message) -> Message:
    if isinstance(message.content, Json):
        again = {"type": "text", "text": f"Read the question again: {message.text}"}
        return structs.replace(message, content=Json.of([*message.content.value(), again]))
    return structs.replace(message, content=_read_again(message.text))


def _read_again(question: str) -> str:
    return prompt("re_reading").fill({"question": question})
