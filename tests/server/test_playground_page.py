"""The playground in a browser: what people see and do."""

import asyncio
import json
import shlex
import shutil
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import pytest
from msgspec import structs
from tests.scripting import AT_ONCE, in_turn, run
from tests.server.serving import Client, scripted_model, serving

from shoal.backends import BaseModel
from shoal.backends.config import tables_as
from shoal.backends.prices import Price
from shoal.backends.scripted import ScriptedBackend
from shoal.errors import RateLimited
from shoal.runtime.types import Completion, Delta, Request, Usage
from shoal.server.settings import KeySettings, Preset

playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")

VOTES = in_turn("It is five. The answer is 5.", "The answer is 10.", "So the answer is **5**.")
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
Page = Any
Script = Any


@asynccontextmanager
async def opened(client: Client, path: str = "/", **context: Any) -> AsyncIterator[Page]:
    """The page in a fresh browser; whatever its scripts trip over, or load from elsewhere, fails the test."""
    troubles: list[str] = []

    def seen(request: Any) -> None:
        if not request.url.startswith(client.url):
            troubles.append(f"loads {request.url}")

    def said(message: Any) -> None:
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            troubles.append(message.text)

    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM)
        tab = await browser.new_context(**{"viewport": DESKTOP, **context})
        await tab.grant_permissions(["clipboard-read", "clipboard-write"])
        tab.set_default_timeout(15_000)
        page = await tab.new_page()
        page.on("request", seen)
        page.on("console", said)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        await page.goto(client.url + path)
        yield page
        await browser.close()
    assert not troubles


def on_page(
    steps: Callable[[Page, Client], Awaitable[None]],
    script: Script = VOTES,
    *,
    settings: dict[str, Any] | None = None,
    **context: Any,
) -> None:
    async def main() -> None:
        models = {"m": scripted_model(script, name="m")}
        async with serving(models, **settings or {}) as client, opened(client, **context) as page:
            await steps(page, client)

    run(main())


async def shows(page: Page, selector: str, text: str) -> None:
    await playwright.expect(page.locator(selector).first).to_contain_text(text)


async def ask(page: Page, text: str = "How much is the ball?") -> None:
    await shows(page, "#columns", "all at once")  # estimated
    await page.fill("#question", text)
    await page.keyboard.press("Control+Enter")


async def done(page: Page) -> None:
    await page.wait_for_selector("#run:visible")


def column(page: Page, letter: str) -> Any:
    return page.get_by_role("article", name=f"Configuration {letter}")


# Running


def test_one_question_side_by_side() -> None:
    async def steps(page: Page, _: Client) -> None:
        await ask(page)
        await done(page)
        await shows(page, ".verdict", "Both agree: 5.")
        vote = column(page, "B")
        counts = await vote.locator(".vote-count").all_inner_texts()
        names = await vote.locator(".vote-name").evaluate_all("all => all.map(one => one.firstChild.textContent)")
        assert dict(zip(names, counts, strict=True)) == {"5": "5", "10": "3"}
        assert await vote.locator("li.call").count() == 8
        assert await vote.locator("li.call.critical").count() == 1
        assert await vote.locator(".figures dd").first.inner_text() == "8"
        await vote.locator("li.call summary").nth(2).click()
        read = vote.locator("li.call").nth(2)
        await playwright.expect(read.locator(".message").first).to_contain_text("How much is the ball?")
        await playwright.expect(read.locator(".reply strong")).to_have_text("5")  # rendered
        table = await page.locator(".comparison tbody tr").all_inner_texts()
        assert ["✓ as B" in table[0], "✓ as A" in table[1]] == [True, True]

    on_page(steps)


