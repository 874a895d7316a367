"""Day Care folders: what they may say, and one clear line for every mistake."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from tests.evolution.breeding import by_letters
from tests.evolution.day_cares import SUITE, TASK, breeder, folder, suite
from tests.scripting import run, scripted

from shoal.errors import UsageError
from shoal.evolution import Settings, breed
from shoal.evolution.calls import counted
from shoal.evolution.day_care import nothing_to_win, open_day_care
from shoal.evolution.decoding import decoding
from shoal.evolution.genome import Genome
from shoal.evolution.lmql.folder import convert
from shoal.evolution.surroundings import Breeding
from shoal.evolution.unit import Unit
from shoal.runtime.types import Completion, Request


def test_a_task_has_all_that_its_folder_says(tmp_path: Path) -> None:
    at = folder(
        tmp_path / "f", mutation_prompts__json={"2": "Second.", "1": "First."}, thinking_styles__json=["Think."]
    )
    day_care = open_day_care(at, "good")
    task = day_care.task(suite(tmp_path / "s.json"))
    assert (task.description, task.system_prompt, task.target) == (
        TASK["task_description"],
        "You judge reviews.",
        "gold_good",
    )
    assert day_care.mutation_prompts == ("First.", "Second.")
    assert day_care.thinking_styles == ("Think.",)
    assert task.decoders.redescriber == {"max_tokens": 250, "temperature": 0.7}
    assert task.decoders.inducer == {"max_tokens": 500, "temperature": 0.0}
    assert task.decoders.evaluator == {"max_tokens": 16, "temperature": 0.0}
    assert task.question.fill(SUITE[1]) == "It was fine 1.\n\nGood?"
    assert [note.partition(": ")[2] for note in day_care.notes] == [
        "n has no meaning here: one draw is taken of each question"
    ]


def test_a_trailing_slash_is_not_needed_and_the_lists_are_the_papers(tmp_path: Path) -> None:
    at = folder(tmp_path / "f")
    for path in (at, Path(f"{at}/")):
        day_care = open_day_care(path, "good")
        assert (len(day_care.mutation_prompts), len(day_care.thinking_styles)) == (56, 39)


def test_missing_options_for_fitness_are_greedy_and_no_crash(tmp_path: Path) -> None:
    """The predecessor ended with a KeyError."""
    task = {name: value for name, value in TASK.items() if name != "fitness_decoder_options"}
    day_care = open_day_care(folder(tmp_path / "f", task), "good")
    assert day_care.decoders.evaluator == {"max_tokens": 16, "temperature": 0.0}


def test_an_override_stands_in_for_both(tmp_path: Path) -> None:
    day_care = open_day_care(folder(tmp_path / "f"), "good", override="sample(temperature=0.3, max_len=9)")
    assert {role["temperature"] for role in (day_care.decoders.redescriber, day_care.decoders.evaluator)} == {0.3}
    assert day_care.decoders.inducer["max_tokens"] == 9


@pytest.mark.parametrize(
    ("options", "params", "notes"),
    [
        ("argmax", {"temperature": 0.0}, 0),
        ("sample", {"temperature": 1.0}, 0),
        ("sample(temperature=0.5, top_p=0.9, top_k=0)", {"temperature": 0.5, "top_p": 0.9}, 0),
        ("sample(top_k=5, max_len=64)", {"temperature": 1.0, "top_k": 5, "max_tokens": 64}, 0),
        ("beam_sample(n=2, temperature=0.7)", {"temperature": 0.7}, 2),
        ("beam(n=4)", {"temperature": 0.0}, 2),
        ("argmax(chunksize=8, openai_chunksize=4)", {"temperature": 0.0}, 2),
        ({"decoder": "sample", "temperature": 0.2, "n": 2}, {"temperature": 0.2}, 1),
        ({"temperature": 0.2, "max_tokens": 7}, {"temperature": 0.2, "max_tokens": 7}, 0),
        ("sample(repetition_penalty=1.1)", {"temperature": 1.0, "extra": {"repetition_penalty": 1.1}}, 0),
        (None, {}, 0),
    ],
)
def test_decoder_options_in_the_words_of_lmql(options: object, params: dict[str, Any], notes: int) -> None:
    read = decoding(options, "here")
    assert (read.params, len(read.notes)) == (params, notes)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("argmaxx", "no decoder 'argmaxx'; did you mean argmax?"),
        ("sample(temprature=1)", "no decoder option 'temprature'; did you mean temperature?"),
        ("sample(temperature='hot')", "temperature must be a number, not 'hot'"),
        ("sample(top_p=3)", "top_p must be above 0 and at most 1"),
        ("sample(max_len=0)", "max_tokens must be at least 1"),
        ("sample(top_k=1.5)", "top_k must be a whole number"),
        ("__import__('os').system('touch here')", "is no decoder"),
        ("sample(temperature=open('x').read())", "is no decoder"),
        ("sample(**{'a': 1})", "no decoder option"),
        ("sample(1)", "is no decoder"),
        ("(" * 5000, "is no decoder"),
        ([], "is no decoder"),
    ],
)
def test_decoder_options_that_are_wrong(options: object, reason: str) -> None:
    with pytest.raises(UsageError) as raised:
        decoding(options, "task.json, decoder_options")
    assert str(raised.value).startswith("task.json, decoder_options: ")
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("{", "task_description.json: not JSON"),
        ("[]", "expected an object, found list"),
        ({}, "task_description is missing; say in words what is to be done"),
        ({**TASK, "task_description": 5}, "task_description: a text is needed, not '5'"),
        ({**TASK, "fitness_scorer": "BinaryfBeta"}, "fitness_scorer: an object is needed"),
        ({**TASK, "fitness_scorer": {"type": "os.system"}}, "no type 'os.system'"),
        ({**TASK, "fitness_scorer": {"type": "own.py:score"}}, "no type 'own.py:score'"),
        ({**TASK, "fitness_scorer": {"type": "BinaryFBeta"}}, "did you mean BinaryfBeta?"),
        ({**TASK, "fitness_scorer": {"type": "BinaryfBeta", "beta": "much"}}, "beta"),
        ({**TASK, "fitness_scorer": {"type": "BinaryfBeta", "bet": 1}}, "f_beta has no option"),
        ({**TASK, "fixed_system_prompt": []}, "fixed_system_prompt: a text is needed"),
        ({**TASK, "held_out": "../../secret.json"}, "held_out: '../../secret.json' leads out of"),
    ],
)
def test_a_description_that_is_wrong(tmp_path: Path, task: Any, reason: str) -> None:
    with pytest.raises(UsageError) as raised:
        open_day_care(folder(tmp_path / "f", task), "good")
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_key_that_is_not_read_is_said(tmp_path: Path) -> None:
    day_care = open_day_care(folder(tmp_path / "f", {**TASK, "fixed_sytem_prompt": "x"}), "good")
    assert any("'fixed_sytem_prompt' is not read; did you mean fixed_system_prompt?" in note for note in day_care.notes)


@pytest.mark.parametrize("task", ["..", ".", "", "../f/good", "good/../../x", "/etc", "a\\b", "nul\0"])
def test_a_task_cannot_leave_the_folder(tmp_path: Path, task: str) -> None:
    with pytest.raises(UsageError, match=r"--task|no task"):
        open_day_care(folder(tmp_path / "f"), task)


def test_nor_by_a_link(tmp_path: Path) -> None:
    elsewhere = folder(tmp_path / "elsewhere")
    at = folder(tmp_path / "f", name="other")
    (at / "good").symlink_to(elsewhere / "good")
    with pytest.raises(UsageError, match="leads out of"):
        open_day_care(at, "good")


def test_a_task_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no task 'god'; did you mean good\?"):
        open_day_care(folder(tmp_path / "f"), "god")
    with pytest.raises(UsageError, match="no such folder"):
        open_day_care(tmp_path / "nowhere", "good")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"breeder__yaml": "a: [1"}, "breeder.yaml, line 1: not YAML"),
        ({"breeder__yaml": "- 1"}, "queries by name are needed, found list"),
        ({"breeder__yaml": "fitnes: x"}, "no query 'fitnes'; did you mean fitness?"),
        ({"breeder__yaml": "fitness: 5"}, "fitness: a template is needed"),
        ({"breeder__yaml": "fitness: '{{ question }}'"}, "nothing in it is called 'answer'"),
        ({"breeder__yaml": "initial: '{% if %}'"}, "initial, line 1"),
        ({"breeder__yaml": "5: x"}, "a template is needed"),
        ({"breeder__yaml": "!!python/object/apply:os.system ['touch here']"}, "not YAML"),
        ({"breeder__lmql": "{}"}, "shoal evolve --convert"),
        ({"mutation_prompts__json": "{"}, "mutation_prompts.json: not JSON"),
        ({"mutation_prompts__json": {"1": 5}}, "mutation_prompts.json, item 1: a text is needed"),
        ({"thinking_styles__json": []}, "thinking_styles.json"),
    ],
)
def test_files_of_a_folder_that_are_wrong(tmp_path: Path, files: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError) as raised:
        open_day_care(folder(tmp_path / "f", **files), "good")
    assert reason in str(raised.value)
    assert not Path("here").exists()


def test_queries_one_a_file(tmp_path: Path) -> None:
    at = folder(tmp_path / "f")
    (at / "breeder").mkdir()
    (at / "breeder" / "initial.jinja").write_text('{{ generate_text(name="task_prompt") }}')
    assert open_day_care(at, "good").queries.prompts["initial"].text == '{{ generate_text(name="task_prompt") }}'
    (at / "breeder.yaml").write_text("")
    with pytest.raises(UsageError, match="which is it"):
        open_day_care(at, "good")


def test_a_suite_may_be_any_data_file(tmp_path: Path) -> None:
    day_care = open_day_care(folder(tmp_path / "f"), "good")
    (tmp_path / "s.csv").write_text("text,question,gold_good\nFine.,Good?,true\nBad.,Good?,false\n")
    task = day_care.task(tmp_path / "s.csv")
    scored = [
        run(task.scorer.score(Completion(said), row["gold_good"], row))
        for said, row in zip(["Yes", "Yes"], task.rows, strict=True)
    ]
    assert [score for _, score in scored] == [1.0, 0.0]


def test_a_suite_without_the_tasks_answers(tmp_path: Path) -> None:
    day_care = open_day_care(folder(tmp_path / "f"), "good")
    with pytest.raises(
        UsageError, match=r"no column 'gold_good' with the right answers for good; did you mean gold_god\?"
    ):
        day_care.task(suite(tmp_path / "s.json", [{"question": "?", "gold_god": True}]))
    with pytest.raises(UsageError, match='no column "question"'):
        day_care.task(suite(tmp_path / "s.json", [{"text": "?", "gold_good": True}]))
    with pytest.raises(UsageError, match="no rows"):
        day_care.task(suite(tmp_path / "s.json", []))


def test_a_suite_with_one_answer_is_found_out() -> None:
    """That of the predecessor had true in all of its rows."""
    alike = [{"gold_good": True}, {"gold_good": True}]
    assert nothing_to_win(alike, "gold_good") == (
        "every gold_good is True: always answering 'Yes' scores 1.0, nothing to optimise"
    )
    assert nothing_to_win(SUITE, "gold_good") is None


def test_binary_f_beta_is_the_predecessors(tmp_path: Path) -> None:
    """Of 150 rows that are all true: 150, 100, 50 and no Yes."""
    scorer = open_day_care(folder(tmp_path / "f"), "good").scorer

    async def fitness(yes: int) -> float:
        said = [Completion(" Yes")] * yes + [Completion(" No")] * (150 - yes)
        scored = [await scorer.score(one, True, {}) for one in said]
        return scorer.metric.of([(score, answer, True) for answer, score in scored])

    assert [round(run(fitness(yes)), 4) for yes in (150, 100, 50, 0)] == [1.0, 0.9091, 0.7143, 0.0]


def test_the_sample_folder_is_whole() -> None:
    """What ships breeds: its queries write prompts, and answers that its scorer knows."""
    at = Path(__file__).parents[2] / "examples" / "day_care"
    day_care = open_day_care(at, "sentiment")
    task = day_care.task(at / "sentiment" / "fitness_test_suite.json")
    assert (len(task.rows), len(task.held_out), day_care.notes) == (100, 100, [])
    reviews = [{row["review"] for row in rows} for rows in (task.rows, task.held_out)]
    assert not reviews[0] & reviews[1]

    def script(request: Request) -> str:
        if request.params.choices == (" positive", " negative"):
            assert request.messages[-1].text.endswith("The sentiment is")
            return " positive"
        return " it about" if request.params.max_tokens == 24 and request.params.temperature else " Because."

    model, _ = scripted(script)
    for variant in ("CoT", "noCoT", ""):
        settings = Settings(population_size=4, generations=1, batch=10, variants=(variant,))
        result = breed(task, model=model, settings=settings, queries=day_care.queries, embed=by_letters)
        assert 0 < result.best.fitness < 1
        assert all("What is it about?" in scored.unit.task_prompts for scored in result.history[0].population)


# Prompts of a unit


def test_the_genome_of_a_unit_and_back() -> None:
    unit = Unit("0-0", ("Judge.", "Think."), "M", "Be a judge.")
    for genome in (Genome(2, system=True), Genome(2, system=True, whole=True), Genome(2, whole=True), Genome(2)):
        assert genome.unseen(genome.seen(unit), unit) == unit
    assert Genome(2, system=True).seen(unit).task_prompts == ("Be a judge.", "Judge.", "Think.")
    assert Genome(2, system=True, whole=True).seen(unit).task_prompts == (
        "SYSTEM_PROMPT: Be a judge.\nTASK_PROMPT: Judge.\nREASONING_PROMPT: Think.",
    )
    assert "SYSTEM" not in Genome(2, whole=True).seen(unit).task_prompts[0]


def test_what_a_query_leaves_out_stays() -> None:
    unit = Unit("0-0", ("Judge.", "Think."), "M", "Be a judge.")
    genome = Genome(2, system=True, whole=True)

    def after(text: str) -> Unit:
        changed = Unit("1-0", (text,), "M", "Be a judge.")
        return genome.unseen(changed, unit)

    assert after("Only this.").task_prompts == ("Only this.", "Think.")
    assert after("Reasoning-Prompt: Slowly.").task_prompts == ("Judge.", "Slowly.")
    assert after("System-Prompt: You. Task-Prompt: Do.").system_prompt == "You."
    fixed = Genome(2, whole=True)
    assert (
        fixed.unseen(Unit("1-0", ("SYSTEM_PROMPT: Hacked. TASK_PROMPT: Do.",), "M"), unit).system_prompt
        == "Be a judge."
    )


def day_care_model(answers: Callable[[Request], str]) -> Any:
    """Writes prompts that tell when and where, and answers as `answers` does."""

    def script(request: Request) -> str:
        if request.params.choices:
            return answers(request)
        return f"prompt {len(request.messages)} {crc32(repr(request).encode()) % 1000}"

    return scripted(script)


def _bred(tmp_path: Path, task: dict[str, Any], answers: Callable[[Request], str], **settings: Any) -> Any:
    old = folder(tmp_path / "old", task, breeder__lmql=breeder())
    convert(old, tmp_path / "new")
    day_care = open_day_care(tmp_path / "new", "good")
    model, backend = day_care_model(answers)
    options = {"population_size": 6, "generations": 3, "batch": None, "variants": ("CoT",), **settings}
    result = breed(
        day_care.task(suite(tmp_path / "s.json")),
        model=model,
        settings=Settings(**options),
        split=False,
        queries=day_care.queries,
        embed=by_letters,
    )
    return result, backend


def says(request: Request) -> str:
    text = " ".join(message.text for message in request.messages)
    return " Yes" if "fine" in text else " No"


def test_a_converted_folder_breeds_system_task_and_reasoning_prompts(tmp_path: Path) -> None:
    result, backend = _bred(tmp_path, {**TASK, "fixed_system_prompt": None}, says)
    units = [scored.unit for generation in result.history for scored in generation.population]
    assert result.best.fitness == 1.0
    assert all(len(unit.task_prompts) == 2 and unit.system_prompt.startswith("prompt") for unit in units)
    assert len({unit.system_prompt for unit in units}) > 6  # the system prompt is bred too
    asked = [request for request in backend.requests if request.params.choices]
    assert {request.messages[0].text for request in asked} <= {unit.system_prompt for unit in units}


def test_a_fixed_system_prompt_stays(tmp_path: Path) -> None:
    result, backend = _bred(tmp_path, TASK, says)
    units = [scored.unit for generation in result.history for scored in generation.population]
    assert {unit.system_prompt for unit in units} == {"You judge reviews."}
    asked = [request for request in backend.requests if request.params.choices]
    assert {request.messages[0].text for request in asked} == {"You judge reviews."}


def test_every_operator_runs_to_the_end_and_workings_are_whole(tmp_path: Path) -> None:
    """The predecessor stopped for good at its lineage, and drew characters of workings."""
    result, backend = _bred(tmp_path, TASK, says, generations=12, population_size=10, seed=3)
    operators = Counter(birth.operator for generation in result.history for birth in generation.births)
    assert len(operators) == 8
    shown = [request.messages[0].text for request in backend.requests if "Right workings" in request.messages[0].text]
    assert shown
    assert all("prompt 3" in text or "prompt 2" in text for text in shown)
    made = {scored.unit.mutation_prompt for generation in result.history for scored in generation.population}
    assert any(prompt.startswith("prompt ") for prompt in made)  # hyper-mutations stay in their units


def test_calls_are_counted_before(tmp_path: Path) -> None:
    old = folder(tmp_path / "old", TASK, breeder__lmql=breeder())
    convert(old, tmp_path / "new")
    day_care = open_day_care(tmp_path / "new", "good")
    settings = Settings(
        population_size=6, generations=2, batch=None, variants=("CoT", "noCoT"), operators={"first_order_direct": 1.0}
    )
    task = day_care.task(suite(tmp_path / "s.json"))
    plan = run(counted(Breeding(task, settings, day_care.queries, ["M"], ["T"], by_letters)))
    # 3 parts a prompt; 6 founders and 2 times 3 children on 6 rows, 2 calls with working and 1 without
    assert (plan.founders, plan.fitness, plan.most_mutations, plan.held_out) == (18, 12 * 6 * 3, 18, 0)
