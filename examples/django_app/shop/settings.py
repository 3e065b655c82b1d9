"""The settings: without any variable, a broker and a database in the folder ``instance``."""

import os
from pathlib import Path

FOLDER = Path(os.environ.get("SHOP_FOLDER") or Path(__file__).parents[1] / "instance")
(FOLDER / "messages").mkdir(parents=True, exist_ok=True)

SECRET_KEY = "for this example only"  # noqa: S105  # it guards nothing
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "testserver"]
ROOT_URLCONF = "shop.urls"
INSTALLED_APPS = ["shop", "django_celery_beat", "django_celery_results"]
# SQLite refuses a transaction that began to read and goes on to write while another process writes.
IMMEDIATE = {"timeout": 30, "transaction_mode": "IMMEDIATE"}
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": FOLDER / "shop.db",
        "OPTIONS": IMMEDIATE,
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL", "filesystem://")
if CELERY_BROKER_URL.startswith("filesystem"):
    IN_A_FOLDER = f"{FOLDER}/messages"
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "data_folder_in": IN_A_FOLDER,
        "data_folder_out": IN_A_FOLDER,
        "control_folder": f"{FOLDER}/control",
        "polling_interval": 0.1,
    }
CELERY_RESULT_BACKEND = "django-db"
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
CELERY_BEAT_SCHEDULE = {"hourly-report": {"task": "shop.tasks.report", "schedule": 3600.0}}
