"""The audit of `provision report` as text, JSON, Markdown or an HTML page."""

from provisioner.render.audit.html import audit_html
from provisioner.render.audit.json import audit_document
from provisioner.render.audit.markdown import audit_markdown
from provisioner.render.audit.text import audit_text

__all__ = ["audit_document", "audit_html", "audit_markdown", "audit_text"]
