"""The only readers of Celery: signals, patches and the records made of its objects."""
