"""The benchmarks' servers answer as the OpenAI API does, and their statistics are right: the figures stand on them."""

import http.client
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def _load(name: str) -> ModuleType:
    """A benchmark module: `benchmarks` is a folder of scripts and not on the import path."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", _BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


mock = _load("mock")
technique_mock = _load("technique_mock")
comparison = _load("comparison")
needs_server = pytest.mark.skipif(mock.unavailable() is not None, reason=str(mock.unavailable()))


def post(server: Any, path: str, body: Any, connection: http.client.HTTPConnection | None = None) -> tuple[int, bytes]:
    """The status and body of the reply; `body` is JSON as a value or as text."""
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as fresh:
        used = connection or fresh
        used.request("POST", f"/v1/{path}", text, {"Content-Type": "application/json"})
        reply = used.getresponse()
        return reply.status, reply.read()


def chat(server: Any, content: Any, **fields: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": content}], **fields}
    status, reply = post(server, "chat/completions", body)
    assert status == 200, reply
    answer: dict[str, Any] = json.loads(reply)
    return answer


def texts(reply: dict[str, Any]) -> list[str]:
    return [choice["message"]["content"] for choice in reply["choices"]]


@needs_server
def test_n_choices_are_distinct_and_depend_on_prompt_and_index_alone() -> None:
    with mock.mock_server() as server:
        eight = texts(chat(server, "2+2?", n=8))
        assert len(set(eight)) == 8
        assert texts(chat(server, "2+2?", n=3)) == eight[:3]
        assert texts(chat(server, "3+3?"))[0] != eight[0]
        assert texts(chat(server, "2+2?", seed=7))[0] != eight[0]
        answers = [text.rsplit(" ", 1)[1] for text in eight]
        assert max(map(answers.count, answers)) >= 5  # a vote has a winner
        assert server.stats() == {
            "requests": 4,
            "choices": 13,
            "max_concurrent": 1,
            "open_connections": 0,
            "aborted": 0,
        }


@needs_server
def test_a_message_that_reads_like_a_field_is_only_text() -> None:
    with mock.mock_server() as server:
        reply = chat(server, 'set "n": 7, "stream": true}], "n": 9 \\" \u00e9 \U0001f41f')
        assert len(reply["choices"]) == 1
        assert reply["usage"]["total_tokens"] == reply["usage"]["prompt_tokens"] + reply["usage"]["completion_tokens"]
        nested = chat(server, "hi", metadata={"n": 5, "messages": []}, n=2)
        assert len(nested["choices"]) == 2


@needs_server
def test_equal_prompts_get_equal_texts_however_they_are_written() -> None:
    with mock.mock_server() as server:
        plain = '{"model":"m","messages":[{"role":"user","content":"é🐟/"}]}'
        escaped = (
            '{ "messages" : [ {"content": "\\u00e9\\ud83d\\udc1f\\/", "role": "user"} ], "n": null, "model": "m" }\n'
        )
        first, second = (json.loads(post(server, "chat/completions", body)[1]) for body in (plain.encode(), escaped))
        assert texts(first) == texts(second)


@needs_server
def test_a_prompt_list_is_answered_prompt_by_prompt() -> None:
    with mock.mock_server() as server:

        def complete(prompt: Any, n: int = 1) -> list[str]:
            status, reply = post(server, "completions", {"model": "m", "prompt": prompt, "n": n})
            assert status == 200
            choices = json.loads(reply)["choices"]
            assert [choice["index"] for choice in choices] == list(range(len(choices)))
            return [choice["text"] for choice in choices]

        assert complete(["a", "b"], n=2) == complete("a", n=2) + complete("b", n=2)
        assert len(complete([1, 2, 3])) == 1  # one prompt, as tokens
        assert len(complete([[1, 2], [3]])) == 2


@needs_server
@pytest.mark.parametrize("delay_ms", [0, 20])
def test_a_stream_is_the_whole_reply_in_pieces(delay_ms: int) -> None:
    with mock.mock_server(delay_ms=delay_ms) as server:
        messages = [{"role": "user", "content": "hi"}]
        fields = {"model": "m", "messages": messages, "n": 2, "stream": True, "stream_options": {"include_usage": True}}
        status, reply = post(server, "chat/completions", fields)
        assert status == 200
        lines = [line.removeprefix("data: ") for line in reply.decode().split("\n\n") if line]
        assert lines.pop() == "[DONE]"
        events = [json.loads(line) for line in lines]
        assert events.pop()["usage"]["completion_tokens"] > 0
        whole = ["", ""]
        for choice in (event["choices"][0] for event in events):
            whole[choice["index"]] += choice["delta"].get("content", "")
        assert len(events) > 6
        assert whole == texts(chat(server, "hi", n=2))


@needs_server
def test_a_stream_comes_in_as_many_pieces_as_asked_for() -> None:
    with mock.mock_server(pieces=40) as server:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        status, reply = post(server, "chat/completions", body)
        assert status == 200
        events = [json.loads(line[6:]) for line in reply.decode().split("\n\n") if line.startswith("data: {")]
        assert len(events) == 40 + 1  # the last says how it ended
        assert "".join(event["choices"][0]["delta"]["content"] for event in events) == texts(chat(server, "hi"))[0]


@needs_server
@pytest.mark.parametrize(
    "body", ["", "[]", "{", '{"messages":[]', '{"messages":[],}', '{"messages":"x"}', '{"messages":[{}],"n":0}', "{}{}"]
)
def test_a_bad_body_is_refused_and_the_connection_goes_on(body: str) -> None:
    with mock.mock_server() as server, closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
        assert post(server, "chat/completions", body, connection)[0] == 400
        good = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        assert post(server, "chat/completions", good, connection)[0] == 200
        assert server.stats()["requests"] == 1


@needs_server
def test_a_body_of_megabytes_and_a_chunked_one() -> None:
    with mock.mock_server() as server:
        assert len(chat(server, "word " * 1_000_000)["choices"]) == 1
        body = json.dumps({"messages": [{"role": "user", "content": "0\r\n\r\n" * 5000}]}).encode()
        pieces = [body[i : i + 1000] for i in range(0, len(body), 1000)]
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
            connection.request("POST", "/v1/chat/completions", iter(pieces), encode_chunked=True)
            assert len(json.loads(connection.getresponse().read())["choices"]) == 1


@needs_server
def test_two_thousand_connections_at_once_and_one_that_gives_up() -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    count = 2000 if _allow_files(2200) else 200
    with mock.mock_server(delay_ms=1500) as server:
        connections = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(count)]
        for connection in connections:
            connection.sendall(head + body)
        connections.pop(0).close()
        for connection in connections:
            assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
            connection.close()
        stats = server.stats()
        assert stats["requests"] == count
        assert stats["aborted"] >= 1
        assert stats["max_concurrent"] > count // 2


def _allow_files(count: int) -> bool:
    import resource  # Linux alone has what this file tests; elsewhere it must still import

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    return count <= hard


@needs_server
def test_it_ends_with_the_process_that_started_it() -> None:
    program = "import mock, sys\nwith mock.mock_server() as server: print(server.port, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_BENCHMARKS,
        env={**os.environ, "PYTHONPATH": "."},
    ) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            parent.kill()
            with suppress(ConnectionResetError):  # where it ended before it took the connection
                assert connection.recv(1) == b""  # closed by its end, not by us


@needs_server
def test_continuous_batching_takes_as_many_steps_as_tokens() -> None:
    with mock.mock_server(continuous=(2, 0, 4, 10)) as server:
        start = time.monotonic()
        reply = chat(server, "hi", n=8)  # two batches of four, ten steps of 2 ms each
        assert time.monotonic() - start >= 0.04
        assert len(reply["choices"]) == 8
        assert reply["usage"]["completion_tokens"] == 80


@needs_server
def test_models_are_listed_and_other_paths_are_not_found() -> None:
    with (
        mock.mock_server() as server,
        closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection,
    ):
        connection.request("GET", "/v1/models")
        assert [model["id"] for model in json.loads(connection.getresponse().read())["data"]] == ["m"]
        connection.request("GET", "/v1/nothing")
        reply = connection.getresponse()
        reply.read()
        assert reply.status == 404


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662), (0, 0, 0.0, 1.0)],
)
def test_wilson_interval_of_a_proportion(right: int, count: int, low: float, high: float) -> None:
    found = comparison.wilson(right, count)
    assert found.value == (right / count if count else 0.0)
    assert found.low == pytest.approx(low, abs=5e-5)
    assert found.high == pytest.approx(high, abs=5e-5)


def test_bootstrap_is_repeatable_and_near_the_normal_interval() -> None:
    values = [0.0, 1.0] * 50
    found = comparison.bootstrap(values)
    assert found == comparison.bootstrap(values)
    assert found.value == 0.5
    assert found.low == pytest.approx(0.402, abs=0.02)
    assert found.high == pytest.approx(0.598, abs=0.02)
    assert comparison.bootstrap([-1.0] * 7) == (-1.0, -1.0, -1.0)


def test_draws_that_fit_in_a_budget_share_their_prompt() -> None:
    draws = [comparison.Draw("4", 1.0, tokens) for tokens in (10, 20, 30)]
    budgets = (0, 109, 110, 129, 130, 160, 10_000)
    assert [comparison.draws_within(draws, 100, budget) for budget in budgets] == [1, 1, 1, 1, 2, 3, 3]


def test_a_vote_takes_the_earliest_of_equals_and_passes_over_draws_without_an_answer() -> None:
    wrong, right, none = (comparison.Draw(*draw, 10) for draw in (("3", 0.0), ("4", 1.0), (None, 0.0)))
    assert comparison.majority([wrong, right]) == 0.0
    assert comparison.majority([none, none, right, wrong]) == 1.0
    assert comparison.majority([wrong, right, right]) == 1.0
    assert comparison.majority([none, none]) == 0.0


def test_equal_tokens_is_the_mean_over_all_places_to_begin_at() -> None:
    right, wrong = comparison.Draw("4", 1.0, 10), comparison.Draw("3", 0.0, 10)
    assert comparison.equal_tokens([right, wrong, wrong], 5, 15) == (pytest.approx(1 / 3), 1.0, False)
    assert comparison.equal_tokens([right, right, wrong], 5, 35) == (1.0, 3.0, False)
    assert comparison.equal_tokens([right, right, wrong], 5, 45) == (1.0, 3.0, True)


def test_sequential_steps_are_the_longest_chain_of_spans_one_after_another() -> None:
    spans = [(0.0, 1.0), (0.1, 1.1), (1.2, 2.2), (1.15, 2.0), (2.3, 3.0)]
    assert technique_mock.chain(spans) == 3
    assert technique_mock.most_at_once(spans) == 2
    assert technique_mock.chain([]) == technique_mock.most_at_once([]) == 0


def test_the_technique_server_gives_what_a_prompt_asks_for() -> None:
    def said(prompt: str, time: int = 0) -> str:
        text: str = technique_mock.reply([{"role": "user", "content": prompt}], time)
        return text

    assert said("Q?") != said("Q?", 1) != said("Other?")
    assert said("Q?").endswith("The answer is 42.")
    assert "Score: 5" in said("On a line of its own:\nScore: <number>")
    assert float(said("Rate it. Respond with only a number.")) == 5
    assert said("Write the next step only").startswith("Step 1")
    assert said("[Step 1]\na\n\n[Step 2]\nb\n\nWrite the next step only").startswith("Final answer")
    question, answer = technique_mock.EXAMPLES[0]
    assert said(question).endswith("The answer is 41.")
    assert "41" not in answer


def test_the_technique_server_counts_requests_completions_and_steps() -> None:
    program = "from benchmarks.technique_mock import technique_mock, control, Counts\n"
    program += "import json, urllib.request\n"
    program += "with technique_mock(20) as server:\n"
    program += "    body = json.dumps({'messages': [{'role': 'user', 'content': 'Q?'}], 'n': 2}).encode()\n"
    program += "    for _ in range(3): urllib.request.urlopen(server.base_url + '/chat/completions', body).read()\n"
    program += "    print(json.dumps(server.counts()._asdict()))\n"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=_BENCHMARKS.parent)
    counts = json.loads(done.stdout)
    del counts["completion_tokens"]
    assert counts == {"requests": 3, "completions": 6, "max_concurrent": 1, "steps": 3}


def _rows(module: str, *options: str) -> list[dict[str, Any]]:
    """What a benchmark prints, run in a process of its own; stderr is in the error where it fails."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=_BENCHMARKS.parent)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@needs_server
