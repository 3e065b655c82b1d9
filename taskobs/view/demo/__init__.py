"""A shop on Celery that shows what taskobs gives: ``taskobs demo``."""
