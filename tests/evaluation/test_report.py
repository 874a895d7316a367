"""The report of a comparison, as whoever gets it reads it."""

import csv
import re
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from tests.scripting import AT_ONCE

import shoal
from shoal.backends import BaseModel
from shoal.backends.scripted import ScriptedBackend
from shoal.errors import StoreError, UsageError
from shoal.evaluation.comparing.result import Arm, Comparison, Difference, Interval, Point
from shoal.evaluation.report import figures, numbers, plotting, write
from shoal.evaluation.report.document import document
from shoal.evaluation.report.spreadsheet import differences_csv
from shoal.evaluation.report.verdict import verdict

HOSTILE = "<script>alert('x')</script><img src=http://evil.test/x.png> $x_1$ \u202e\ufffe\x1b[31m\n" + "long " * 40


def arm(name: str, value: float, tokens: float, rows: int = 200, **more: Any) -> Arm:
    low, high = max(0.0, value - 0.07), min(1.0, value + 0.07)
    known: dict[str, Any] = {"calls": rows, "wire_requests": rows, "seconds": 1.2, "dollars": 0.02, "frontier": True}
    known |= {"failed": 0, "paid_tokens": int(rows * tokens / 2)} | more
    prompt, completion = int(tokens * rows * 0.75), int(tokens * rows * 0.25)
    return Arm(
        name=name,
        spec=f"{name} -m m",
        rows=rows,
        value=value,
        interval=Interval(low, high),
        prompt_tokens=prompt,
        completion_tokens=completion,
        **known,
    )


def difference(a: Arm, b: Arm, p: float) -> Difference:
    value = b.value - a.value
    return Difference(a.name, b.name, value, Interval(value - 0.07, value + 0.07), p, 30, 20, 150)


def comparison(arms: Sequence[Arm], p: float = 0.01, **more: Any) -> Comparison:
    known: dict[str, Any] = {"title": "Sums", "metric": "accuracy", "notes": (), "budget": None, "example": {}}
    known |= {"rows": arms[0].rows if arms else 0} | more
    pairs = tuple(difference(a, b, p) for a, b in combinations(arms, 2))
    return Comparison(
        data="sums.jsonl",
        scorer="number",
        model="scripted",
        arms=tuple(arms),
        differences=pairs,
        made="2026-01-02T04:04:05+01:00",
        **known,
    )


def hostile() -> Comparison:
    arms = [arm(HOSTILE, 0.5, 100), arm("=1+1", 0.4, 90), arm("@SUM(A1)", 0.3, 80)]
    example = {
        "prompt": HOSTILE,
        "target": [HOSTILE],
        HOSTILE: "x",
        "answers": {HOSTILE: {"answer": HOSTILE, "score": 0}},
    }
    notes = (HOSTILE, f"shoal compare {HOSTILE}")
    found = comparison(arms, title=HOSTILE, metric=HOSTILE, notes=notes, example=example)
    return msgspec.structs.replace(found, data=HOSTILE, scorer=HOSTILE, model=HOSTILE, budget=HOSTILE, made=HOSTILE)


def many(number: int) -> list[Arm]:
    draw = Random(number)
    return [arm(f"technique {n}", draw.random(), 100 * 40 ** draw.random()) for n in range(number)]


def curved() -> Arm:
    points = [Point(n, 0.3 + 0.05 * n**0.5, Interval(0.25, 0.8), 100.0 * n, float(n)) for n in (1, 2, 4, 8, 16, 32, 64)]
    return arm("self_consistency?n=64", points[-1].value, 6400, curve=tuple(points))


CASES = {
    "none": comparison([]),
    "one": comparison([arm("direct", 0.5, 100)]),
    "one row": comparison([arm("direct", 0.0, 100, rows=1), arm("cot", 1.0, 900, rows=1)]),
    "five": comparison([*many(4), curved()], notes=("shoal compare sums.jsonl -t cot", "a note")),
    "twenty": comparison(many(20)),
    "equal": comparison([arm(f"technique {n}", 0.5, 100) for n in range(20)]),
    "nothing known": comparison([arm("a", 0.0, 0, seconds=None, dollars=None, wire_requests=None), arm("b", 1.0, 0)]),
    "F-beta": comparison([arm("a", 0.4, 100), arm("b", 0.5, 200, failed=3)], metric="F0.5"),
    "hostile": hostile(),
}


class Page(HTMLParser):
    """Its tags, its text, its tables' cells, and whether every tag that opens closes."""

    VOID = ("meta", "path", "use", "line", "rect")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.headings: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if "td" in self._open or "th" in self._open:
            self.rows[-1][-1] += data
        if self._open[-1:] == ["h2"]:
            self.headings.append(data)


