"""Failed runs as Sentry events, and what every event of a run says."""
