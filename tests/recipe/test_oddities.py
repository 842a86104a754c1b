"""Recipes as people and accidents write them: an error that names file, line and key, never a
traceback, and never a value that nobody wrote."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gnomon.errors import ConfigError, GnomonError
from gnomon.recipe.load import load_recipe, read_yaml
from gnomon.recipe.read import MAX_DEPTH, read_document
from gnomon.stages.names import check_names

ROOT = Path(__file__).parents[2]
SHIPPED = sorted([*ROOT.glob("recipes/*.yaml"), *ROOT.glob("src/gnomon/recipe/presets/*.yaml")])
TEXT = """\
name: mine
model: tunnel
stages:
  - name: sft
    algorithm: sft
    data: {path: "tunnel:demonstrations", options: {n: 10}}
    train: &train {steps: 2, lr: 1e-4}
  - name: more
    algorithm: sft
    data: {path: "tunnel:demonstrations", options: {n: 10}}
    train: *train
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT)
    return path


def refused(file: Path, content: str | bytes, *overrides: str) -> str:
    """What is said of a recipe that cannot be read."""
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        load_recipe(file, overrides)
    assert str(file) in str(caught.value)
    return str(caught.value)


def named(value: str) -> str:
    return TEXT.replace("name: mine", f"name: {value}")


def bomb(levels: int, merge: bool) -> str:
    lines = ["a0: &a0 {x0: 1, y0: 2}"]
    for i in range(1, levels):
        many = ", ".join([f"*a{i - 1}"] * 9)
        lines.append(f"a{i}: &a{i} {{<<: [{many}]}}" if merge else f"a{i}: &a{i} [{many}]")
    return "\n".join(lines) + "\n" + TEXT


