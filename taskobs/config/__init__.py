"""Settings: arguments, variables and defaults, and the checks of their values."""
