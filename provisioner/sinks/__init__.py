"""Sinks: the places where tokens are delivered, behind one interface.

`provisioner.sinks.sink` is that interface; `provisioner.sinks.registry` makes the sink of an
address. Each vendor has a module of its own, which is imported when one of its sinks is opened.
"""
