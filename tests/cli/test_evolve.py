"""`shoal evolve` as people call it: every flag, runs that go on, and what is left to use."""

import json
import os
import re
import signal
import subprocess
import sys
import termios
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from tests.evolution.day_cares import TASK, breeder, folder, suite

import shoal as package
from shoal.cli import main
from shoal.cli.evolve import evolve
from shoal.cli.evolve_options import with_those_of
from shoal.cli.evolved import toml

SCRIPT = """
import asyncio, pathlib, zlib

def number(request):
    return zlib.crc32(repr(request).encode())

def says(request):
    text = " ".join(message.text for message in request.messages)
    if request.params.choices:
        return " Yes" if ("fine" in text) == (zlib.crc32(request.messages[0].text.encode()) % 3 > 0) else " No"
    if request.params.max_tokens == 250:
        return f"prompt {number(request) % 100000}"
    return "Yes" if ("fine" in text) == (zlib.crc32(text.encode()) % 3 > 0) else "No"

async def slow(request):
    if request.sample and request.sample[0] == 2 and not pathlib.Path("go on").exists():  # of the second generation
        pathlib.Path("began").touch()
        await asyncio.Event().wait()
    return says(request)
"""
ROWS = [
    {"text": f"It was {'fine' if i % 2 else 'awful'} {i}.", "question": "Good?", "gold_good": i % 2 == 1}
    for i in range(24)
]


@pytest.fixture(autouse=True)
def files(at_home: Path) -> None:
    (at_home / "m.py").write_text(SCRIPT)
    folder(at_home / "f", {**TASK, "fixed_system_prompt": None})
    suite(at_home / "s.json", ROWS)


