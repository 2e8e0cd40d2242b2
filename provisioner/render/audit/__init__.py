"""The audit of `provision report` as text, JSON, Markdown or an HTML page."""
