"""Send what is due in django-celery-beat's database, as its scheduler does; print what was told."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

from celery import Celery, beat, signals

from taskobs.celery.adapter.schedules import schedule_of
from tests.support.recording import Recorder, attribute, instrumented


def set_up() -> Any:
    """Make a database with two entries in memory; django and its apps ship no types."""
    django: Any = import_module("django")
    configuration: Any = import_module("django.conf")
    management: Any = import_module("django.core.management")
    configuration.settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=["django.contrib.contenttypes", "django_celery_beat"],
        USE_TZ=True,
    )
    django.setup()
    management.call_command("migrate", verbosity=0)
    models: Any = import_module("django_celery_beat.models")
    every = models.IntervalSchedule.objects.create(every=2, period="hours")
    cron = models.CrontabSchedule.objects.create(minute="*/5", timezone="Asia/Tokyo")
    entries = models.PeriodicTask.objects
    entries.create(name="stock: hourly", task="shop.count", interval=every)
    entries.create(name="stock: daily", task="shop.count", crontab=cron)


def main() -> None:
    """Send both entries."""
    set_up()
    app = Celery("shop", broker="memory://", set_as_current=False)
    recorder = Recorder()
    told: dict[str, object] = {}
    with instrumented(recorder):
        kind: Any = "django_celery_beat.schedulers:DatabaseScheduler"
        service = beat.Service(app, scheduler_cls=kind)
        signals.beat_init.send(sender=service)
        scheduler: Any = service.scheduler
        for entry in scheduler.schedule.values():
            if entry.name.startswith("stock"):
                scheduler.apply_entry(entry, producer=scheduler.producer)
                due = schedule_of(entry)
                told[due.entry] = [due.crontab, due.seconds, due.timezone]
    spans = [[span.name, attribute(span, "celery.schedule.entry")] for span in recorder.spans]
    print(json.dumps({"schedules": told, "spans": spans}))  # noqa: T201


if __name__ == "__main__":
    main()
