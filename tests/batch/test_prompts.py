"""Prompt batches: what is asked in which order, whose answer each record holds, and what stops before it costs."""

import asyncio
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.batch.echo_server import echo_server
from tests.scripting import AT_ONCE, scripted

import shoal
from shoal.backends import BaseModel
from shoal.backends.scripted import ScriptedBackend
from shoal.errors import AuthenticationFailed, BadRequest, CorruptStore, UsageError
from shoal.runtime.limits import Limits
from shoal.runtime.types import Completion, Request, TokenLogprob, Usage
from shoal.techniques.self_consistency import self_consistency


def echo(request: Request) -> str:
    return f"{request.text}#{request.sample[-1]}"


# What is asked, in which order


def test_templates_arguments_and_choices_are_crossed_in_this_order() -> None:
    model, backend = scripted(echo, max_n=8)
    batch = shoal.complete(["A {x}", "B {x}"], [{"x": 1}, {"x": 2}], {"n": 2, "temperature": 1}, model=model)
    assert batch.texts == ["A 1#0", "A 1#1", "A 2#0", "A 2#1", "B 1#0", "B 1#1", "B 2#0", "B 2#1"]
    assert [record["choice"]["index"] for record in batch] == [0, 1] * 4
    assert sorted(backend.batches) == [2] * 4  # the choices of one prompt are one request
    assert all(request.prompt and not request.messages for request in backend.requests)
    assert batch.records[2] == {
        "prompt": "A 2",
        "prompt_raw": "A {x}",
        "prompt_args": {"x": 2},
        "model_args": {"model": "scripted", "n": 2, "temperature": 1.0},
        "model_args_raw": {"n": 2, "temperature": 1},
        "choice": {"text": "A 2#0", "index": 0, "finish_reason": "stop", "logprobs": None},
        "completion": {
            "id": None,
            "model": "scripted",
            "endpoint": "scripted",
            "usage": {
                "prompt_tokens": 2,
                "completion_tokens": 2,
                "total_tokens": 4,
                "calls": 1,
                "cached_calls": 0,
                "cached_tokens": 0,
                "estimated": False,
            },
        },
        "error": None,
    }
    assert batch.usage == Usage(16, 16, 8)


def test_conversations_are_crossed_alike() -> None:
    model, backend = scripted(echo)
    one = [{"role": "system", "content": "Be {how}."}, {"role": "user", "content": "A {x}"}]
    two = [{"role": "system", "content": "{how}"}, {"role": "user", "content": [{"type": "text", "text": "B {x}"}]}]
    batch = shoal.chat([one, two], [{"how": "brief", "x": 1}, [{"how": "kind"}, {"x": 2}]], {"n": 2}, model=model)
    assert batch.texts == ["A 1#0", "A 1#1", "A 2#0", "A 2#1", "B 1#0", "B 1#1", "B 2#0", "B 2#1"]
    first, last = batch[0], batch[7]
    assert first["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A 1"}]
    assert first["messages_raw"] == one
    assert last["messages"][1]["content"] == [{"type": "text", "text": "B 2"}]
    assert last["messages_args"] == [{"how": "kind"}, {"x": 2}]
    assert {len(request.messages) for request in backend.requests} == {2}


def test_one_conversation_and_one_text() -> None:
    model, _ = scripted(echo)
    assert shoal.chat([{"role": "user", "content": "{x}?"}], {"x": "Why"}, model=model).texts == ["Why?#0"]
    assert shoal.chat("{x}?", {"x": "Why"}, model=model).texts == ["Why?#0"]
    assert shoal.chat(["a", "b"], model=model).texts == ["a#0", "b#0"]
    assert shoal.complete("{x}?", {"x": "Why"}, model=model).texts == ["Why?#0"]


def test_nothing_asked_is_nothing_answered() -> None:
    for batch in (shoal.complete([]), shoal.chat([]), shoal.complete(["{x}"], [])):
        assert (batch.records, batch.usage, batch.failed, len(batch)) == ([], Usage(), [], 0)


