"""From two dry runs to figures: counted where control flow is fixed, by the catalogue's formulas where it is not."""

import math
from collections.abc import Mapping, Sequence

from msgspec import structs

from shoal.backends import BaseModel
from shoal.backends.places import counts_at_once
from shoal.backends.prices import Price, Quote, quote
from shoal.planning.dry_run import Tally
from shoal.planning.figures import Figure, ModelPlan, Source, whole
from shoal.planning.following import RowTold, Told, spread
from shoal.planning.sharing import Rates
from shoal.runtime.limits import estimated_tokens
from shoal.runtime.model import Applied, Model
from shoal.techniques import Cost
from shoal.techniques.bounds import bound, is_fixed, is_known

_COUNTED = 400_000  # characters of prompts that a tokenizer is given, about; a second's work


class Formulas:
    """What the catalogue knows of models by their names in a trace; `usable` where it holds for what rows asked."""

    def __init__(self, models: Sequence[Model], bases: Mapping[str, BaseModel], rows: Sequence[RowTold]) -> None:
        self._named: dict[str, list[object]] = {name: [base] for name, base in bases.items()}
        for model in models:
            if isinstance(model, Applied):
                self._named.setdefault(model.name, []).append(model)
        asked = {name for row in rows for name in row.asked}
        found = [model for name in asked for model in self._named.get(name, [None])]
        self.usable = all(map(is_known, found))
        self.fixed = self.usable and all(map(is_fixed, found))
        self._costs: dict[tuple[str, str], Cost] = {}

    def row(self, asked: Sequence[str], of: BaseModel | None = None) -> Cost:
        """What a row costs that asks these, one after another at the worst; with `of`, of that model's calls."""
        costs = [self._cost(name, of) for name in asked]
        return Cost(*(sum(getattr(cost, field) for cost in costs) for field in Cost.__struct_fields__))

    def _cost(self, name: str, of: BaseModel | None) -> Cost:
        key = (name, of.name if of else "")
        if key not in self._costs:
            costs = [bound(model, of) for model in self._named[name]]
            fewest = min(cost.fewest for cost in costs)
            self._costs[key] = Cost(
                fewest, max(cost.calls for cost in costs), max(cost.critical_path for cost in costs)
            )
        return self._costs[key]


