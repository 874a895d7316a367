"""`shoal.complete` and `shoal.chat`: templates crossed with arguments, put to a model, one flat record a choice."""

from collections.abc import Callable
from typing import Any, TypedDict, Unpack

from shoal.backends.loop import run
from shoal.batch.choices import Batch
from shoal.batch.forms import argument_sets, chat_forms, prompt_forms
from shoal.batch.plan import Plan, ask_all
from shoal.batch.runner import Progress
from shoal.batch.settings import settings_of
from shoal.batch.spread import Spreadable
from shoal.errors import refuse_unknown
from shoal.runtime.budget import Budget


class AskOptions(TypedDict, total=False):
    """How prompts are put to a model; see `complete`."""

    model: Spreadable | None
    queries_per_batch: int | None
    zip_model_args: bool
    budget: Budget | None
    on_progress: Callable[[Progress], None] | None


def complete(prompts: Any, prompt_args: Any = None, model_args: Any = None, **options: Unpack[AskOptions]) -> Batch:
    """Let a model continue every prompt, filled with every set of arguments: the text-completions API.

    `prompts` is a text, a list or a column of them; `prompt_args` a dict, a list of dicts, a data file's path or a
    table (pandas, polars, Arrow, Hugging Face). With arguments `{name}` is a gap, and a missing or unused argument is a
    UsageError before anything is asked; without, the texts are sent as they are. `model_args` are sampling parameters,
    `n` (choices of each prompt) and `model`; a list of them is crossed, or with `zip_model_args` one for each prompt.

    `model` is a spec or a Model (default "local"); several, `{model: weight}`, share the prompts in that proportion, a
    list by its endpoints' `tpm`. `queries_per_batch` prompts go in one request to a server.

    Returns a Batch in the order prompt, arguments, model_args, choice. A prompt that fails is one record with `choice`
    None and its `error`; a spent `budget` fails those that are left. Works in scripts and in Jupyter.
    """
    return run(acomplete(prompts, prompt_args, model_args, **options))


async def acomplete(
    prompts: Any,
    prompt_args: Any = None,
    model_args: Any = None,
    **options: Unpack[AskOptions],
) -> Batch:
    """`complete` for a program that is already asynchronous."""
    refuse_unknown("complete", options, AskOptions)
    plan = Plan(
        prompt_forms(prompts),
        argument_sets(prompt_args, "prompt_args"),
        settings_of(model_args),
        args_name="prompt_args",
        zipped=options.get("zip_model_args", False),
    )
    return await _ask_all(plan, options)


def chat(
    messages: Any,
    messages_args: Any = None,
    model_args: Any = None,
    **options: Unpack[AskOptions],
) -> Batch:
    """Let a model answer every conversation, filled with every set of arguments.

    `messages` is a conversation (a list of {role, content}), a text (one user turn), or a list of either. A set of
    `messages_args` is a dict, for all messages of a conversation, or a list of one dict a message. The rest is as in
    `complete`.
    """
    return run(achat(messages, messages_args, model_args, **options))


async def achat(
    messages: Any,
    messages_args: Any = None,
    model_args: Any = None,
    **options: Unpack[AskOptions],
) -> Batch:
    """`chat` for a program that is already asynchronous."""
    refuse_unknown("chat", options, AskOptions)
    plan = Plan(
        chat_forms(messages),
        argument_sets(messages_args, "messages_args", per_message=True),
        settings_of(model_args),
        args_name="messages_args",
        zipped=options.get("zip_model_args", False),
    )
    return await _ask_all(plan, options)


async def _ask_all(plan: Plan, options: AskOptions) -> Batch:
    queries_per_batch, budget = options.get("queries_per_batch"), options.get("budget")
    return await ask_all(plan, options.get("model"), queries_per_batch, budget, options.get("on_progress"))