def test_figures_and_cost_add_up() -> None:
    def script(request: Request) -> Completion:
        return Completion("The answer is 4.", usage=Usage(prompt_tokens=1000, completion_tokens=500, calls=1))

    async def steps(page: Page, _: Client) -> None:
        await ask(page)
        await done(page)
        figures = column(page, "B").locator(".figures div")
        assert [(await figures.nth(i).inner_text()).split("\n")[-1] for i in (0, 1, 3)] == ["8", "12,000", "$0.016"]

    on_page(steps, script, settings={"prices": {"m": Price(input=1.0, output=2.0)}})


def test_what_runs_is_seen_while_it_runs_and_escape_stops_it() -> None:
    async def main() -> None:
        stopped = asyncio.Event()

        async def script(request: Request) -> str:
            if request.sample and request.sample[-1] < 3:
                return "The answer is 5."
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()
            return ""

        async with serving({"m": scripted_model(script, name="m")}) as client, opened(client) as page:
            await ask(page)
            vote = column(page, "B")
            await playwright.expect(vote.locator(".votes h4")).to_contain_text("3 of 8 in")
            await playwright.expect(vote.locator(".calls-box h4")).to_contain_text("3 of 8 so far")
            await playwright.expect(vote.locator("li.call.running")).to_have_count(5)
            await page.keyboard.press("Escape")
            await stopped.wait()
            await playwright.expect(vote.locator("li.call.cancelled")).to_have_count(5)
            await playwright.expect(vote.locator(".answer")).to_contain_text("Cancelled")
            await playwright.expect(vote.locator(".vote-count")).to_have_text("3")
            await done(page)

    run(main())


def test_one_column_can_be_cancelled_while_the_other_goes_on() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def script(request: Request) -> str:
            await go.wait()
            return "The answer is 5."

        async with serving({"m": scripted_model(script, name="m")}) as client, opened(client) as page:
            await ask(page)
            await column(page, "B").get_by_role("button", name="Cancel").click()
            await playwright.expect(column(page, "B").locator(".answer")).to_contain_text("Cancelled")
            await playwright.expect(column(page, "A").get_by_role("button", name="Cancel")).to_be_visible()
            go.set()
            await playwright.expect(column(page, "A").locator(".lead")).to_contain_text("5")

    run(main())


def test_an_error_is_told_in_plain_words_and_can_be_tried_again() -> None:
    failing = True

    def script(request: Request) -> str:
        if failing:
            raise RateLimited("too many", endpoint="lab", status=429, retryable=False)
        return "The answer is 5."

    async def steps(page: Page, _: Client) -> None:
        nonlocal failing
        await ask(page)
        box = column(page, "A").locator(".failure")
        await playwright.expect(box).to_contain_text("The model's server asks to slow down")
        await playwright.expect(box).to_contain_text("Wait a minute")
        await done(page)
        failing = False
        await box.get_by_role("button", name="Run again").click()
        await playwright.expect(column(page, "A").locator(".lead")).to_contain_text("5")
        await playwright.expect(column(page, "B").locator(".failure")).to_be_visible()

    on_page(steps, script)


def test_a_server_that_is_gone_is_named() -> None:
    async def steps(page: Page, _: Client) -> None:
        await shows(page, "#columns", "all at once")
        await page.route("**/playground/api/run", lambda route: route.abort())
        await ask(page)
        await playwright.expect(column(page, "A").locator(".failure")).to_contain_text("The server cannot be reached")

    on_page(steps)


def test_bars_of_all_depths_stand_on_one_axis() -> None:
    edges = "all => all.map(one => { const box = one.getBoundingClientRect(); return `${box.left} ${box.right}`; })"

    async def steps(page: Page, _: Client) -> None:
        await shows(page, "#columns", "all at once")
        await column(page, "B").get_by_text("As text", exact=True).click()
        await column(page, "B").locator(".spec").fill("self_consistency(n=2)@two_turn@m")
        await shows(page, ".card:nth-child(2) h3", "Self consistency on Two turn")
        await page.fill("#question", "How much?")
        await page.keyboard.press("Control+Enter")
        await done(page)
        tracks = column(page, "B").locator(".track")
        assert await tracks.count() == 1 + 2 + 4
        for width in (DESKTOP["width"], PHONE["width"]):
            await page.set_viewport_size({"width": width, "height": 900})
            assert len(set(await tracks.evaluate_all(edges))) == 1

    on_page(steps)


