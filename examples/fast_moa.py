"""Three drafts merged, criticised and rewritten, three times over, then merged: 19 calls, 5 one after another."""

import sys

import shoal
from shoal.techniques.critique import critique
from shoal.techniques.mixture_of_agents import mixture_of_agents


def fast_moa(base: shoal.Model) -> shoal.Model:
    """A mixture of three critiques, each of a mixture of three answers. Every part is a model: exchange any."""
    merged = shoal.apply(mixture_of_agents, base, layers=2, width=3)
    criticised = shoal.apply(critique, merged, critic=base, reviser=base)
    return shoal.apply(mixture_of_agents, base, layers=2, width=3, proposers=[criticised])


if __name__ == "__main__":
    question = " ".join(sys.argv[1:]) or "Why is the sky blue? Answer in two sentences."
    base = shoal.open_model("local")
    request = shoal.Request.of(question, temperature=0.7, max_tokens=96)
    completion = shoal.run(fast_moa(base)(request))
    print(completion.text)
    print(f"{completion.usage.calls} calls, {completion.usage.total_tokens} tokens")
