r"""What replies state, in tables: (reply, kind, answer). Then properties, and text made to hurt."""

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import UsageError
from shoal.prompting.answers import KINDS, code, equivalent, extract, normalise, number, rating, verdict

EXTRACTED = [
    # boxes
    (r"So \boxed{42}.", "auto", "42"),
    (r"\boxed{50} at first, but then \boxed{60}.", "number", "60"),
    (r"\boxed{\frac{1}{2}}", "auto", r"\frac{1}{2}"),
    (r"Hence $\boxed{x^{2^{3}}}$", "text", r"x^{2^{3}}"),
    (r"\fbox{7}", "auto", "7"),
    (r"\boxed{\boxed{\frac{3}{4}}}", "number", r"\frac{3}{4}"),
    (r"\boxed{5} no wait \boxed{\text{(B)}}", "choice", "B"),
    (r"\boxed 9", "number", "9"),
    (r"The answer is 12, so \boxed{12", "number", "12"),
    (r"x = 5 and then \boxed{\frac{1}{", "text", None),
    ("Final Answer: The final answer is $\\boxed{42}$. I hope it is correct.", "auto", "42"),
    # the answer is
    ("The answer is -5.", "number", "-5"),
    ("The answer is −5.", "number", "−5"),
    ("The answer is 1,234.", "number", "1,234"),
    ("The answer is 3.14.", "number", "3.14"),
    ("The answer is -3.75 dollars.", "number", "-3.75 dollars"),
    ("The answer is 50. Hm, no: the answer is 60.", "number", "60"),
    ("The answer is 42 because 6*7 is 42 and not 41.", "number", "42"),
    ("The answer is 18 dollars per day for 7 days.", "number", "18"),
    ("The answer is 5 + 3 = 8.", "number", "8"),
    ("The answer is x = 5.", "auto", "5"),
    ("The answer is 3/4.", "number", "3/4"),
    ("The answer is 18 (9 eggs at $2 each).", "number", "18"),
    ("The answer is 2(9) over 3", "number", "3"),
    ("The temperature is minus 5 degrees today.", "number", "-5"),
    ("It fell to negative 5 degrees.", "number", "-5"),
    ("8 minus 5 leaves 3", "number", "3"),
    ("negative 5", "number", "negative 5"),
    ("10^6", "number", "10^6"),
    ("seven", "number", "seven"),
    ("1 234 567", "number", "1 234 567"),
    ("The opposite of hot is cold.", "auto", "cold"),
    ("The opposite of hot is not cold.", "auto", "The opposite of hot is not cold"),
    ("answer is 2 1/2 hours", "number", "2 1/2 hours"),
    ("The answer is 50%.", "number", "50%"),
    ("The answer is 1e3", "number", "1e3"),
    ("The answer is 1.2 million.", "number", "1.2 million"),
    ("The answer is twelve.", "number", "twelve"),
    ("The answer is 12:30 pm", "auto", "12:30 pm"),
    ("The answer is 18 dollars, I think.", "auto", "18"),
    ("The answer, therefore, is 12.", "number", "12"),
    ("The correct answer would be 7.", "number", "7"),
    ("So the final answer must be $7.", "auto", "$7"),
    ('The answer to the question "how many" is 12 apples.', "number", "12 apples"),
    ("My final answer is $\\frac{3}{4}$", "auto", r"\frac{3}{4}"),
    ("The answer is 42. Note that the final answer is rounded to 2 decimals.", "number", "42"),
    ("The answer is Paris.", "auto", "Paris"),
    ("The answer is Paris, the capital of France.", "text", "Paris, the capital of France"),
    ("The answer is Paris because it is the capital.", "text", "Paris"),
    ("The answer is St. John's.", "text", "St. John's"),
    ("The answer is J. R. R. Tolkien.", "text", "J. R. R. Tolkien"),
    ("The answer is\n\n**Paris**", "text", "Paris"),
    ("The answer is:\n\n$$\n42\n$$", "auto", "42"),
    ("The answer is:\n\\[ \\boxed{42} \\]", "auto", "42"),
    # denied, asked, supposed, about the answer
    ("The answer is not 5 but 6.", "number", "6"),
    ("The answer is not 5, it is 6.", "number", "6"),
    ("The answer is 6. The answer is not 5.", "number", "6"),
    ("Is the answer 5? The answer is 6", "number", "6"),
    ("The answer is 6. Or maybe the answer is 5?", "number", "6"),
    ("We get 7 in total, and if the answer is 5, then x = 3.", "number", "3"),
    ("The answer is", "auto", None),
    ("The answer is not 5.", "auto", None),
    ("Let me answer the question: what is 3+4?\nIt is 7.", "number", "7"),
    ("I hope the answer is correct, whatever you may think of it and of me, and please tell me if not.", "auto", None),
    ("The answer is unknown.", "number", None),
    # labels
    ("**Answer:** 42", "auto", "42"),
    ("**Answer**: 42", "auto", "42"),
    ("Answer: **42**", "auto", "42"),
    ("*Answer: 42*", "auto", "42"),
    ("Final answer: 42", "auto", "42"),
    ("FINAL ANSWER = 42", "number", "42"),
    ("Ans: 5", "auto", "5"),
    ("Answer: -5", "number", "-5"),
    ("Answer (in dollars): 5", "number", "5"),
    ("### Final Answer\n\n42", "auto", "42"),
    ("**Final Answer**\n\nThe box holds 12 apples.", "number", "12"),
    ("Answer:\n1. First we add 2 and 3.\n2. Then 5.\n\nTotal: 10", "number", "10"),
    ("Q: 1+1?\nAnswer: 2\n\nQ: 2+2?\nAnswer: 4", "number", "4"),
    ("Answer: Yes, because it flies.", "auto", "Yes"),
    ("Answer: 5 km/h", "number", "5 km/h"),
    ("We add.\n#### 42", "auto", "42"),
    ("We add <<3+4=7>>.\n#### 1,234", "number", "1,234"),
    ("<answer>\n 42 \n</answer>", "auto", "42"),
    ("<answer>5</answer> Wait. <answer>6</answer>", "number", "6"),
    ("<answer>Paris", "text", "Paris"),
    # reasoning
    ("<think>The answer is 5</think>The answer is 6", "number", "6"),
    ("<think>The answer is 5</think>", "number", None),
    ("<think>The answer is 5", "number", None),
    ("The answer is 6 <think>or 7", "number", None),
    ("so 5, hence\n</think>\n\n7", "auto", "7"),
    ("<THINK>\\boxed{1}</THINK> \\boxed{2} <think>\\boxed{3}</think>", "auto", "2"),
    # bold
    ("The capital of France is **Paris**.", "auto", "Paris"),
    ("It sits on the Seine, and as everybody knows, the capital of that country is called **Paris**.", "text", "Paris"),
    ("**Step 1:** add 3.\n**Result:** 7", "number", "7"),
    ("The total is **$1,234.50**, of 3 parts.", "number", "$1,234.50"),
    ("**1.** Add 4 and 5.", "number", "5"),
    ("9 * 2 = 18\n\n**Janet makes $18 every day at the farmers' market.**", "auto", "$18"),
    ("My answer: **Paris** (France)", "text", "Paris (France)"),
    ("Here's the answer:\n\n- 42", "number", "42"),
    ("Therefore, the total cost is $\\$64$.", "number", "$64"),
    ("By 2021 there were about 5.4 million.", "number", "5.4 million"),
    ("The area is 25π cm².", "number", None),
    ("The result is 2\\sqrt{3}", "number", None),
    ("**10**", "number", "10"),
    # the last number
    ("10-5", "number", "5"),
    ("x = -5", "number", "-5"),
    ("= 12", "number", "12"),
    ("It costs -3.75 dollars.", "number", "-3.75"),
    ("Ann has 3 and gets 4 more, 7 in all.", "number", "7"),
    ("They sold 1,234 of 5,000", "number", "5,000"),
    ("1. Add\n2. Divide\n3. Total 12 apples", "number", "12"),
    ("1. Add\n2. Divide", "number", None),
    ("Step 1 is adding.", "number", None),
    ("Thus 2^10 = 1024", "number", "1024"),
    ("x^2", "number", None),
    ("GPT-4 is good", "number", None),
    ("no numbers here", "number", None),
    ("", "number", None),
    # choices
    ("I think the answer is (C).", "choice", "C"),
    ("The answer is C because it is.", "choice", "C"),
    ("The answer is A dog", "choice", None),
    ("A dog is an animal. I like it.", "choice", None),
    ("I would say so.", "choice", None),
    ("The correct option is **B**.", "choice", "B"),
    ("The answer is option (D) because", "choice", "D"),
    ("I'd choose option B here.", "choice", "B"),
    ("B. Paris", "choice", "B"),
    ("B) Paris\n\nIt is the capital.", "choice", "B"),
    ("b", "choice", "B"),
    ("(b)", "choice", "B"),
    ("**D**", "choice", "D"),
    ("**D) Paris**", "choice", "D"),
    ("Some thoughts.\n\nC", "choice", "C"),
    ("ANSWER: C", "choice", "C"),
    ("Answer: C. because", "choice", "C"),
    ("Answer: (b)", "choice", "B"),
    ("I'd go with C.", "choice", "C"),
    ("A) cat B) dog. The correct answer is B) dog", "choice", "B"),
    ("A. cat\nB. dog\nC. cow", "choice", None),
    ("The answer is (B). It is not (A).", "choice", "B"),
    ("The answer is (B) Paris", "auto", "B"),
    ("The answer is K.", "choice", None),
    ("Answer: A and C", "choice", None),
    ("B\n\nExplanation: option A is wrong.", "choice", "B"),
    ("**B**\n\nOption A is wrong.", "choice", "B"),
    ("A\n\nNo, wait.\n\nB", "choice", "B"),
    ("B, because it is the capital", "choice", "B"),
    ("B - Paris", "choice", "B"),
    (r"\text{B}", "choice", "B"),
    ("I was not told.", "choice", None),
    ("It can't be A, so it must be B.", "choice", "B"),
    ("The correct answer is:\n\n**B) The mitochondria**", "choice", "B"),
    ("**Correct Answer: C**", "choice", "C"),
    # yes and no
    ("Yes, it is.", "boolean", "yes"),
    ("No.", "boolean", "no"),
    ("TRUE", "boolean", "yes"),
    ("**False**", "boolean", "no"),
    ("The statement is false.", "boolean", "no"),
    ("It is not true.", "boolean", "no"),
    ("That isn't true.", "boolean", "no"),
    ("Yes... Actually, no.", "boolean", "no"),
    ("There is no evidence for that.", "boolean", None),
    ("I know nothing.", "boolean", None),
    ("So the answer is yes.", "boolean", "yes"),
    ("Is it? Hm.\nAnswer: No", "boolean", "no"),
    # short replies, and none
    ("Paris", "auto", "Paris"),
    ("The capital of France is Paris.", "auto", "Paris"),
    ("The capital of the United States is Washington, D.C.", "text", "Washington, D.C"),
    ("The sky is blue.", "auto", "The sky is blue"),
    ("The dog is on the mat.", "text", "The dog is on the mat"),
    ('"Paris!"', "text", "Paris"),
    ("I am not sure what you mean by that, could you perhaps rephrase what you want?", "auto", None),
    ("Paris has been the capital of France since 987, and a city for far longer than that.", "auto", None),
    ("Paris it is.\nOr Lyon.", "text", None),
    ("5 + 3 = 8 and 8 * 2 = 16\nSo she has 16 apples in her big red basket, as calculated above.", "auto", "16"),
    ("Roses are red,\nviolets are blue.", "auto", None),
]

