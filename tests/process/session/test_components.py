"""What ``OTEL_*`` variables name, beside OpenTelemetry's own configurator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT

MODULE = """
import itertools
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult

class Mine(Sampler):
    def __init__(self, argument):
        self.argument = argument

    def should_sample(self, context, trace_id, name, kind=None, attributes=None, links=None, **_):
        kept = Decision.RECORD_AND_SAMPLE if name != "dropped" else Decision.DROP
        return SamplingResult(kept, {"sampled.by": self.argument})

    def get_description(self):
        return "mine"

def make_sampler(argument):
    return Mine(argument)

class Counting(IdGenerator):
    def __init__(self):
        self.numbers = itertools.count(1)

    def generate_trace_id(self):
        return 2**120 + next(self.numbers)

    def generate_span_id(self):
        return 2**60 + next(self.numbers)
"""
ENTRY_POINTS = """
[opentelemetry_traces_sampler]
mine = mine_components:make_sampler

[opentelemetry_id_generator]
counting = mine_components:Counting
"""
THEIRS = "from opentelemetry.sdk._configuration import _OTelSDKConfigurator as C; C().configure()"
OURS = "import taskobs; taskobs.init(strict=True)"
WORK = """
from opentelemetry import trace
tracer = trace.get_tracer("shop")
with tracer.start_as_current_span("outer"):
    tracer.start_span("inner").end()
tracer.start_span("dropped").end()
trace.get_tracer_provider().force_flush()
"""
NAMED = {
    "OTEL_TRACES_SAMPLER": "mine",
    "OTEL_TRACES_SAMPLER_ARG": "a shop",
    "OTEL_PYTHON_ID_GENERATOR": "counting",
    "OTEL_TRACES_EXPORTER": "console",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Give a folder with an installed package that has a sampler and a generator of ids."""
    (tmp_path / "mine_components.py").write_text(MODULE)
    metadata = tmp_path / "mine_components-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: mine-components\nVersion: 1.0\n"
    )
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    return tmp_path


def printed(set_up: str, package: Path) -> list[tuple[Any, ...]]:
    """Give the spans that the exporter named ``console`` prints, after a set-up."""
    env = {**os.environ, **NAMED, "PYTHONPATH": f"{package}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", set_up + WORK]
    done = subprocess.run(
        command, cwd=package, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: list[tuple[Any, ...]] = []
    text = done.stdout.strip()
    while text:
        span, end = json.JSONDecoder().raw_decode(text)
        text = text[end:].lstrip()
        ids = span["context"]["trace_id"], span["context"]["span_id"], span["parent_id"]
        found.append((span["name"], *ids, span["attributes"]))
    return found


def test_components_are_those_of_opentelemetrys_configurator(package: Path) -> None:
    """I name a sampler, a generator of ids and an exporter: all three are used, as by others."""
    spans = printed(OURS, package)
    assert spans == printed(THEIRS, package)
    assert [name for name, *_ in spans] == ["inner", "outer"]
    assert all(attributes == {"sampled.by": "a shop"} for *_, attributes in spans)
    assert {trace_id for _, trace_id, *_ in spans} == {f"0x{2**120 + 1:032x}"}
