"""What the playground asks of the server: its catalogue, its events, and model text made harmless."""

import asyncio
import json
import re
from contextlib import suppress
from hashlib import sha256
from html.parser import HTMLParser
from time import monotonic
from typing import Any

import pytest
from aiohttp import web
from tests.scripting import in_turn, run
from tests.server.serving import Client, Reply, running, scripted_model, serving

from shoal.backends.prices import Price
from shoal.errors import ConnectionFailed, ServerError
from shoal.runtime.model import Model, apply
from shoal.runtime.types import Completion, Request
from shoal.server import playground
from shoal.server.app import create_app
from shoal.server.http.streams import EventStream
from shoal.server.names import Names
from shoal.server.playground.advice import failure
from shoal.server.playground.rendering import rendered
from shoal.server.settings import KeySettings, Preset, Settings
from shoal.techniques import TECHNIQUES

Event = dict[str, Any]
BALL = in_turn("It is 5. The answer is 5.", "The answer is 10.", "So the answer is 5.")


def question(model: str, text: str = "How much is the ball?", **body: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **body}


def events_of(reply: Reply) -> list[Event]:
    assert reply.status == 200, reply.text
    return [event for batch in reply.events for event in batch]


def ran(model: str, script: Any = BALL, settings: dict[str, Any] | None = None, **body: Any) -> list[Event]:
    async def main() -> Reply:
        async with serving({"m": scripted_model(script, name="m")}, **settings or {}) as client:
            return await client.post("/playground/api/run", question(model, **body))

    return events_of(run(main()))


def asked(path: str, body: Any = None, **settings: Any) -> Reply:
    async def main() -> Reply:
        async with serving({"m": scripted_model(in_turn("4"), name="m")}, **settings) as client:
            return await (client.get(path) if body is None else client.post(path, body))

    return run(main())


def only(events: list[Event], kind: str) -> list[Event]:
    return [event for event in events if event["event"] == kind]


# Events


def test_a_run_is_told_as_a_tree_that_grows() -> None:
    events = ran("self_consistency(n=3)@m", temperature=0.5, max_tokens=50)
    started = only(events, "started")
    assert [(e["kind"], e["parent"], e["candidate"]) for e in started] == [
        ("technique", 0, False),
        *[("call", started[0]["id"], True)] * 3,
    ]
    assert [e["draw"] for e in started[1:]] == [[0], [1], [2]]
    assert only(events, "prompt") == [
        {"event": "prompt", "prompt": 0, "messages": [{"role": "user", "text": "How much is the ball?"}]}
    ]
    finished = {e["id"]: e for e in only(events, "finished")}
    assert finished.keys() == {e["id"] for e in started}
    assert [finished[e["id"]]["form"] for e in started[1:]] == ["5", "10", "5"]
    assert all(finished[e["id"]]["at"] >= e["at"] >= 0 for e in started)
    answer = events[-1]
    assert (answer["event"], answer["short"], answer["form"], answer["finish_reason"]) == ("answer", "5", "5", "stop")
    assert answer["html"] == '<p dir="auto">It is 5. The answer is 5.</p>\n'
    assert answer["usage"]["calls"] == 3
    (last,) = answer["critical_path"]
    assert last in {e["id"] for e in started[1:]}


def test_a_plain_answer_streams() -> None:
    events = ran("m", in_turn("One two three."))
    assert "".join(e["text"] for e in only(events, "delta")) == "One two three."
    assert events[-1]["text"] == "One two three."


def test_what_a_judge_is_asked_is_no_vote() -> None:
    def script(request: Request) -> str:
        judging = any("0 to 10" in message.text for message in request.messages)
        return "Score: 7" if judging else f"The answer is {len(request.sample) and request.sample[-1]}."

    events = ran("best_of_n(n=2)@m", script)
    started = only(events, "started")
    assert [e["candidate"] for e in started if e["kind"] == "call"] == [True, True, False, False]
    assert len(only(events, "prompt")) == 3  # the question, and what the judge is told of each


def test_sampling_reaches_the_model() -> None:
    seen: list[Request] = []

    def script(request: Request) -> str:
        seen.append(request)
        return "4"

    ran("m", script, temperature=0.25, top_p=0.5, max_tokens=7, stop=["x"], seed=3)
    params = seen[0].params
    assert (params.temperature, params.top_p, params.max_tokens, params.stop, params.seed) == (0.25, 0.5, 7, ("x",), 3)