NUMBERS: list[tuple[str, Fraction | int | None]] = [
    ("-5", -5), ("−5", -5), ("+7", 7), ("- 5", -5), ("0", 0), ("007", 7), ("5.", 5), (".5", Fraction(1, 2)),
    ("-0.25", Fraction(-1, 4)), ("1,234", 1234), ("1 234", 1234), ("1_234", 1234), ("1'234", 1234),
    ("1\u00a0234", 1234), ("1{,}234", 1234), (r"1\,234", 1234), ("1,234,567.89", Fraction(123456789, 100)),
    ("100,000", 100000), ("1.50", Fraction(3, 2)), ("0.1", Fraction(1, 10)), ("1/2", Fraction(1, 2)),
    ("-3/4", Fraction(-3, 4)), (r"\frac{1}{2}", Fraction(1, 2)), (r"-\frac12", Fraction(-1, 2)),
    (r"\dfrac{-3}{4}", Fraction(-3, 4)), ("1 1/2", Fraction(3, 2)), (r"1\frac{1}{2}", Fraction(3, 2)),
    ("-1 1/2", Fraction(-3, 2)), ("1½", Fraction(3, 2)), ("½", Fraction(1, 2)), ("1/0", None), ("50%", 50),
    (r"50\%", 50), ("12.5 %", Fraction(25, 2)), ("$3.75", Fraction(15, 4)), ("-$3.75", Fraction(-15, 4)),
    ("$-3.75", Fraction(-15, 4)), (r"\$3.75", Fraction(15, 4)), ("€5", 5), ("USD 5", 5), ("5 USD", 5), ("$5k", 5000),
    ("$1.5M", 1500000), ("-3.75 dollars", Fraction(-15, 4)), ("5 km", 5), ("5km", 5), ("12 apples", 12),
    ("5 m/s^2", 5), ("5 m²", 5), (r"5\text{ km}", 5), (r"90^\circ", 90), ("6'", 6), ("7 days a week", 7),
    ("5 (five)", 5), ("3rd", 3), ("42!", 42), ("**42**", 42), ("`42`", 42), ("$42$", 42), (r"\(42\)", 42),
    (r"$\boxed{7}$", 7), ("(7)", 7), ("1e3", 1000), ("1.2e-3", Fraction(12, 10000)), ("1.5 × 10^3", 1500),
    (r"1.5 \times 10^{3}", 1500), ("10^3", 1000), ("10³", 1000), ("1.2 million", 1200000),
    ("1.2 million people", 1200000), ("two", 2), ("twenty-one", 21), ("one hundred", 100), ("a dozen", 12),
    ("2 dozen", 24), ("about 5", 5), ("≈ 3.14", Fraction(157, 50)), ("3:4", Fraction(3, 4)), ("6:8", Fraction(3, 4)),
    ("x = 5", 5), ("2 + 3 = 5", 5), ("12:30", None), ("5:30 pm", None), ("2^10", None), ("2+3", None), ("2x", None),
    ("3n", None), (r"2\pi", None), (r"2\sqrt{3}", None), ("x=2, y=3", None), ("3,5", None), ("(3, 5)", None),
    ("5 or 6", None), ("5-10", None), ("5–10", None), ("2024-01-05", None), ("2 pounds and 5 pence", None), ("", None),
    ("abc", None), ("the 5", None), ("-", None), ("$", None), ("1" * 5000, None), ("1e999999999", None),
    ("1e-999999", None), ("nan", None), ("inf", None), ("1.2.3", None),
]  # fmt: skip

