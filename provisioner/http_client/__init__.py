"""One HTTP client for Twenty and for sinks: bounded answers, TLS, proxies, and lost answers."""
