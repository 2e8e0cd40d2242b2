"""Provisioning of API keys of Twenty CRM workspaces, as declared in YAML manifests."""

__version__ = "0.1.0"
