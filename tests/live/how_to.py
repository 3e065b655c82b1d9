"""Does what a how-to page says: writes its files, runs its commands, holds them to their output.

A page names the usual ports; ``replaced`` gives what stands in their place here. What a page starts
in a terminal of its own runs on until the end of the test. What it starts by Docker stands there
already, and what it installs is installed: tests/docs checks those lines.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.docs.pages import Block, blocks
from tests.live.celery_process import TROUBLE
from tests.live.process import LIMIT, Program, ProgramError, wait_until
from tests.live.services import plain_environment
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

NOT_HERE: Final = frozenset({"docker", "pip"})
"""Commands that are left out: what they bring is there."""
FOREIGN: Final = ("OTEL_", "SENTRY_", "TASKOBS_")
ASSIGNMENT: Final = re.compile(r"[A-Z_]+=")


class Lasting(NamedTuple):
    """A command that goes on until it is stopped."""

    words: re.Pattern[str]
    ready: str
    """What it logs when it is ready."""


LASTING: Final = (
    Lasting(re.compile(r"celery .*\bworker\b"), " ready."),
    Lasting(re.compile(r"taskobs monitor .*--port"), "/queues"),
    Lasting(re.compile(r"otelcol --config"), "Everything is ready"),
    Lasting(re.compile(r"prometheus --config"), "Server is ready to receive web requests"),
)


class HowTo:
    """A reader who follows a page, in a folder of their own; a context manager."""

    def __init__(
        self,
        name: str,
        folder: Path,
        replaced: Mapping[str, str],
        env: Mapping[str, str] | None = None,
    ) -> None:
        """``replaced`` maps words of the page to those of this machine; ``env`` is added."""
        self.page = ROOT / "docs/how-to" / f"{name}.md"
        self.folder = folder
        self.programs: dict[str, Program] = {}
        """What runs, by the first word of its command."""
        self.rewritten: tuple[str, ...] = ()
        """Files that commands of the page write, and in which words are replaced as on the page."""
        self._replaced = dict(replaced)
        self._env = self._environment() | dict(env or {})
        self._stack = ExitStack()
        self._numbers = count(1)

    def _environment(self) -> dict[str, str]:
        kept = {k: v for k, v in plain_environment().items() if not k.startswith(FOREIGN)}
        path = [str(Path(sys.executable).parent), str(self.folder / "bin"), kept.get("PATH", "")]
        return {
            **kept,
            "PATH": os.pathsep.join(path),
            "NO_PROXY": "localhost,127.0.0.1",
            "PYTHONUNBUFFERED": "1",
            "TASKOBS_SHUTDOWN_TIMEOUT": "30",
        }

    def link(self, name: str, program: str) -> None:
        """Have ``name`` start this program."""
        (self.folder / "bin").mkdir(exist_ok=True)
        (self.folder / "bin" / name).symlink_to(program)

    def follow(self, *sections: str) -> None:
        """Do what these sections say, in their order on the page; all of it without any."""
        found = [one for one in blocks(self.page) if not sections or one.section in sections]
        assert found, f"{self.page.name} has no blocks below {sections}"
        for before, block, after in zip([None, *found], found, [*found[1:], None], strict=False):
            if block.file is not None:
                self._write(block)
            elif block.language == "bash":
                self._run(block, after.text if after and is_output(block, after) else None)
            elif before is None or not is_output(before, block):
                self._find_in_log(block)

    def here(self, text: str) -> str:
        """Give a text of the page as it reads on this machine."""
        longest = sorted(self._replaced, key=len, reverse=True)
        for word in longest:
            text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", f"\0{longest.index(word)}\0", text)
        return re.sub(r"\0(\d+)\0", lambda found: self._replaced[longest[int(found[1])]], text)

    def _write(self, block: Block) -> None:
        path = self.folder / str(block.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.here(block.text), encoding="utf-8")

    def _find_in_log(self, block: Block) -> None:
        """Find what a page shows that follows no command: a line of the worker."""
        wanted = pattern_of(self.here(block.text))

        def logged() -> bool:
            return wanted.search(squeezed(self.logged())) is not None

        assert wait_until(logged, timeout=LIMIT), f"{block.text}\n{self.logged()}"

    def _run(self, block: Block, shown: str | None) -> None:
        short: list[str] = []
        for command in commands(self.here(block.text)):
            if command.split()[0] in NOT_HERE:
                continue
            lasting = [one for one in LASTING if one.words.match(without_variables(command))]
            if lasting:
                self.start(command, lasting[0].ready)
            else:
                short.append(command)
        if short:
            self._until_right(block, "\n".join(short), None if shown is None else self.here(shown))

    def start(self, command: str, ready: str) -> None:
        """Start a command that goes on, in the place of an older one of its program."""
        words = shlex.split(command)
        given = dict(word.split("=", 1) for word in words if ASSIGNMENT.match(word))
        words = words[len(given) :]
        if running := self.programs.get(words[0]):
            assert running.stop() == 0, running.tail()
        log = self.folder / f"{words[0]}-{next(self._numbers)}.log"
        program = Program(["/usr/bin/env", *words], log=log, env=self._env | given, cwd=self.folder)
        self.programs[words[0]] = self._stack.enter_context(program)
        program.wait_ready(lambda: ready in program.log)

    def _until_right(self, block: Block, script: str, shown: str | None) -> None:
        """Run a script; if the page shows what it prints, until it prints that."""
        said = [""]
        wanted = pattern_of("..." if shown is None else shown)

        def right() -> bool:
            status, said[0] = self.bash(script)
            return status == 0 and wanted.fullmatch(squeezed(said[0])) is not None

        if not wait_until(right, timeout=0 if shown is None else LIMIT, tick=0.3):
            logs = "\n".join(program.tail() for program in self.programs.values())
            raise ProgramError(f"{block}:\n{script}\nprinted\n{said[0]}\nand not\n{shown}\n{logs}")

    def bash(self, script: str) -> tuple[int, str]:
        """Run a script as in the terminal of this reader; what it exports stays."""
        exported = self.folder / ".exported"
        whole = f"set -euo pipefail\n{script}\nenv -0 > {shlex.quote(str(exported))}"
        log = self.folder / f"bash-{next(self._numbers)}.log"
        with Program(["bash", "-c", whole], log=log, env=self._env, cwd=self.folder) as program:
            status = program.wait()
        if status == 0:
            pairs = exported.read_text(encoding="utf-8").split("\0")
            self._env = dict(pair.split("=", 1) for pair in pairs if pair)
        for path in (self.folder / name for name in self.rewritten):
            if path.exists():
                path.write_text(self.here(path.read_text(encoding="utf-8")), encoding="utf-8")
        return status, program.log

    def variable(self, name: str) -> str:
        """Give what the page has exported."""
        return self._env[name]

    def logged(self, program: str = "celery") -> str:
        """Give the log of something that runs."""
        return self.programs[program].log

    def stop(self, program: str = "celery") -> None:
        """Stop it as Ctrl+C or a service manager does; it must end well."""
        assert self.programs[program].stop() == 0, self.programs[program].tail()

    def __enter__(self) -> Self:
        """Nothing runs yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End what was started, the newest first, and look for trouble in the logs."""
        self._stack.__exit__(kind, error, traceback)
        logs = (log.read_text(errors="replace") for log in self.folder.glob("*.log"))
        troubled = [text for text in logs if TROUBLE in text]
        if troubled and error is None:
            raise ProgramError("\n".join(troubled))


def is_output(command: Block, block: Block) -> bool:
    """Tell whether a block shows what the one right before it prints."""
    fences_and_a_blank_line = 3
    end = command.line + command.text.count("\n") + fences_and_a_blank_line
    return (command.language, block.language) == ("bash", "text") and block.line == end


def commands(text: str) -> Iterator[str]:
    """Give the commands of a block, each on one line."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.strip()


def without_variables(command: str) -> str:
    """Leave out the variables before a command."""
    words = command.split()
    while words and ASSIGNMENT.match(words[0]):
        del words[0]
    return " ".join(words)


def squeezed(text: str) -> str:
    """Give a text with one space between words, and none at the ends of lines."""
    lines = (" ".join(line.split()) for line in text.strip().splitlines())
    return "\n".join(line for line in lines if line)


def pattern_of(shown: str) -> re.Pattern[str]:
    """Give the pattern of an output in which three dots stand for anything."""
    parts = re.split(r"\s*\.\.\.\s*", squeezed(shown))
    return re.compile(".*".join(map(re.escape, parts)), re.DOTALL)
