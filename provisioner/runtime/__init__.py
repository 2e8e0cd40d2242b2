"""The process of a run: cancellation, threads, backoff, log context, open files."""