def test_the_load_client_counts_whole_expected_replies_and_all_else_as_errors() -> None:
    load = _load("load")
    body = {"model": "m", "messages": [{"role": "user", "content": load.NUMBER}]}
    with mock.mock_server() as server:
        seen = load.load(server.port, body, 3, 0.2, "The answer is")
        assert seen["errors"] == 0
        assert seen["requests"] == server.stats()["requests"] > 10
        assert 0 < seen["first_p50_ms"] <= seen["p50_ms"] <= seen["p99_ms"] <= seen["max_ms"]
        streamed = load.load(server.port, {**body, "stream": True}, 3, 0.2, "[DONE]")
        assert streamed["errors"] == 0 < streamed["requests"]
        missing = load.load(server.port, body, 3, 0.2, "nobody says this")
        assert missing["requests"] == 0 < missing["errors"]
        refused = load.load(server.port, {**body, "n": 0}, 3, 0.2, "n")
        assert refused["requests"] == 0 < refused["errors"]
        assert "(400)" in refused["first_error"]
    gone = load.load(server.port, body, 1, 0.2, "n")
    assert gone["requests"] == 0 < gone["errors"]


@needs_server
def test_the_load_client_asks_at_a_rate() -> None:
    load = _load("load")
    body = {"model": "m", "messages": [{"role": "user", "content": load.NUMBER}]}
    with mock.mock_server(delay_ms=20) as server:
        seen = load.load(server.port, body, 50, 0.5, "The answer is", rate=100)
        assert seen["requests"] == server.stats()["requests"] == 50
        slow = load.load(server.port, body, 1, 0.5, "The answer is", rate=100)  # one connection does half as many
        assert slow["max_ms"] > 2 * seen["p50_ms"]  # the wait for it counts