@pytest.mark.parametrize("name", CASES)
def test_a_report_of_anything_can_be_written_and_refers_to_nothing_outside(name: str, tmp_path: Path) -> None:
    made = write(CASES[name], tmp_path / "report")
    assert sorted(made) == sorted((tmp_path / "report").iterdir())
    page = Page((tmp_path / "report/report.html").read_text("utf-8"))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {
        "script",
        "a",
        "img",
        "image",
        "link",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
        "foreignobject",
    }
    for _, attributes in page.tags:
        assert not any(
            attribute.startswith("on") or attribute in ("src", "srcset", "action") for attribute in attributes
        )
        assert str(attributes.get("href", "#")).startswith("#")
        assert "url(http" not in str(attributes.get("style", ""))
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    assert {str(a["href"])[1:] for _, a in page.tags if "href" in a} <= set(names)


@pytest.mark.parametrize("name", ["five", "hostile"])
def test_the_same_comparison_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    first, second = (write(CASES[name], tmp_path / where) for where in ("first", "second"))
    assert [path.name for path in first] == [path.name for path in second]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_the_page_says_what_it_is_in_order() -> None:
    page = Page(document(CASES["five"]))
    assert page.headings == [
        "Accuracy against tokens",
        "Sizes",
        "Techniques",
        "Differences",
        "How it was measured",
        "To do it again",
    ]
    policy = next(attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    assert "shoal compare sums.jsonl -t cot" in page.text
    assert "a note" in page.text
    assert "on the same rows · 2026-01-02 03:04 UTC" in page.text


def test_hostile_text_stays_text_on_every_place() -> None:
    page = Page(document(hostile()))
    assert page.text.count("<script>alert('x')</script>") >= 12
    assert not any(character in page.text.split("One of the rows")[0] for character in "\u202e\ufffe\x1b")
    assert max(len(cell) for row in page.rows for cell in row) < 700


def test_the_example_shows_each_answer() -> None:
    answers = {"direct": {"answer": "71", "score": 0.0}, "cot": {"answer": None, "score": None}}
    example = {"prompt": "How many? " * 500, "target": 72, "answers": answers}
    page = Page(document(comparison([arm("direct", 0.4, 100), arm("cot", 0.5, 300)], example=example)))
    assert ["direct", "71", "0"] in page.rows
    assert ["cot", "null", "–"] in page.rows
    assert "(2,000 more characters)" in page.text
    assert {"prompt", "target", "answers"} <= set(page.headings)


def test_the_table_of_arms_has_the_best_first_and_no_empty_columns() -> None:
    unknown = {"seconds": None, "dollars": None, "wire_requests": None}
    arms = [arm("direct", 0.4, 100, **unknown), arm("cot", 0.523, 2400, **unknown, frontier=False, failed=2)]
    rows = Page(document(comparison(arms))).rows
    assert rows[0][:4] == ["technique", "accuracy", "95 % interval", "frontier"]
    assert rows[0][4:] == ["tokens a row", "calls a row", "tokens paid", "rows failed"]
    assert rows[1] == ["1. cot", "52.3\xa0%", "45.3 to 59.3\xa0%", "", "2,400", "1", "240,000", "2"]
    assert rows[2][:4] == ["2. direct", "40.0\xa0%", "33.0 to 47.0\xa0%", "●"]


def test_differences_are_told_from_the_better_side() -> None:
    worse, better = arm("worse", 0.4, 100), arm("better", 0.5, 200)
    for arms in ([worse, better], [better, worse]):
        found = msgspec.structs.replace(comparison(arms), differences=(difference(arms[0], arms[1], 0.03),))
        [one] = numbers.differences(found)
        assert (one.one, one.other) == ("better", "worse")
        assert one.value == pytest.approx(0.1)
        assert (one.interval.low, one.interval.high) == pytest.approx((0.03, 0.17))
        assert (one.wins, one.losses) == ((30, 20) if arms[0] is worse else (20, 30))
    row = next(row for row in Page(document(found)).rows if row[:2] == ["better", "worse"])
    assert [cell.strip() for cell in row[2:]] == ["+10.0", "+3.0 to +17.0", "", "20 / 30 / 150", "0.030"]


def test_an_adjusted_p_decides_and_is_shown() -> None:
    arms = [arm("first", 0.4, 100), arm("second", 0.5, 200), arm("third", 0.45, 300)]
    plain = comparison(arms, p=0.03)
    pairs = [msgspec.structs.replace(one, adjusted=0.06 if one.a == "first" else None) for one in plain.differences]
    found = msgspec.structs.replace(plain, differences=tuple(pairs))
    said = " ".join(verdict(found)).replace("\xa0", " ")
    assert "above third for 0.7 times the tokens, a difference that chance alone hardly explains (p = 0.030)" in said
    assert "a difference that may well be chance (p = 0.060 adjusted for several comparisons)" in said
    rows = [row for row in Page(document(found)).rows if row[1] in ("first", "third")]
    assert [row[-2:] for row in rows] == [["0.030", ""], ["0.030", "0.060"], ["0.030", "0.060"]]
    assert not any("p adjusted" in row for row in Page(document(plain)).rows)
    assert b",0.06\n" in differences_csv(found)


def test_intervals_are_drawn_to_one_scale() -> None:
    arms = [arm("a", 0.3, 100), arm("b", 0.4, 100), arm("c", 0.6, 100)]
    page = Page(document(comparison(arms)))
    lines = [(str(a["class"]), float(str(a["x1"])), float(str(a["x2"]))) for tag, a in page.tags if tag == "line"]
    zeros = {start for kind, start, _ in lines if kind == "zero"}
    values = [start - zero for kind, start, _ in lines if kind.startswith("value") for zero in zeros]
    assert len(zeros) == 1
    assert values == pytest.approx([values[2] * 2, values[2] * 3, values[2]], rel=0.02)  # c-b, c-a, b-a
    assert all(0 <= end <= 100 for _, *ends in lines for end in ends)


def test_many_differences_fold_away() -> None:
    page = Page(document(CASES["twenty"]))
    assert [tag for tag, _ in page.tags].count("details") == 1
    assert "175 more" in page.text


def test_a_pair_picked_from_many_is_judged_as_one_of_many() -> None:
    """Best and cheapest are picked for their figures: of all pairs some have a small p by chance."""
    arms = [arm(f"t{i}", 0.5 + i / 100, 100 * (i + 1 if i else 50)) for i in range(8)]
    found = comparison(arms, p=0.02)
    first = tuple(msgspec.structs.replace(one, adjusted=0.14) for one in found.differences[:7])
    found = msgspec.structs.replace(found, differences=first + found.differences[7:])
    said = " ".join(verdict(found)).replace("\xa0", " ")
    assert "hardly explains" not in said
    assert "(p = 0.42 adjusted for several comparisons)" in said  # 21 pairs without the first


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            comparison([arm("direct", 0.4, 100, dollars=None), arm("cot", 0.5, 250, dollars=None)], p=0.0004),
            [
                "cot did best: its accuracy is 50.0 % on 200 rows (95 % interval 43.0 to 57.0 %), 10.0 points above "
                "direct for 2.5 times the tokens, a difference that chance alone hardly explains (p < 0.001).",
                "cot takes 250 tokens a row, direct 100 tokens a row.",
            ],
        ),
        (
            comparison([arm("a", 0.4, 100), arm("b", 0.45, 2500), arm("c", 0.5, 5000)], p=0.21, metric="F1"),
            [
                "c did best: its F1 is 0.500 on 200 rows (95 % interval 0.430 to 0.570), 0.050 above b "
                "for 2.0 times the tokens, a difference that may well be chance "
                "(p = 0.63 adjusted for several comparisons).",
                "The cheapest, a, reaches 0.400 at 100 tokens and $0.0001 a row; c gets 0.100 more at 5,000 tokens and "
                "$0.0001 a row, 50 times the tokens, a difference that may well be chance "
                "(p = 0.63 adjusted for several comparisons).",
                "On these rows 2 techniques cannot be told from the best; the cheapest of them, a, takes 100 tokens "
                "and $0.0001 a row.",
            ],
        ),
        (
            comparison([arm("direct", 0.4, 0, rows=1)]),
            [
                "The accuracy of direct is 40.0 % on 1 row (95 % interval 33.0 to 47.0 %), at no counted tokens. "
                "Nothing was compared with it."
            ],
        ),
        (comparison([]), ["Nothing was compared."]),
    ],
    ids=["two", "three", "one", "none"],
)
def test_the_answer_comes_first_in_plain_words(found: Comparison, said: list[str]) -> None:
    assert [sentence.replace("\xa0", " ") for sentence in verdict(found)] == said
    lead = [re.sub(r"\s+", " ", sentence) for sentence in said]
    assert all(sentence in re.sub(r"\s+", " ", Page(document(found)).text) for sentence in lead)


