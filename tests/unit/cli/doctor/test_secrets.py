"""What the doctor prints has no secret in it."""

from __future__ import annotations

import pytest
from celery import Celery

from taskobs.cli.doctor.secrets import Secrets
from tests.support.doctor import evidence

HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"


@pytest.mark.parametrize(
    ("environ", "secret"),
    [
        ({HEADERS: "authorization=Bearer%20t0k3n-of-ours"}, "t0k3n-of-ours"),
        ({HEADERS: "x-api-key=abc"}, "abc"),
        ({"OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-api-key=k3y"}, "k3y"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://user:pa55@collector"}, "pa55"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector/?key=k3y"}, "k3y"),
        ({"SENTRY_DSN": "https://c0ffee@sentry.example/1"}, "c0ffee"),
        ({"SENTRY_DSN": "https://c0ffee:s3cr3t@sentry.example/1"}, "s3cr3t"),
        ({"HTTPS_PROXY": "http://me:pr0xy@proxy.example:3128"}, "pr0xy"),
        ({"CELERY_BROKER_URL": "redis://:p%40ss@redis/0"}, "p@ss"),
        ({"AWS_SECRET_ACCESS_KEY": "wJalr/XUtnFEMI"}, "wJalr/XUtnFEMI"),
        ({"DJANGO_DB_PASSWORD": "c0rrect-horse"}, "c0rrect-horse"),
    ],
)
def test_secrets_of_the_environment_are_masked(environ: dict[str, str], secret: str) -> None:
    """Whatever a library puts into its message, my keys are not shown."""
    shown = Secrets.of(evidence(environ)).mask(f"refused: {secret!r} by host={secret}, {secret}.")
    assert secret not in shown
    assert shown.count("***") == 3


def test_secrets_of_the_app_are_masked() -> None:
    """Broker and result backend have passwords, in lists and settings of their own."""
    app = Celery("shop", broker="amqp://me:one@a//;amqp://me:tw0@b//", set_as_current=False)
    lists = {"broker_read_url": ["redis://:f0ur@e"]}
    app.conf.update(result_backend="db+postgresql://me:thr33@c/d", **lists)
    app.conf.broker_password = "f1ve"  # noqa: S105  # a test's own
    made = evidence()
    made.app = app
    secrets = ("one", "tw0", "thr33", "f0ur", "f1ve")
    shown = Secrets.of(made).mask(f"failed: {', '.join(secrets)}")
    assert shown == "failed: ***, ***, ***, ***, ***"


def test_secrets_in_options_of_transports_are_masked() -> None:
    """Sentinels have a password of their own; a prefix of keys is none."""
    app = Celery("shop", broker="sentinel://h", set_as_current=False)
    app.conf.broker_transport_options = {
        "global_keyprefix": "shop:",
        "sentinel_kwargs": {"password": "sent1nel"},
    }
    made = evidence()
    made.app = app
    assert Secrets.of(made).mask("shop: sent1nel refused") == "shop: *** refused"


def test_credentials_of_any_url_are_masked() -> None:
    """An error names a URL that no setting has."""
    shown = Secrets([]).mask("can't reach https://me:secret@elsewhere.example/path")
    assert shown == "can't reach https://***@elsewhere.example/path"


@pytest.mark.parametrize(
    ("says", "shown"),
    [
        (
            "refused: host=db password=s3cret dbname=shop",
            "refused: host=db password=*** dbname=shop",
        ),
        ("bad login {'api_key': 's3 cret', 'n': 1}", "bad login {'api_key': ***, 'n': 1}"),
        ("connect(access_token='s3cret', port=1)", "connect(access_token=***, port=1)"),
        ("password authentication failed: no token", "password authentication failed: no token"),
        ("→ set broker_password: see the manual", "→ set broker_password: see the manual"),
    ],
)
def test_what_a_text_calls_secret_is_masked(says: str, shown: str) -> None:
    """My app fails at its import, and says in its error what it has tried to log in with."""
    assert Secrets([]).mask(says) == shown


def test_words_that_contain_a_short_secret_stay() -> None:
    """My password is "red", and my broker is still Redis."""
    assert Secrets(["red"]).mask("red: redis refused") == "***: redis refused"
