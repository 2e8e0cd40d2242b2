"""The plan file: a plan to be reviewed, kept as JSON, and held against what is there later.

`writing` makes the text of a plan, `reading` takes it in again, `moving` says what is otherwise
than it was when the plan was made. All three are pure; the CLI opens and replaces the file.
"""

from provisioner.planfile.compare import digest_mismatch, stale_plan, was_edited
from provisioner.planfile.model import Document, PlanFile, PlanFileInput, SavedOptions
from provisioner.planfile.read import MAX_BYTES, UnreadablePlanFile, read
from provisioner.planfile.write import FORMAT, document, may_overwrite, text, why_unwritable

__all__ = [
    "FORMAT",
    "MAX_BYTES",
    "Document",
    "PlanFile",
    "PlanFileInput",
    "SavedOptions",
    "UnreadablePlanFile",
    "digest_mismatch",
    "document",
    "may_overwrite",
    "read",
    "stale_plan",
    "text",
    "was_edited",
    "why_unwritable",
]
