"""Exceptions, failures and problems, and the codes of problems."""