NORMALISED = [
    ("The Eiffel Tower.", "auto", "eiffel tower"), ("  Paris ", "auto", "paris"), ("**Paris**", "text", "paris"),
    ("“Paris”", "auto", "paris"), (r"\text{Paris}", "auto", "paris"), (r"$\text{Paris}$", "text", "paris"),
    ("New \n  York", "auto", "new york"), ("A cat", "text", "cat"), ("STRASSE", "text", "strasse"),
    ("Straße", "text", "strasse"), ("(B)", "auto", "B"), ("b", "auto", "B"), ("B.", "choice", "B"),
    ("option b)", "choice", "B"), ("B) Paris", "choice", "B"), ("True", "auto", "yes"), ("false", "auto", "no"),
    ("Yes, it is", "boolean", "yes"), ("not true", "boolean", "no"), ("12 apples", "auto", "12"),
    ("1.50", "auto", "3/2"), ("0.5", "number", "1/2"), ("7 Samurai", "auto", "7 samurai"),
    ("7 Samurai", "number", "7"), ("12", "text", "12"), ("3,5", "auto", "3,5"), ("Bogotá", "auto", "bogota"),
    ("C++", "auto", "c++"), ("が", "text", "が"), ("x + 1", "auto", "x+1"), (r"\dfrac{x}{2}", "auto", r"\frac{x}{2}"),
    (r"\left( 1, 2 \right)", "auto", "(1,2)"), ("", "auto", ""), ("...", "auto", ""),
]  # fmt: skip

