"""The notebook and the page for TRL's users run as they stand."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.walk

EXAMPLES = Path(__file__).parents[2] / "examples"


def cells(notebook: Path) -> list[str]:
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(c["source"]) for c in found if c["cell_type"] == "code"]


def python(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)


def test_the_notebook_in_a_kernel_or_cell_by_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = EXAMPLES / "dpo_notebook.ipynb"
    monkeypatch.chdir(tmp_path)
    if importlib.util.find_spec("nbclient") and importlib.util.find_spec("ipykernel"):
        texts = _in_a_kernel(file, tmp_path)
    else:
        names: dict[str, Any] = {}
        for cell in cells(file):
            exec(compile(cell, file.name, "exec"), names)
        texts = capsys.readouterr().out + repr(names["run"])
    assert "not shown" in texts
    assert "did you mean" in texts
    losses = [float(line.split()[1]) for line in texts.splitlines() if re.match(r"\d+ \d\.", line)]
    assert losses[0] == pytest.approx(math.log(2), abs=0.02)
    assert losses[-1] < losses[0]


def _in_a_kernel(file: Path, where: Path) -> str:
    import nbclient
    import nbformat

    notebook = nbformat.read(file, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(where)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    said = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs]
    bars = [text for text in said if "█" in text or "░" in text]
    assert len(bars) == 1, "progress is one line that is replaced"
    assert "8/8" in bars[0]
    assert any("not shown" in o.get("data", {}).get("text/html", "") for o in outputs)
    return "\n".join(said)


@pytest.mark.skipif(sys.platform == "win32", reason="TRL's CPU run is tried elsewhere")
def test_the_same_jobs_in_trl_and_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    kept: dict[str, Any] = {}
    for block in python(EXAMPLES / "from_trl.md"):
        exec(compile(block, "from_trl.md", "exec"), names)
        if "run" in names:
            kept[names["run"].name] = names["run"]
    losses = kept["dpo"].metrics["loss"].drop_null().to_pylist()
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
    assert names["trl_losses"][0] == pytest.approx(losses[0], abs=1e-3)
    rows = kept["grpo"].samples.to_pylist()
    trained = [row for row in rows if row["evaluation"] is None]
    assert len(trained) == 8
    for row in trained:
        parts = json.loads(row["parts"])
        (answer,) = [q["answer"] for q in names["questions"] if q["prompt"] == row["prompt"]]
        assert parts["correct"] == names["correct"]([row["response"]], [answer])[0]
        assert parts.get("short") == pytest.approx(names["short"]([""], [row["response"]])[0])
        assert row["reward"] == pytest.approx(parts["correct"] + 0.2 * (parts.get("short") or 0))
