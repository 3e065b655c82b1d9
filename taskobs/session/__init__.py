"""``init()`` and the session that it returns."""
