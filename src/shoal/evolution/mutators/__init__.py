"""The mutation operators by name: from a parent to a unit that differs."""

from collections.abc import Awaitable, Callable

from shoal.evolution.mutators.direct import first_order_direct, zero_order_direct
from shoal.evolution.surroundings import Surroundings
from shoal.evolution.unit import Scored, Unit

# What comes back has the parent's id: the breeder names it.
Mutator = Callable[[Scored, Surroundings], Awaitable[Unit]]

MUTATORS: dict[str, Mutator] = {
    "zero_order_direct": zero_order_direct,
    "first_order_direct": first_order_direct,
}
