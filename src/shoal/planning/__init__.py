"""What a run will cost, told before it runs: `plan` for rows, `DryRun` for anything else that asks models."""

from shoal.planning.dry_run import DryRun as DryRun
from shoal.planning.figures import Figure as Figure
from shoal.planning.figures import ModelPlan as ModelPlan
from shoal.planning.figures import Pilot as Pilot
from shoal.planning.figures import Plan as Plan
from shoal.planning.making import plan as plan
