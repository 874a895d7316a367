"""What a model wrote, as HTML: Markdown, formulas and code, and nothing that runs, loads or leads anywhere unasked.

The text is hostile: markup in it stays text, links lead to http and https only, images are links, formulas are built
from harmless elements. What is too long or too intricate to be read in reasonable time is shown as it stands.
"""

import html
import re
from collections.abc import MutableMapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from shoal.server.playground.mathml import mathml

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_core import StateCore
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

_LONGEST = 60_000  # characters
_LONGEST_CODE = 8000
# Those whose lexers take linear time on anything.
_LANGUAGES = re.compile(
    r"python|py|python3|pycon|javascript|js|typescript|ts|json|bash|sh|shell|console|c|cpp|c\+\+|java|go|rust|sql|html|"
    r"xml|css|yaml|toml|diff|haskell|lua|julia|kotlin|csharp",
    re.IGNORECASE,
)
_MOST_FORMULAS = 400  # each unclosed one is looked for to the end of the text
_OPENS_FORMULA = re.compile(r"\$|\\[(\[]|\\begin")
_WEB = re.compile(r"https?://[^\s\\]+", re.IGNORECASE)
_ALIGNED = re.compile(r"text-align:(left|right|center)")


def rendered(text: str) -> str:
    """The text as HTML that may be put into a page."""
    if len(text) > _LONGEST:
        return f"<pre>{html.escape(text)}</pre>"
    with_formulas = sum(1 for _ in _OPENS_FORMULA.finditer(text)) <= _MOST_FORMULAS
    try:
        return str(_reader(with_formulas).render(text))
    except RecursionError:
        return f"<pre>{html.escape(text)}</pre>"


@cache
def _reader(with_formulas: bool) -> "MarkdownIt":
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False, "breaks": True, "highlight": _highlighted, "maxNesting": 20})
    reader.enable(["table", "strikethrough"])
    reader.disable(["html_block", "html_inline"])
    reader.validateLink = lambda url: _WEB.fullmatch(url) is not None  # type: ignore[method-assign]
    if with_formulas:
        _add_formulas(reader)
    reader.core.ruler.push("directions", _directions)
    for name, rule in (("link_open", _link), ("image", _image), ("th_open", _cell), ("td_open", _cell)):
        reader.add_render_rule(name, rule)
    return reader


def _add_formulas(reader: "MarkdownIt") -> None:
    from mdit_py_plugins.amsmath import amsmath_plugin
    from mdit_py_plugins.dollarmath import dollarmath_plugin
    from mdit_py_plugins.texmath import texmath_plugin

    reader.use(texmath_plugin, delimiters="brackets")
    reader.use(dollarmath_plugin, allow_labels=False, allow_space=False, allow_digits=False, double_inline=True)
    reader.use(amsmath_plugin)
    reader.inline.ruler.before("escape", "math_in_brackets", _in_brackets)
    reader.add_render_rule("math_inline", _inline)
    for name in ("math_block", "math_block_eqno", "math_inline_double", "amsmath"):
        reader.add_render_rule(name, _display)


Rule = Sequence["Token"]


def _directions(state: "StateCore") -> None:
    """Each block goes from left to right, or from right to left, as its own first letter does."""
    for token in state.tokens:
        if token.nesting == 1 and token.level == 0:
            token.attrs["dir"] = "auto"


def _in_brackets(state: "StateInline", silent: bool) -> bool:
    r"""A formula in `\[...\]` in the middle of a paragraph."""
    if not state.src.startswith("\\[", state.pos):
        return False
    end = state.src.find("\\]", state.pos + 2, state.posMax)
    if end < 0:
        return False
    if not silent:
        state.push("math_block", "math", 0).content = state.src[state.pos + 2 : end]
    state.pos = end + 2
    return True


def _inline(_: Any, tokens: Rule, index: int, *__: Any) -> str:
    return mathml(tokens[index].content, display=False)


def _display(_: Any, tokens: Rule, index: int, *__: Any) -> str:
    return f'<span class="display">{mathml(tokens[index].content, display=True)}</span>\n'


def _link(self: Any, tokens: Rule, index: int, options: Any, env: MutableMapping[str, Any]) -> str:
    tokens[index].attrs |= {"rel": "noopener noreferrer nofollow", "target": "_blank"}
    return str(self.renderToken(tokens, index, options, env))


def _image(_: Any, tokens: Rule, index: int, *__: Any) -> str:
    """A link to the image: what it shows is fetched when somebody asks for it, not when an answer is read."""
    url, name = html.escape(str(tokens[index].attrs["src"])), html.escape(tokens[index].content or "image")
    return f'<a href="{url}" rel="noopener noreferrer nofollow" target="_blank">{name}</a>'


def _cell(self: Any, tokens: Rule, index: int, options: Any, env: MutableMapping[str, Any]) -> str:
    """Alignment as a class: the page allows no style of its own to what a model wrote."""
    aligned = _ALIGNED.match(str(tokens[index].attrs.pop("style", "")))
    if aligned:
        tokens[index].attrs["class"] = aligned[1]
    return str(self.renderToken(tokens, index, options, env))


def _highlighted(code: str, language: str, _: str) -> str:
    """The code with classes for a style sheet; empty where it is left as it is."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name

    if not _LANGUAGES.fullmatch(language) or len(code) > _LONGEST_CODE:
        return ""
    lexer = get_lexer_by_name(language.lower(), stripnl=False)
    return str(highlight(code, lexer, HtmlFormatter(nowrap=True, classprefix="hl-")))
