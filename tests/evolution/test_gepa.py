"""`breed_gepa`: GEPA's library on our engine, with its calls, its rollouts, its folder and its ends."""

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from tests.evolution.breeding import Decoders, by_letters, task
from tests.evolution.test_running import files
from tests.scripting import run, scripted

from shoal.errors import (
    AuthenticationFailed,
    BadRequest,
    BudgetExceeded,
    EngineError,
    ModelError,
    NotCached,
    QuotaExceeded,
    RunError,
    StoreError,
    UsageError,
)
from shoal.evaluation.scorers import open_scorer
from shoal.evolution import (
    GepaEvolution,
    GepaSettings,
    Progress,
    Result,
    Settings,
    abreed_gepa,
    breed,
    breed_gepa,
    plan_calls,
)
from shoal.evolution.folder import RunFolder
from shoal.evolution.generation import Generation
from shoal.evolution.report import write
from shoal.evolution.statistics import GenerationStats
from shoal.runtime.budget import Budget
from shoal.runtime.types import Completion, Request

ROWS = [{"question": f"Say {i}.", "answer": str(i)} for i in range(80)]
HELD_OUT = [{"question": f"Say {i}.", "answer": str(i)} for i in range(100, 120)]
TASK = task(rows=ROWS, seed_prompt="0000000000")
SAMPLED = Decoders(inducer={"temperature": 1.0}, evaluator={"temperature": 1.0})
SMALL = GepaSettings(validation=8)


def asks(request: Request) -> bool:
    """Whether it is a question, not a reflection."""
    return "Your task is to write a new instruction" not in request.text


def ones(request: Request) -> str:
    """A prompt answers the questions whose last digit is that of a 1 in it; a reflection adds one that was wrong."""
    old = re.findall(r"[01]{10}", request.text)[-1 if asks(request) else 0]
    if asks(request):
        number = asked_number(request)
        return str(number) if old[number % 10] == "1" else "wrong"
    wrong = re.search(r"Score: 0 of 1. The expected answer is: (\d+)", request.text)
    assert wrong is not None
    place = int(wrong[1]) % 10
    return f"Better:\n```\n{old[:place]}1{old[place + 1 :]}\n```"


def asked_number(request: Request) -> int:
    found = re.search(r"Say (\d+)\.", request.text)
    assert found is not None
    return int(found[1])


def bred(place: Path | None = None, script: Any = ones, rollouts: int = 400, **options: Any) -> Result:
    model, _ = scripted(script)
    given = {"task": TASK, "gepa": SMALL, "embed": by_letters, **options}
    return breed_gepa(given.pop("task"), model=model, run_dir=place, rollouts=rollouts, **given)


def beside(place: Path) -> Path:
    """Where a run is kept that nothing happened to."""
    return place.with_name(f"{place.name}_whole")


class Asked:
    """A script that counts its draws."""

    def __init__(self, script: Any = ones) -> None:
        self.draws: Counter[Request] = Counter()
        self.script = script

    def __call__(self, request: Request) -> str:
        self.draws[request] += 1
        return str(self.script(request))

    @property
    def questions(self) -> int:
        return sum(count for request, count in self.draws.items() if asks(request))


# What it finds


def test_a_known_optimum_is_reached(tmp_path: Path) -> None:
    result = bred(tmp_path, rollouts=1000)
    assert result.prompts == ("1111111111",)
    assert result.best.fitness == 1.0
    assert result.comparison is not None
    assert (result.comparison.seed, result.comparison.best) == (0.0, 1.0)
    assert result.comparison.improves
    assert result.run_dir == tmp_path


