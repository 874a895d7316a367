"""The page: one file, readable, and inert whatever a model wrote."""

import re
from html.parser import HTMLParser

import pytest

import shoal
from shoal.runtime.types import Completion, Request, Usage
from shoal.traces.data import Failure, Trace
from shoal.traces.html import RowPart, run_html

SAID = Usage(12, 30, calls=1)
HOSTILE = (
    '<script>alert(1)</script></style></pre></details><img src=x onerror="alert(2)">'
    '<a href="javascript:alert(3)">x</a> \' " onclick=alert(4) <!-- ]]> \x1b[2J'
)


def call(start: float, end: float, text: str = "42", *, sample: int = 0, usage: Usage = SAID) -> Trace:
    completion = Completion(text, usage=usage)
    request = Request.of("What is 6 x 7?", system="Be brief.", temperature=0.7).draw(sample)
    return Trace("lab/m", "call", start=start, end=end, request=request, completion=completion, cached=usage.calls == 0)


def vote(*calls: Trace, error: Failure | None = None) -> Trace:
    end = max(call.end for call in calls)
    request = Request.of("What is 6 x 7?", system="Be brief.", temperature=0.7)
    done = None if error else Completion("6 x 7 = 42", answer="42")
    return Trace("vote(n=2)", "technique", end=end, request=request, completion=done, error=error, children=calls)


def program(*children: Trace, **facts: object) -> Trace:
    end = max((child.end for child in children), default=0.0)
    return Trace("ask", "program", end=end, children=children, began=1.8e9, **facts)  # type: ignore[arg-type]


class Page(HTMLParser):
    """What a browser would make of a page: its elements, and the text a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data

    def all(self, tag: str, class_: str = "") -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag and class_ in [*(a.get("class") or "").split(), ""]]


def test_what_a_reader_sees_first() -> None:
    page = Page(shoal.trace_html(program(vote(call(0, 2), call(0, 1, "41", sample=1))), title="vote(n=2)@lab/m"))
    text = " ".join(page.text.split())
    for said in ("vote(n=2)@lab/m", "What was asked", "What is 6 x 7?", "The answer", "6 x 7 = 42", "2027-01-15"):
        assert said in text
    assert text.index("What was asked") < text.index("The answer") < text.index("When each call ran")
    for figure in ("questions to the model2", "tokens read24", "tokens written60", "from start to end2.00 s"):
        assert figure in text
    assert "2.00 s of it in 1 call" in text
    assert not page.open


def test_the_critical_path_the_cache_and_errors_are_marked() -> None:
    free = Usage(cached_calls=1, cached_tokens=42)
    broken = Trace("lab/m", "call", start=0, end=1.5, request=Request.of("Q?"), error=Failure("RateLimited", "slow"))
    stopped = Trace("lab/m", "call", start=0, end=1.0, request=Request.of("Q?"), error=Failure("CancelledError", ""))
    root = program(vote(call(0, 2), call(0, 0.1, usage=free, sample=1), broken, stopped))
    page = Page(shoal.trace_html(root))
    assert len(page.all("details", "critical")) == len(page.all("a", "critical")) == 1
    assert len(page.all("details", "cached")) == 1
    assert len(page.all("details", "failed")) == 1
    assert len(page.all("details", "cancelled")) == 1
    assert "RateLimited: slow" in page.text
    assert "no longer wanted" in page.text
    assert "1 from the cache, for nothing, 1 failed" in page.text


def test_a_failed_program_says_why() -> None:
    error = Failure("AuthenticationFailed", "lab: wrong key")
    broken = Trace("lab/m", "call", end=1.0, request=Request.of("Q?"), error=error)
    page = Page(shoal.trace_html(program(broken, error=error)))
    assert "It failed" in page.text
    assert "AuthenticationFailed: lab: wrong key" in page.text
    assert "The answer" not in page.text


def test_every_bar_leads_to_its_call() -> None:
    page = Page(shoal.trace_html(program(vote(call(0, 2), call(0, 1, sample=1)))))
    ids = [attributes["id"] for attributes in page.all("details", "node")]
    assert [a["href"] for a in page.all("a", "run")] == [f"#{id_}" for id_ in ids]
    assert len(set(ids)) == 3


def test_a_program_shows_arguments_and_result() -> None:
    inner = Trace(
        "solve", "program", end=1.0, arguments={"depth": [1, 2]}, result={"found": True}, children=(call(0, 1),)
    )
    page = Page(shoal.trace_html(program(inner, arguments={"question": "Why?"}, result="Because.")))
    for said in ("Why?", "Because.", "depth", '"found": true'):
        assert said in page.text


def test_a_trace_without_calls_is_a_page_too() -> None:
    assert "No call was made" in Page(shoal.trace_html(program())).text


def hostile_pages() -> list[str]:
    request = Request.of(HOSTILE, system=HOSTILE, stop=HOSTILE)
    said = Trace(HOSTILE, "call", end=1, request=request, completion=Completion(HOSTILE, HOSTILE, reasoning=HOSTILE))
    broken = Trace(HOSTILE, "call", end=1, request=request, error=Failure(HOSTILE, HOSTILE))
    inner = Trace(HOSTILE, "program", end=1, arguments={HOSTILE: [HOSTILE]}, result=HOSTILE, children=(said, broken))
    root = program(inner, arguments={HOSTILE: {HOSTILE: HOSTILE}})
    row = RowPart("0", HOSTILE, root, HOSTILE, Failure(HOSTILE, HOSTILE))
    run = run_html([row], title=HOSTILE, facts=[(HOSTILE, HOSTILE, HOSTILE)], note=HOSTILE)
    return [shoal.trace_html(root, title=HOSTILE, answer=HOSTILE), shoal.trace_html(inner), run]


@pytest.mark.parametrize("page", hostile_pages(), ids=["trace", "program", "run"])
def test_what_a_model_wrote_is_text(page: str) -> None:
    seen = Page(page)
    assert "<script>alert(1)</script>" in seen.text
    assert [tag for tag, _ in seen.elements].count("script") == 1
    assert [tag for tag, _ in seen.elements].count("style") == 1
    assert not seen.all("img")
    for tag, attributes in seen.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert (attributes.get("href") or "#").startswith("#")
        assert "src" not in attributes
    assert "\x1b" not in page
    assert not seen.open


def test_the_page_needs_nothing_else() -> None:
    page = shoal.trace_html(program(call(0, 1)))
    assert not re.search(r"https?:|url\(|@import|<link", page)
    assert "default-src 'none'" in page
    assert len(page) < 16_000


def test_many_calls_are_a_page_of_bounded_bars() -> None:
    page = Page(shoal.trace_html(program(*(call(i, i + 1) for i in range(400)))))
    assert len(page.all("a", "run")) == 300
    assert len(page.all("details", "node")) == 400
    assert "and 100 more" in page.text


def test_a_run_is_a_page_of_rows() -> None:
    rows = [
        RowPart("0", "q0", program(call(0, 2)), "42", None),
        RowPart("1", "q1", program(call(0, 1)), None, Failure("RateLimited", "slow")),
        RowPart("2", "q2", None, "7", None),
    ]
    page = Page(run_html(rows, title="lab/m", facts=[("rows", "3", "1 failed")], note="3 of 9 rows"))
    assert len(page.all("details", "row")) == 3
    assert "✗ RateLimited: slow" in page.text
    assert "finished without a trace" in page.text
    assert "3 of 9 rows" in page.text
    ids = [attributes["id"] for attributes in page.all("details", "node")]
    assert len(ids) == len(set(ids)) == 2
