"""Particles are drawn anew in proportion to what their score stands for, the same way every time."""

import asyncio
import random
import subprocess
import sys
from collections import Counter

import pytest
from tests.scripting import answer_of, run, scripted
from tests.techniques.stepwise import kind_of, steps_in, stepwise

from shoal.errors import ServerError, TechniqueError, UsageError
from shoal.runtime.types import Completion, Json, Message, Request
from shoal.techniques._partials import Partial
from shoal.techniques.particle_filtering import _chance, _resampled, _weights, particle_filtering


def numbered(steps: list[str], draw: tuple[int, ...]) -> str:
    return f"{steps[-1] if steps else ''} {draw[-1]}".strip()


def test_weights_are_the_odds_a_score_stands_for() -> None:
    weights = _weights([Partial(("a",), reward=reward) for reward in (10, 5, 0)])
    assert weights == pytest.approx([21, 1, 1 / 21])


def test_a_score_that_could_not_be_read_has_the_average_weight() -> None:
    assert _weights([Partial(("a",)), Partial(("b",), reward=10), Partial(("c",), reward=5)])[0] == 11
    assert _weights([Partial(("a",)), Partial(("b",))]) == [1, 1]


def test_copies_are_as_many_as_the_weights_say() -> None:
    population = [Partial((name,), reward=reward) for name, reward in (("a", 5), ("b", 8), ("c", 0))]
    odds = [1, 8.5 / 2.5, 1 / 21]
    drawn = Counter(p.steps[0] for p in _resampled(population, 40_000, random.Random(2)))
    assert [drawn[name] / 40_000 for name in "abc"] == pytest.approx([o / sum(odds) for o in odds], abs=0.01)


def test_chance_is_the_requests_own_and_no_process_differs() -> None:
    request = Request.of("Q?", temperature=0.7)
    first = _chance(request, 1).random()
    others = [_chance(r, level).random() for r, level in ((request, 2), (request.draw(1), 1), (Request.of("R?"), 1))]
    assert len({first, *others}) == 4
    code = (
        "from shoal.runtime.types import Request\n"
        "from shoal.techniques.particle_filtering import _chance\n"
        "print(repr(_chance(Request.of('Q?', temperature=0.7), 1).random()))"
    )
    for seed in "12":
        command = [sys.executable, "-c", code]
        env = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        assert float(subprocess.run(command, env=env, check=True, capture_output=True).stdout) == first


def test_low_scores_die_out_and_copies_take_steps_of_their_own() -> None:
    """The first step 2 scores 10 and the others 0: nearly all particles go on from it, each with its own draw."""
    script = stepwise(numbered, lambda steps: 10 if steps[0] == "2" else 0)
    completion, backend = answer_of(particle_filtering, script, particles=4, depth=2)
    asked = [(steps_in(r), r.sample) for r in backend.requests if kind_of(r) == "step"]
    assert asked[:4] == [([], (0, i)) for i in range(4)]
    assert asked[4:] == [(["2"], (1, i)) for i in range(4)]
    assert completion.text == "written from 2 / 2 0"
    assert backend.batches == [4, 4, 4, 4, 1]
    assert completion.usage.calls == len(backend.requests) == 17


def test_one_low_score_does_not_end_a_solution() -> None:
    """Over many questions a particle that scored 3 beside 5s goes on about as often as its odds say."""
    script = stepwise(
        lambda steps, draw: f"{'low' if draw[-1] == 0 else 'other'} {draw}", lambda s: 3 if "low" in s[0] else 5
    )
    model, backend = scripted(script)
    for i in range(200):
        run(particle_filtering(model, Request.of(f"Question {i}?"), depth=2))
    second = [r for r in backend.requests if kind_of(r) == "step" and r.sample[0] == 1]
    odds = 3.5 / 7.5
    assert sum("low" in steps_in(r)[0] for r in second) / 800 == pytest.approx(odds / (odds + 3), abs=0.04)


def test_finished_particles_stay_and_cost_nothing_more() -> None:
    def step(steps: list[str], draw: tuple[int, ...]) -> str:
        return "Final answer: 7" if not steps and draw[-1] < 3 else numbered(steps, draw)

    completion, backend = answer_of(particle_filtering, stepwise(step, lambda steps: 5), depth=6)
    assert completion.text == "Final answer: 7"
    assert backend.batches[:2] == [4, 2]
    asked = [steps_in(r) for r in backend.requests if kind_of(r) == "step"]
    assert not [steps for steps in asked if "Final answer: 7" in steps]
    rated = [steps_in(r) for r in backend.requests if kind_of(r) == "rating"]
    assert rated.count(["Final answer: 7"]) == 1


def test_it_ends_when_all_are_finished() -> None:
    script = stepwise(
        lambda steps, draw: f"Final answer: {draw[-1]}", lambda steps: 9 if steps[-1].endswith("2") else 5
    )
    completion, backend = answer_of(particle_filtering, script, depth=6)
    assert (completion.text, backend.batches) == ("Final answer: 2", [4, 4])


