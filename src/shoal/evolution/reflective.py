"""What the `gepa` library calls: how it evaluates, reflects, samples and selects, on a pool of ours.

All of this runs in the library's thread; the pool is asked through `ask`. The library is imported only here, when a run
begins.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

from msgspec import Struct

from shoal.errors import UsageError
from shoal.evolution.pool import Answer, Candidate, Pool, Question, scores_of
from shoal.evolution.replies import printable

T = TypeVar("T")
Ask = Callable[[Callable[[], Awaitable[Any]]], Any]
LONGEST = 8000  # characters of a text that a reflection writes


class Proposal(Struct, frozen=True):
    """A candidate that was proposed. `before` are its parent's scores on the same questions; None: a call failed."""

    parent: int
    texts: Candidate
    before: list[float | None]
    after: list[float | None]
    accepted: bool


class Library:
    """One run of `gepa.optimize`: an adapter, a reflection strategy and the other parts that it takes.

    `told` is awaited for each candidate that is added: its number, its texts, its parents' numbers. `enough` says
    whether to stop. `proposals` has every candidate that was tried on a minibatch, in order.
    """

    propose_new_texts = None  # gepa looks for it: the reflection strategy writes the texts

    def __init__(self, pool: Pool, ask: Ask, minibatch: int, parallel: int, validation: int) -> None:
        self.proposals: list[Proposal] = []
        self._pool = pool
        self._ask = ask
        self._minibatch = minibatch
        self._parallel = parallel
        self._validation = validation

    def optimize(
        self,
        questions: Sequence[Question],
        seed: int,
        told: Callable[[int, Candidate, Sequence[int]], Awaitable[None]],
        enough: Callable[[], bool],
    ) -> None:
        from gepa.api import optimize

        part: Any = self
        added: Any = _Added(lambda *facts: self._ask(partial(told, *facts)))
        optimize(
            seed_candidate=self._pool.seed,
            trainset=[one for one in questions if not one.validation],
            valset=[one for one in questions if one.validation],
            adapter=part,
            reflection_strategy=part,
            sampling_strategy=part,
            selection_strategy=part,
            acceptance_criterion=part,
            reflection_minibatch_size=self._minibatch,
            stop_callbacks=lambda _: enough(),
            callbacks=[added],
            logger=_Silent(),
            track_best_outputs=False,
            seed=seed,
        )

    # An adapter

    def evaluate(self, batch: list[Question], candidate: Candidate, capture_traces: bool = False) -> Any:
        return self.batch_evaluate([(candidate, batch)])[0]

    def batch_evaluate(self, items: list[tuple[Candidate, list[Question]]]) -> list[Any]:
        from gepa.core.adapter import EvaluationBatch

        asked: list[list[Answer]] = self._ask(partial(self._pool.evaluate, items))
        return [EvaluationBatch(outputs=list(one), scores=filled(scores_of(one)), trajectories=one) for one in asked]

    def make_reflective_dataset(
        self, candidate: Candidate, eval_batch: Any, components_to_update: list[str]
    ) -> dict[str, list[dict[str, str]]]:
        """Questions with answers, scores and what was expected; one that a call failed on teaches nothing."""
        found = [_record(answer) for answer in eval_batch.trajectories if answer.outcome is not None]
        return dict.fromkeys(components_to_update, found)

    # A reflection strategy

    def reflect(self, candidate: Candidate, dataset: Mapping[str, Any], components: list[str]) -> tuple[Any, "Library"]:
        return self.reflect_many([(candidate, dataset, components)])[0]

    def reflect_many(self, jobs: list[tuple[Candidate, Mapping[str, Any], list[str]]]) -> list[tuple[Any, "Library"]]:
        """New texts, written all at once. One that a reply does not have, or has as it was, is no change."""
        from gepa.proposer.reflective_mutation.reflection_lm import ReflectionProposal
        from gepa.strategies.instruction_proposal import InstructionProposalSignature

        parts = [(i, name) for i, (_, dataset, names) in enumerate(jobs) for name in names if dataset.get(name)]
        prompts = [_prompt(jobs[i][0][name], jobs[i][1][name]) for i, name in parts]
        replies: list[str | None] = self._ask(partial(self._pool.reflect, prompts)) if prompts else []
        proposals = [ReflectionProposal(new_texts={}) for _ in jobs]
        for (i, name), reply in zip(parts, replies, strict=True):
            found = InstructionProposalSignature.output_extractor(printable(reply or ""))["new_instruction"]
            text = found[:LONGEST].strip()
            if text and text != jobs[i][0][name]:
                proposals[i].new_texts[name] = text
        return [(proposal, self) for proposal in proposals]

    # Strategies

    def sample_tasks(self, state: Any, candidate_selector: Any, batch_sampler: Any, trainset: Any) -> Any:
        """As many parents as are wanted, as long as one of their children can still be validated."""
        from gepa.strategies.proposal_sampling import IndependentSampling

        room = (self._pool.left - self._validation) // (2 * self._minibatch)
        wanted = IndependentSampling(max(1, min(self._parallel, room)))
        return wanted.sample_tasks(state, candidate_selector, batch_sampler, trainset)

    def should_accept(self, proposal: Any, state: Any) -> bool:
        """Whether a child scores more than its parent on the questions that both have an answer to."""
        return _gain(proposal) > 0

    def select(self, proposals: list[Any], state: Any, acceptance_criterion: Any) -> list[Any]:
        """All that are accepted; where not all of them can be validated, those that gained most."""
        accepted = [one for one in proposals if acceptance_criterion.should_accept(one, state)]
        room = self._pool.left // self._validation
        best = sorted(accepted, key=_gain, reverse=True)[:room]
        selected = [one for one in accepted if any(one is other for other in best)]
        self.proposals += [
            Proposal(
                one.parent_program_ids[0],
                dict(one.candidate),
                scores_of(one.eval_before.trajectories),
                scores_of(one.eval_after.trajectories),
                any(one is other for other in selected),
            )
            for one in proposals
        ]
        return selected


