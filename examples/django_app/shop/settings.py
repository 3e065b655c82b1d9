"""The least that Django runs with."""

SECRET_KEY = "for this example only"  # noqa: S105  # it guards nothing
ALLOWED_HOSTS = ["localhost", "testserver"]
ROOT_URLCONF = "shop.urls"
INSTALLED_APPS = ["shop"]
CELERY_BROKER_URL = "redis://localhost:6379/0"
