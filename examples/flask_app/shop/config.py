"""The settings: without any variable, a broker and a database in the folder ``instance``."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(os.environ.get("SHOP_FOLDER") or Path(__file__).parents[1] / "instance")
(FOLDER / "messages").mkdir(parents=True, exist_ok=True)

SQLALCHEMY_DATABASE_URI = os.environ.get("DATABASE_URL", f"sqlite:///{FOLDER / 'shop.db'}")
BROKER = os.environ.get("CELERY_BROKER_URL", "filesystem://")
IN_A_FOLDER = {
    "data_folder_in": f"{FOLDER}/messages",
    "data_folder_out": f"{FOLDER}/messages",
    "control_folder": f"{FOLDER}/control",
    "polling_interval": 0.1,
}

CELERY = {
    "broker_url": BROKER,
    "broker_transport_options": IN_A_FOLDER if BROKER.startswith("filesystem") else {},
    "task_ignore_result": True,
    "task_routes": {"shop.tasks.charge_card": {"queue": "payments"}},
    "beat_schedule": {"hourly-report": {"task": "shop.tasks.report", "schedule": 3600.0}},
    "beat_schedule_filename": f"{FOLDER}/beat",
}
