"""Single operations beside the pipeline: create, export, token."""