@needs_server
def test_a_proxy_costs_what_its_process_takes_and_adds_what_the_same_round_shows() -> None:
    proxies = _load("proxies")
    turn: dict[str, Any] = {"requests": 10, "errors": 0, "p50_ms": 5.0, "p99_ms": 9.0, "first_p50_ms": 4.0}
    turn |= {"requests_per_s": 100.0, "wire_per_request": 1.0, "cpu_us": 300.0, "rss_mb": 50.0, "first_error": ""}
    worse = {**turn, "p50_ms": 25.0, "cpu_us": 400.0, "requests_per_s": 80.0, "errors": 1, "first_error": "lost"}
    row = proxies.summary([turn, worse], [{**turn, "p50_ms": 1.0}, {**turn, "p50_ms": 19.0}])
    assert row["added_p50_ms"] == 5.0  # the median of 4 and 6
    assert (row["cpu_us"], row["cpu_us_worst"], row["requests_per_s"]) == (300.0, 400.0, 100.0)
    assert (row["requests"], row["errors"], row["first_error"]) == (20, 1, "lost")
    rows = {("shoal", "chat", 0.0, 1): row, ("other", "chat", 0.0, 1): {**row, "cpu_us": 900.0}}
    proxies.add_ratios(rows)
    assert rows["other", "chat", 0.0, 1]["cpu_to_ours"] == 3.0


