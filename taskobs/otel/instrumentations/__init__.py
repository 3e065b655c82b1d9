"""OpenTelemetry's instrumentors of other libraries, and how they are activated."""
