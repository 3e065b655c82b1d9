"""How a process exports its own spans over OTLP."""