def test_each_candidate_is_a_generation_with_its_parent() -> None:
    result = bred(rollouts=1000)
    for number, generation in enumerate(result.history):
        assert generation.number == number
        assert len(generation.population) == number + 1
        new = generation.population[-1]
        assert new.unit.id == f"{number}-{number}"
        assert (new.unit.parent is None) == (number == 0)
        if number:
            parent = next(one for one in generation.population if one.unit.id == new.unit.parent)
            assert new.unit.task_prompts[0].count("1") == parent.unit.task_prompts[0].count("1") + 1
            assert generation.births[0].better == (new.fitness > parent.fitness)
    assert result.history[0].best.unit.task_prompts == (TASK.seed,)
    assert result.best.fitness == max(stats.best for stats in result.stats)


def test_a_system_prompt_that_nobody_gave_is_bred_too() -> None:
    def script(request: Request) -> str:
        if not asks(request):
            return "```\nAnswer rightly.\n```" if "0000000000" not in request.text else "```\n0000000000\n```"
        system = [message.text for message in request.messages if message.role == "system"]
        return str(asked_number(request)) if system == ["Answer rightly."] else "wrong"

    result = bred(script=script, task=structs.replace(TASK, system_prompt=None))
    assert result.best.unit.system_prompt == "Answer rightly."
    assert result.best.unit.task_prompts == ("0000000000",)
    assert result.best.fitness == 1.0


def test_another_model_may_reflect() -> None:
    reflecting, backend = scripted(lambda request: "```\n1111111111\n```", name="reflecting")
    asked = Asked()
    result = bred(script=asked, reflection_model=reflecting, gepa=GepaSettings(validation=8, reflection={"seed": 3}))
    assert result.prompts == ("1111111111",)
    assert all(asks(request) for request in asked.draws)
    assert backend.requests
    assert all(request.params.seed == 3 and request.params.max_tokens is None for request in backend.requests)


# What it asks


def test_rollouts_are_questions_put_and_never_more_than_allowed() -> None:
    for rollouts in (22, 23, 100, 137, 251):
        asked = Asked()
        given = structs.replace(TASK, decoders=SAMPLED)
        result = bred(script=asked, rollouts=rollouts, task=given, split=False)
        assert asked.questions == result.rollouts <= rollouts
        assert rollouts - result.rollouts < 2 * 3 + 8  # less than another candidate takes
        assert result.ended == "rollouts"
        assert sum(one.questions for one in result.stats) <= result.rollouts
    with pytest.raises(UsageError, match="rollouts=21: the seed prompt and one other take 22, 8 of them"):
        bred(rollouts=21)


def test_without_rollouts_there_are_as_many_as_promptbreeders() -> None:
    settings = Settings(population_size=4, generations=3, prompts_per_unit=1, batch=5)
    planned = plan_calls(structs.replace(TASK, rows=ROWS[:40]), settings).fitness
    model, _ = scripted(ones)
    result = breed_gepa(TASK, model=model, settings=settings, gepa=SMALL, embed=by_letters)
    assert planned == 4 * 5 * 4
    assert planned - 14 < result.rollouts <= planned


def test_promptbreeder_counts_rollouts_likewise() -> None:
    asked = Asked(lambda request: "wrong" if "Say" in request.text else "0000000000")
    model, _ = scripted(asked)
    settings = Settings(population_size=4, generations=1, prompts_per_unit=1, batch=5)
    given = structs.replace(TASK, decoders=SAMPLED)
    result = breed(given, model=model, settings=settings, rollouts=130, split=False, embed=by_letters)
    assert result.rollouts == 120
    assert len(result.history) == 6
    assert sum(count for draw, count in asked.draws.items() if re.search(r"Say \d+\.", draw.text)) >= 120
    with pytest.raises(UsageError, match="rollouts=19: 4 founders are asked 5 questions each, 20 in all"):
        breed(given, model=model, settings=settings, rollouts=19)


def test_no_held_out_row_is_seen_before_the_end() -> None:
    asked: list[str] = []
    last = 0

    def script(request: Request) -> str:
        asked.append(request.text)
        return ones(request)

    def told(now: Progress) -> None:
        nonlocal last
        last = len(asked) if now.phase == "breeding" else last

    result = bred(script=script, task=structs.replace(TASK, held_out=HELD_OUT), on_progress=told)
    assert result.comparison is not None
    assert result.comparison.rows == 20
    assert not any(re.search(r"Say 1\d\d", text) for text in asked[:last])
    assert len([text for text in asked[last:] if re.search(r"Say 1\d\d", text)]) == len(asked[last:]) == 40