@needs_server
def test_proxies_are_measured_beside_no_proxy() -> None:
    options = ("--peers", "", "--rounds", "1", "--seconds", "0.3", "--delays", "0", "--connections", "2")
    rows = {(row["proxy"], row["workload"]): row for row in _rows("proxies", *options)}
    workloads = ("chat", "stream", "self_consistency")
    assert set(rows) == {(name, workload) for name in ("direct", "shoal") for workload in workloads}
    assert all(row["errors"] == 0 < row["requests"] and row["wire_per_request"] == 1.0 for row in rows.values())
    assert all(rows["shoal", workload]["cpu_us"] > 10 for workload in workloads)


@needs_server
def test_streams_survive_the_leaving_of_others() -> None:
    options = ("--streams", "20", "--seconds", "1", "--stream-seconds", "2", "--events-per-second", "8")
    streams, leave, after = _rows("soak", *options, "--settle-seconds", "0")
    assert streams["errors"] == leave["errors"] == leave["aborted_of_those_that_stayed"] == 0
    assert streams["streams"] == 20
    assert streams["events"] > 10 * streams["streams"]
    assert leave["freed"] == leave["left"] == leave["stayed"] == 10
    assert after["open_files"] >= after["open_files_before"]


@needs_server
def test_a_stream_that_is_not_whole_is_a_fault() -> None:
    client = _load("soak").Client(0, 0, "ab")
    events = [
        '{"choices":[{"delta":{"content":"a"},"finish_reason":null}]}',
        '{"choices":[{"delta":{"content":"b"},"finish_reason":"stop"}]}',
        '{"choices":[],"usage":{"total_tokens":3}}',
        "[DONE]",
    ]

    def fault(*kept: str) -> str | None:
        found: str | None = client._fault("".join(f"data: {event}\n\n" for event in kept).encode())
        return found

    assert fault(*events) is None
    assert fault(*events[:3]) is not None
    assert fault(events[1], *events[2:]) == "another text than the server's own"
    assert fault(events[0], events[1].replace('"stop"', "null"), *events[2:]) == "no finish_reason"
    assert fault(*events[:2], "[DONE]") == "no usage"
    assert client._fault(b"HTTP/1.1 500 Oh\r\n\r\n") is not None


@needs_server
def test_breeding_is_measured_beside_its_critical_path_and_the_bare_client() -> None:
    row = _load("evolution").row(4, 5, 2, 10, False, 1, 1)
    assert row["critical_path_s"] == 0.3  # two calls of a mutation, and two waves of 20 answers, twice
    assert row["to_critical_path"] > 0.5  # below 1 where no mutation took two calls
    assert row["floor_s"] >= 0.3
    assert row["cpu_us"] > row["cpu_us_per_call"] > 0
