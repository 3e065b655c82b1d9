"""What turns facts into telemetry: spans, Sentry events, log fields."""
