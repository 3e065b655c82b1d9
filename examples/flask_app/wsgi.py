"""What ``flask run``, gunicorn and ``celery -A wsgi:celery`` import."""

from shop import create_app

app = create_app()
celery = app.extensions["celery"]