def test_validation_rows_are_in_no_reflection() -> None:
    model, backend = scripted(ones)
    run(abreed_gepa(TASK, model=model, rollouts=400, gepa=SMALL, split=False, embed=by_letters))
    first = {match for request in backend.requests[:8] for match in re.findall(r"Say \d+\.", request.text)}
    shown = {match for one in backend.requests if not asks(one) for match in re.findall(r"Say \d+\.", one.text)}
    assert len(first) == 8
    assert shown
    assert not shown & first


def test_reflections_see_question_answer_score_and_what_was_expected() -> None:
    model, backend = scripted(ones)
    run(abreed_gepa(TASK, model=model, rollouts=22, gepa=SMALL, split=False, embed=by_letters))
    prompt = next(request.text for request in backend.requests if not asks(request))
    number = re.findall(r"Say (\d+)\.", prompt)[0]
    assert f"## Generated Outputs\nwrong\n\n## Feedback\nScore: 0 of 1. The expected answer is: {number}" in prompt
    assert "```\n0000000000\n```" in prompt


@pytest.mark.parametrize("parallel", [1, 4])
def test_all_questions_of_a_step_go_out_at_once(parallel: int) -> None:
    model, backend = scripted(ones, waves=True)
    gepa = GepaSettings(validation=8, parallel=parallel)
    result = run(abreed_gepa(TASK, model=model, rollouts=400, gepa=gepa, split=False, embed=by_letters))
    assert backend.batches[:4] == [8, 3 * parallel, parallel, 3 * parallel]
    assert result.rollouts <= 400


# Failures


def test_a_failed_call_is_no_wrong_answer() -> None:
    def script(request: Request) -> str:
        if asks(request) and re.search(r"Say \d*[37]\.", request.text):
            raise BadRequest("never")
        return ones(request)

    result = bred(script=script, rollouts=1000, split=False)
    assert result.best.fitness == 1.0
    best = result.best
    assert best.questions + best.failed == 8
    assert best.failed
    assert result.prompts == ("1110111011",)  # nothing is learnt from them either


def test_failures_do_not_decide_between_parent_and_child() -> None:
    """A child whose calls fail on what its parent had wrong is no better."""

    def script(request: Request) -> str:
        if not asks(request):
            return "```\nchild\n```"
        number = asked_number(request)
        if number % 2:
            if "child" in request.text:
                raise BadRequest("no")
            return "wrong"
        return str(number)

    assert len(bred(script=script, split=False).history) == 1


def test_a_prompt_that_no_question_can_be_put_with_loses() -> None:
    def script(request: Request) -> str:
        if not asks(request):
            return "```\ntoo long\n```"
        if "too long" in request.text:
            raise BadRequest("does not fit")
        return ones(request)

    result = bred(script=script)
    assert len(result.history) == 1
    assert result.ended == "rollouts"


class Failing:
    """A scorer that fails, from the 20th answer on, with an error of the caller's."""

    def __init__(self, error: Exception) -> None:
        exact = open_scorer("exact")
        self.name, self.metric, self._exact = exact.name, exact.metric, exact
        self._error = error
        self._scored = 0

    async def score(self, completion: Completion, target: object, row: Any) -> tuple[str | None, float | None]:
        self._scored += 1
        if self._scored > 20:
            raise self._error
        return await self._exact.score(completion, target, row)


