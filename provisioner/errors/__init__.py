"""Errors: the exceptions, the failures and problems that are values, and their codes."""