VERDICTS = [
    ("Correct.", True), ("CORRECT", True), ("The answer is correct.", True), ("The response is accurate.", True),
    ("That's right.", True), ("Yes", True), ("Yes, it follows.", True), ("Answer: yes", True),
    ("Judgement: Yes", True), ("**Verdict:** CORRECT", True), ("[[correct]]", True), (r"\boxed{Yes}", True),
    ("<verdict>correct</verdict>", True), ("The final answer is True", True), ("This is the correct answer.", True),
    ("not incorrect", True), ("Pass", True), ("The solution is right; the right-hand side matches.", True),
    ("All steps hold. The solution is valid.", True),
    ("It is wrong at first glance, but actually the solution is correct.", True), ("incorrect", False),
    ("INCORRECT", False), ("Incorrect: step 2 fails.", False), ("No.", False), ("Wrong!", False),
    ("The answer is not correct.", False), ("not correct", False), ("Verdict: not correct", False),
    ("isn't right", False), ("That isn't right.", False), ("The answer is not entirely correct.", False),
    ("It doesn't seem correct.", False), ("I do not think this is correct.", False),
    ("The answer can't be right.", False), ("Your answer was wrong.", False), ("This is a wrong answer.", False),
    ("The answer is partially correct.", False), ("It is almost right.", False),
    ("The student's answer is incorrect. The correct answer is 5.", False),
    ("Therefore, the answer is **incorrect**.", False), ("The answer is 5. Is it correct? No", False),
    ("Correct: no", False), ('{"correct": false}', False), ("[[incorrect]]", False),
    ("Verdict: incorrect. If the sign were flipped it would be correct.", False), ("Result: FAIL", False),
    ("<think>It is correct.</think> It is wrong.", False), ("The correct answer is 5.", None),
    ("We need to check whether the answer is correct.", None), ("Is it correct?", None), ("There is no doubt.", None),
    ("No errors were found", None), ("Hmm", None), ("", None), ("a right triangle", None),
    ("<think>It is correct.", None), ("If the answer is right, we are done.", None), ("8/10", None),
]  # fmt: skip

