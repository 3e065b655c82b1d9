"""All measurements, and the file that they are saved to."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.figures import Figure
from bench.workers import Worked


@dataclass
class Results:
    """The results of all parts; an empty part was not measured."""

    machine: str
    single: dict[str, dict[str, Figure]] = field(default_factory=dict[str, dict[str, Figure]])
    workers: dict[str, Worked] = field(default_factory=dict[str, Worked])
    starting: dict[str, Figure] = field(default_factory=dict[str, Figure])
    instructions: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """Thousands."""

    def save(self, file: Path) -> None:
        """Write all of it as JSON."""
        file.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> Results:
        """Read what `save` wrote."""
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return cls(
            machine=found["machine"],
            single={name: _figures(by) for name, by in found["single"].items()},
            workers={
                name: Worked(
                    **worked | {"rate": Figure(**worked["rate"]), "naps": _figures(worked["naps"])}
                )
                for name, worked in found["workers"].items()
            },
            starting=_figures(found["starting"]),
            instructions=found.get("instructions", {}),
        )


def _figures(found: dict[str, Any]) -> dict[str, Figure]:
    return {name: Figure(**one) for name, one in found.items()}


def machine() -> str:
    """Say in general terms what this was measured on."""
    packages = ("celery", "opentelemetry-sdk", "sentry-sdk")
    releases = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, "
        f"{releases}; ± is half the distance between the quartiles."
    )
