"""Metrics for Prometheus: its text formats, and the HTTP server that a scraper asks."""
