"""The rule of a task is that of the first pattern which matches its name."""

from __future__ import annotations

import pytest

from taskobs.config.task_rules import NO_RULE, ByTask, TaskRules, task_rules


@pytest.mark.parametrize(
    ("task", "rate"),
    [
        ("reports.daily", 1.0),
        ("reports.weekly", 0.5),
        ("reports.eu.weekly", 0.5),
        ("Reports.weekly", 0.0),
        ("imports.a", 0.25),
        ("imports.z", 0.0),
        ("imports.\n", 0.0),
        ("", 0.0),
    ],
)
def test_the_first_pattern_that_matches_decides(task: str, rate: float) -> None:
    """Patterns are those of `fnmatch.fnmatchcase`: a case is a case, and a dot is no border."""
    rules = TaskRules(
        {
            "reports.daily": {"sample_rate": 1.0},
            "reports.*": {"sample_rate": 0.5},
            "imports.[a-c]": {"sample_rate": 0.25},
            "*": {"sample_rate": 0.0},
        }
    )
    assert rules.find(task).sample_rate == rate
    assert rules.sample_rates == {0.0, 0.25, 0.5, 1.0}


def test_a_rule_that_matches_counts_as_a_whole() -> None:
    """What the first rule leaves out is as without rules: a later one adds nothing."""
    rules = TaskRules({"a.b": {"errors": False}, "a.*": {"link": True}})
    assert rules.find("a.b") == NO_RULE._replace(errors=False)
    assert rules.find("a.c") == NO_RULE._replace(link=True)
    assert rules.find("c") is NO_RULE


def test_without_rules_nobody_looks_them_up() -> None:
    assert task_rules(None) is None
    assert task_rules({}) is None


def test_a_name_is_matched_once() -> None:
    asked: list[str] = []

    def ask(task: str) -> int:
        asked.append(task)
        return len(asked)

    table = ByTask(ask)
    assert [table["a"], table["b"], table["a"]] == [1, 2, 1]
    assert asked == ["a", "b"]


def test_names_that_senders_choose_fill_no_memory() -> None:
    """A million names get their rules, and a thousand of them are kept."""
    table = ByTask(len)
    assert [table[f"task-{number}"] for number in range(5_000)][-1] == len("task-4999")
    assert len(table) == 1_000
