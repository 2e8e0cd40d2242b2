"""The hygiene of a fleet as text, JSON, Markdown, or one HTML page."""

from provisioner.report.hygiene.document import hygiene_document
from provisioner.report.hygiene.markdown import hygiene_markdown
from provisioner.report.hygiene.page import hygiene_page
from provisioner.report.hygiene.text import hygiene_text

__all__ = ["hygiene_document", "hygiene_markdown", "hygiene_page", "hygiene_text"]