def test_of_equals_none_is_best() -> None:
    found = comparison([arm("dear", 0.5, 900), arm("cheap", 0.5, 100), arm("bad", 0.2, 50)], p=1.0)
    assert verdict(found)[0].startswith("No one technique is best: the accuracy of cheap and of dear is 50.0")
    assert "cheap needs the fewest tokens" in verdict(found)[0]
    assert "of technique 0 and of 19 others" in verdict(CASES["equal"])[0]


def test_without_a_test_nothing_is_said_of_chance() -> None:
    found = msgspec.structs.replace(comparison([arm("a", 0.4, 100), arm("b", 0.5, 200)]), differences=())
    assert "chance" not in " ".join(verdict(found))
    assert "Differences" not in Page(document(found)).headings


def test_csv_holds_every_figure_and_no_formula(tmp_path: Path) -> None:
    write(hostile(), tmp_path)
    with (tmp_path / "comparison.csv").open(encoding="utf-8", newline="") as file:
        first, second, third = csv.DictReader(file)
    assert (second["name"], third["name"]) == ("'=1+1", "'@SUM(A1)")
    assert first["name"].startswith("<script>")
    columns = ("rows", "value", "low", "tokens_per_row", "calls", "dollars", "frontier")
    assert {name: second[name] for name in columns} == {
        "rows": "200", "value": "0.4", "low": "0.33", "tokens_per_row": "90.0", "calls": "200", "dollars": "0.02",
        "frontier": "true",
    }  # fmt: skip
    assert float(first["prompt_tokens"]) + float(first["completion_tokens"]) == 100 * 200
    with (tmp_path / "differences.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert float(found[0]["b_less_a"]) == pytest.approx(-0.1)  # a number stays a number
    assert found[0]["b"] == "'=1+1"


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "  =1", "\t=1", "\ttext", "\r\n=1", "＝1", "－1"])
def test_what_a_spreadsheet_would_compute_is_defused(text: str, tmp_path: Path) -> None:
    write(comparison([arm(text, 0.5, 10)]), tmp_path)
    with (tmp_path / "comparison.csv").open(encoding="utf-8", newline="") as file:
        assert next(csv.DictReader(file))["name"].startswith("'")