def test_a_thousand_calls_are_drawn_in_few_steps() -> None:
    watch = """() => {
        window.drawn = 0;
        new MutationObserver((changes) => {
            window.drawn += changes.filter(({ target }) => target.matches(".votes")).length;
        }).observe(document.body, { childList: true, subtree: true });
    }"""

    async def steps(page: Page, _: Client) -> None:
        await shows(page, "#columns", "all at once")
        await column(page, "B").get_by_label("n", exact=True).fill("1000")
        await shows(page, ".card:nth-child(2) .estimate", "1,000 calls")
        await page.evaluate(watch)
        await ask(page)
        await done(page)
        vote = column(page, "B")
        assert await vote.locator("li.call").count() == 1000
        assert await page.evaluate("window.drawn") < 200  # one for each of 2,000 events would hold up the page
        await vote.locator(".vote summary").first.click()
        await playwright.expect(vote.locator(".vote-draws").first).to_contain_text("and 567 more among the calls")

    on_page(steps, settings={"max_calls": 2000})


def test_runs_of_different_questions_are_not_compared() -> None:
    async def steps(page: Page, _: Client) -> None:
        await ask(page)
        await done(page)
        await page.fill("#question", "Another?")
        await column(page, "A").get_by_role("button", name="More").click()
        await page.get_by_role("menuitem", name="Run only this again").click()
        await playwright.expect(page.locator("#comparison")).to_be_hidden()

    on_page(steps)


def test_nothing_is_run_without_a_question() -> None:
    async def steps(page: Page, _: Client) -> None:
        await ask(page, "  ")
        await shows(page, "#toast", "Write a question first")
        assert await page.locator(".result").count() == 0

    on_page(steps)


def test_what_a_model_writes_does_nothing_to_the_page() -> None:
    attack = (
        "<img src=x onerror='window.owned=1'><script>window.owned=1</script> [x](javascript:window.owned=1) "
        "![p](https://tracker.example/p.png) $\\text{<img src=x onerror=window.owned=1>}$ "
        "The answer is <b id=owned>5</b>."
    )

    async def steps(page: Page, _: Client) -> None:
        await ask(page, attack)
        await done(page)
        for summary in await page.locator("li summary").all():
            await summary.click()
        await page.wait_for_selector(".reply .prose")
        assert await page.evaluate("[window.owned, document.querySelector('.card img, .card script')]") == [None, None]
        assert "<img" in await column(page, "A").locator(".answer").inner_text()

    on_page(steps, lambda request: attack)


# Writing


def test_form_and_text_are_kept_the_same() -> None:
    async def steps(page: Page, _: Client) -> None:
        vote = column(page, "B")
        await vote.get_by_label("n", exact=True).fill("3")
        spec = vote.locator(".spec")
        await vote.get_by_text("As text", exact=True).click()
        await playwright.expect(spec).to_have_value("self_consistency(n=3)@m")
        await playwright.expect(vote.locator(".estimate")).to_contain_text("3 calls, all at once")
        await spec.fill("best_of_n(n=2, judging=pairwise)@two_turn@m")
        await playwright.expect(vote.locator("select.technique")).to_have_count(2)
        await playwright.expect(vote.get_by_label("judging", exact=True)).to_have_value("pairwise")
        await playwright.expect(vote.locator("h3")).to_have_text("Best of n on Two turn")
        await vote.get_by_role("button", name="Remove Two turn").click()
        await playwright.expect(spec).to_have_value("best_of_n(n=2, judging=pairwise)@m")
        await spec.fill("re2&two_turn@m")
        await playwright.expect(vote.locator(".stages")).to_contain_text("more than the form can show")
        await spec.fill("self_consistancy@m")
        await playwright.expect(vote.locator(".estimate")).to_contain_text("did you mean self_consistency?")
        await playwright.expect(page.locator("#run")).to_be_disabled()

    on_page(steps)


