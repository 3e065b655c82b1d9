"""Asks the servers of an app what they say: of telemetry, of messages, of results, of the time."""
