"""From the store to the backends, over OTLP and Sentry's protocol."""