def test_text_options_survive_any_characters() -> None:
    async def steps(page: Page, client: Client) -> None:
        said = 'It\'s "so", (a) [b], n=1 @ x & y | z \\ — ok'
        two = column(page, "B")
        await two.locator("select.technique").select_option("two_turn")
        await two.get_by_text("Options", exact=True).click()
        await two.get_by_label("ask", exact=True).fill(said)
        await two.get_by_text("As text", exact=True).click()
        spec = await two.locator(".spec").input_value()
        found = await client.post("/playground/api/estimate", {"model": spec})
        assert found.json["form"]["stages"] == [{"technique": "two_turn", "options": {"ask": said}}]

    on_page(steps)


def test_settings_reach_the_model_and_a_columns_own_go_first() -> None:
    seen: list[Request] = []

    def script(request: Request) -> str:
        seen.append(request)
        return "4"

    async def steps(page: Page, _: Client) -> None:
        await page.get_by_role("button", name="Settings").click()
        await page.get_by_label("System prompt").first.fill("Be brief.")
        await page.get_by_label("Temperature").first.fill("0.5")
        own = column(page, "A")
        await own.get_by_text("Prompt and sampling of its own").click()
        await own.get_by_label("Temperature").fill("1.5")
        await column(page, "B").get_by_label("n", exact=True).fill("1")
        await page.fill("#question", "Q?")
        await playwright.expect(page.locator("#cost")).to_have_text("2 calls in all")
        await page.get_by_role("button", name="Run").click()
        await done(page)

    on_page(steps, script)
    assert sorted(request.params.temperature or 0 for request in seen) == [0.5, 1.5]
    assert {message.text for request in seen for message in request.messages} == {"Be brief.", "Q?"}


def test_columns_come_and_go() -> None:
    async def steps(page: Page, _: Client) -> None:
        add = page.get_by_role("button", name="+ Add another")
        await add.click()
        await add.click()
        await playwright.expect(page.locator(".card")).to_have_count(4)
        await playwright.expect(add).to_be_hidden()
        await column(page, "B").get_by_role("button", name="More").click()
        await page.get_by_role("menuitem", name="Remove").click()
        await playwright.expect(page.locator(".card")).to_have_count(3)
        assert await page.locator(".card .setup .letter").all_inner_texts() == ["A", "B", "C"]

    on_page(steps)


# Keeping and sharing


def test_presets_of_the_server_become_ones_own() -> None:
    careful = Preset("self_consistency(n=3)@m", "Be brief.", 0.7, stop=("END",), seed=3, description="Three votes")

    async def steps(page: Page, _: Client) -> None:
        first = column(page, "A")
        await first.get_by_label("Preset").select_option("careful")
        await playwright.expect(first.locator("h3")).to_have_text("careful")
        await playwright.expect(first).to_contain_text("Three votes")
        await first.get_by_label("n", exact=True).fill("5")
        await playwright.expect(first.get_by_label("Preset")).to_have_value("")  # it is another now
        await first.get_by_role("button", name="More").click()
        await page.get_by_role("menuitem", name="Save as preset…").click()
        await page.get_by_role("textbox", name="Name").fill("my own")
        await page.get_by_role("button", name="Save").click()
        await page.reload()
        await playwright.expect(column(page, "A").get_by_label("Preset")).to_have_value("my own")
        second = column(page, "B")
        await second.get_by_label("Preset").select_option("my own")
        await second.get_by_role("button", name="More").click()
        await page.get_by_role("menuitem", name="Copy as").click()
        await page.get_by_role("tab", name="shoal.toml").click()
        table = tomllib.loads(await page.locator("pre.export").inner_text())["presets"]
        kept = tables_as(Preset, table, "shoal.toml [presets")
        assert kept == {"my own": structs.replace(careful, model="self_consistency(n=5)@m", description="")}

    on_page(steps, settings={"presets": {"careful": careful}})


