"""The app's own TracerProvider, whose exporters a relay can replace."""