def test_a_failed_run_says_what_to_do() -> None:
    def script(request: Request) -> str:
        raise ServerError("it broke", endpoint="lab", status=500, retryable=False)

    events = ran("self_consistency(n=2)@m", script)
    failed = events[-1]
    assert failed["event"] == "failed"
    assert (failed["type"], failed["message"]) == ("ServerError", "lab: it broke")
    assert failed["meaning"] == "The model's server has a problem of its own"
    assert failed["advice"]
    assert "lab: it broke" in [e.get("error") for e in only(events, "finished")]


def test_an_error_of_our_own_ends_the_run_in_words_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(model: Model, request: Request) -> Completion:
        raise RuntimeError("a secret of the program's")

    async def main() -> Reply:
        async with serving({"broken": apply(broken, scripted_model(in_turn("4")))}) as client:
            return await client.post("/playground/api/run", question("broken"))

    events = events_of(run(main()))
    assert events[-1]["event"] == "failed"
    assert "secret" not in json.dumps(events)
    assert "a secret of the program's" in caplog.text


def test_a_run_that_would_cost_too_much_is_not_begun() -> None:
    (failed,) = ran("self_consistency(n=9)@m", settings={"max_calls": 8})
    assert failed["meaning"] == "The run reached the limit of what one question may cost"
    assert "9 calls" in failed["message"]


def test_the_budget_ends_a_run() -> None:
    failed = ran("self_consistency(n=4)@m", settings={"max_tokens": 3}, max_tokens=50)[-1]
    assert (failed["event"], failed["type"]) == ("failed", "BudgetExceeded")


def test_a_client_that_goes_stops_every_call() -> None:
    async def main() -> None:
        waiting, stopped = asyncio.Event(), asyncio.Event()
        under_way = 0

        async def script(request: Request) -> str:
            nonlocal under_way
            under_way += 1
            if under_way == 4:
                waiting.set()
            try:
                await asyncio.Event().wait()
            finally:
                under_way -= 1
                if under_way == 0:
                    stopped.set()
            return ""

        async with serving({"m": scripted_model(script)}) as client:
            url = f"{client.url}/playground/api/run"
            response = await client.session.post(url, json=question("self_consistency(n=4)@m"))
            await waiting.wait()
            began = monotonic()
            response.close()
            await stopped.wait()
            assert monotonic() - began < 1.0

    run(main())


def test_a_stream_that_breaks_is_cut_off_and_does_not_hang() -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        async with EventStream(request) as stream:
            await stream.send(b"data: 1\n\n")
            raise RuntimeError("broken")

    async def main() -> None:
        app = create_app(settings=Settings(), models=Names({"m": scripted_model(in_turn("4"))}, {}))
        app.router.add_get("/broken", broken)
        async with running(app) as client, asyncio.timeout(10):
            host, _, port = client.url.removeprefix("http://").partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /broken HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            received = b""
            with suppress(ConnectionError):
                received = await reader.read(65536)
                while more := await reader.read(65536):
                    received += more
            writer.close()
        assert b"data: 1" in received
        assert received.count(b"HTTP/1.1") == 1  # no second reply within the first
        assert not received.endswith(b"0\r\n\r\n")  # it does not look whole

    run(main())


def test_many_events_come_in_few_batches() -> None:
    async def main() -> Reply:
        async with serving({"m": scripted_model(in_turn("4 " * 400))}) as client:
            return await client.post("/playground/api/run", question("m"))

    began = monotonic()
    batches = run(main()).events
    assert len(batches) <= 4 + 20 * (monotonic() - began)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (question("nobody"), 404, "does not exist"),
        (question("self_consistency(n=0.5)@m"), 400, "not a whole number"),
        (question("m", "  "), 400, "Write a question first"),
        (question("m", temperature=-1), 400, "temperature must be at least 0"),
        ({**question("m"), "tools": []}, 400, "tools"),
        (question("scripted/x.py:f"), 404, "does not exist"),
        (question("gguf//etc/passwd"), 404, "does not exist"),
    ],
)
def test_what_cannot_be_run_is_refused(body: dict[str, Any], status: int, message: str) -> None:
    reply = asked("/playground/api/run", body)
    assert reply.status == status
    assert message in reply.error["message"]


# Forms


