"""What taskobs raises.

    TaskobsError
    ├── SettingError         also a ValueError: a setting has a value that cannot work
    ├── ContextError         also a ValueError: a key or a value that context() can't take
    └── MissingExtraError    also an ImportError: a feature needs packages that are not installed

Only ``taskobs.init()`` and what a user calls by name raise these. Nothing of taskobs raises into
a task or a publish, unless ``strict`` is on.
"""

from __future__ import annotations


class TaskobsError(Exception):
    """The base of every error that taskobs raises."""


class SettingError(TaskobsError, ValueError):
    """A setting has a value that cannot work.

    ``value`` is the value as it may be shown: what is secret in it is masked. ``fix`` is a line
    that would be accepted.
    """

    def __init__(self, setting: str, variable: str, value: str, problem: str, fix: str) -> None:
        super().__init__(setting, variable, value, problem, fix)
        self.setting = setting
        self.variable = variable
        self.value = value
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        also = f" (variable {self.variable})" if self.variable else ""
        return (
            f"{self.setting}{also} is {self.value}: {self.problem}. Write for example: {self.fix}"
        )


class ContextError(TaskobsError, ValueError):
    """A key or a value that ``taskobs.context()`` and ``taskobs.set_context()`` can't take.

    ``fix`` is a call that would be accepted. The value itself is not shown.
    """

    def __init__(self, key: str, problem: str, fix: str) -> None:
        super().__init__(key, problem, fix)
        self.key = key
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return f"the context's key {self.key!r} {self.problem}. Write for example: {self.fix}"


class MissingExtraError(TaskobsError, ImportError):
    """A feature needs packages that are not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(feature, extra)
        self.feature = feature
        self.extra = extra

    def __str__(self) -> str:
        fix = f'pip install "taskobs[{self.extra}]"'
        return f"{self.feature} needs packages that are not installed: {fix}"