def test_a_configuration_can_be_taken_elsewhere() -> None:
    async def steps(page: Page, client: Client) -> None:
        await ask(page, 'It\'s 1 "or" 2?\n$HOME')
        await done(page)
        await column(page, "B").get_by_role("button", name="More").click()
        await page.get_by_role("menuitem", name="Copy as").click()
        text = page.locator("pre.export")
        words = shlex.split((await text.text_content()).replace("\\\n", " "))
        assert words[:2] == ["curl", f"{client.url}/v1/chat/completions"]
        body = words[words.index("-d") + 1]
        assert json.loads(body)["messages"][0]["content"] == 'It\'s 1 "or" 2?\n$HOME'
        assert (await client.post("/v1/chat/completions", body.encode())).json["shoal"]["answer"] == "5"
        await page.keyboard.press("ArrowRight")
        python = await text.text_content()
        compile(python, "export", "exec")
        assert f'base_url="{client.url}/v1"' in python
        await page.get_by_role("tab", name="JSON").click()
        await page.get_by_role("button", name="Copy", exact=True).click()
        await shows(page, "#toast", "JSON copied")
        result = json.loads(await page.evaluate("navigator.clipboard.readText()"))
        assert result["status"] == "done"
        assert [node["short"] for node in result["tree"] if node["kind"] == "call"][:2] == ["5", "10"]
        assert result["prompts"]["0"][0]["text"] == 'It\'s 1 "or" 2?\n$HOME'

    on_page(steps)


def test_a_link_brings_the_configuration_back_and_runs_nothing() -> None:
    async def main() -> None:
        base = scripted_model(VOTES, name="m")
        async with serving({"m": base}) as client:
            async with opened(client) as page:
                await column(page, "B").get_by_label("n", exact=True).fill("6")
                await page.fill("#question", "Wieviel? → 5 €")
                await page.get_by_role("button", name="Copy link").click()
                await shows(page, "#toast", "Link copied")
                link = await page.evaluate("navigator.clipboard.readText()")
            async with opened(client, link.removeprefix(client.url)) as page:
                await playwright.expect(page.locator("#question")).to_have_value("Wieviel? → 5 €")
                await playwright.expect(column(page, "B").get_by_label("n", exact=True)).to_have_value("6")
            async with opened(client, "/#s=bm90IGpzb24") as page:  # no state at all: the page begins as always
                await playwright.expect(page.locator(".card")).to_have_count(2)
        assert base.backend.requests == []  # type: ignore[attr-defined]

    run(main())


def test_history_is_kept_used_again_and_cleared() -> None:
    async def steps(page: Page, _: Client) -> None:
        await ask(page, "The first?")
        await done(page)
        await page.fill("#question", "Something else")
        await page.reload()
        await shows(page, "#columns", "all at once")
        await page.get_by_role("button", name="History").click()
        await shows(page, ".past li", "The first?")
        await shows(page, ".past li", "8 calls")
        await page.get_by_role("button", name="Use again").click()
        await playwright.expect(page.locator("#question")).to_have_value("The first?")
        await page.get_by_role("button", name="History").click()
        await page.get_by_role("button", name="Clear history").click()
        await page.get_by_role("button", name="History").click()
        await shows(page, "dialog", "Nothing yet")

    on_page(steps)


# Keys, keyboard, sizes, colours