RATINGS = [
    ("8/10", 8), ("**10**", 10), ("10", 10), ("8.5", 8.5), ("Rating: 9", 9), ("Score: 8/10", 8), ("8 out of 10", 8),
    ("[[7]]", 7), ("Rating: [[8]]", 8), ("**Score:** 8", 8), ("**Score: 8**", 8), ("Score: **8**", 8),
    ("Score = 8", 8), ("Score: 8.", 8), ("Score: 8,5", 8.5), ("Score (0-10): 8", 8),
    ("Score on a scale of 0 to 10: 6", 6), ("score of 7.", 7), ("### Score\n\n8", 8),
    ("I would rate this 8 out of 10.", 8), ("I'd give it a score of 7.", 7), ("Overall score: 8.5/10. Good.", 8.5),
    ('{"score": 8}', 8), ("<score>8</score>", 8), (r"\boxed{8}", 8), ("Score: 0", 0), ("Score: 10/10", 10),
    ("Final rating - 6", 6), ("Score: 5\nOn reflection,\nScore: 8", 8),
    ("It could be a 10, but it is wrong.\nScore: 3", 3), ("2 slips.\nScore: 8", 8),
    ("Accuracy: 8/10\nClarity: 6/10\nScore: 7/10", 7), ("3/10 for style, 6/10 overall", 6), ("Good.\n\n7", 7),
    ("Score: 4/5", 8), ("<think>Score: 2</think>Score: 9", 9), ("Score: 11", None), ("Score: -1", None),
    ("Score: 12/10", None), ("Score: 7-8", None), ("Score: 85%", None), ("Score: 8 [[3]]", None),
    ("The \\boxed{5} is right.\nScore: 9", 9), ("It comes to \\boxed{42}.\nScore: 9", 9), ("See [[1]].\nScore: 9", 9),
    ("Score: 9\n\\boxed{5}", None), ('Score: 2\nIt says "Score: 10".', 2), ("It says 'Score: 10'. I refuse.", None),
    ('"Score: 8"', 8), ('It is fine: {"score": 8}', 8), ("`Score: 8`", 8),
    ("Score: <number>", None), ("Score: eight", None), ("", None), ("fine", None), ("It has 3 mistakes.", None),
    ("3 + 4 = 7", None), ("The score of the game was 30.", None), ("8/0", None), ("<think>8/10", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "answer"), EXTRACTED)
