"""A shop: the factory of its app, for the web server, the worker and beat alike."""

from __future__ import annotations

from flask import Flask

from shop.extensions import database, make_celery
from shop.pages import pages


def create_app() -> Flask:
    """Make the app, with its extensions and its pages."""
    app = Flask(__name__)
    app.config.from_object("shop.config")
    make_celery(app)  # before the engine of the next line, so that its statements are spans
    database.init_app(app)
    app.register_blueprint(pages)
    with app.app_context():
        database.create_all()
    return app
