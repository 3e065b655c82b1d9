"""Celery's tasks, requests and messages as the plain records of ``taskobs.model``."""