@pytest.mark.parametrize("error", [StoreError("full"), NotCached("no"), UsageError("wrong"), ZeroDivisionError("bug")])
def test_what_ends_a_run_ends_it_as_itself(tmp_path: Path, error: Exception) -> None:
    before = threading.active_count()
    asked = Asked()
    with pytest.raises(type(error), match=str(error)):
        bred(tmp_path, asked, task=structs.replace(TASK, scorer=Failing(error)))
    assert threading.active_count() == before
    assert asked.draws.total() < 30
    bred(tmp_path)
    bred(beside(tmp_path))
    assert files(tmp_path) == files(beside(tmp_path))


@pytest.mark.parametrize("error", [QuotaExceeded("no credit"), AuthenticationFailed("no key")])
@pytest.mark.parametrize("reflecting", [True, False])
def test_so_does_a_model_that_is_not_to_be_asked_again(tmp_path: Path, error: ModelError, reflecting: bool) -> None:
    before = threading.active_count()
    asked = 0

    def script(request: Request) -> str:
        nonlocal asked
        asked += 1
        if asked > 20 and asks(request) != reflecting:
            raise error
        return ones(request)

    with pytest.raises(type(error), match=str(error)):
        bred(tmp_path, script)
    assert threading.active_count() == before
    assert asked < 40
    bred(tmp_path)
    bred(beside(tmp_path))
    assert files(tmp_path) == files(beside(tmp_path))


def test_what_fails_for_all_is_raised_as_it_is() -> None:
    def nothing(request: Request) -> str:
        raise EngineError("out of order")

    def no_reflections(request: Request) -> str:
        if not asks(request):
            raise BadRequest("too long a prompt")
        return ones(request)

    with pytest.raises(EngineError, match="out of order"):
        bred(script=nothing)
    with pytest.raises(BadRequest, match="too long a prompt"):
        bred(script=no_reflections)


def test_a_reflection_that_fails_is_left_out() -> None:
    reflections = 0

    def script(request: Request) -> str:
        nonlocal reflections
        if not asks(request):
            reflections += 1
            if reflections % 2 == 0:
                raise BadRequest("too long")
        return ones(request)

    failed = sum(one.operators["reflection"].failed for one in bred(script=script, rollouts=1000).stats[1:])
    assert failed > 2


# Ends


def test_a_budget_ends_a_run_which_goes_on_later(tmp_path: Path) -> None:
    asked, whole = Asked(), Asked()
    bred(tmp_path / "whole", whole)
    for _ in range(100):
        try:
            result = bred(tmp_path / "parts", asked, budget=Budget(calls=37))
        except BudgetExceeded:
            continue
        if result.ended == "rollouts":
            break
        assert result.ended == "budget"
        assert not (tmp_path / "parts" / "complete").exists()
    assert set(asked.draws.values()) == {1}
    assert asked.draws.keys() == whole.draws.keys()
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_a_budget_that_is_not_enough_for_the_seed_is_said() -> None:
    with pytest.raises(BudgetExceeded, match="before the first generation was complete"):
        bred(budget=Budget(calls=5))


def test_a_run_ends_where_its_target_is_reached() -> None:
    result = bred(rollouts=1000, target=0.5)
    assert result.ended == "target"
    assert result.best.fitness >= 0.5
    assert all(generation.best.fitness < 0.5 for generation in result.history[:-1])


def test_an_interrupted_run_keeps_what_is_under_way(tmp_path: Path) -> None:
    asked = Asked()

    async def interrupted() -> Result:
        model, _ = scripted(asked)
        options: dict[str, Any] = {"run_dir": tmp_path, "embed": by_letters, "rollouts": 400}
        evolution = GepaEvolution(TASK, model, Settings(), SMALL, **options)

        def told(generation: Generation, _: GenerationStats) -> None:
            if generation.number == 2:
                evolution.interrupt()

        evolution.options["on_generation"] = told
        return await evolution.execute()

    result = run(interrupted())
    assert result.ended == "interrupted"
    assert [one.number for one in result.history] == [0, 1, 2]
    assert result.comparison is None
    bred(tmp_path, asked)
    bred(beside(tmp_path))
    assert set(asked.draws.values()) == {1}
    assert files(tmp_path) == files(beside(tmp_path))


