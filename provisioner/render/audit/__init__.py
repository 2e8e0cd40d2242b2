"""The hygiene of a fleet as text, JSON, Markdown, or one HTML page."""

from provisioner.render.audit.html import hygiene_page
from provisioner.render.audit.json import hygiene_document
from provisioner.render.audit.markdown import hygiene_markdown
from provisioner.render.audit.text import hygiene_text

__all__ = ["hygiene_document", "hygiene_markdown", "hygiene_page", "hygiene_text"]