class Reckoning:
    """The figures of a run of which `told.rows` were followed and stand for `left` rows."""

    def __init__(self, told: Told, formulas: Formulas, left: int, *, steady: bool) -> None:
        self.told = told
        self.formulas = formulas
        self.left = left
        self.steady = steady
        self.scale = left / len(told.rows)
        self.fixed = steady and formulas.fixed
        self.rates: dict[str, Rates] = {}  # of each model, once its figures are made
        self.source: Source = "exact"
        if not self.fixed:
            self.source = "formula" if steady and formulas.usable else "dry run"
        elif self.scale > 1:
            self.source = "sample"

    def calls(self, of: BaseModel | None = None) -> Figure:
        """Draws to be paid, of one model or of all."""
        names = [of.name] if of else list(self.told.bases)
        counted = [
            sum(run.tallies[name].calls for name in names if name in run.tallies)
            for run in (self.told.brief, self.told.long)
        ]
        least, most = float(min(counted)), float(max(counted))
        if not self.fixed and self.formulas.usable:
            costs = [self._left_of(row, long, of) for row, long in self._rows()]
            least = min(least, sum(cost.fewest for cost in costs))
            most = max(most, sum(cost.calls for cost in costs))
        return whole(Figure(least, most, self.source).times(self.scale))

    def _rows(self) -> list[tuple[RowTold, RowTold]]:
        return list(zip(self.told.rows, self.told.long_rows, strict=True))

    def _left_of(self, brief: RowTold, long: RowTold, of: BaseModel | None) -> Cost:
        """A row's formula, less what it has had already."""
        if not any(brief.followed.paid.values()) and not any(long.followed.paid.values()):
            return Cost(0, 0, 0)  # every draw was kept, or is another row's
        cost = self.formulas.row(max(brief.asked, long.asked, key=len), of)
        kept = min(_kept(brief, of), _kept(long, of))
        return Cost(max(0, cost.fewest - kept), max(0, cost.calls - kept), cost.critical_path)

    def wire_requests(self, base: BaseModel, calls: Figure) -> Figure:
        if self.fixed or not self.formulas.usable:
            counted = [t.wire_requests for t in self._tallies(base)]
            sent = self._tally(base, long=True).wire_requests
            figure = Figure(sent, sent, self.source) if self.fixed else Figure(min(counted), max(counted), self.source)
            return whole(figure.times(self.scale))
        least = self.fewest_wire_requests(calls, base)
        least = min(least, *(tally.wire_requests * self.scale for tally in self._tallies(base)))
        return whole(Figure(least, calls.most, self.source))

    def fewest_wire_requests(self, calls: Figure, of: BaseModel | None = None) -> float:
        """Where as many draws leave together as may, and formulas hold."""
        capabilities = [base.backend.capabilities for base in ([of] if of else self.told.bases.values())]
        most = max(can.max_n for can in capabilities)
        if (prompts := max(can.max_batch for can in capabilities)) > 1:  # draws of many rows may leave together
            return math.ceil(calls.least / (most * prompts))
        return self.scale * sum(math.ceil(self._left_of(*pair, of).fewest / most) for pair in self._rows())

    def path(self) -> Figure:
        """Calls one after another in one row, at the most over the rows."""
        longest = max((row.followed.path for row in self.told.rows), default=0)
        if self.fixed:
            return Figure(longest, longest, self.source)
        most = max([longest, *(row.followed.path for row in self.told.first)])
        if self.formulas.usable:
            most = max([most, *(self._left_of(row, long, None).critical_path for row, long in self._rows())])
        return Figure(min(1, longest), most, self.source)

    def steps(self, models: Sequence[ModelPlan], path: Figure) -> Figure:
        """Rounds of wire requests, as many at once as each model takes, until the last row has ended."""
        if self.fixed and self.scale == 1:
            steps = self.told.long.clock.steps
            return Figure(steps, steps, self.source)
        ceilings = {name: base.scheduler.max_in_flight for name, base in self.told.bases.items()}
        full = [model.wire_requests.times(1 / ceilings[model.model]) for model in models]
        # Full rounds, and then rounds that are not full only because some row still goes on: no more than its path.
        least = max([path.least, *(math.ceil(one.least) for one in full)])
        return Figure(least, sum(math.ceil(one.most) for one in full) + path.most, self.source)

    async def _prompt_rates(self, base: BaseModel) -> tuple[tuple[float, float], bool]:
        """Prompt tokens a call, and whether the model's tokenizer counted them."""
        rates, counted = [], False
        for tally in self._tallies(base):
            tokens, counted = await counted_prompts(base, tally)
            rates.append(tokens / tally.calls if tally.calls else 0.0)
        return (min(rates), max(rates)), counted

    def _prompt_tokens(self, base: BaseModel, calls: Figure, *, counted: bool) -> Figure:
        brief, long = self._tallies(base)
        rate = self.rates[base.name].prompt
        least, most = calls.least * rate[0], calls.most * rate[1]
        exact = counted and self.scale == 1 and max(brief.characters, long.characters) <= _COUNTED
        exact = exact and max(brief.prompts, long.prompts) == len(long.requests)
        source: Source = calls.source if exact and least == most else "assumption"
        return Figure(round(least), round(most), source)

    def _completion_tokens(self, base: BaseModel, calls: Figure) -> Figure:
        """From one token a reply to what each is limited to."""
        brief, long = self._tallies(base)
        fewest, longest = self.rates[base.name].completion
        most = max(brief.longest, long.longest) * self.scale if self.fixed else calls.most * longest
        unlimited = brief.unlimited or long.unlimited
        return Figure(calls.least * fewest, round(most), "assumption" if unlimited else "formula")

    async def model(self, base: BaseModel) -> ModelPlan:
        """The figures of one model."""
        calls = self.calls(base)
        prompt, counted = await self._prompt_rates(base)
        longest = max(tally.longest_one for tally in self._tallies(base))
        self.rates[base.name] = Rates(prompt, (float(longest > 0), float(longest)))
        return ModelPlan(
            base.name,
            calls,
            self.wire_requests(base, calls),
            self._prompt_tokens(base, calls, counted=counted),
            self._completion_tokens(base, calls),
            kept=round(max(tally.kept for tally in self._tallies(base)) * self.scale),
            tokenizer=counted,
        )

    def _tallies(self, base: BaseModel) -> tuple[Tally, Tally]:
        return self._tally(base, long=False), self._tally(base, long=True)

    def _tally(self, base: BaseModel, *, long: bool) -> Tally:
        return (self.told.long if long else self.told.brief).tallies.get(base.name) or Tally()


def _kept(row: RowTold, of: BaseModel | None) -> int:
    return row.followed.kept.get(of.name, 0) if of else sum(row.followed.kept.values())


def priced(plan: ModelPlan, base: BaseModel, prices: Mapping[str, Price]) -> ModelPlan:
    """The plan of a model with what its tokens cost, where that is known."""
    found = quote(base, prices)
    if not isinstance(found, Quote):
        return plan
    prompt, completion = plan.prompt_tokens, plan.completion_tokens
    least = found.least.dollars(prompt.least, completion.least)
    most = found.most.dollars(prompt.most, completion.most)
    source = plan.tokens.source if most else "exact"
    return structs.replace(plan, dollars=Figure(least, most, source), price=found)


async def counted_prompts(base: BaseModel, tally: Tally) -> tuple[float, bool]:
    """The tokens of all prompts, and whether the model's tokenizer counted them, or some to stand for all."""
    if not counts_at_once(base) or not base.backend.capabilities.count_tokens or not tally.requests:
        return estimated_tokens(tally.characters), False
    requests = spread(tally.requests, max(1, int(_COUNTED * tally.prompts / max(tally.characters, 1))))
    counted = [await base.count_tokens(request) for request in requests]
    return sum(counted) / len(counted) * tally.prompts, True
