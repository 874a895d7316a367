"""Context shuffling: the workings that a unit shows before a question are renewed after each evaluation.

The paper resamples the whole list "with a 10% chance [...] with probability inverse to the maximum context list
length". It is read here as both chances one after the other: 0.1 / few_shot.
"""

from random import Random

from msgspec import structs

from shoal.evolution.settings import Settings
from shoal.evolution.unit import Scored, Unit, Working


def shuffled(scored: Scored, settings: Settings, random: Random) -> Unit:
    """The unit with a new working of its last evaluation among its contexts, in the place of a random one if full.

    By the chance of the settings, all of them are drawn anew. Without a working that is new, or where `few_shot` is 0,
    the unit stays as it is. It is done when the unit is next tried or has offspring, so that what is known of its
    fitness was found with the contexts it has.
    """
    unit, most = scored.unit, settings.few_shot
    if not most or not scored.workings:
        return unit
    contexts = list(unit.contexts)
    if random.random() < settings.context_resampling / most:
        drawn = random.sample(scored.workings, min(most, len(scored.workings)))
        return structs.replace(unit, contexts=tuple(drawn + _others(contexts, drawn))[:most])
    new = _others(scored.workings, contexts)
    if not new:
        return unit
    working = random.choice(new)
    if len(contexts) < most:
        contexts.append(working)
    else:
        contexts[random.randrange(len(contexts))] = working
    return structs.replace(unit, contexts=tuple(contexts[:most]))


def _others(workings: list[Working] | tuple[Working, ...], than: list[Working]) -> list[Working]:
    questions = {working.question for working in than}
    return [working for working in workings if working.question not in questions]
