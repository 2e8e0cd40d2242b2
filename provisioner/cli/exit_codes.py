"""The exit codes that commands return; errors carry their own (`provisioner.errors.exceptions`)."""

UNEXPECTED = 1
CHANGES = 2
INVALID = 3
INCOMPLETE = 4
USAGE = 64
INTERRUPTED = 130
