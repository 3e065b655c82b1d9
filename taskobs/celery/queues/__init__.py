"""Reads what waits in the queues of an app's broker, for ``taskobs monitor``."""
