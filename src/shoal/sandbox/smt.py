"""SMT-LIB 2 text that a model wrote: what of it reaches the solver, and what the solver's answers mean.

z3 reads and writes files where a script tells it to (`include`, output channels), so text is not passed on as it came.
It is split into tokens, its commands are compared with those known to be harmless, and the tokens are written out
again, each in its own line and column, so that the solver's messages point into the text as it was written.
"""

import re
from collections.abc import Iterator

from msgspec.structs import replace

from shoal.sandbox.outcome import Outcome

_COMMANDS = """
    assert assert-soft check-sat check-sat-assuming declare-const declare-datatype declare-datatypes declare-fun
    declare-sort define-const define-fun define-fun-rec define-funs-rec define-sort echo eval exit get-assertions
    get-assignment get-info get-model get-objectives get-option get-proof get-unsat-assumptions get-unsat-core get-value
    maximize minimize pop push reset reset-assertions set-info set-logic set-option simplify
"""
# Options that say what to answer and how long to look for it. No other one: some name files, and there are hundreds.
_OPTIONS = """
    :produce-models :produce-unsat-cores :produce-unsat-assumptions :produce-proofs :produce-assignments
    :produce-assertions :print-success :global-declarations :random-seed :timeout :rlimit :model.completion
    :smt.random_seed :smt.mbqi :smt.arith.solver :opt.priority :pp.decimal :pp.decimal_precision :auto_config
"""
COMMANDS, OPTIONS = frozenset(_COMMANDS.split()), frozenset(_OPTIONS.split())
_VALUE = re.compile(r"true|false|[0-9]{1,9}|lex|box|pareto")

_MOST_TEXT = 1 << 18
_MOST_TOKENS = 50_000
_MOST_DEPTH = 200
_JUDGED = 6  # tokens of a command that are looked at: one more than `(set-option :name value)` has
# A `#` begins a number and nothing else: for z3, `#|` begins a comment.
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+|;[^\n]*)
    |(?P<open>\()|(?P<close>\))
    |(?P<string>"(?:[^"]|"")*")
    |(?P<quoted>\|[^|\\]*\|)
    |(?P<atom>\#x[0-9A-Fa-f]+|\#b[01]+|[A-Za-z0-9~!@$%^&*_+=<>.?/:-]+)""",
    re.VERBOSE,
)
_ERROR = re.compile(r'^\(error "((?:[^"]|"")*)"\)$', re.MULTILINE)
# What z3 says when its time is over, with exit code 0. Before a second has passed, the script has said it.
_TIMEOUT, _SOONEST = re.compile(r"^timeout\s*\Z", re.MULTILINE), 1.0
# After `unsat` or `unknown` there is nothing to show; scripts ask all the same, and the answer stands.
_NOTHING_TO_SHOW = re.compile(r"(model|unsat core|objectives|proof) (is|are) not available|not available")


class Refused(Exception):
    """The text has something in it that does not reach the solver; the message says what and where."""


def filtered(text: str) -> bytes:
    """The script as the solver gets it."""
    if len(text) > _MOST_TEXT:
        raise Refused(f"the script has {len(text):,} characters; at most {_MOST_TEXT:,} are taken")
    written = []
    depth = count = 0
    command: list[str] = []  # the first tokens of the one that is being read
    for kind, token, line in _tokens(text):
        if kind == "space":
            written.append(re.sub(r"[^\n]", " ", token))
            continue
        written.append(token)
        count += 1
        if depth == 0 and kind != "open":
            raise Refused(f"line {line}: {token[:40]!r} stands outside of any command")
        depth += (kind == "open") - (kind == "close")
        if depth > _MOST_DEPTH:
            raise Refused(f"line {line}: nested more than {_MOST_DEPTH} deep")
        if count > _MOST_TOKENS:
            raise Refused(f"line {line}: more than {_MOST_TOKENS:,} tokens")
        if len(command) < _JUDGED:
            command.append(token)
        if depth == 0:
            _judge(command, line)
            command = []
    if depth:
        raise Refused(f"the script ends inside a command: {depth} closing parentheses are missing")
    return "".join(written).encode("utf-8", "replace")


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """Kind, text and line of each token."""
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise Refused(f"line {line}: {text[position]!r} cannot stand here, or does not end")
        yield str(match.lastgroup), match[0], line
        position = match.end()
        line += match[0].count("\n")


def _judge(command: list[str], line: int) -> None:
    """Whether a command, of which these are the first tokens, may reach the solver."""
    name = command[1]
    if name not in COMMANDS:
        raise Refused(f"line {line}: the command {name[:40]!r} is not taken here")
    if name == "set-option" and not (
        len(command) == _JUDGED - 1 and command[2] in OPTIONS and _VALUE.fullmatch(command[3])
    ):
        option = " ".join(command[2:])[:60]
        raise Refused(f"line {line}: this option is not taken here: {option}")


def judged(outcome: Outcome) -> Outcome:
    """An outcome of the solver, with the errors that it tells among its answers where errors are looked for."""
    if outcome.seconds >= _SOONEST and _TIMEOUT.search(outcome.stdout):
        return replace(outcome, exit_code=None, stopped="wall time")
    errors = [error for error in _ERROR.findall(outcome.stdout) if not _NOTHING_TO_SHOW.search(error)]
    if "out of memory" in outcome.stderr or any("out of memory" in error for error in errors):
        return replace(outcome, exit_code=None, stopped="memory")
    if errors:
        return replace(outcome, stderr="\n".join(errors), exit_code=outcome.exit_code or 1)
    if outcome.exit_code == 1:  # for nothing but what is not available
        return replace(outcome, exit_code=0)
    return outcome
