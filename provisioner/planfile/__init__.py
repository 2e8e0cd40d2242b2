"""The plan file: a plan to be reviewed, kept as JSON, and held against what is there later.

`writing` makes the text of a plan, `reading` takes it in again, `moving` says what is otherwise
than it was when the plan was made. All three are pure; the CLI opens and replaces the file.
"""

from provisioner.planfile.compare import edited, not_as_reviewed, not_of_digest
from provisioner.planfile.model import Document, PlanFile, PlanFileInput, SavedOptions
from provisioner.planfile.read import MOST_BYTES, UnreadablePlanFile, read
from provisioner.planfile.write import FORMAT, begins_as_ours, document, text, unwritable

__all__ = [
    "FORMAT",
    "MOST_BYTES",
    "Document",
    "PlanFile",
    "PlanFileInput",
    "SavedOptions",
    "UnreadablePlanFile",
    "begins_as_ours",
    "document",
    "edited",
    "not_as_reviewed",
    "not_of_digest",
    "read",
    "text",
    "unwritable",
]