def test_braces_that_are_no_gap_are_text() -> None:
    model, _ = scripted(echo)
    text = 'Reply as {"a": {"b": 1}} {} { x } about {x}; {{x}}'
    (record,) = shoal.complete(text, {"x": "a {y}"}, model=model)
    assert record["prompt"] == 'Reply as {"a": {"b": 1}} {} { x } about a {y}; {x}'
    assert shoal.complete(text, model=model)[0]["prompt"] == text  # no arguments: no template


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, r"prompt_args\[0\] has no 'name', which 'Hi {name}' names; none is known"),
        ([{"name": 1}, {"nam": 1}], r"prompt_args\[1\] has no 'name', .* did you mean nam\?"),
        ({"name": 1, "nmae": 2}, r"prompt_args\[0\]: no template uses 'nmae'; did you mean name\?"),
        ([1], r"prompt_args\[0\]: expected a dict, found int"),
        (1, r"prompt_args: expected a list, a table or a file of rows, found int"),
    ],
)
def test_arguments_that_do_not_fit_are_named_before_anything_is_asked(args: Any, message: str) -> None:
    model, backend = scripted(echo)
    with pytest.raises(UsageError, match=message):
        shoal.complete("Hi {name}", args, model=model)
    assert not backend.requests


def test_an_argument_is_unused_only_where_no_template_names_it() -> None:
    model, _ = scripted(echo)
    assert shoal.complete(["{a}", "{a}{b}"], {"a": 1, "b": 2}, model=model).texts == ["1#0", "12#0"]


def test_one_dict_a_message_must_be_one_for_each() -> None:
    model, backend = scripted(echo)
    turns = [{"role": "system", "content": "s {a}"}, {"role": "user", "content": "u"}]
    with pytest.raises(UsageError, match=r"1 messages_args for the 2 messages of messages: give one each"):
        shoal.chat(turns, [[{"a": 1}]], model=model)
    with pytest.raises(UsageError, match=r"messages_args\[0\]: no template uses 'b'"):
        shoal.chat(turns, [[{"a": 1}, {"b": 1}]], model=model)
    with pytest.raises(UsageError, match=r"messages_args\[0\] has no 'a'"):
        shoal.chat(turns, [[{}, {"a": 1}]], model=model)
    with pytest.raises(
        UsageError, match=r"messages_args\[0\] has no 'a'.*; a set is a dict, or a list of one dict a message"
    ):
        shoal.chat(turns, [{}, {"a": 1}], model=model)
    with pytest.raises(UsageError, match=r"messages\[1\]: messages\[0\]: role 'usr' is none of"):
        shoal.chat([turns, [{"role": "usr", "content": ""}]], model=model)
    with pytest.raises(UsageError, match=r"prompts\[0\]: expected text, found int"):
        shoal.complete([1], model=model)
    assert not backend.requests


# model_args


