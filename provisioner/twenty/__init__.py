"""Twenty's wire, known here alone: `connect` gives one interface over all generations.

`provisioner.twenty.workspace` is that interface, with nothing of HTTP, so that reports and
`validate` need not wait for an HTTP library.
"""
