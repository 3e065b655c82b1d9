"""A systemd of the tests' own: PID 1 of new namespaces, with the units that a test gives it.

It needs root, and a cgroup2 hierarchy that can be written to. It shares the network with the tests.
It has mounts of its own, so that nothing of the machine is changed: ``/etc``, ``/run``, ``/srv``,
``/tmp`` and ``/var/lib`` among them.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.live.process import LIMIT, Program, ProgramError, wait_until
from tests.live.services import Missing, NotAllowed, find_program, plain_environment
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

HOME: Final = Path("/srv/shop")
"""Where the app lies, as the pages have it."""
CHECKOUT: Final = Path("/srv/checkout")
"""Where the tests and taskobs lie: a service does not see a project's folder in ``/tmp``."""
PATHS: Final = (Path("/usr/lib/systemd/systemd"), Path("/lib/systemd/systemd"))
TARGETS: Final = (
    "basic",
    "default",
    "multi-user",
    "network-online",
    "shutdown",
    "sysinit",
    "umount",
)
INIT: Final = """
set -e
mount --make-rprivate /
mount --bind {folder}/console /dev/console
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
cd {folder}/srv
mount -t tmpfs tmpfs .
cd {folder}/srv
mkdir shop checkout units etc work lib
mount --bind {folder}/units units
mount --bind {root} checkout
mount --bind {folder}/shop shop
mount --bind {prefix} shop/.venv
mount --bind {folder}/celery shop/.venv/bin/celery
mount --rbind {folder}/srv /srv
mount -t overlay overlay -o lowerdir=/etc,upperdir=/srv/etc,workdir=/srv/work /etc
mkdir -p /etc/shop
mount --bind {folder}/etc /etc/shop
mount --bind /srv/lib /var/lib
mount -t tmpfs tmpfs /var/tmp
mount -t tmpfs tmpfs /tmp
cd /
export container=tests SYSTEMD_UNIT_PATH=/srv/units SYSTEMD_GENERATOR_PATH=/srv/none
exec {systemd} --system --unit=default.target --log-target=console
"""
FORBIDDEN: Final = ("not permitted", "permission denied", "read-only file system")
"""What an unprivileged container says to new namespaces and mounts."""
CELERY: Final = """#!/srv/shop/.venv/bin/{python}
import sys
from celery.__main__ import main
sys.exit(main())
"""


class Systemd:
    """A running systemd, and what it sees."""

    def __init__(self, pid: int, folder: Path) -> None:
        self._pid, self.folder = pid, folder
        self.root = Path(f"/proc/{pid}/root")
        """Its file system."""

    def write_unit(self, name: str, text: str, **drop_ins: str) -> None:
        """Give it a unit, with drop-ins by their names."""
        (self.folder / "units" / name).write_text(text)
        extra = self.folder / "units" / f"{name}.d"
        extra.mkdir(exist_ok=True)
        for drop_in, lines in drop_ins.items():
            (extra / f"{drop_in}.conf").write_text(lines)
        self.ctl("daemon-reload")

    def write_environment(self, name: str, variables: Mapping[str, str]) -> None:
        """Write a file for a unit's ``EnvironmentFile=``, which is in ``/etc/shop``."""
        lines = [f"{variable}={shlex.quote(value)}\n" for variable, value in variables.items()]
        (self.folder / "etc" / name).write_text("".join(lines))

    def ctl(self, *words: str) -> str:
        """Run ``systemctl`` and give what it prints."""
        return self.run("systemctl", *words)

    def run(self, *command: str) -> str:
        """Run a program in its namespaces and give what it prints."""
        enter = ["nsenter", "-t", str(self._pid), "-m", "-p", "-C", "-i", "-u", "--"]
        done = subprocess.run(
            [*enter, *command],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
            env=plain_environment(),
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.console}"
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        """Give a property of a unit, such as its ``MainPID``."""
        return self.ctl("show", unit, "--property", name, "--value").strip()

    def wait_state(self, unit: str, state: str) -> None:
        """Wait until a unit's ``ActiveState`` is this."""
        found = wait_until(lambda: self.show(unit, "ActiveState") == state, timeout=LIMIT)
        assert found, self.ctl("status", unit)

    @property
    def console(self) -> str:
        """What systemd has logged."""
        return (self.folder / "console").read_text(errors="replace")


@contextlib.contextmanager
def systemd(folder: Path) -> Generator[Systemd]:
    """Boot a systemd; its files are in ``folder``."""
    install = "apt-get install systemd"
    program = find_program("systemd", variable="TASKOBS_SYSTEMD", paths=PATHS, install=install)
    group = cgroup(folder.name)
    for name in ("units", "shop", "etc", "srv"):
        (folder / name).mkdir(parents=True)
    for target in TARGETS:
        text = f"[Unit]\nDescription={target}\nDefaultDependencies=no\n"
        (folder / "units" / f"{target}.target").write_text(text)
    (folder / "console").touch()
    (folder / "shop/.venv").mkdir()
    (folder / "celery").write_text(CELERY.format(python=Path(sys.executable).name))
    (folder / "celery").chmod(0o755)
    script = INIT.format(folder=folder, root=ROOT, prefix=sys.prefix, systemd=program)
    (folder / "init").write_text(script)
    spaces = "unshare --fork --kill-child --pid --mount-proc --mount --cgroup --uts --ipc"
    # Also if the tests are killed: then nobody else ends it.
    start = f"echo 0 >{group}/cgroup.procs; exec setpriv --pdeathsig KILL {spaces} sh {folder}/init"
    with Program(["sh", "-c", start], log=folder / "boot.log", env=plain_environment()) as unshare:
        try:
            yield Systemd(first_process(unshare), folder)
        finally:
            end(unshare, group)


def cgroup(name: str) -> Path:
    """Make a cgroup for a systemd; raises `NotAllowed`."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    tops = [Path(words[1]) for words in mounts if words[2] == "cgroup2"]
    if os.geteuid() != 0 or not tops or not os.access(tops[0], os.W_OK):
        raise NotAllowed("systemd can't be booted here: it needs root, and cgroup2 to write to")
    group = tops[0] / f"taskobs-tests-{os.getpid()}-{name}"
    try:
        group.mkdir()
    except OSError as error:
        raise NotAllowed(f"systemd can't be booted here: {error}") from None
    return group


def first_process(unshare: Program) -> int:
    """Wait for the systemd of new namespaces, and give the id that it has out here."""
    children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")

    def found() -> list[str]:
        with contextlib.suppress(OSError):
            return children.read_text().split()
        return []

    try:
        unshare.wait_ready(lambda: bool(found()))
        pid = int(found()[0])
        unshare.wait_ready(Path(f"/proc/{pid}/root/run/systemd/private").is_socket)
    except ProgramError as error:
        forbidden = any(words in str(error).lower() for words in FORBIDDEN)
        kind = NotAllowed if forbidden else Missing
        raise kind(f"systemd can't be booted here: {error}") from None
    return pid


def end(unshare: Program, group: Path) -> None:
    """Kill all processes of a systemd, and remove its cgroups."""
    if unshare.running:
        unshare.signal("KILL")  # its child gets SIGKILL, too, and so does whatever runs there
        unshare.wait()
    members = group / "cgroup.procs"

    def empty() -> bool:
        found = [pid for one in group.rglob("cgroup.procs") for pid in one.read_text().split()]
        for pid in map(int, found):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found

    assert wait_until(empty, timeout=LIMIT), members.read_text()
    for path in sorted(group.rglob("*/"), reverse=True):
        if path.is_dir():
            path.rmdir()
    group.rmdir()
