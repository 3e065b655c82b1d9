"""Spans of processes that export for themselves."""