def test_extract(text: str, kind: str, answer: str | None) -> None:
    assert extract(text, kind) == answer


@pytest.mark.parametrize(("text", "value"), NUMBERS, ids=[repr(text[:30]) for text, _ in NUMBERS])
def test_number(text: str, value: Fraction | int | None) -> None:
    assert number(text) == value


@pytest.mark.parametrize(("text", "kind", "form"), NORMALISED)
def test_normalise(text: str, kind: str, form: str) -> None:
    assert normalise(text, kind) == form


@pytest.mark.parametrize(("text", "said"), VERDICTS)
def test_verdict(text: str, said: bool | None) -> None:
    assert verdict(text) is said


@pytest.mark.parametrize(("text", "score"), RATINGS)
def test_rating(text: str, score: float | None) -> None:
    assert rating(text) == score


def test_ratings_have_a_range() -> None:
    assert rating("Score: 4", 1, 5) == 4
    assert rating("Score: 8", 1, 5) is None
    assert rating("Score: 8/10", 1, 5) is None
    assert rating("0.8", 0, 1) == 0.8


def test_code_is_the_last_closed_fence() -> None:
    assert code("```python\na = 1\n```") == "a = 1"
    assert code("```\nx\n```\nand\n~~~py\ny\n\nz\n~~~\n") == "y\n\nz"
    assert code("````md\n```\ninner\n```\n````") == "```\ninner\n```"
    assert code("   ```\n  x\n   ```") == "  x"
    assert code("```\nwhole\n```\n```\ncut off") == "whole"
    assert code("```\n```") == ""
    for none in ("", "plain `x`", "```one line```", "```\ncut off", "<think>```\nx\n```"):
        assert code(none) is None


def test_equivalent() -> None:
    same = (
        ("0.5", r"\frac{1}{2}"),
        ("$1,000", "1000 dollars"),
        ("(b)", "B"),
        ("The Beatles", "beatles"),
        ("1e3", "1000.0"),
    )
    for a, b in same:
        assert equivalent(a, b)
    for a, b in (("60", "50"), ("0.333", "1/3"), ("-5", "5"), ("Paris", "Lyon"), ("1,234", "1"), ("12:30", "2:5")):
        assert not equivalent(a, b)
    assert equivalent("0.333", "1/3", tolerance=0.01)
    assert not equivalent("0.333", "1/3", tolerance=1e-6)
    assert equivalent("Paris", "paris", tolerance=0.1)
    assert equivalent("B) Paris", "b", "choice")


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(UsageError, match="did you mean number"):
        extract("5", "numbre")


