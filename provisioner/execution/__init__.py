"""Execution: carries out the actions of one environment and records the result of each."""

from provisioner.execution.conflict import RunMarker as RunMarker
from provisioner.execution.deliver import mint as mint
from provisioner.execution.events import ActionBegun as ActionBegun
from provisioner.execution.events import ActionEnded as ActionEnded
from provisioner.execution.events import Emit as Emit
from provisioner.execution.events import EnvironmentFinished as EnvironmentFinished
from provisioner.execution.events import EnvironmentObserved as EnvironmentObserved
from provisioner.execution.events import Event as Event
from provisioner.execution.events import PlanMade as PlanMade
from provisioner.execution.events import RunEnded as RunEnded
from provisioner.execution.events import RunStarted as RunStarted
from provisioner.execution.events import StepsSettled as StepsSettled
from provisioner.execution.events import ignore as ignore
from provisioner.execution.execute import Execution as Execution
from provisioner.execution.results import CreatedByAnotherRun as CreatedByAnotherRun
from provisioner.execution.results import Done as Done
from provisioner.execution.results import Executed as Executed
from provisioner.execution.results import Failed as Failed
from provisioner.execution.results import Result as Result
from provisioner.execution.results import RunResult as RunResult
from provisioner.execution.results import Skipped as Skipped
from provisioner.execution.results import Unfinished as Unfinished
from provisioner.execution.results import created_by_this_run as created_by_this_run
from provisioner.execution.results import undelivered as undelivered
