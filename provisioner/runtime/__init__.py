"""What a run needs of this process: cancellation, threads, backoff, log context, limits."""
