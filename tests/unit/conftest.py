"""Unit tests start no process, but for those that are named here."""

from __future__ import annotations

import os
import subprocess
from importlib.util import find_spec
from typing import Any, Final

import pytest

from tests.support.fixtures import app, peer, receiver, spans

__all__ = ["app", "peer", "receiver", "spans"]

# Stubs and servers of gRPC need the extra `grpc`.
collect_ignore_glob = [] if find_spec("grpc") else ["*_grpc.py"]

STARTS_ONE: Final = frozenset(
    """
    test_a_broken_file_of_a_dead_worker_is_set_aside
    test_forked_children_send_their_own_events_and_only_those
    test_a_lock_held_at_the_fork_does_not_stop_the_child
    test_a_child_forked_in_the_midst_of_a_write
    test_a_directory_that_another_user_has_planted_is_not_used
    test_a_directory_that_is_shared_gets_a_private_one_inside
    test_a_file_of_another_user_stops_no_take_over
    test_a_foreign_file_stops_no_take_over
    test_a_forked_child_is_a_client_of_its_own
    test_a_forked_child_takes_a_slot_of_its_own
    test_a_full_store_takes_what_it_says
    test_a_kill_after_it_was_written_again_loses_nothing
    test_a_link_that_another_user_has_made_is_not_followed
    test_a_process_is_alive_until_it_has_ended
    test_a_relay_finds_what_the_one_before_it_has_kept_beside
    test_a_request_is_as_from_sentrys_own_transport
    test_a_slow_sentry_gets_at_least_as_many_as_without_a_relay
    test_a_take_over_leaves_what_it_can_not_send
    test_a_zombie_is_a_dead_worker
    test_all_that_was_committed_outlives_a_kill
    test_an_envelope_that_cannot_be_sent_is_no_trouble_of_the_task
    test_an_envelope_that_is_too_long_loses_its_longest_part
    test_an_event_goes_to_the_relay
    test_django_celery_beats_entries_are_sent_and_read
    test_greenlets_share_a_client
    test_import_loads_nothing_heavy
    test_nobody_reads_when_worker_and_relay_were_killed
    test_nothing_is_left_after_close
    test_python_m_is_the_same_command
    test_reading_settings_loads_no_sdk
    test_redbeats_entries_are_read
    test_sentrys_own_transport_takes_over_when_the_relay_is_gone
    test_sockets_have_the_options_of_sentrys_own_transport
    test_the_first_publish_says_where_telemetry_goes
    test_the_main_process_alone_gives_the_relay_up
    test_the_proxy_is_the_one_that_sentrys_own_transport_takes
    test_the_relay_sees_the_parent_end_though_its_children_live
    test_two_clients_are_told_apart
    test_what_a_dead_worker_left_is_taken_over
    test_what_can_not_be_removed_is_not_sent_again_and_harms_nothing
    test_what_is_large_and_of_no_use_is_not_imported
    test_what_is_taken_over_is_as_old_as_it_was
    test_what_is_taken_over_later_is_sent_and_told_of
    test_what_memory_kept_is_not_overtaken_by_what_is_taken_over
    test_what_nobody_ever_announces_is_dropped_in_time_and_counted
    test_what_was_left_is_taken_over_once_somebody_announces_its_client
    """.split()  # noqa: SIM905  # a list of names is read more easily so
)
"""Tests of a few lines that need a process that is dead, forked or fresh, beside others that need
none. Whatever needs more than that is in ``tests/process``."""


@pytest.fixture(autouse=True)
def no_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that starts a process: such a test belongs into ``tests/process``."""
    if getattr(request.function, "__name__", "") in STARTS_ONE:
        return
    start = subprocess.Popen.__init__

    def popen(self: Any, args: Any, *more: Any, **named: Any) -> None:
        # Sentry asks git for a release when it is initialised.
        assert list(args)[:1] == ["git"], f"starts {args}"
        start(self, args, *more, **named)

    def refuse(*_: object, **__: object) -> int:
        pytest.fail("starts a process")

    monkeypatch.setattr(subprocess.Popen, "__init__", popen)
    monkeypatch.setattr(os, "fork", refuse)
    monkeypatch.setattr(os, "posix_spawn", refuse)
