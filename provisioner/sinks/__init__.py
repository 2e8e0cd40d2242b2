"""Sinks: the places to which tokens are delivered, behind one interface.

`provisioner.sinks.sink` defines that interface, and `provisioner.sinks.registry` opens the sink of
an address. Each vendor has its own module, which is imported when one of its sinks is opened.
"""