def test_best_and_vote() -> None:
    """One particle of the highest weight says 1; three of less say 2, and together weigh more."""

    def step(steps: list[str], draw: tuple[int, ...]) -> str:
        return f"By way {draw[-1]}.\nFinal answer: {1 if draw[-1] == 0 else 2}"

    script = stepwise(step, lambda steps: 7 if "way 0" in steps[0] else 6 if "way 3" in steps[0] else 5)
    best, _ = answer_of(particle_filtering, script)
    assert best.text == "By way 0.\nFinal answer: 1"
    vote, backend = answer_of(particle_filtering, script, final="vote")
    assert (vote.text, vote.answer) == ("By way 3.\nFinal answer: 2", "2")
    assert backend.batches == [4, 4]
    sure = stepwise(step, lambda steps: 10 if "way 0" in steps[0] else 5)
    assert answer_of(particle_filtering, sure, final="vote")[0].answer == "1"


def test_a_vote_over_answers_of_a_form_writes_each() -> None:
    script = stepwise(
        lambda steps, draw: f"Final answer: {draw[-1]}",
        lambda steps: 5,
        lambda steps: '{"a": 1}' if steps[-1].endswith("0") else '{"a": 2}',
    )
    request = Request.of("Q?", json_schema={"type": "object"})
    completion, backend = answer_of(particle_filtering, script, request, final="vote")
    assert (completion.text, completion.answer) == ('{"a": 2}', '{"a":2}')
    assert backend.batches == [4, 4, 4]
    assert completion.usage.calls == 12
    assert [r.params.json_schema is not None for r in backend.requests] == [False] * 8 + [True] * 4


def test_a_cut_off_answer_does_not_speak_for_a_vote_that_a_whole_one_gives() -> None:
    script = stepwise(
        numbered,
        lambda steps: 9 if steps[-1] == "0" else 5,
        lambda steps: Completion("Answer: 2. And", "length") if steps[-1] == "0" else "Answer: 2.",
    )
    completion, _ = answer_of(particle_filtering, script, final="vote", depth=1, kind="number")
    assert (completion.text, completion.finish_reason) == ("Answer: 2.", "stop")


def test_blank_and_cut_off_steps_leave_their_place_to_others() -> None:
    says = [" ", Completion("Final answer: 1", "length"), "good", "good"]
    script = stepwise(lambda steps, draw: says[draw[-1]] if not steps else numbered(steps, draw), lambda steps: 5)
    completion, backend = answer_of(particle_filtering, script, depth=2)
    assert backend.batches == [4, 1, 4, 4, 1]
    assert completion.text == "written from good / good 0"
    dumb = stepwise(lambda steps, draw: "good" if not steps else "", lambda steps: 5)
    assert answer_of(particle_filtering, dumb)[0].text == "written from good"
    for final in ("best", "vote"):
        with pytest.raises(TechniqueError, match="blank or cut off"):
            answer_of(particle_filtering, stepwise(lambda steps, draw: "", lambda steps: 5), final=final)


def test_the_conversation_is_kept_and_the_judge_is_another() -> None:
    model, backend = scripted(stepwise(numbered, lambda steps: pytest.fail("not the judge")))
    judge, verdicts = scripted(stepwise(numbered, lambda steps: 5))
    conversation = (Message("system", "Be brief."), Message("user", "How many ships?"))
    tools = (Json.of({"type": "function", "function": {"name": "look"}}),)
    request = Request(conversation, sample=(4,), tools=tools).with_params(temperature=0.7, max_tokens=9)
    run(particle_filtering(model, request, judge=judge, depth=2))
    assert all("How many ships?" in r.text for r in verdicts.requests)
    assert all(r.messages[0] == conversation[0] and r.sample[0] == 4 for r in backend.requests)
    assert [bool(r.tools) for r in backend.requests] == [False] * 8 + [True]
    assert backend.requests[-1].params == request.params


def test_a_failed_branch_fails_the_whole_with_its_own_error() -> None:
    def score(steps: list[str]) -> int:
        if steps == ["3"]:
            raise ServerError("down", retryable=False)
        return 5

    with pytest.raises(ServerError, match="down"):
        answer_of(particle_filtering, stepwise(numbered, score))


def test_the_answer_does_not_depend_on_what_came_first() -> None:
    script = stepwise(numbered, lambda steps: hash(tuple(map(int, steps[-1].split()))) % 7)
    seen = set()
    for seed in range(10):
        chance = random.Random(seed)

        async def late(request: Request, chance: random.Random = chance) -> str | Completion:
            for _ in range(chance.randrange(20)):
                await asyncio.sleep(0)
            return script(request)

        completion = run(particle_filtering(scripted(late)[0], Request.of("Q?"), final="vote"))
        seen.add((completion.text, completion.answer))
    assert len(seen) == 1


@pytest.mark.parametrize("options", [{"particles": 0}, {"depth": 0}, {"final": "worst"}, {"kind": "numbre"}])
def test_bad_options_are_refused_before_any_call(options: dict[str, object]) -> None:
    model, backend = scripted(lambda r: "x")
    with pytest.raises(UsageError, match=str(next(iter(options.values())))):
        run(particle_filtering(model, Request.of("Q?"), **options))  # type: ignore[arg-type]
    assert not backend.requests