def test_a_key_is_asked_for_and_kept_in_the_tab_only() -> None:
    keys = {"ann": KeySettings(sha256(b"secret").hexdigest())}

    async def steps(page: Page, _: Client) -> None:
        field = page.get_by_role("textbox", name="Key")
        await field.fill("wrong")
        await page.keyboard.press("Enter")
        await shows(page, "dialog", "not accepted")
        await field.fill("secret")
        await page.keyboard.press("Enter")
        await ask(page)
        await done(page)
        await shows(page, ".verdict", "Both agree")
        stores = await page.evaluate("[JSON.stringify(localStorage), JSON.stringify(sessionStorage), location.href]")
        assert ["secret" in store for store in stores] == [False, True, False]
        await column(page, "A").get_by_role("button", name="More").click()
        await page.get_by_role("menuitem", name="Copy as").click()
        assert "$SHOAL_KEY" in await page.locator("pre.export").inner_text()
        assert "secret" not in await page.content()

    on_page(steps, settings={"keys": keys})


def test_it_can_be_used_by_keyboard_alone() -> None:
    async def steps(page: Page, _: Client) -> None:
        await shows(page, "#columns", "all at once")
        focused = "document.activeElement.getAttribute('aria-label') || document.activeElement.textContent.trim()"
        await page.keyboard.type("How much?")
        stops = []
        for _step in range(4):
            await page.keyboard.press("Tab")
            stops.append(await page.evaluate(focused))
        assert [stop.split()[0] for stop in stops] == ["Settings", "Copy", "Run", "+"]
        await page.locator(".menu-root button").first.focus()
        await page.keyboard.press("Enter")
        await page.keyboard.press("ArrowDown")
        assert await page.evaluate(focused) == "Save as preset…"
        await page.keyboard.press("Escape")
        assert await page.evaluate(focused) == "More"
        assert await page.locator(".menu:visible").count() == 0
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert await page.evaluate(outline) == "solid"

    on_page(steps)


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_nothing_is_cut_off_and_every_field_has_a_name(viewport: dict[str, int]) -> None:
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    nameless = """[...document.querySelectorAll('input, select, textarea, button')].filter(one => one.offsetParent &&
        !one.labels?.length && !one.getAttribute('aria-label') && !one.textContent.trim()).map(one => one.outerHTML)"""

    async def steps(page: Page, _: Client) -> None:
        await shows(page, "#columns", "all at once")
        await page.get_by_role("button", name="Settings").click()
        await column(page, "B").locator("select.technique").select_option("monte_carlo_tree_search")
        for summary in await page.locator(".config summary").all():
            await summary.click()
        assert await page.evaluate(wide) == 0
        assert await page.evaluate(nameless) == []
        await column(page, "B").locator("select.technique").select_option("self_consistency")
        await page.fill("#question", "a" * 300)
        await playwright.expect(page.locator("#cost")).to_have_text("9 calls in all")
        await page.keyboard.press("Control+Enter")
        await done(page)
        for summary in await page.locator("li summary").all():
            await summary.click()
        await page.wait_for_selector(".reply .prose")
        assert await page.evaluate(wide) == 0
        assert await page.evaluate(nameless) == []

    long = "w" * 200
    table, formula = f"| {long} | b |\n|--|--|\n| 1 | {long} |", "x + " * 80
    text = f"# {long}\n\n{table}\n\n```python\n{long * 3}\n```\n$$ {formula} y $$\nThe answer is {long}."
    on_page(steps, lambda request: text, viewport=viewport)


def test_light_and_dark() -> None:
    back = "getComputedStyle(document.documentElement).backgroundColor"

    async def steps(page: Page, _: Client) -> None:
        assert await page.evaluate(back) == "rgb(21, 24, 27)"
        await page.get_by_role("button", name="Light colours").click()
        assert await page.evaluate(back) == "rgb(247, 247, 245)"
        await page.reload()
        assert await page.evaluate(back) == "rgb(247, 247, 245)"

    on_page(steps, color_scheme="dark")


def test_techniques_that_run_code_are_explained_where_there_is_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_SANDBOX", "off")

    async def steps(page: Page, _: Client) -> None:
        await shows(page, "#columns", "all at once")
        option = column(page, "B").locator("option", has_text="Program of thoughts")
        assert await option.inner_text() == "Program of thoughts (cannot run here)"
        assert await option.is_disabled()
        await column(page, "B").get_by_text("As text", exact=True).click()
        await column(page, "B").locator(".spec").fill("program_of_thoughts@m")
        await shows(page, ".card:nth-child(2) .stage", "this server has no sandbox for it")

    on_page(steps)