def test_the_catalogue_has_a_form_for_every_technique() -> None:
    presets = {"careful": Preset("self_consistency@m", system="Be brief.", temperature=0.7)}
    found = asked(
        "/playground/api/catalogue", presets=presets, prices=dict.fromkeys(("m", "other"), Price(1.0, 2.0))
    ).json
    assert found["models"] == ["m"]
    assert found["presets"] == [
        {"name": "careful", "model": "self_consistency@m", "system": "Be brief.", "temperature": 0.7}
    ]
    assert found["prices"] == {"m": {"input": 1.0, "output": 2.0}}  # and of no model that is not there
    techniques = {technique["slug"]: technique for technique in found["techniques"]}
    assert techniques.keys() == TECHNIQUES.keys()
    vote = techniques["self_consistency"]
    assert (vote["calls"], vote["needs_sandbox"]) == (8, False)
    assert techniques["z3_solver"]["needs_sandbox"]
    options = {option["name"]: option for option in vote["options"]}
    assert "similarity" not in options  # a function, which no form can hold
    assert (options["n"]["type"], options["n"]["default"], options["n"]["main"]) == ("integer", 8, True)
    assert options["stop"]["choices"] == ["settled", "beta", "martingale"]
    assert options["kind"]["choices"] == ["auto", "number", "choice", "boolean", "text"]
    assert options["proposers"]["type"] == "models"
    assert "`stop` lets the vote end" in options["stop"]["about"]
    assert techniques["best_of_n"]["options"][1]["type"] == "model"


def test_every_choice_of_a_form_holds_its_default() -> None:
    for technique in asked("/playground/api/catalogue").json["techniques"]:
        for option in technique["options"]:
            assert option["type"] in ("switch", "integer", "number", "text", "choice", "model", "models")
            if option["choices"]:
                assert option["default"] in (None, *option["choices"]), (technique["slug"], option)


def test_an_estimate_says_what_it_costs_and_how_the_form_looks() -> None:
    found = asked("/playground/api/estimate", {"model": "self_consistency(n=3, stop=settled)@best_of_n(judge=re2@m)@m"})
    assert found.json == {
        "fewest": 4,
        "calls": 24,
        "critical_path": 4,
        "form": {
            "stages": [
                {"technique": "self_consistency", "options": {"n": 3, "stop": "settled"}},
                {"technique": "best_of_n", "options": {"judge": "re_reading@m"}},
            ],
            "base": "m",
        },
    }
    assert asked("/playground/api/estimate", {"model": "m"}).json["form"] == {"stages": [], "base": "m"}
    assert asked("/playground/api/estimate", {"model": "re2&two_turn@m"}).json["form"] is None
    assert asked("/playground/api/estimate", {"model": "nobody"}).status == 404


# Keys


def test_the_page_is_open_and_what_it_asks_needs_the_key() -> None:
    keys = {"ann": KeySettings(sha256(b"secret").hexdigest(), models=("m",), techniques=("re_reading",))}

    async def main() -> None:
        models = {"m": scripted_model(in_turn("4"), name="m"), "other": scripted_model(in_turn("5"), name="other")}
        async with serving(models, keys=keys) as client:
            for path in playground.pages():
                assert (await client.get(path)).status == 200
            await refused_without_key(client)
            mine = {"authorization": "Bearer secret"}
            found = (await client.get("/playground/api/catalogue", headers=mine)).json
            assert (found["models"], [technique["slug"] for technique in found["techniques"]]) == (
                ["m"],
                ["re_reading"],
            )
            reply = await client.post("/playground/api/run", question("other"), headers=mine)
            assert events_of(reply)[-1]["meaning"] == "Your key does not cover this"
            reply = await client.post("/playground/api/run", question("re2@m"), headers=mine)
            assert events_of(reply)[-1]["text"] == "4"

    async def refused_without_key(client: Client) -> None:
        for method, path, _ in playground.ROUTES:
            reply = await (client.get(path) if method == "GET" else client.post(path, question("m")))
            assert reply.status == 401, path

    run(main())


def test_the_page_may_load_nothing_from_elsewhere() -> None:
    reply = asked("/")
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=", reply.text)
    for path, (content, _) in playground.pages().items():
        assert not re.search(rb"(?:src|href|from|import|url)\W{1,3}https?://", content), path
        assert content.count(b"innerHTML") == (path.endswith("dom.js")), path


# What a model wrote


