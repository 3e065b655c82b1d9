"""The process that serves the page: what it takes, what it answers, and when it ends."""