def test_more_calls_than_the_server_allows_are_named_before_the_run() -> None:
    async def steps(page: Page, _: Client) -> None:
        await shows(page, "#columns", "all at once")
        await column(page, "B").get_by_label("n", exact=True).fill("9")
        await shows(page, ".card:nth-child(2) .estimate", "This server allows 8 calls for one question")

    on_page(steps, settings={"max_calls": 8})


def test_words_stay_whole_and_text_goes_its_own_way() -> None:
    text = "| Language | Year | Typing | Notes |\n|-|-|-|-|\n| Python | 1991 | dynamic | " + "words " * 40 + "|\n\n"

    async def steps(page: Page, _: Client) -> None:
        await ask(page)
        await done(page)
        lines = "one => (one.clientHeight - 10) / parseFloat(getComputedStyle(one).lineHeight)"
        assert await page.locator(".prose th").first.evaluate(lines) < 2  # "Language"
        assert await page.locator(".prose p").first.evaluate("one => getComputedStyle(one).direction") == "rtl"
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    on_page(steps, lambda request: text + "مرحبا بالعالم", viewport={"width": 360, "height": 740})


def test_a_long_answer_does_not_push_the_rest_away() -> None:
    async def steps(page: Page, _: Client) -> None:
        await ask(page)
        await done(page)
        text = column(page, "A").locator(".answer .prose")
        assert (await text.bounding_box())["height"] < 600
        await column(page, "A").get_by_role("button", name="Show all of it").click()
        assert (await text.bounding_box())["height"] > 2000

    on_page(steps, lambda request: "Some words.\n\n" * 200)


def test_a_cancelled_answer_keeps_what_had_come_in() -> None:
    async def main() -> None:
        class Slow(ScriptedBackend):
            async def stream(self, request: Request) -> AsyncIterator[Delta | Completion]:
                yield Delta("Half of an answer")
                await asyncio.Event().wait()

        model = BaseModel(Slow(VOTES, name="m"), retry=AT_ONCE)
        async with serving({"m": model}) as client, opened(client) as page:
            await ask(page)
            await shows(page, ".card:nth-child(1) .answer", "Half of an answer")
            await page.keyboard.press("Escape")
            await shows(page, ".card:nth-child(1) .answer", "Cancelled.")
            await shows(page, ".card:nth-child(1) .answer", "Half of an answer")

    run(main())


def test_a_model_that_is_no_longer_served_can_be_replaced_in_the_form() -> None:
    async def steps(page: Page, _: Client) -> None:
        await shows(page, "#columns", "all at once")
        await column(page, "B").get_by_text("As text", exact=True).click()
        await column(page, "B").locator(".spec").fill("gone")
        await shows(page, ".card:nth-child(2) .estimate", "does not exist")
        await column(page, "B").get_by_role("button", name="start over").click()
        await shows(page, ".card:nth-child(2) h3", "Plain model")
        await shows(page, ".card:nth-child(2) .estimate", "1 call")

    on_page(steps)


def test_what_cannot_be_kept_is_not_said_to_be() -> None:
    async def steps(page: Page, _: Client) -> None:
        await shows(page, "#columns", "all at once")
        await page.evaluate("() => { Storage.prototype.setItem = () => { throw new Error('full') } }")
        await column(page, "A").get_by_role("button", name="More").click()
        await page.get_by_role("menuitem", name="Save as preset").click()
        await page.get_by_role("textbox", name="Name").fill("mine")
        await page.keyboard.press("Enter")
        await shows(page, "#toast", "Not saved")
        await shows(page, ".card h3", "Plain model")

    on_page(steps)