class Tags(HTMLParser):
    """The tags and attributes that a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](https://tracker.example/pixel.png)",
    "![x](javascript:alert(1))",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt&colon;alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:x)",
    "[x](//elsewhere.example)",
    "[x](/v1/models)",
    "<javascript:alert(1)>",
    '[x](https://a.example/" onmouseover="alert(1))',
    '[x](https://a.example "t\\" onclick=\\"alert(1)")',
    '```"><script>alert(1)</script>\nx\n```',
    "```html\n<script>alert(1)</script>\n```",
    r"$\text{</math><script>alert(1)</script>}$",
    r"$\href{javascript:alert(1)}{x}$",
    r"$\style{background:url(https://a.example)}{x}$",
    r"$\class{x\" onclick=\"alert(1)}{x}$",
    r"$\unicode{x3c}script\unicode{x3e}$",
    r"\(\text{<img src=x onerror=alert(1)>}\)",
    r"\[ \color{red\" onload=\"x}{y} \]",
    "$<script>alert(1)</script>$",
    "\\begin{align}<script>alert(1)</script>\\end{align}",
    "| a |\n|:-:|\n| <style>*{color:red}</style> |",
    "<svg/onload=alert(1)>",
    "</p></div><iframe srcdoc='<script>alert(1)</script>'>",
]
FORBIDDEN = {"script", "img", "iframe", "style", "svg", "object", "embed", "form", "input", "link", "meta", "base"}


@pytest.mark.parametrize("text", ATTACKS)
def test_nothing_a_model_writes_runs_or_loads(text: str) -> None:
    for tag, attributes in Tags(rendered(text)).seen:
        assert tag not in FORBIDDEN
        for name, value in attributes.items():
            assert not name.startswith("on"), attributes
            assert name not in ("style", "src", "srcdoc", "srcset", "data", "action", "formaction"), attributes
            if name == "href":
                assert tag == "a"
                assert re.match("https?://", value or "")
                assert attributes["rel"] == "noopener noreferrer nofollow"


def test_markdown_formulas_and_code_are_drawn() -> None:
    html = rendered(
        "**Costs $5 and $10.** So $x^2$ and \\(y_1\\):\n\\[ \\boxed{\\frac12} \\]\n\n"
        "$$\n\\begin{aligned}a&=b\\\\c&=d\\end{aligned}\n$$\n\n"
        "| a | b |\n|--|--:|\n| 1 | 2 |\n\n```python\ndef f(): return 1\n```"
    )
    assert "<strong>Costs $5 and $10.</strong>" in html
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in html
    assert "<msub><mi>y</mi><mn>1</mn></msub>" in html
    assert '<mrow class="boxed"><mrow><mfrac>' in html
    assert html.count("<mtr>") == 2
    assert '<td class="right">2</td>' in html
    assert '<span class="hl-k">def</span>' in html


@pytest.mark.parametrize(
    "text",
    [
        "\\(" * 20_000,
        "[" * 40_000,
        "$a " * 15_000,
        "*a " * 15_000,
        ">" * 40_000,
        "![" * 20_000,
        "$" + "{" * 3000 + "$",
        "$" + r"\frac{" * 600 + "$",
        r"$\newcommand{\a}{xx}\newcommand{\b}{\a\a}\newcommand{\c}{\b\b}\c$",
        "```python\n" + "'" * 7000 + "\n```",
        "x" * 1_000_000,
    ],
    ids=lambda text: text[:12],
)
def test_hostile_text_takes_no_long_time(text: str) -> None:
    began = monotonic()
    rendered(text)
    assert monotonic() - began < 5.0  # some of it takes hours where it is read without care


def test_the_server_renders_a_text() -> None:
    assert asked("/playground/api/render", {"text": "*x* <b>"}).json == {
        "html": '<p dir="auto"><em>x</em> &lt;b&gt;</p>\n'
    }


def test_keys_of_upstream_are_not_told() -> None:
    error = ConnectionFailed("cannot connect", endpoint="lab")
    assert failure(error) == {
        "type": "ConnectionFailed",
        "meaning": "The model's server cannot be reached",
        "message": "lab: cannot connect",
        "advice": "Check that it is running and that its address in shoal.toml is right; then run again.",
    }


def test_halves_of_characters_break_nothing() -> None:
    events = ran("m", lambda request: Completion("half \ud800 of one"))
    assert events[-1]["text"] == "half \ud800 of one"
