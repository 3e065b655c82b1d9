"""A receiver of OTLP and Sentry's protocol, for the demo and for tests."""
