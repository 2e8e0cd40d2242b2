"""Twenty's API, which no other package knows: `connect` opens one interface to all generations.

The interface is `provisioner.model.workspace`.
"""
