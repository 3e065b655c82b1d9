"""``taskobs monitor``: looks at an app's queues, and exports what it finds."""
