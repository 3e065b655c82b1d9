"""``taskobs monitor``: polls an app's queues and exports what it finds."""