@pytest.mark.parametrize("moment", [1, 30, 60])
def test_a_cancelled_run_leaves_no_thread_and_goes_on(tmp_path: Path, moment: int) -> None:
    before = threading.active_count()
    asked = Asked()

    async def cancelled() -> None:
        reached, never = asyncio.Event(), asyncio.Event()

        async def script(request: Request) -> str:
            if asked.draws.total() >= moment:
                reached.set()
                await never.wait()
            return asked(request)

        model, _ = scripted(script)
        going = asyncio.ensure_future(
            abreed_gepa(TASK, model=model, run_dir=tmp_path, rollouts=400, gepa=SMALL, embed=by_letters)
        )
        await reached.wait()
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going
        assert len(asyncio.all_tasks()) == 1

    run(cancelled())
    assert threading.active_count() == before
    bred(tmp_path, asked)
    bred(beside(tmp_path))
    assert files(tmp_path) == files(beside(tmp_path))


# Going on

PROGRAM = """
import os, sys
from tests.evolution.test_gepa import SMALL, TASK, SAMPLED, by_letters, ones, scripted
from msgspec import structs
from shoal.evolution import breed_gepa

asked = os.open(sys.argv[1] + ".asked", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
count = 0

def script(request):
    global count
    count += 1
    if count == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
    os.write(asked, f"{request.sample} {request.text!r}\\n".encode())
    return ones(request)

model, _ = scripted(script)
given = structs.replace(TASK, decoders=SAMPLED)
breed_gepa(given, model=model, run_dir=sys.argv[1], rollouts=400, gepa=SMALL, embed=by_letters)
print(*[name for name in sys.modules if name.split(".")[0] in ("litellm", "openai", "wandb", "mlflow")])
"""


def test_killed_runs_end_as_one_that_was_not_and_print_nothing(tmp_path: Path) -> None:
    """Hash seeds differ from process to process: no order of a set decides anything."""

    def go(place: str, kill: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / place), str(kill)]
        path = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=path)

    assert go("whole", 0).returncode == 0
    for kill in (5, 40, 70):
        assert go("parts", kill).returncode == -9
    done = go("parts", 0)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    asked = (tmp_path / "parts.asked").read_text().splitlines()
    whole = (tmp_path / "whole.asked").read_text().splitlines()
    assert set(asked) == set(whole)
    assert len(whole) == len(set(whole))
    assert len(asked) - len(set(asked)) <= 3 * 20  # those that had not reached the disk when it was killed


def test_a_run_that_is_complete_asks_nothing_again(tmp_path: Path) -> None:
    first = bred(tmp_path)
    again = Asked()
    second = bred(tmp_path, again)
    assert not again.draws
    assert second.history == first.history
    assert second.comparison == first.comparison
    assert (second.usage, second.rollouts) == (first.usage, first.rollouts)


def test_more_rollouts_may_be_asked_for_later(tmp_path: Path) -> None:
    asked, whole = Asked(), Asked()
    bred(tmp_path / "whole", whole)
    bred(tmp_path / "parts", asked, rollouts=100)
    bred(tmp_path / "parts", asked)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert all(count == 1 for draw, count in asked.draws.items())
    with pytest.raises(RunError, match="rollouts, now rollouts=30; allow as many"):
        bred(tmp_path / "parts", rollouts=30)


def test_another_optimizers_run_is_refused_by_that_name(tmp_path: Path) -> None:
    bred(tmp_path / "gepa")
    model, _ = scripted(ones)
    with pytest.raises(RunError, match='optimizer="gepa", now optimizer="promptbreeder"'):
        breed(TASK, model=model, run_dir=tmp_path / "gepa", embed=by_letters)
    with pytest.raises(RunError, match=r"gepa\.parallel=1, now gepa\.parallel=2"):
        bred(tmp_path / "gepa", gepa=GepaSettings(validation=8, parallel=2))


