"""Patches around functions of Celery; each can be removed again."""
