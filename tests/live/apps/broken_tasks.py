"""A module of tasks that can't be imported."""

msg = "no module named as it was yesterday"
raise ImportError(msg)