LINES: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "a tag on a scalar": (named("!!map foo"), ("line 1", "!!map")),
    "a tag of Python's": (named("!!python/name:os.system"), ("line 1", "!!python/name:os.system")),
    "a tag of nobody's": (named("!env HOME"), ("line 1", "!env")),
    "a binary": (named("!!binary aGk="), ("line 1", "!!binary")),
    "a date that is none, tagged": (named("!!timestamp 2024-13-45"), ("line 1", "!!timestamp")),
    "a tagged mapping": (TEXT.replace("{steps", "!!set {steps"), ("line 7", "!!set")),
    "a key twice": (TEXT.replace("steps: 2,", "steps: 2, steps: 3,"), ("line 7", "'steps'")),
    "a key twice, quoted": (TEXT + '"name": other\n', ("line 12", "'name'")),
    "a tab": (TEXT.replace("  - name: more", "\t- name: more"), ("line 8", "not tabs")),
    "two documents": (TEXT + "---\n" + TEXT, ("second document",)),
    "not UTF-8": (TEXT.encode().replace(b"mine", b"m\xefne"), ("line 1", "UTF-8", "0xef")),
    "UTF-16": (TEXT.encode("utf-16"), ("UTF-8",)),
    "a NUL byte": (named("a\0b"), ("U+0000",)),
    "a NUL written out": (named('"a\\0b"'), ("line 1", "NUL")),
    "half a surrogate pair": (named('"\\ud800"'), ("line 1", "surrogate")),
    "an alias without an anchor": (TEXT.replace("*train", "*trian"), ("line 11", "trian")),
    "an alias within its anchor": (TEXT + "x: &x [*x]\n", ("line 12", "deep")),
    "aliases without end": (bomb(9, merge=False), ("aliases written out",)),
    "merges without end": (bomb(9, merge=True), ("aliases written out",)),
    "20,000 levels": ("x: " + "[" * 20_000, ("line 1", f"{MAX_DEPTH} levels")),
    "20,000 levels of dashes": ("- " * 20_000, (f"{MAX_DEPTH} levels",)),
    "20,000 mappings": ("{a: " * 20_000, (f"{MAX_DEPTH} levels",)),
    "a key that is a list": ("? [a, b]\n: 1\n" + TEXT, ("line 1", "a key is a word")),
    "a merge of a word": (TEXT.replace("*train", "{<<: foo}"), ("line 11", "<<:")),
    "a number of 5,000 digits": (TEXT + f"seed: {'9' * 5000}\n", ("line 12", "5,000 digits")),
    "a large number": (TEXT + f"seed: {'9' * 40}\n", ("line 12", "seed", "too large")),
    "a negative seed": (TEXT + "seed: -1\n", ("line 12", "seed", "greater than or equal to 0")),
    "nan": (TEXT.replace("lr: 1e-4", "lr: .nan"), ("line 7", "sft.train.lr", "from 0 to 10")),
    "infinity": (TEXT.replace("lr: 1e-4", "lr: .inf"), ("line 7", "sft.train.lr", "from 0 to 10")),
    "a number too large for a float": (
        TEXT.replace("lr: 1e-4", "lr: 1e999"),
        ("sft.train.lr", "from 0 to 10"),
    ),
    "a truth value for a number": (
        TEXT.replace("steps: 2", "steps: yes"),
        ("line 7", "sft.train.steps", "not true or false"),
    ),
    "a truth value for a word": (named("no"), ("line 1", "name", "quotes")),
    "a name of 300": (named("n" * 300), ("line 1", "name", "100 characters")),
    "a name that ends its line": (named('"a\\n"'), ("line 1", "name", "letters, digits")),
    "a stage's name that ends its line": (
        TEXT.replace("name: more", 'name: "more\\n"'),
        ("line 8", "letters, digits"),
    ),
    "a stage called as a key is": (TEXT.replace("name: more", "name: compare"), ("line 8",)),
    "a list at the top": ("- a\n", ("a recipe is a mapping",)),
    "a word at the top": ("hello", ("a recipe is a mapping",)),
    "only remarks": ("# nothing\n", ("a recipe is a mapping",)),
    "stages that are no list": ("name: a\nmodel: b\nstages: 3\n", ("line 3", "stages")),
    "a stage that is a word": ("name: a\nmodel: b\nstages: [sft]\n", ("line 3", "mapping")),
    "extends a number": ("extends: 3\n", ("extends",)),
    "extends a list": ("extends: [a.yaml]\n", ("extends",)),
    "extends itself": ("extends: recipe.yaml\n", ("circle",)),
    "extends a folder": ("extends: .\n", ("a folder",)),
    "too large": ("# " + "x" * 1_000_001, ("larger than",)),
}


@pytest.mark.parametrize("case", LINES)
def test_an_oddity_is_named_with_its_line(file: Path, case: str) -> None:
    content, parts = LINES[case]
    began = time.process_time()
    said = refused(file, content)
    for part in parts:
        assert part in said, said
    assert time.process_time() - began < 5  # the bombs took for ever
    assert "object at 0x" not in said
    assert all(len(line) < 600 for line in said.splitlines())


CHANGES = {
    "changes: 3": "3",
    "changes: {a: 1}": "x",
    "changes: [{name: b}]": "x",
    "changes: [1]": "x",
}


@pytest.mark.parametrize("changes", CHANGES)
def test_changes_are_a_list_of_overrides(file: Path, changes: str) -> None:
    (file.parent / "other.yaml").write_text(TEXT)
    assert "changes is a list of key=value" in refused(file, f"extends: other.yaml\n{changes}\n")
    said = refused(file, "extends: other.yaml\nchanges: ['sft.train.stps=']\n")
    assert "changes: 'sft.train.stps='" in said


