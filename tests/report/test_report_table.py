"""The terminal's table and samples."""

import io

from rich.console import Console
from tests_report_oracles import HOSTILE, comparison

from gnomon.report.format import duration, measured, number
from gnomon.report.table import comparison_table, samples_panel
from gnomon.runs.comparison import Comparison
from gnomon.stats.intervals import Interval


def _render(item, **options):
    out = io.StringIO()
    Console(file=out, width=160, **options).print(item)
    return out.getvalue()


def test_table_shows_values_intervals_and_gaps():
    text = _render(comparison_table(Comparison(**comparison())))
    for expected in ("gold reward", "0.550 [0.510, 0.590]", "n/a", "ppo", "14"):
        assert expected in text


def test_n_stands_beside_every_interval():
    row = {"model": "a", "values": [{"value": 0.5, "low": 0.3, "high": 0.7, "n": 20.0}]}
    assert "0.500 [0.300, 0.700] n=20" in _render(
        comparison_table(Comparison(columns=["accuracy"], rows=[row]))
    )


def test_only_a_best_beyond_its_interval_is_bold():
    coloured = _render(
        comparison_table(Comparison(**comparison())), force_terminal=True, color_system="standard"
    )
    bold = "\x1b[1;32m"
    assert f"{bold}0.550" in coloured
    assert f"{bold}2.600" in coloured
    # sft's and ppo's accuracies overlap: neither is the best.
    assert f"{bold}0.440" not in coloured
    assert f"{bold}0.410" not in coloured


def test_hostile_samples_reach_the_terminal_as_text():
    shown = _render(
        samples_panel(Comparison(**comparison())), force_terminal=True, color_system=None
    )
    assert "[bold]really[/bold]" in shown
    assert "\x1b[31m" not in shown
    assert HOSTILE.replace("\x1b", " ") in shown
    assert samples_panel(Comparison()) is None


def test_long_samples_are_cut():
    panel = samples_panel(Comparison(samples=[{"prompt": "x" * 900}]), max_chars=50)
    assert _render(panel).count("x") == 49


def test_numbers_as_people_read_them():
    assert [number(x) for x in (0, 0.7142, 12.34, 1240, 2.1e-6, None, float("nan"))] == [
        "0", "0.714", "12.3", "1 240", "2.1e-06", "n/a", "n/a",
    ]  # fmt: skip
    assert measured(Interval(-0.9, -1.0, -0.8)) == "-0.900 [-1.000, -0.800]"
    assert measured(Interval(0.5, 0.3, 0.7, 20)) == "0.500 [0.300, 0.700] n=20"
    assert measured(Interval(float("nan"))) == "n/a"
    assert measured(Interval(0.5, 0.3, 0.7, 1240)) == "0.500 [0.300, 0.700] n=1 240"
    assert measured(Interval(0.5, n=1.6)) == "0.500 n=1.6"
    assert [duration(s) for s in (4.25, 48, 725, 12000)] == [
        "4.2 s", "48 s", "12 min 05 s", "3 h 20 min",
    ]  # fmt: skip
