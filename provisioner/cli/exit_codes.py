"""The exit codes that commands return; those of exceptions are in `errors/exceptions.py`."""

UNEXPECTED = 1
CHANGES = 2
INVALID = 3
INCOMPLETE = 4
USAGE = 64
INTERRUPTED = 130
