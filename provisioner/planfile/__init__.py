"""The plan file: a plan saved as JSON for review, and compared with the current plan on apply.

`write` serializes a plan, `read` parses a plan file, and `compare` lists the changes since the
review. All three are pure; the CLI reads and writes the file.
"""

from provisioner.planfile.compare import digest_mismatch, stale_plan, was_edited
from provisioner.planfile.model import PlanFile, PlanFileInput
from provisioner.planfile.read import MAX_BYTES, UnreadablePlanFile, read
from provisioner.planfile.write import FORMAT, document, may_overwrite, text, why_unwritable

__all__ = [
    "FORMAT",
    "MAX_BYTES",
    "PlanFile",
    "PlanFileInput",
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
