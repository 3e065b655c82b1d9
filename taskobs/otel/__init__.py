"""OpenTelemetry in this process: the provider, the spans of tasks, and the ways out."""
