"""`shoal run --template A --template B --args FILE`: templates crossed with rows of arguments, as the rows of a run."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from msgspec import structs

from shoal.batch.directory import write_lines
from shoal.batch.forms import PromptForm, check_arguments
from shoal.batch.records import encode
from shoal.batch.rows import Input, Row, read_rows
from shoal.cli.options import sampling_of
from shoal.errors import UsageError
from shoal.prompting.template import Template
from shoal.runtime.types import Request


def crossed(scratch: Path, options: dict[str, Any]) -> Input:
    """The rows of the run: template-major, `{"template": ..., **args}`, with `sample` where there is more than one.

    Raises UsageError for an argument that is missing or that no template uses; `id` and the --answer column may be
    there unused.
    """
    templates = [_text(template) for template in options["template"]]
    args, n = options["args"], options["samples"]
    sets: list[Row] = []
    if args:
        sets = list(read_rows(Path(args), options["limit"]))
        forms = [PromptForm(text, "--template") for text in templates]
        check_arguments(forms, sets, args, frozenset(("id", options["answer"])))
        _not_taken(sets, args, ("template", "sample") if n > 1 else ("template",))
    path = scratch / "prompts.jsonl"
    write_lines(path, map(encode, _rows(templates, sets if args else [{}], n)))
    return Input(path, label=args or "--template")


def _text(template: str) -> str:
    """`@FILE` is the text of a file, `@@` at the start an @."""
    if not template.startswith("@") or template.startswith("@@"):
        return template.removeprefix("@") if template.startswith("@@") else template
    try:
        return Path(template[1:]).read_text("utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--template {template}: cannot be read ({error})") from None


def _not_taken(sets: Sequence[Row], where: str, names: tuple[str, ...]) -> None:
    for i, row in enumerate(sets):
        for name in names:
            if name in row:
                raise UsageError(f"{where}[{i}]: the name {name!r} is taken for the record; rename the argument")


def _rows(templates: Sequence[str], sets: Sequence[Row], n: int) -> Iterator[Row]:
    for template in templates:
        for args in sets:
            row = {"template": template, **args}
            if n == 1:
                yield row
            else:
                yield from (row | {"sample": i} for i in range(n))


def template_requests(options: dict[str, Any]) -> Callable[[Row], Request]:
    """How a row of `crossed` becomes a request."""
    params, system, bare = sampling_of(options), options["system"], options["bare"]
    filled, many = options["args"] is not None, options["samples"] > 1
    template_of = lru_cache(maxsize=1024)(Template)

    def request(row: Row) -> Request:
        text = template_of(row["template"]).fill(row) if filled else row["template"]
        asked = asked_of(text, system, bare=bare)
        return structs.replace(asked.draw(row["sample"]) if many else asked, params=params)

    return request


def asked_of(text: str, system: str | None, *, bare: bool) -> Request:
    """A text as a turn of a chat or, `bare`, as a prompt to continue."""
    return Request(prompt=text) if bare else Request.of(text, system=system)


def check_options(data: str | None, options: dict[str, Any]) -> None:
    """Raise UsageError where rows and templates are both given, or neither."""
    if options["template"]:
        for name in ("prompt", "messages"):
            if options[name]:
                raise UsageError(f"give --template or --{name}, not both")
        if data is not None:
            raise UsageError(f"with --template the arguments come from --args: --args {data}")
    elif options["args"] or options["samples"] > 1:
        raise UsageError(f"{'--args' if options['args'] else '--samples'} needs --template")
    elif data is None:
        raise UsageError("nothing to run: give DATA, or --template with --args")
    if options["bare"] and (options["system"] or options["messages"]):
        raise UsageError(f"--bare sends a prompt and no {'--system' if options['system'] else '--messages'}")
