"""HTTP answers bounded in time and memory, and the hosts that are this machine."""
