"""HTTP answers in bounded time and memory, and the hosts that are this machine."""