def test_the_same_seed_is_the_same_run_and_another_is_another(tmp_path: Path) -> None:
    for place in ("a", "b"):
        bred(tmp_path / place, gepa=GepaSettings(validation=8, parallel=3))
    bred(tmp_path / "c", gepa=GepaSettings(validation=8, parallel=3), settings=Settings(seed=7))
    assert files(tmp_path / "a") == files(tmp_path / "b") != files(tmp_path / "c")


# The folder


def test_the_folder_tells_what_was_tried(tmp_path: Path) -> None:
    result = bred(tmp_path)
    config = json.loads((tmp_path / "_config.json").read_text())
    assert config["options"]["optimizer"] == "gepa"
    assert config["options"]["gepa"]["version"]
    told = json.loads((tmp_path / "candidates.json").read_text())
    assert [one["texts"]["task_prompt"] for one in told["candidates"]] == [
        generation.population[-1].unit.task_prompts[0] for generation in result.history
    ]
    assert all(len(one["scores"]) == 8 for one in told["candidates"])
    assert sum(one["accepted"] for one in told["proposals"]) == len(result.history) - 1
    assert {one["parent"] for one in told["proposals"]} <= {one["id"] for one in told["candidates"]}
    assert json.loads((tmp_path / "complete").read_text())["ended"] == "rollouts"
    assert json.loads((tmp_path / "new_mutation_prompts.json").read_text()) == []
    assert not {path.suffix for path in tmp_path.rglob("*")} & {".bin", ".pkl", ".pickle"}
    with RunFolder(tmp_path, {**config["options"]}) as folder:
        assert len(folder.kept) == len(result.history)


def test_the_report_of_a_run_is_written_from_its_folder(tmp_path: Path) -> None:
    result = bred(tmp_path)
    write(tmp_path)
    report = (tmp_path / "report.html").read_text()
    assert result.prompts[0] in report
    assert "reflection" in report


# Hostile texts


@pytest.mark.parametrize(
    "hostile",
    [
        "{{ 7 * 7 }}{% for i in range(9) %}x{% endfor %}",
        "<side_info> <curr_param>",
        "{question} {0} %s ${x}",
        "a\x00b\x1b[31m",
        "x" * 100_000,
    ],
)
def test_what_a_reflection_writes_is_text_and_nothing_else(tmp_path: Path, hostile: str) -> None:
    def script(request: Request) -> str:
        if not asks(request):
            return f"```\n{hostile}\n```"
        number = asked_number(request)
        return "wrong" if "0000000000" in request.text or number % 4 == 0 else str(number)

    model, backend = scripted(script)
    result = run(abreed_gepa(TASK, model=model, run_dir=tmp_path, rollouts=200, gepa=SMALL, embed=by_letters))
    prompt = result.prompts[0]
    assert len(prompt) <= 8000
    assert not set(prompt) & {"\x00", "\x1b"}
    if hostile.isprintable() and len(hostile) < 8000:
        assert prompt == hostile
        reflected = [request.text for request in backend.requests if not asks(request)][1:]
        assert reflected
        assert all(text.count(hostile) == 1 for text in reflected)
    assert all(prompt in request.text for request in backend.requests[-3:] if "0000000000" not in request.text)


@pytest.mark.parametrize("reply", ["", "```\n```", "```", "   ", "```\n0000000000\n```"])
def test_a_reply_without_a_new_prompt_costs_no_rollouts_for_a_child(reply: str) -> None:
    result = bred(script=lambda request: "wrong" if asks(request) else reply, rollouts=100)
    assert len(result.history) == 1
    assert (result.rollouts - 8) % 3 == 0


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match="parallel=0"):
        GepaSettings(parallel=0)
    with pytest.raises(UsageError, match="40 of 40 rows"):
        bred(gepa=GepaSettings(validation=40))
    with pytest.raises(UsageError, match="gepa asks in one way: choose one of 'CoT', 'noCoT'"):
        bred(settings=Settings(variants=("CoT", "noCoT")))
