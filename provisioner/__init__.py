"""Manage the API keys of Twenty CRM workspaces with YAML manifests."""

__version__ = "0.1.0"
