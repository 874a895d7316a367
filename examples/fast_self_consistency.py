"""Five answers at once, and the one whose number is nearest to all the others: 5 calls, 1 after another."""

import sys

import shoal
from shoal.prompting.answers import number
from shoal.techniques.self_consistency import self_consistency


def nearness(a: str, b: str) -> float:
    """How near two answers are as numbers; one that is no number is far from all."""
    first, second = number(a), number(b)
    return -10_000.0 if first is None or second is None else -float(abs(first - second))


def fast_self_consistency(base: shoal.Model) -> shoal.Model:
    return shoal.apply(self_consistency, base, n=5, kind="number", similarity=nearness)


if __name__ == "__main__":
    question = " ".join(sys.argv[1:]) or "A farmer has 3 pens with 12 hens each and sells 7 hens. How many are left?"
    request = shoal.Request.of(question, temperature=0.7, max_tokens=128)
    completion = shoal.run(fast_self_consistency(shoal.open_model("local"))(request))
    print(completion.text)
    print(f"Answer: {completion.answer} ({completion.usage.calls} calls)")