whole = st.integers(-(10**15), 10**15)
PIECES = r"""\boxed{ \fbox{ \frac{ \text{ } { $ ** __ # #### the answer is Answer: not ( ) [[ ]] / 1 -2 3.5 , .
: ? = ½ % ^ 10^ e5 <think> </think> <answer> A B. (C) yes no true correct incorrect score 8 out of 10 ``` million"""
WORDS = st.lists(st.sampled_from([*PIECES.split(), "\n", " "]), max_size=40)
ANYTHING = st.text(st.characters(codec="utf-8"), max_size=200) | WORDS.map("".join) | WORDS.map(" ".join)
FRAMES = (
    "The answer is {}.",
    "Answer: {}",
    "**Answer:** ${}",
    r"So \boxed{{{}}}.",
    "x\n#### {}",
    "<answer>{}</answer>",
)


@given(whole, st.sampled_from(FRAMES))
def test_stated_integers_come_back(value: int, frame: str) -> None:
    for form in (f"{value}", f"{value:,}"):
        stated = extract(frame.format(form), "number")
        assert stated is not None
        assert number(stated) == value
        assert normalise(stated) == str(value)


@given(whole, st.integers(1, 10**6))
def test_forms_of_one_number_are_equal(over: int, under: int) -> None:
    value = Fraction(over, under)
    sign = "-" if over < 0 else ""
    assert number(f"{over}/{under}") == value
    assert number(rf"{sign}\frac{{{abs(over)}}}{{{under}}}") == value
    assert Fraction(normalise(f"{over}/{under}")) == value


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=4))
def test_decimals_are_exact(value: object) -> None:
    assert number(f"{value:f}") == Fraction(str(value)) == number(f"${value:,f}")


@given(ANYTHING)
def test_nothing_raises(text: str) -> None:
    for kind in KINDS:
        answer = extract(text, kind)
        assert answer is None or isinstance(normalise(answer, kind), str)
        assert equivalent(text, text, kind)
    number(text), verdict(text), code(text)
    score = rating(text)
    assert score is None or 0 <= score <= 10


SIZE = 120_000
HOSTILE = (
    "{", r"\boxed{", r"\boxed ", r"\frac{1}{", r"\text{", "\\", "1", "1,", "1,111,", "1 ", "1/", "1e5 ", "1 x 10^",
    " ", "\n", "*", "**a", "_", "`", "```\n", "$", "(", "[[", "(A) ", "A. x\n", "A ", "answer ", "answer:\n",
    "the answer is ", "#### ", "<answer>", "<think>", "</think>", "<think></think>", "score ", "Score: ", "8/10 ",
    "from 1 to ", "is correct if ", "not the is ", "Yes. ", "the ", "½", "x = ", "Mr. ", "\u0301\u0316", ".", "~",
)  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_long_hostile_text_takes_linear_time(piece: str) -> None:
    """Anything quadratic would take hours, and be stopped by the time limit of the test."""
    text = piece * (SIZE // len(piece))
    for reply in (text, r"\boxed{" + text + "}", "The answer is " + text):
        for kind in KINDS:
            extract(reply, kind)
    number(text), normalise(text), verdict(text), rating(text), code(text)


def test_a_million_characters_with_an_answer_at_the_end() -> None:
    reply = "We add 12 and 30, which is (12 + 30 = 42), and go on.\n" * 20_000 + r"The answer is \boxed{42}."
    assert len(reply) > 1_000_000
    assert extract(reply) == "42"
    assert extract("{" * 100_000 + r"\boxed{42}" + "}" * 100_000) == "42"
    assert extract(r"\boxed{" * 100_000 + "42" + "}" * 100_000) == "42"


def test_votes_count_by_value() -> None:
    """Three boxed sixties beat one fifty, however they are written."""
    replies = (r"\boxed{50}", r"\boxed{60}", r"so \boxed{60.0}", r"\boxed{\$60}")
    votes = [normalise(extract(reply) or "") for reply in replies]
    assert votes == ["50", "60", "60", "60"]
    assert re.fullmatch(r"-?\d+(/\d+)?", votes[0])


def test_of_a_very_long_reply_the_end_is_looked_at() -> None:
    long = "so\n" * 100_000
    assert extract(f"The answer is 4.\n{long}The answer is 5.", "number") == "5"
    assert extract(f"The answer is 4.\n{long}", "number") is None
