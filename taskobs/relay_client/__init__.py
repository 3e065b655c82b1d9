"""A worker process's end of the relay: what it writes, and starting the relay itself."""