def shoal(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert isinstance(exit_.value.code, int)
    return exit_.value.code, *capsys.readouterr()


SMALL = ("--population_size", "3", "--initial_prompts_per_unit", "2", "--evolution_generations", "2")
MODEL = ("-m", "scripted/m.py:says")
EVOLVE = ("evolve", "f", "--task", "good", *MODEL, "--fitness_test_suite", "s.json", *SMALL)


def facts(*path: str) -> Any:
    return json.loads(Path(*path).read_text())


def test_a_run_in_the_predecessors_words(capsys: pytest.CaptureFixture[str]) -> None:
    """Every flag of it, with `--population` cut short as its script has it."""
    code, out, err = shoal(
        capsys,
        "evolve",
        *("--model_name_or_path", "scripted/m.py:says", "--day_care_dir", "./f/", "--task", "good"),
        *("--decoder_options_override", "sample(temperature=0.5, n=2)", "--client_batch_size", "50"),
        *("--server_batch_size", "4", "--fitness_test_suite", "s.json", "--population", "3"),
        *("--initial_prompts_per_unit", "2", "--evolution_generations", "2", "--num_eda_samples", "4"),
        *("--num_lamarckian_reasonings", "1", "--chunk_size", "3", "--test_CoT", "--test_noCoT", "--verbose"),
        *("--is_async", "--seed", "7", "--wandb_project", "mine"),
    )
    assert (code, out) == (0, "")
    for name in ("server_batch_size", "chunk_size", "is_async"):
        assert f"note: --{name} has no meaning here" in err
    assert "n has no meaning here: one draw is taken" in err
    assert "good: 6 units" in err  # 3 units of 2 prompts
    settings = facts("f", "good", "RUN_0", "_config.json")["options"]["settings"]
    assert (settings["population_size"], settings["num_eda_samples"], settings["num_lamarckian_reasonings"]) == (
        6,
        4,
        1,
    )
    assert (settings["variants"], settings["seed"], settings["batch"]) == (["CoT", "noCoT"], 7, None)
    unit = facts("f", "good", "RUN_0", "generation_2_stats.json")
    assert set(unit["variants"]) == {"CoT", "noCoT"}


def test_defaults_are_the_predecessors(capsys: pytest.CaptureFixture[str]) -> None:
    suite(Path("f", "good", "fitness_test_suite.json"), ROWS)
    code, out, _ = shoal(
        capsys, "evolve", "f", "--task", "good", "-m", "scripted/m.py:says", "--plan", "--held-out", "none"
    )
    assert code == 0
    # 100 founders of 3 prompts; 100 + 20 * 50 units on 24 questions, 2 calls each
    assert "founders 300 calls" in " ".join(out.split())
    assert "fitness 48 – 52,800 calls" in " ".join(out.split())
    assert not Path("f", "good", "RUN_0").exists()


def test_the_default_configuration_does_not_crash(capsys: pytest.CaptureFixture[str]) -> None:
    """That of the predecessor did at once: neither --is_async nor --test_CoT nor --test_noCoT."""
    code, _, err = shoal(capsys, *EVOLVE)
    assert code == 0, err
    assert "The prompt that was bred" in err


@pytest.mark.parametrize(
    "spelt", [("--population-size", "3"), ("--population_size=3",), ("--pop", "3"), ("--Population-Size", "3")]
)
def test_options_may_be_spelt_so(capsys: pytest.CaptureFixture[str], spelt: tuple[str, ...]) -> None:
    code, out, _ = shoal(
        capsys,
        "evolve",
        "f",
        "--task",
        "good",
        "-m",
        "scripted/m.py:says",
        "--fitness-test-suite",
        "s.json",
        *spelt,
        "--plan",
    )
    assert code == 0
    assert "founders 18 calls" in " ".join(out.split())


def test_what_is_cut_too_short_is_asked_about(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = shoal(capsys, "evolve", "f", "--num", "3")
    assert code == 2
    assert "--num may be --num_eda_samples or --num_lamarckian_reasonings" in err


def test_json_and_the_files_to_use(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = shoal(capsys, *EVOLVE, "--test_CoT", "--json")
    assert (code, err.count("\n")) == (0, 1)  # the note on n
    result = json.loads(out)
    run = Path(result["run_dir"])
    assert run == Path("f", "good", "RUN_0")
    best = facts(str(run), "best_prompt.json")
    assert best["task_prompts"] == result["task_prompts"]
    assert Path(result["system_file"]).read_text() == "\n\n".join([best["system_prompt"], *best["task_prompts"]]) + "\n"
    rows = [{**row, "gold": "yes" if row["gold_good"] else "no"} for row in ROWS]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ("run", "data.jsonl", "-m", "scripted/m.py:says", "--answer", "gold", "--json")
    code, out, _ = shoal(capsys, *asked, "--program", result["program"])
    assert (code, json.loads(out)["calls"] + json.loads(out)["cached_calls"]) == (0, 48)
    code, out, _ = shoal(capsys, *asked, "-p", "{text} {question}", "--system-file", result["system_file"])
    assert (code, json.loads(out)["calls"]) == (0, 24)


def test_a_system_message_from_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("long.py").write_text("def says(request):\n    return repr([m.text for m in request.messages])\n")
    Path("s.txt").write_text("Be kind.\n\nBe short.\n")
    ask = ("ask", "Hi", "-m", "scripted/long.py:says", "--system-file")
    assert shoal(capsys, *ask, "s.txt")[:2] == (0, "['Be kind.\\n\\nBe short.', 'Hi']\n")
    for wrong, reason in (
        (("gone.txt",), "--system-file gone.txt: No such file"),
        (("s.txt", "--system", "Be."), "give one"),
    ):
        code, _, err = shoal(capsys, *ask, *wrong)
        assert code == 2
        assert reason in err


def test_the_template_asks_exactly_what_fitness_was_measured_on(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = shoal(capsys, *EVOLVE, "--test_CoT", "--held-out", "none", "--scorer", "boolean", "--json")
    fitness = json.loads(out)["fitness"]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    _, out, _ = shoal(
        capsys,
        "run",
        "data.jsonl",
        "-m",
        "scripted/m.py:says",
        "--program",
        json.loads(out)["program"],
        *("--answer", "gold_good", "--scorer", "boolean", "--replay", "--json"),
    )
    summary = json.loads(out)
    assert summary["score"] == fitness
    assert (summary["failed"], summary["calls"], summary["cached_calls"]) == (0, 0, 48)


def test_the_preset_is_toml(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = shoal(capsys, *EVOLVE)
    lines = err[err.index("    [presets.good]") :].splitlines()[:3]
    preset = tomllib.loads("\n".join(line.strip() for line in lines))["presets"]["good"]
    assert preset["model"] == "scripted/m.py:says"
    assert preset["system"] == Path("f", "good", "RUN_0", "best_prompt.txt").read_text().rstrip("\n")


def test_a_run_goes_on_with_its_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    """The predecessor wanted them repeated."""
    shoal(capsys, *EVOLVE, "--test_CoT", "--seed", "5")
    code, out, _ = shoal(
        capsys, "evolve", "f", "--task", "good", *MODEL, "--continue_run_number", "0", "--evo", "3", "--json"
    )
    assert (code, json.loads(out)["generations"]) == (0, 3)
    settings = facts("f", "good", "RUN_0", "_config.json")["options"]["settings"]
    assert (settings["seed"], settings["variants"]) == (5, ["CoT"])
    code, _, err = shoal(capsys, "evolve", *MODEL, "--run-dir", "f/good/RUN_0", "--seed", "6")
    assert code == 2
    assert "holds a run with settings.seed=5, now settings.seed=6" in err


def test_a_run_does_not_say_which_file_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    """A folder may come from somebody else, with its runs."""
    shoal(capsys, *EVOLVE)
    code, _, err = shoal(capsys, "evolve", "f", "--task", "good", "--continue_run_number", "0")
    assert code == 2
    assert "--model is 'scripted/m.py:says', a file; say so on the command line to go on" in err


def test_each_run_has_a_number_and_the_same_seed_is_the_same_run(capsys: pytest.CaptureFixture[str]) -> None:
    results = [json.loads(shoal(capsys, *EVOLVE, "--json", "--no-cache")[1]) for _ in range(2)]
    assert [Path(result["run_dir"]).name for result in results] == ["RUN_0", "RUN_1"]
    assert results[0]["task_prompts"] == results[1]["task_prompts"]
    assert results[0]["calls"] == results[1]["calls"]


def test_debug_mode_has_a_folder_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # one that is complete is begun anew
        assert shoal(capsys, *EVOLVE, "--debug_mode")[0] == 0
    assert sorted(path.name for path in Path("f", "good").iterdir() if path.is_dir()) == ["DEBUG"]


def test_a_budget_ends_a_run_and_a_larger_one_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = shoal(capsys, *EVOLVE, "--budget", "calls=300")
    assert code == 1
    assert "calls are expected; the budget of 300 may end the run" in err
    assert "the budget is spent; --run-dir f/good/RUN_0" in err
    code, out, _ = shoal(capsys, "evolve", *MODEL, "--run-dir", "f/good/RUN_0", "--json")
    whole = json.loads(out)
    code, out, _ = shoal(capsys, *EVOLVE, "--no-cache", "--json")
    assert json.loads(out)["task_prompts"] == whole["task_prompts"]
    assert json.loads(out)["calls"] == whole["calls"]


@pytest.mark.parametrize("send", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(
    capsys: pytest.CaptureFixture[str], send: signal.Signals
) -> None:
    source = Path(package.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    arguments = [word.replace("m.py:says", "m.py:slow") for word in EVOLVE]
    process = subprocess.Popen(
        [sys.executable, "-m", "shoal", *arguments], env=environment, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    said = ""
    while "generation 1 of" not in said:
        said += process.stderr.readline()
    while not Path("began").exists():
        assert process.poll() is None
    process.send_signal(send)
    while "stopping" not in said:
        said += process.stderr.readline()
    process.send_signal(send)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, said + rest
    assert "--run-dir f/good/RUN_0 goes on from there" in rest
    Path("go on").touch()
    results = [
        json.loads(shoal(capsys, *command, "--json", "--no-cache")[1])
        for command in (("evolve", "-m", "scripted/m.py:slow", "--run-dir", "f/good/RUN_0"), arguments)
    ]
    for name in ("task_prompts", "system_prompt", "fitness", "comparison", "calls"):
        assert results[0][name] == results[1][name]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("evolve", "f"), "--task is missing"),
        (("evolve", "f", "--task", "god"), "no task 'god'; did you mean good?"),
        (("evolve", "nowhere", "--task", "good"), "nowhere: no such folder"),
        (("evolve", "--task", "good"), "data/lmql_specifications/day_care: no such folder"),
        (("evolve", "f", "--day_care_dir", "g", "--task", "good"), "which is it?"),
        (("evolve", "f", "--task", "../f/good"), "the name of a folder in f is needed"),
        (("evolve", "f", "--task", "good"), "give --fitness_test_suite FILE"),
        ((*EVOLVE, "--continue_run_number", "4"), "no run in f/good/RUN_4"),
        ((*EVOLVE, "--continue_run_number", "4", "--run-dir", "x"), "give one"),
        ((*EVOLVE, "--optimizer", "gradient"), "no 'gradient'"),
        ((*EVOLVE, "--operators", "linage"), "no operator 'linage'; did you mean lineage?"),
        ((*EVOLVE, "--operators", "lineage=much"), "the weight of lineage is 'much'"),
        ((*EVOLVE, "--batch", "none"), "--batch 'none'"),
        ((*EVOLVE, "--held-out", "gone.json"), "gone.json: no such file"),
        ((*EVOLVE, "--scorer", "exakt"), "did you mean exact?"),
        ((*EVOLVE, "--decoder_options_override", "{"), "--decoder_options_override: not JSON"),
        ((*EVOLVE, "--decoder_options_override", "smaple"), "did you mean sample?"),
        ((*EVOLVE, "--crossover", "2"), "2"),
        ((*EVOLVE, "--model_name_or_path", "meta-llama/Llama-2-13b-chat-hf"), "-m vllm/meta-llama/Llama-2-13b-chat-hf"),
        ((*EVOLVE, "-m", "gone.gguf"), "gone.gguf"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], reason: str) -> None:
    code, out, err = shoal(capsys, *arguments)
    assert (code, out) == (2, "")
    assert reason in err
    assert len([line for line in err.splitlines() if not line.startswith("note: ")]) == 1


@pytest.mark.parametrize("question", ["Is it good?", "{text", ""])
def test_a_question_without_a_column_is_refused(capsys: pytest.CaptureFixture[str], question: str) -> None:
    """All rows would be one question, and prompts bred for nothing."""
    folder(Path("g"), {**TASK, "question": question or "{{}}"})
    code, _, err = shoal(capsys, "evolve", "g", *EVOLVE[2:])
    assert code == 2
    assert "names no column, so all rows would be asked alike; write {NAME} with one of text, question" in err


def test_a_query_may_read_the_row_itself(capsys: pytest.CaptureFixture[str]) -> None:
    query = "fitness: |-\n  {{ row.text }} {{ generate_text(name='answer') }}\n"
    folder(Path("g"), {**TASK, "question": "-"}, breeder__yaml=query)
    assert shoal(capsys, "evolve", "g", *EVOLVE[2:], "--plan")[0] == 0


def test_only_an_unknown_model_may_be_weights(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    code, _, err = shoal(capsys, *EVOLVE, "-m", "openai/gpt-4o-mini")
    assert code == 2
    assert "needs OPENAI_API_KEY" in err
    assert "Hugging Face" not in err


def test_a_budget_that_is_too_small_says_what_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = shoal(capsys, *EVOLVE, "--budget", "calls=60")
    assert code == 1
    assert "note: finished calls are kept; --run-dir f/good/RUN_0 goes on from there" in err
    assert "the budget of 60 calls is spent, before the first generation was complete" in err


def test_no_run_is_begun_by_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (("--operators", "linage"), ("-m", "nowhere/x"), ("--budget", "cals=3")):
        assert shoal(capsys, *EVOLVE, *wrong)[0] == 2
    assert not Path("f", "good", "RUN_0").exists()


def test_a_suite_with_one_answer_is_warned_about(capsys: pytest.CaptureFixture[str]) -> None:
    suite(Path("s.json"), [{**row, "gold_good": True} for row in ROWS])
    code, _, err = shoal(capsys, *EVOLVE)
    assert code == 0
    assert "warning: every gold_good is True: always answering 'Yes' scores 1.0, nothing to optimise" in err


def test_convert_and_breed(capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with a fixed system prompt and without `fitness_decoder_options` ended in a KeyError."""
    task = {name: value for name, value in TASK.items() if name != "fitness_decoder_options"}
    folder(Path("old"), task, breeder__lmql=breeder(mutation_lamarckian="argmax\n    import os"))
    code, _, err = shoal(capsys, "evolve", "old", "--task", "good", "--fitness_test_suite", "s.json")
    assert code == 2
    assert "shoal evolve --convert old" in err
    code, out, _ = shoal(capsys, "evolve", "--convert", "old", "new")
    assert code == 1  # one query is refused
    assert "fitness_test_template: converted to fitness" in out
    assert "mutation_lamarckian: not converted: line 2: 'import os' is no expression" in out
    code, out, err = shoal(capsys, "evolve", "new", *EVOLVE[2:], "--test_CoT", "--test_noCoT", "--json")
    assert code == 0, err
    assert json.loads(out)["system_prompt"] == "You judge reviews."


def process(at: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    source = Path(package.__file__).parents[1]
    known = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment = {**known, "PYTHONPATH": str(source), "WANDB_MODE": "offline", "HOME": str(at)}
    command = [sys.executable, "-m", "shoal", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)


def test_wandb_is_told_of_each_generation_and_goes_on_in_the_same_run(at_home: Path) -> None:
    pytest.importorskip("wandb")
    done = process(at_home, *EVOLVE, "--use_wandb", "--quiet")
    assert done.returncode == 0, done.stderr
    run = Path("f", "good", "RUN_0")
    before = facts(str(run), "wandb.json")
    assert (before["project"], before["logged"]) == ("prompt_breeder", 2)
    again = ("evolve", *MODEL, "--run-dir", str(run), "--evo", "3", "--use_wandb", "--quiet")
    done = process(at_home, *again)
    assert done.returncode == 0, done.stderr
    assert facts(str(run), "wandb.json") == {**before, "logged": 3}
    assert len(list(run.glob("wandb/offline-run-*/*.wandb"))) == 2


def test_the_live_view_on_a_terminal(at_home: Path) -> None:
    """What is drawn where stderr is a terminal, and that what comes after it stays."""
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (40, 100))
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1]), "TERM": "xterm"}
    running = subprocess.Popen([sys.executable, "-m", "shoal", *EVOLVE], env=environment, stderr=slave)
    os.close(slave)
    said = b""
    while piece := read_terminal(master):
        said += piece
    os.close(master)
    assert running.wait(timeout=60) == 0
    text = said.decode()
    assert "units scored" in text
    assert "best so far" in text
    assert "as it was measured:" in text[text.rindex("units scored") :]


def read_terminal(master: int) -> bytes:
    try:
        return os.read(master, 1 << 16)
    except OSError:  # the other end is closed
        return b""


def test_a_report_is_made_in_the_end_and_when_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = shoal(capsys, *EVOLVE, "--json")
    page = Path("f", "good", "RUN_0", "report.html")
    assert (code, json.loads(out)["report"]) == (0, str(page))
    before = page.read_bytes()
    page.unlink()
    code, out, _ = shoal(capsys, "evolve", "--report", str(page.parent))
    assert (code, out.splitlines()[0], page.read_bytes()) == (0, str(page), before)
    code, out, err = shoal(capsys, "evolve", "--report", "f/good")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "not the folder of a run of evolution" in err


def test_a_preset_does_not_act_on_the_terminal() -> None:
    text = 'a\nb\t"c" \\ \x1b[31m\x7f\x9b\u202e é 😀'
    written = toml(text)
    assert written.isprintable()
    assert tomllib.loads(f"a = {written}")["a"] == text


def asked() -> int:
    return len(Path("asked.txt").read_text().splitlines()) if Path("asked.txt").exists() else 0


def counting() -> None:
    Path("c.py").write_text(
        "import pathlib\nfrom m import says\n\ndef counted(request):\n"
        "    with pathlib.Path('asked.txt').open('a') as file:\n        file.write('once\\n')\n"
        "    return says(request)\n"
    )


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out, _ = shoal(capsys, *arguments, "--plan", "--json")
    assert code == 0
    return json.loads(out)


def test_a_plan_holds_and_asks_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    counting()
    of = [("scripted/c.py:counted" if word == MODEL[1] else word) for word in EVOLVE]
    told = plan(capsys, *of)
    assert asked() == 0
    assert not Path("f", "good", "RUN_0").exists()
    assert shoal(capsys, *of, "--quiet")[0] == 0
    assert told["total"]["calls"]["least"] <= asked() <= told["total"]["calls"]["most"]
    assert set(told["parts"]) == {"founders", "fitness", "mutations", "held-out rows"}
    done = plan(capsys, *of, "--continue_run_number", "0")
    assert done["total"]["calls"] == {"least": 0, "most": 0, "source": done["total"]["calls"]["source"]}
    more = plan(capsys, *of, "--continue_run_number", "0", "--evolution_generations", "3")
    assert 0 < more["total"]["calls"]["most"] < told["total"]["calls"]["most"]
    code, _, err = shoal(capsys, *of, "--continue_run_number", "0", "--seed", "9", "--plan")
    assert code == 2
    assert "seed" in err


def test_a_pilot_of_a_plan_asks_so_many_questions(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    counting()
    of = [("scripted/c.py:counted" if word == MODEL[1] else word) for word in EVOLVE]
    told = plan(capsys, *of, "--pilot", "4", "--no-cache")
    assert told["total"]["pilot"]["calls"] == asked() > 0
    code, out, _ = shoal(capsys, *of, "--plan")
    assert code == 0
    assert "critical path" in out
    assert "a row" not in out
    code, _, err = shoal(capsys, *of, "--pilot", "4")
    assert (code, "--pilot is for --plan" in err) == (2, True)


def test_a_server_that_is_not_there_is_planned_without_its_key(capsys: pytest.CaptureFixture[str]) -> None:
    Path("shoal.toml").write_text(
        '[endpoints.lab]\nbase_url = "http://127.0.0.1:9/v1"\napi_key = "${NO_SUCH_KEY}"\n'
        '[prices."lab/m"]\ninput = 1.0\noutput = 10.0\n'
    )
    of = [("lab/m" if word == MODEL[1] else word) for word in EVOLVE]
    total = plan(capsys, *of)["total"]
    assert 0 < total["dollars"]["least"] < total["dollars"]["most"]
    assert total["seconds"]["least"] > 0


def test_a_plan_of_gepa_holds_and_a_finished_run_has_little_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    counting()
    of = [("scripted/c.py:counted" if word == MODEL[1] else word) for word in EVOLVE]
    of += ["--optimizer", "gepa", "--rollouts", "40", "--validation", "4", "--test_noCoT"]
    told = plan(capsys, *of)
    assert asked() == 0
    assert shoal(capsys, *of, "--quiet")[0] == 0
    assert told["total"]["calls"]["least"] <= asked() <= told["total"]["calls"]["most"]
    assert told["parts"]["rollouts"]["most"] == 40
    done = plan(capsys, *of, "--continue_run_number", "0")["total"]
    assert (done["kept"], done["calls"]["least"]) == (asked(), 0)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("population_size", "many", "population_size: 'many' is not a valid integer"),
        ("crossover", 9, "crossover: 9.0 is not in the range"),
        ("batch", ["all"], r"batch: \"\['all'\]\" is neither a text nor a number"),
        ("scorer", "x.py:f", "--scorer is 'x.py:f', a file"),
        ("embedder", "gguf/x", "--embedder is 'gguf/x', a file"),
        ("fitness_test_suite", 7, "7: unknown kind of data file"),
    ],
)
def test_options_of_a_run_are_read_as_those_of_a_command(
    capsys: pytest.CaptureFixture[str], at_home: Path, name: str, value: Any, said: str
) -> None:
    config = at_home / "f" / "good" / "RUN_0" / "_config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"about": {"command": {"fitness_test_suite": "s.json", name: value}}}))
    code, _, err = shoal(capsys, "evolve", "f", "--task", "good", *MODEL, "--continue_run_number", "0")
    assert code == 2
    assert re.search(said, err), err


def test_a_run_of_somebody_else_does_not_decide_that_others_are_told(at_home: Path) -> None:
    command = {"fitness_test_suite": "s.json", "use_wandb": True, "wandb_project": "theirs", "held_out": "none"}
    config = at_home / "f" / "good" / "RUN_0" / "_config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"about": {"command": command}}))
    with click.Context(evolve) as context:
        options = with_those_of(config.parent, dict.fromkeys(param.name for param in context.command.params))
    assert not options["use_wandb"]
    assert options["wandb_project"] == "theirs"


def test_no_text_of_a_model_or_a_folder_acts_on_the_terminal(capsys: pytest.CaptureFixture[str], at_home: Path) -> None:
    acting = "\u202eredro\u202c \u2066x\u2069 \x07\x9b31m"
    written = acting.encode("unicode-escape").decode()
    (at_home / "m.py").write_text(SCRIPT.replace('f"prompt {', f'f"{written} prompt {{'))
    folder(at_home / "g", {**TASK, "question": f"{{text}} {acting}", "fixed_system_prompt": f"Judge. {acting}"})
    options = ("--verbose", "--fitness_test_suite", "s.json", *SMALL)
    code, _, err = shoal(capsys, "evolve", "g", "--task", "good", *MODEL, *options)
    assert code == 0, err
    assert "redro" in err
    assert not re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", err)
    lines = err[err.index("    [presets.good]") :].splitlines()[:3]
    system = tomllib.loads("\n".join(line.strip() for line in lines))["presets"]["good"]["system"]
    assert system == Path("g", "good", "RUN_0", "best_prompt.txt").read_text().rstrip("\n")
    assert "\x9b31m" in system


def test_a_folder_with_a_blank_in_its_name_is_quoted_where_a_command_is_said(
    capsys: pytest.CaptureFixture[str], at_home: Path
) -> None:
    folder(at_home / "my folder", {**TASK, "fixed_system_prompt": None})
    options = (*MODEL, "--fitness_test_suite", "s.json", *SMALL, "--budget", "calls=300")
    code, _, err = shoal(capsys, "evolve", "my folder", "--task", "good", *options)
    assert code == 1, err
    assert "--run-dir 'my folder/good/RUN_0' with a larger one goes on" in err
