"""The audit of live keys, and the diagnosis of environments and their sinks; both only read."""
