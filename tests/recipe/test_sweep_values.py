"""Overrides that stand for several values: what is read, what is worked out, what is refused."""

from __future__ import annotations

import pytest
import yaml

from gnomon.errors import ConfigError
from gnomon.recipe.load import apply_override
from gnomon.recipe.sweep import as_override, axis_of, is_marked, parse_axis, short_keys


def values(override: str) -> tuple[object, ...]:
    axis = parse_axis(override)
    assert axis is not None
    return axis.values


def test_a_list_alone_is_not_sure_and_a_marked_one_is() -> None:
    plain, marked = parse_axis("a.b=[0.01, 2, x]"), parse_axis("a.b=sweep(0.01, 2, x)")
    assert plain is not None
    assert marked is not None
    assert plain.values == marked.values == (0.01, 2, "x")
    assert (plain.marked, marked.marked) == (False, True)
    assert parse_axis("a.b=0.01") is None
    assert parse_axis("a.b={c: [1, 2]}") is None
    assert not is_marked("a=[1,2]")
    assert is_marked("a=log(1,2)")


def test_values_may_be_lists_and_null() -> None:
    assert values("train.betas=sweep([0.9,0.95],[0.9,0.999])") == ([0.9, 0.95], [0.9, 0.999])
    assert values("ppo.settings.target_kl=[null, 6]") == (None, 6)


def test_ranges_by_hand() -> None:
    assert values("lr=log(1e-6,1e-4,5)") == (1e-6, 3.162e-6, 1e-5, 3.162e-5, 1e-4)
    assert values("lam=lin(0.9,1,3)") == (0.9, 0.95, 1.0)
    open_range = parse_axis("lr=log(1e-6,1e-4)")
    assert open_range is not None
    assert open_range.values == ()
    whole = parse_axis("n=log(8,64,4)")
    assert whole is not None
    assert whole.whole().values == (8.0, 16.0, 32.0, 64.0)
    assert whole.range is not None
    assert whole.range.rounded(70.0) == 64.0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("a=[]", "no values to try"),
        ("a=sweep()", "no values to try"),
        ("a=[1,2,1]", "the value 1 is there twice"),
        ("a=log(0,1,3)", "a log scale has no 0"),
        ("a=log(1,1e-3,3)", "from a smaller number to a larger"),
        ("a=lin(1,2,1)", "1 is no number of values"),
        ("a=lin(1,2,2.5)", "2.5 is no number of values"),
        ("a=lin(1)", "is no range"),
        ("a=log(x,1,3)", "is no range"),
        ("a=lin(.nan,1,3)", "from a smaller number"),
        ("a=[1,", "cannot be read"),
        ("a=[1] 2", "cannot be read"),
        ("a=sweep(0,[", "the bracket is not closed"),
        ("a=log(1,2) 3", "the bracket is not closed"),
    ],
)
def test_what_is_no_list_of_values_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_axis(override)


def test_whole_numbers_that_fall_together_are_refused() -> None:
    axis = parse_axis("n=lin(1,3,5)")
    assert axis is not None
    with pytest.raises(ConfigError, match="not all different"):
        axis.whole()


@pytest.mark.parametrize("value", [1e-6, 3, "x: [y", None, True, [0.9, 0.999], {"a": "1"}])
def test_a_value_goes_through_an_override_as_it_is(value: object) -> None:
    raw: dict[str, object] = {"a": {"b": 0}}
    apply_override(raw, as_override("a.b", value))
    assert raw == {"a": {"b": value}}
    assert yaml.safe_dump(raw)


def test_values_from_python() -> None:
    assert axis_of("lr", [1e-5, 1e-4]).values == (1e-5, 1e-4)
    assert axis_of("lr", "lin(0,1,3)").values == (0.0, 0.5, 1.0)
    assert axis_of("lr", "[1,2]").marked
    for bad in (3, "0.1", {"a": 1}):
        with pytest.raises(ConfigError, match="as a list, or as text"):
            axis_of("lr", bad)
    with pytest.raises(ConfigError, match="plain data"):
        axis_of("lr", [object()])


def test_keys_are_shortened_as_far_as_they_differ() -> None:
    keys = ["sft.train.lr", "ppo.train.lr", "ppo.settings.beta"]
    assert short_keys(keys) == {
        "sft.train.lr": "sft.train.lr",
        "ppo.train.lr": "ppo.train.lr",
        "ppo.settings.beta": "beta",
    }