class _Added:
    """A callback of gepa's: candidates are told of as they are added."""

    def __init__(self, tell: Callable[[int, Candidate, Sequence[int]], None]) -> None:
        self._tell = tell

    def on_valset_evaluated(self, event: Mapping[str, Any]) -> None:
        self._tell(event["candidate_idx"], event["candidate"], event["parent_ids"])


class _Silent:
    """A log of gepa's that nobody reads."""

    def log(self, message: str) -> None: ...


def require() -> str:
    """The version of the library; UsageError where it is missing."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("gepa")
    except PackageNotFoundError:
        raise UsageError("the optimizer gepa is not installed: pip install 'shoal[evolution]'") from None


def filled(scores: Sequence[float | None]) -> list[float]:
    """Scores for gepa, which wants one for each question: a failed call gets the mean of the others, and so leaves the
    candidate's mean as it is. 0.0 where there are no others."""
    known = [score for score in scores if score is not None]
    mean = sum(known) / len(known) if known else 0.0
    return [mean if score is None else score for score in scores]


def _gain(proposal: Any) -> float:
    before, after = scores_of(proposal.eval_before.trajectories), scores_of(proposal.eval_after.trajectories)
    both = [(a, b) for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    return sum(b for _, b in both) - sum(a for a, _ in both)


def _record(answer: Answer) -> dict[str, str]:
    assert answer.outcome is not None
    assert answer.working is not None
    score, short, target = answer.outcome
    feedback = f"Score: {score:g} of 1. The expected answer is: {target}"
    if short is not None and short != answer.working.text:
        feedback += f"\nThe answer was taken to be: {short}"
    return {"Inputs": answer.working.question, "Generated Outputs": answer.working.text, "Feedback": feedback}


def _prompt(text: str, dataset: Sequence[Mapping[str, Any]]) -> str:
    """gepa's own prompt for a reflection. A text that names one of its placeholders stays as it is."""
    from gepa.strategies.instruction_proposal import InstructionProposalSignature

    mark = uuid4().hex
    parts = {"current_instruction_doc": mark, "dataset_with_feedback": dataset, "prompt_template": None}
    return str(InstructionProposalSignature.prompt_renderer(parts)).replace(mark, text)
