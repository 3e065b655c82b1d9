"""Import an app as a web process or a script does, and run the Python that a test sends.

Used by `tests.live.celery_process.Producer`: requests are files, so are the answers.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from itertools import count
from pathlib import Path
from typing import Any


def answer(source: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run one request and give what it left in ``result``, or its traceback."""
    names["result"] = None
    try:
        exec(source, names)  # noqa: S102  # the test's own lines
    except Exception:  # noqa: BLE001  # the test is told
        return {"error": traceback.format_exc()}
    return {"result": names["result"]}


def serve(names: dict[str, Any], requests: Path, answers: Path, parent: int) -> None:
    """Answer requests in their order, until told to end or the test process is gone."""
    for number in count(1):
        request = requests / f"{number}.py"
        while not request.exists():
            if (requests / "end").exists() or os.getppid() != parent:
                return
            time.sleep(0.01)
        draft = answers / f"{number}.draft"
        draft.write_text(json.dumps(answer(request.read_text(), names), default=repr))
        draft.rename(answers / f"{number}.json")


if __name__ == "__main__":
    module, inbox, outbox, tests = sys.argv[1:]
    serve({"app": importlib.import_module(module)}, Path(inbox), Path(outbox), int(tests))
