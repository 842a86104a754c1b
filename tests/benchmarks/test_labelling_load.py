"""The labelling app as a process of its own, killed in the middle, and what would see a loss."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from gnomon.feedback.records import Label
from labelling_load import Seen, check, run
from ports import free_port


def test_a_killed_server_loses_and_doubles_nothing(tmp_path, capsys):
    run(str(tmp_path / "labels.db"), people=3, each=4, kill=True, port=free_port())
    told = capsys.readouterr().out
    assert "12 answers acknowledged" in told
    assert "every answer once, as it was sent" in told


def test_what_is_lost_or_doubled_is_seen():
    label = Label("1", "item", "ann", "skip", comment="as sent")
    seen = Seen(acknowledged={("ann", "item"): "as sent", ("bob", "item"): "x"})
    bob = replace(label, id="2", labeller="bob", comment="x")
    assert check(seen, [label, bob]) == []
    assert check(seen, [label]) == ["1 lost"]
    assert check(seen, [label, label, bob]) == ["1 doubled"]
    assert check(seen, [label, replace(bob, comment="y")]) == ["1 other than sent"]
    assert check(seen, [label, bob, replace(bob, item="z")]) == ["1 never sent"]
