"""Finds the traces of a task, an event or a trace id at Jaeger's query API."""