def test_the_keys_do_nothing_before_the_page_is_there() -> None:
    async def steps(page: Page, _: Client) -> None:
        asked = asyncio.Event()
        go = asyncio.Event()

        async def late(route: Any) -> None:
            asked.set()
            await go.wait()
            await route.continue_()

        await page.route("**/playground/api/catalogue", late)
        await page.reload(wait_until="commit")
        await asked.wait()
        await page.wait_for_selector("#question")
        await page.keyboard.press("Control+Enter")
        go.set()
        await shows(page, "#columns", "all at once")

    on_page(steps)


def test_nothing_jumps_when_the_first_column_is_done() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def script(request: Request) -> str:
            if len(request.sample) > 1 or (request.sample and request.sample[-1] > 0):
                await go.wait()
            return "The answer is 5."

        async with serving({"m": scripted_model(script, name="m")}) as client, opened(client) as page:
            await ask(page)
            await page.wait_for_selector(".comparison table")
            top = (await page.locator("#columns").bounding_box())["y"]
            await shows(page, ".card:nth-child(1) .lead", "5")
            assert (await page.locator("#columns").bounding_box())["y"] == top
            go.set()
            await done(page)
            assert (await page.locator("#columns").bounding_box())["y"] == top

    run(main())


def test_a_key_for_a_preset_alone_can_use_it() -> None:
    keys = {"ann": KeySettings(sha256(b"secret").hexdigest(), models=("careful",))}
    presets = {"careful": Preset("re_reading@m", system="Think.", temperature=0.5)}

    async def steps(page: Page, client: Client) -> None:
        await page.get_by_role("textbox", name="Key").fill("secret")
        await page.keyboard.press("Enter")
        await shows(page, ".card h3", "careful")
        await shows(page, ".card .estimate", "1 call")
        await shows(page, ".card .stages", "Your key covers this preset as it is")
        await page.fill("#question", "How much?")
        await page.keyboard.press("Control+Enter")
        await done(page)
        await shows(page, ".card .lead", "5")
        await page.get_by_role("button", name="More").click()
        await page.get_by_role("menuitem", name="Copy as curl").click()
        asked = json.loads((await page.locator(".export").inner_text()).split("-d '")[1].rstrip("'\n"))
        assert asked["model"] == "careful"
        await page.get_by_role("tab", name="shoal.toml").click()
        table = tomllib.loads(await page.locator(".export").inner_text())["presets"]["careful"]
        assert table == {"model": "re_reading@m", "system": "Think.", "temperature": 0.5}

    on_page(steps, settings={"keys": keys, "presets": presets})


def test_a_server_without_a_model_for_this_caller_says_so() -> None:
    keys = {"ann": KeySettings(sha256(b"secret").hexdigest(), models=("self_consistency@m",))}

    async def steps(page: Page, _: Client) -> None:
        await page.get_by_role("textbox", name="Key").fill("secret")
        await page.keyboard.press("Enter")
        await shows(page, "#notice", "No model is served to you here")

    on_page(steps, settings={"keys": keys})


def test_columns_with_one_title_are_told_apart() -> None:
    async def main() -> None:
        models = {name: scripted_model(VOTES, name=name) for name in ("m", "other" * 12)}
        async with serving(models) as client, opened(client) as page:
            await shows(page, "#columns", "all at once")
            await column(page, "B").get_by_role("button", name="Remove Self consistency").click()
            await column(page, "B").get_by_role("combobox", name="Model", exact=True).select_option("other" * 12)
            await shows(page, ".card:nth-child(2) .estimate", "1 call")
            await page.fill("#question", "How much?")
            await page.keyboard.press("Control+Enter")
            await done(page)
            assert await page.locator(".row-spec").all_inner_texts() == ["m", "other" * 12]
            for width in (360, 820, 1280):
                await page.set_viewport_size({"width": width, "height": 900})
                assert await page.evaluate("document.documentElement.scrollWidth") == width
                assert (await page.locator(".row-name").first.bounding_box())["height"] < 60

    run(main())