def test_an_earlier_report_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    assert "curves.png" in {path.name for path in write(CASES["five"], tmp_path)}
    assert "curves.png" not in {path.name for path in write(CASES["one"], tmp_path)}
    assert not (tmp_path / "curves.png").exists()
    assert (tmp_path / "mine.txt").exists()


def test_what_stands_in_the_way_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        write(CASES["one"], tmp_path / "file" / "report")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"pip install 'shoal\[evaluation\]'"):
        write(CASES["one"], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_plot_shows_every_arm_at_its_place() -> None:
    found = CASES["five"]
    with plotting.drawing():
        axes = figures.pareto(found).axes[0]
        small = figures.pareto(CASES["twenty"], 4.2, 4.8).axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert {one.name for one in found.arms} <= set(texts)
    assert "8" in texts
    drawn = {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in axes.lines if len(line.get_xdata()) == 1
    }
    assert {(numbers.tokens_per_row(one), one.value) for one in found.arms} <= drawn
    assert axes.get_xscale() == "log"
    assert {text.get_text() for text in small.texts} == {str(number) for number in range(1, 21)}


def test_an_axis_is_logarithmic_only_where_the_span_asks_for_it() -> None:
    with plotting.drawing():
        near, zero = (figures.pareto(CASES[name]).axes[0] for name in ("F-beta", "nothing known"))
    assert near.get_xscale() == zero.get_xscale() == "linear"
    assert all(-1e-9 <= tick <= 1 + 1e-9 for tick in zero.get_yticks())
    assert all(tick >= 0 for tick in zero.get_xticks())


def test_many_arms_on_one_spot_have_one_label() -> None:
    with plotting.drawing():
        axes = figures.pareto(CASES["equal"]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["technique 0 and 19 more"]


def test_what_the_engine_finds_can_be_reported(tmp_path: Path) -> None:
    backend = ScriptedBackend(lambda request: f"#### {(request.sample or (0,))[-1] % 2}")
    rows = [{"question": f"Question {number}", "answer": str(number % 2)} for number in range(4)]
    options: dict[str, Any] = {"answer": "answer", "scorer": "number", "template": "{question}"}
    model = BaseModel(backend, retry=AT_ONCE)
    found = shoal.compare(rows, ["self_consistency(n=1..4)"], model=model, report_dir=tmp_path, **options)
    made = {path.name for path in write(found, tmp_path / "report")}
    assert {"report.html", "pareto.png", "curves.png", "comparison.csv"} <= made
    page = Page((tmp_path / "report" / "report.html").read_text("utf-8"))
    assert {"plain", "self_consistency(n=4)"} <= {row[0].split(". ")[-1] for row in page.rows}
    assert {"row", "prompt", "target", "answers"} <= set(page.headings)