def test_model_args_are_crossed_or_zipped() -> None:
    model, backend = scripted(lambda r: f"{r.text} at {r.params.temperature}")
    hot_and_cold = [{"temperature": 0}, {"temperature": 1}]
    crossed = shoal.complete(["a", "b"], model_args=hot_and_cold, model=model)
    assert crossed.texts == ["a at 0.0", "a at 1.0", "b at 0.0", "b at 1.0"]
    zipped = shoal.complete(["a", "b"], model_args=hot_and_cold, model=model, zip_model_args=True)
    assert zipped.texts == ["a at 0.0", "b at 1.0"]
    asked = len(backend.requests)
    with pytest.raises(UsageError, match="zip_model_args: 2 model_args for 3 prompts; give one each"):
        shoal.complete(["a", "b", "c"], model_args=hot_and_cold, model=model, zip_model_args=True)
    assert len(backend.requests) == asked


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"max_token": 5}, r"model_args: unknown 'max_token'; did you mean max_tokens\?"),
        ([{}, {"temperature": "hot"}], r"model_args\[1\]: Expected `float \| null`, got `str`"),
        ({"temperature": -1}, r"model_args: temperature must be at least 0"),
        ({"n": 0}, r"model_args: n must be a whole number of at least 1, not 0"),
        ({"model": 3}, r"model_args: model must be a spec, not 3"),
    ],
)
def test_model_args_that_cannot_be_are_refused(args: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        shoal.complete("a", model_args=args)


def test_everything_that_model_args_can_say() -> None:
    model, backend = scripted(lambda _: "1")
    given = {
        "n": None,
        "max_tokens": 5,
        "stop": "\n",
        "logprobs": 2,
        "json_schema": {"type": "integer"},
        "extra": {"user": "u"},
        "tools": [{"type": "function"}],
    }
    (record,) = shoal.chat("a", model_args=given, model=model)
    (request,) = backend.requests
    assert (request.params.stop, request.params.logprobs, request.params.top_logprobs) == (("\n",), True, 2)
    assert record["model_args_raw"] == given
    assert record["model_args"] == {
        "model": "scripted",
        "n": 1,
        "max_tokens": 5,
        "stop": ["\n"],
        "logprobs": True,
        "top_logprobs": 2,
        "json_schema": {"type": "integer"},
        "extra": {"user": "u"},
        "tools": [{"type": "function"}],
    }


def test_model_args_may_name_the_model() -> None:
    Path("s.py").write_text("def f(request):\n    return 'f'\n\ndef g(request):\n    return 'g'\n")
    each = [{"model": "scripted/s.py:f"}, {"model": "scripted/s.py:g"}]
    batch = shoal.complete("a", model_args=each)
    assert batch.texts == ["f", "g"]
    assert [record["completion"]["endpoint"] for record in batch] == ["scripted/s.py:f", "scripted/s.py:g"]
    with pytest.raises(UsageError, match="give model, or 'model' in model_args, not both"):
        shoal.complete("a", model_args=each, model="scripted/s.py:f")


# Draws


def test_eight_choices_after_five_cost_three() -> None:
    Path("s.py").write_text("def f(request):\n    return f'{request.text}#{request.sample}'\n")
    five = shoal.complete("a", model_args={"n": 5}, model="scripted/s.py:f")
    eight = shoal.complete("a", model_args={"n": 8}, model="scripted/s.py:f")
    assert (five.usage.calls, eight.usage.calls, eight.usage.cached_calls) == (5, 3, 5)
    assert eight.texts[:5] == five.texts
    assert len(set(eight.texts)) == 8


def test_equal_choices_are_all_kept() -> None:
    model, _ = scripted(lambda _: "same")
    assert shoal.complete(["a", "b"], model_args={"n": 3}, model=model).texts == ["same"] * 6


def test_no_prompt_waits_for_a_group_to_finish() -> None:
    async def program() -> shoal.Batch:
        late = asyncio.Event()

        async def model(request: Request) -> Completion:
            if request.text == "0":
                await late.wait()
            elif request.text == "299":
                late.set()
            return Completion(request.text)

        return await shoal.acomplete([str(i) for i in range(300)], model=model)

    assert asyncio.run(program()).texts == [str(i) for i in range(300)]


# Failures


def test_one_bad_prompt_fails_alone() -> None:
    def script(request: Request) -> str:
        if "b" in request.text:
            raise BadRequest("no such luck", endpoint="lab", status=400)
        return request.text

    model, _ = scripted(script)
    batch = shoal.complete(["a", "b", "c"], model_args={"n": 2}, model=model)
    assert batch.texts == ["a", "a", None, "c", "c"]
    (failed,) = batch.failed
    assert (failed["prompt"], failed["choice"]) == ("b", None)
    assert failed["error"] == {"type": "BadRequest", "message": "lab: no such luck"}
    assert failed["completion"]["id"] is None
    assert batch.usage.calls == 4


def test_choices_that_were_paid_for_outlive_one_that_failed() -> None:
    def script(request: Request) -> str:
        if request.sample == (1,):
            raise AuthenticationFailed("no")
        return "yes"

    model, _ = scripted(script)
    batch = shoal.complete("a", model_args={"n": 3}, model=model)
    assert [record["choice"] and record["choice"]["index"] for record in batch] == [0, 2, None]
    assert batch.usage.calls == 2


def test_the_totals_hold_what_a_failed_technique_spent() -> None:
    def script(request: Request) -> str:
        if request.sample == (0, 1):
            raise AuthenticationFailed("no")
        return "The answer is 4."

    async def both(inner: shoal.Model, request: Request) -> Completion:
        await inner(request.draw(0))
        return await inner(request.draw(1))

    model, _ = scripted(script)
    batch = shoal.chat("a b", model=shoal.apply(both, model))
    assert (len(batch.failed), batch.usage) == (1, Usage(2, 4, 1))
    assert batch[0]["completion"]["usage"]["calls"] == 1


def test_a_spent_budget_fails_what_is_left() -> None:
    model, backend = scripted(echo)
    batch = shoal.complete(["a", "b", "c"], model=model, budget=shoal.Budget(calls=2))
    assert [record["error"] and record["error"]["type"] for record in batch] == [None, None, "BudgetExceeded"]
    assert len(backend.requests) == 2


def test_a_damaged_cache_stops_the_batch() -> None:
    async def model(request: Request) -> Completion:
        raise CorruptStore("damaged")

    with pytest.raises(CorruptStore, match="damaged"):
        shoal.complete(["a", "b"], model=model)


def test_what_a_model_cannot_do_is_said_at_once() -> None:
    model, backend = scripted(echo)
    with pytest.raises(UsageError, match="scripted cannot do 25 top_logprobs"):
        shoal.complete(["a"], model_args=[{}, {"logprobs": 25}], model=model)
    assert not backend.requests


# Records


def test_records_are_plain_data_without_shoal(tmp_path: Path) -> None:
    said = Completion("hm", logprobs=(TokenLogprob("h", -0.5, (("x", -1.0),)),), reasoning="r", id="cmpl-1", model="m")
    model, _ = scripted(lambda _: said)
    batch = shoal.complete("{x}", [{"x": 1}], model=model)
    assert batch[0]["choice"]["logprobs"] == [
        {"token": "h", "logprob": -0.5, "top_logprobs": [{"token": "x", "logprob": -1.0}]}
    ]
    assert batch[0]["choice"]["reasoning"] == "r"
    assert batch[0]["completion"]["id"] == "cmpl-1"
    (tmp_path / "r.pickle").write_bytes(pickle.dumps(batch.records))
    (tmp_path / "r.json").write_text(json.dumps(batch.records))
    code = (
        "import sys; sys.modules['shoal'] = None\n"
        "import json, pickle, pandas\n"
        "records = pickle.load(open('r.pickle', 'rb'))\n"
        "assert records == json.load(open('r.json')) and len(pandas.DataFrame(records)) == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_a_technique_gives_its_answer() -> None:
    model, _ = scripted(lambda _: "The answer is 4.")
    (record,) = shoal.chat("2 + 2?", model=shoal.apply(self_consistency, model, n=3))
    assert (record["choice"]["answer"], record["model_args"]["model"]) == ("4", "self_consistency(n=3)@scripted")
    assert record["completion"]["usage"]["calls"] == 3


def test_inside_a_running_loop_and_asynchronous() -> None:
    model, _ = scripted(echo)

    async def notebook() -> list[str | None]:
        waited = await shoal.acomplete("a", model=model)
        return shoal.complete("b", model=model).texts + waited.texts + (await shoal.achat("c", model=model)).texts

    assert asyncio.run(notebook()) == ["b#0", "a#0", "c#0"]


def test_progress() -> None:
    model, _ = scripted(echo)
    seen: list[tuple[int, int]] = []
    shoal.complete(["a", "b"], model=model, on_progress=lambda p: seen.append((p.finished, p.total)))
    assert seen == [(1, 2), (2, 2)]


# Several models


def named(name: str, tpm: float | None = None) -> BaseModel:
    return BaseModel(ScriptedBackend(echo, name=name), limits=Limits(tpm=tpm), retry=AT_ONCE)


def shares(batch: shoal.Batch) -> list[str]:
    return [record["completion"]["model"] for record in batch]


def test_prompts_are_spread_by_weight_and_always_alike() -> None:
    prompts = [str(i) for i in range(80)]
    first = shares(shoal.complete(prompts, model={named("a"): 3, named("b"): 1}))
    assert (first.count("a"), first.count("b")) == (60, 20)
    assert first[:8].count("b") == 2  # not in blocks
    assert shares(shoal.complete(prompts[:40], model={named("a"): 3, named("b"): 1})) == first[:40]


def test_prompts_are_spread_by_the_endpoints_tokens_a_minute() -> None:
    fast, slow = named("fast", 9e9), named("slow", 3e9)
    found = shares(shoal.complete([str(i) for i in range(40)], model=[fast, slow]))
    assert (found.count("fast"), found.count("slow")) == (30, 10)
    assert shares(shoal.complete(["a", "b", "c"], model=[named("a"), named("b")])) == ["a", "b", "a"]
    with pytest.raises(UsageError, match=r"model b has no tpm in shoal.toml to spread by; give weights"):
        shoal.complete(["a"], model=[named("a", 100), named("b")])
    with pytest.raises(UsageError, match="its weight must be a number above 0, not 0"):
        shoal.complete(["a"], model={named("a"): 0})
    with pytest.raises(UsageError, match="at least one is needed"):
        shoal.complete(["a"], model=[])
    with pytest.raises(UsageError, match="model: expected a spec or a Model, found int"):
        shoal.complete(["a"], model=3)  # type: ignore[arg-type]


def test_every_model_gets_its_model_args() -> None:
    Path("s.py").write_text(
        "def f(request):\n    return f'f{request.params.top_k}'\n\ng = lambda r: f'g{r.params.top_k}'\n"
    )
    both = {"scripted/s.py:f": 1, "scripted/s.py:g": 1}
    assert shoal.complete(["a", "b"], model_args=[{"top_k": 1}, {"top_k": 2}, {"top_k": 3}], model=both).texts == [
        *("f1", "g2", "f3"),
        *("g1", "f2", "g3"),
    ]


def test_servers_share_by_the_tokens_a_minute_of_the_configuration() -> None:
    with echo_server() as fast, echo_server() as slow:
        Path("shoal.toml").write_text(
            f'[endpoints.fast]\nbase_url = "{fast.base_url}"\ntpm = 20_000_000\n'
            f'[endpoints.slow]\nbase_url = "{slow.base_url}"\ntpm = 10_000_000\n'
        )
        prompts = [str(i) for i in range(30)]
        batch = shoal.complete(prompts, model=["fast/m", "slow/m"])
        assert (len(fast.bodies), len(slow.bodies)) == (20, 10)
        again = shoal.complete(prompts, model=["fast/m", "slow/m"])
    assert batch.texts == again.texts == [f"{prompt}#0" for prompt in prompts]
    assert (again.usage.calls, again.usage.cached_calls) == (0, 30)
    assert {record["completion"]["endpoint"] for record in batch} == {"fast/m", "slow/m"}


# On a real server


def test_no_prompt_gets_another_s_completion() -> None:
    prompts = [f"prompt {i} " + "x" * (i % 7) for i in range(2500)]
    with echo_server() as server:
        Path("shoal.toml").write_text(f'[endpoints.lab]\nbase_url = "{server.base_url}"\nmax_in_flight = 16\n')
        batch = shoal.complete(prompts, model="lab/m", queries_per_batch=3)
    assert [record["choice"]["text"] for record in batch] == [f"{prompt}#0" for prompt in prompts]
    assert [record["prompt"] for record in batch] == prompts
    assert sorted(prompt for body in server.bodies for prompt in _prompts(body)) == sorted(prompts)
    assert len(server.bodies) <= 850  # 834 would be three to each
    assert batch.usage.calls == 2500
    assert batch.usage.estimated  # every third reply came without its usage, and none was lost for it
    used = [record["completion"]["usage"] for record in batch]
    assert sum(each["total_tokens"] for each in used) == batch.usage.total_tokens
    assert {record["completion"]["endpoint"] for record in batch} == {"lab/m"}
    assert {record["completion"]["model"] for record in batch} == {"served"}
    assert len({record["completion"]["id"] for record in batch}) == len(server.bodies)


def _prompts(body: dict[str, Any]) -> list[str]:
    return [body["prompt"]] if isinstance(body["prompt"], str) else body["prompt"]


def test_equal_prompts_and_bad_ones_keep_every_record_in_its_place() -> None:
    prompts = [f"bad {i}" if i % 37 == 0 else f"prompt {i % 50}" for i in range(300)]
    with echo_server() as server:
        Path("shoal.toml").write_text(f'[endpoints.lab]\nbase_url = "{server.base_url}"\nmax_in_flight = 8\n')
        batch = shoal.complete(prompts, model_args={"n": 2}, model="lab/m", queries_per_batch=4)
    expected = [[(p, None)] if "bad" in p else [(p, f"{p}#0"), (p, f"{p}#1")] for p in prompts]
    assert list(zip((r["prompt"] for r in batch), batch.texts, strict=True)) == [
        pair for each in expected for pair in each
    ]
    assert len(batch.failed) == 9
    assert batch.usage.calls == 2 * 50


def test_a_refused_prompt_costs_its_companions_nothing() -> None:
    with echo_server() as server:
        Path("shoal.toml").write_text(f'[endpoints.lab]\nbase_url = "{server.base_url}"\n')
        batch = shoal.complete(["a", "bad", "c", "d"], model_args={"n": 2}, model="lab/m", queries_per_batch=4)
    assert batch.texts == ["a#0", "a#1", None, "c#0", "c#1", "d#0", "d#1"]
    assert batch.failed[0]["error"]["type"] == "BadRequest"


def test_chat_on_a_server_counts_nested_usage() -> None:
    with echo_server() as server:
        Path("shoal.toml").write_text(f'[endpoints.lab]\nbase_url = "{server.base_url}"\n')
        batch = shoal.chat(["a", "b"], model_args={"n": 2}, model="lab/m")
    assert batch.texts == ["a#0", "a#1", "b#0", "b#1"]
    assert batch.usage == Usage(10, 8, 4)


def test_queries_per_batch_is_said_where_a_model_is_opened() -> None:
    with pytest.raises(UsageError, match="queries_per_batch is for models given by their spec; open a with it"):
        shoal.complete("x", model=named("a"), queries_per_batch=3)
    with pytest.raises(UsageError, match="queries_per_batch must be at least 1, not 0"):
        shoal.complete("x", queries_per_batch=0)
