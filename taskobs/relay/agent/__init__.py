"""The relay's event loop and everything that talks to the worker's processes."""