def test_what_is_written_is_what_is_read() -> None:
    read = read_yaml(
        "{date: 2024-13-45, day: 2024-01-02, at: 12:30:45, octal: 010, plain: 1_000, hex: 0x1F, "
        "half: .5, big: 1.5e3, small: 1e-5, inf: -.inf, on: off, yes: 'no', null: ~, 1: 2, "
        "1.0: x, no: y, tagged: !!str 3, equals: =, merge: '<<', version: 1.2.3}"
    )
    assert read == {
        "date": "2024-13-45", "day": "2024-01-02", "at": "12:30:45", "octal": "010", "plain": 1000,
        "hex": 31, "half": 0.5, "big": 1500.0, "small": 1e-5, "inf": float("-inf"), "on": False,
        "yes": "no", "null": None, "1": 2, "1.0": "x", "no": "y", "tagged": "3", "equals": "=",
        "merge": "<<", "version": "1.2.3",
    }  # fmt: skip


def test_a_date_is_a_fine_name(file: Path) -> None:
    file.write_text(named("2024-13-45"))
    assert load_recipe(file).name == "2024-13-45"


def test_a_byte_order_mark_is_no_part_of_the_first_key(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    assert load_recipe(file).name == "mine"


def test_merges_keep_the_own_keys_and_the_first_source() -> None:
    read = read_yaml("a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], x: 3}\n")
    assert read["c"] == {"x": 3, "y": 1, "z": 2}


def test_the_lines_are_those_of_the_file() -> None:
    lines = read_document(TEXT).lines
    assert (lines[()], lines[("name",)], lines[("stages", 0, "train", "lr")]) == (1, 1, 7)
    assert lines[("stages", 1, "name")] == 8


def test_an_override_of_one_stage_leaves_those_alone_that_share_its_anchor(file: Path) -> None:
    recipe = load_recipe(file, ["sft.train.steps=9"])
    assert [stage.train.steps for stage in recipe.stages] == [9, 2]


def test_an_overridden_value_is_in_no_line(file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(file, ["sft.train.steps=0", "more.train.stps=1"])
    assert "line" not in str(caught.value)


OVERRIDES = {
    "": "key=value",
    "sft": "key=value",
    "=3": "key=value",
    "  =3": "key=value",
    "sft.train.lr=": "the value is missing",
    "sft.train.lr= ": "the value is missing",
    "a..b=1": "words with dots",
    ".a=1": "words with dots",
    "a.=1": "words with dots",
    "sft.train.lr=!!map x": "!!map",
    "sft.train.lr={a: 1, a: 2}": "'a' appears twice",
    "sft.train.lr=[": "not valid YAML",
    "sft.train.lr=1\n---\n2": "second document",
    "sft.train.lr=" + "[" * 20_000: "levels deep",
    ".".join("a" * 20_000) + "=1": "words with dots",
    "sft.train.lr=" + "9" * 5000: "5,000 digits",
    "stages.sft.train.lr=1": "did you mean sft.train.lr",
    "stages.7.train.lr=1": "a number below 2",
    "stages.-1.train.lr=1": "a number below 2",
    "stages.².train.lr=1": "a number below 2",
    "stagse.0.train.lr=1": "did you mean 'stages'",
    "stf.train.lr=1": "did you mean 'sft'",
    "sft.name.x=1": "holds a value",
    "sft.eval_data=[]|sft.eval_data.0.path=x": "the list is empty",
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_an_odd_override_is_named(file: Path, override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(file, override.split("|"))
    assert OVERRIDES[override] in str(caught.value)
    assert len(str(caught.value)) < 600


VALUES = (
    *("seed=2024-13-45", "stages=3", "stages.0=3", "sft.train=3", "sft.lora=yes", "name=[a]"),
    *("sft.data={}", "sft.data=3", "sft.reward=[[]]", "sft.data={path: x, columns: [a]}"),
    *("compare=[]", "sft.name=null", "sft.settings=3", "sinks=wandb", "sft.train.lr=nan"),
)


@pytest.mark.parametrize("override", VALUES)
def test_a_value_of_the_wrong_kind_names_its_key(file: Path, override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_names(load_recipe(file, [override]), file.parent)
    last = override.partition("=")[0].split(".")[-1]
    assert (last if last.isalpha() else "stages") in str(caught.value)


@pytest.mark.parametrize("override", [f"sft.data={'x' * 300}.jsonl", "sft.from=" + "x" * 300])
def test_a_path_that_no_file_can_have(file: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=r"stage 'sft': .*cannot be looked up"):
        check_names(load_recipe(file, [override]), file.parent)


# -- files ----------------------------------------------------------------------------------------


def test_a_folder_is_no_recipe(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"a folder, not a recipe file; it holds recipe\.yaml"):
        load_recipe(file.parent)


def test_a_file_name_that_is_too_long(file: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(file.parent / ("x" * 300 + ".yaml"))


def test_a_file_that_may_not_be_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(ConfigError, match=r"recipe\.yaml: cannot be read: Permission denied"):
        load_recipe(file)


def test_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, TEXT.encode())
    os.close(write)
    assert load_recipe(Path(f"/dev/fd/{read}")).name == "mine"
    os.close(read)


# -- anything -------------------------------------------------------------------------------------


def outcome(file: Path, content: str | bytes, overrides: list[str]) -> str:
    """What came of reading a recipe; anything but gnomon's own errors is raised."""
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
    try:
        check_names(load_recipe(file, overrides), file.parent)
    except GnomonError as error:
        return str(error)
    return "read"


PIECES = ["!!map ", "!!int x", "&a ", "*a", "<<: ", "? ", "- ", "\t", "\0", ": ", "{", "}", "[",
          "]", "'", '"', "|\n", ">\n", "%YAML 9", "---\n", "...\n", "#", "null", "yes", ".nan",
          "2024-13-45", "9" * 50, "-1", "1e400", "{}", "[]", "~", "\ufeff", "é", "😀", "0x", "1_0",
          "name", "stages", "stage:", "\\ud800", "=", "!", "@", "`", ",", "\n", "  "]  # fmt: skip


def test_mutations_of_the_shipped_recipes(tmp_path: Path) -> None:
    draw = random.Random(0)
    file = tmp_path / "mutant.yaml"
    for i in range(400):
        text = SHIPPED[i % len(SHIPPED)].read_text()
        for _ in range(draw.randint(1, 4)):
            at, end = sorted(draw.randrange(len(text)) for _ in range(2))
            end = min(end, at + 12)
            piece = draw.choice(PIECES)
            text = draw.choice([
                text[:at] + piece + text[at:], text[:at] + piece + text[end:],
                text[:at] + text[end:], text[:at] + text[at:end] * 2 + text[at:],
            ])  # fmt: skip
        assert outcome(file, text, [])


words = st.text(max_size=12)
keys = st.one_of(
    words, st.sampled_from(["sft", "train", "steps", "stages", "0", "data", "path", "lr"])
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), words)
trees = st.recursive(
    scalars, lambda t: st.one_of(st.lists(t, max_size=3), st.dictionaries(keys, t, max_size=3))
)


@given(trees)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_yaml_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, tree: object
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    assert outcome(file, yaml.safe_dump(tree, allow_unicode=True), [])
    assert outcome(file, yaml.safe_dump({"name": "a", "model": "b", "stages": tree}), [])
    stage = {"name": "a", "algorithm": "ppo", "settings": tree, "train": tree, "data": tree}
    assert outcome(file, yaml.safe_dump({"name": "a", "model": "b", "stages": [stage]}), [])


@given(st.lists(keys, min_size=1, max_size=4), st.one_of(words, trees.map(str)))
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_override_is_taken_or_refused(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], value: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "override.yaml"
    assert outcome(file, TEXT, [f"{'.'.join(parts)}={value}"])


@given(st.binary(max_size=60))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    assert outcome(tmp_path_factory.getbasetemp() / "bytes.yaml", data, [])
