"""Sentry in this process: the client, its integrations, and its way to the relay."""
