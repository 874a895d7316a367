"""Plots and pages that any report is made of."""

import subprocess
import sys
from html.parser import HTMLParser
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from markupsafe import Markup

from shoal.errors import StoreError, UsageError
from shoal.evaluation.report import labels, plotting
from shoal.evaluation.report.labels import Label
from shoal.evaluation.report.page import Column, Section, facts, page, plots, table

HOSTILE = '<script>alert("1")</script> $x_1$ &amp; \x1b[31m'


def scatter(suffix: str, directory: Path, name: str = "plot") -> bytes:
    with plotting.drawing():
        made, axes = plotting.figure(4, 3)
        axes.plot([1, 2, 3], [3, 1, 2], color=plotting.SERIES[0], marker="o")
        labels.put(axes, [Label(HOSTILE, (2, 1))])
        return plotting.save(made, directory / f"{name}{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_data_give_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    import matplotlib

    once = scatter(suffix, tmp_path, "once")
    matplotlib.rcParams["font.size"] = 31  # somebody else's settings
    try:
        assert scatter(suffix, tmp_path, "twice") == once
        assert matplotlib.rcParams["font.size"] == 31
    finally:
        matplotlib.rcdefaults()


def test_no_plot_needs_the_global_state_of_pyplot(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from shoal.evaluation.report import plotting\n"
        "with plotting.drawing(): plotting.save(plotting.figure()[0], Path(sys.argv[1]))\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "empty.png")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_text_in_a_drawing_is_text(tmp_path: Path) -> None:
    svg = scatter(".svg", tmp_path).decode()
    assert "&lt;script&gt;alert(" in svg
    assert "<script" not in svg
    assert "\x1b" not in svg
    assert "$x_1$" in svg


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        scatter(".png", tmp_path / "file")
    with pytest.raises(UsageError, match=r"plot.bmp: plots are written as .png or .svg"):
        scatter(".bmp", tmp_path)


def test_a_missing_matplotlib_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"pip install 'shoal\[evaluation\]'"), plotting.drawing():
        pass


class Tags(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_two_drawings_on_one_page_keep_their_names_apart() -> None:
    def drawn(key: str) -> Markup:
        with plotting.drawing():
            made, axes = plotting.figure()
            axes.plot([1, 2], [1, 2], color=plotting.SERIES[1], marker="o", label=HOSTILE)
            return plotting.inline(made, key, f"a plot of {HOSTILE}")

    one, two = Tags(drawn("one")), Tags(drawn("two"))
    names = [{attributes["id"] for _, attributes in page.tags if "id" in attributes} for page in (one, two)]
    assert names[0]
    assert not names[0] & names[1]
    used = {str(attributes["href"]).removeprefix("#") for _, attributes in one.tags if "href" in attributes}
    assert used
    assert used <= names[0]
    assert {tag for tag, _ in one.tags} <= {"svg", "g", "defs", "path", "use", "text", "clippath", "rect"}
    assert "var(--series-1, #d55e00)" in drawn("one")


def test_labels_lie_over_nothing() -> None:
    spots = [(1 + x / 7, 1 + y / 5) for x in range(5) for y in range(4)]
    with plotting.drawing():
        made, axes = plotting.figure(9, 6)
        axes.plot(*zip(*spots, strict=True), "o")
        axes.set(xlim=(0.8, 1.8), ylim=(0.8, 1.8))
        labels.put(axes, [Label(f"a label of some length {number}", spot) for number, spot in enumerate(spots)])
        made.draw_without_rendering()
        boxes = [text.get_window_extent() for text in axes.texts]
        inside = axes.get_window_extent()
        points = axes.transData.transform(spots)
    assert len(boxes) == len(spots)
    for one, other in combinations(boxes, 2):
        assert min(one.x1, other.x1) - max(one.x0, other.x0) < 1 or min(one.y1, other.y1) - max(one.y0, other.y0) < 1
    for box in boxes:
        assert inside.x0 <= box.x0
        assert box.x1 <= inside.x1
        assert not any(box.contains(*point) for point in points)


def test_a_label_too_wide_for_its_plot_is_shortened() -> None:
    with plotting.drawing():
        made, axes = plotting.figure(2.5, 2)
        labels.put(axes, [Label("W" * 200, (0.5, 0.5))])
        made.draw_without_rendering()
        box, inside = axes.texts[0].get_window_extent(), axes.get_window_extent()
    assert axes.texts[0].get_text().startswith("WWW")
    assert inside.x0 <= box.x0 < box.x1 <= inside.x1


def test_labels_that_are_not_needed_give_way() -> None:
    with plotting.drawing():
        _, axes = plotting.figure(3, 2)
        axes.plot([0, 1], [0, 1])
        labels.put(axes, [Label("needed", (0.5, 0.5)), *(Label("spare", (0.5, 0.5), needed=False) for _ in range(60))])
        shown = [text.get_text() for text in axes.texts]
    assert shown[0] == "needed"
    assert len(shown) < 30


@pytest.mark.parametrize(("low", "high"), [(0.9, 1.2), (1, 64), (80, 9000), (1, 1e12)])
def test_ticks_of_a_logarithmic_axis_are_few_and_round(low: float, high: float) -> None:
    ticks = plotting.round_numbers(low, high)
    assert 1 <= len(ticks) <= 9
    assert all(low <= tick <= high for tick in ticks)
    assert all(one < other for one, other in pairwise(ticks))


def test_amounts_are_short() -> None:
    assert [plotting.amount(number) for number in (0, 950, 1500, 2e6, 3e9)] == ["0", "950", "1.5k", "2M", "3G"]


def test_a_page_is_text_where_data_is_text() -> None:
    body = table([Column("name", hint=HOSTILE), Column("n", number=True)], [[HOSTILE, "1"], ["b", "2"]], marked={1})
    whole = page(
        HOSTILE, "kicker", [Section("Part", body, HOSTILE), Section("Facts", facts([("a", HOSTILE)]))], [HOSTILE]
    )
    found = Tags(whole)
    assert not {"script", "a", "img", "link", "iframe"} & {tag for tag, _ in found.tags}
    assert found.text.count('<script>alert("1")</script> $x_1$ &amp; ␛[31m') == 6  # title twice, lead, hint, cell, fact
    policy = next(attributes["content"] for tag, attributes in found.tags if "http-equiv" in attributes)
    assert str(policy).startswith("default-src 'none'")
    assert [attributes.get("class") for tag, attributes in found.tags if tag == "tr"] == [None, None, "marked"]


def test_a_plot_may_have_a_second_drawing_for_small_screens() -> None:
    assert "for-narrow" in plots(Markup("<svg></svg>"), Markup("<svg></svg>"), "caption")
    assert "for-narrow" not in plots(Markup("<svg></svg>"))
