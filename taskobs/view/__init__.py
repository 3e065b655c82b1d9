"""The page of an app's own traces, errors and log lines: ``taskobs view``; and the demo."""
