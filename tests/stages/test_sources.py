"""A recipe's data entries: every key is honoured or refused, for files and for what is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tiny_world as tw
from gnomon.data.encode import Encoder
from gnomon.errors import ConfigError, DataError
from gnomon.recipe.schema import DataSpec, StageSpec
from gnomon.records import Group
from gnomon.stages.sources import DataReport, StageData, check_source, read_specs

MADE: dict[str, dict[str, Any]] = {
    "tunnel:demonstrations": {"n": 12},
    "tunnel:prompts": {"n": 12},
    "tunnel:text": {"n": 12},
    "agents:calculator": {"n": 12},
    "agents:rooms-demonstrations": {"n": 12},
    "instructions:prompts": {"n": 12},
}
every_source = pytest.mark.parametrize("path", MADE)


def read(base: Path = Path(), wanted: str = "prompts", **entry: Any) -> list[Group]:
    spec = DataSpec(**entry)
    return read_specs([spec], base=base, stage_groups=Path, kind=wanted, report=DataReport())


def made(path: str, **more: Any) -> list[Group]:
    return read(path=path, options=MADE[path], **more)


@every_source
def test_limit_and_sample_of_made_sources(path: str) -> None:
    everything = [g.prompt.id for g in made(path)]
    assert [g.prompt.id for g in made(path, limit=3)] == everything[:3]
    drawn = [g.prompt.id for g in made(path, limit=5, sample_seed=1)]
    assert drawn == [g.prompt.id for g in made(path, limit=5, sample_seed=1)]
    assert drawn == sorted(drawn, key=everything.index)
    assert (
        len({tuple(g.prompt.id for g in made(path, limit=5, sample_seed=s)) for s in range(4)}) > 1
    )


@every_source
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("columns", {"prompt": "q"}),
        ("split", "test"),
        ("format", "messages"),
        ("labels", {"0": "a"}),
        ("as_text", True),
        ("good_from", 5),
        ("max_skipped", 0.9),
        ("max_gb", 2.0),
    ],
)
def test_keys_of_files_are_refused_on_made_sources(path: str, key: str, value: Any) -> None:
    spec = DataSpec(path=path, options=MADE[path], **{key: value})
    for use in (lambda: check_source(spec, Path()), lambda: made(path, **{key: value})):
        with pytest.raises(ConfigError, match=f"data '{path}': {key} .*files only.*options"):
            use()


def test_a_made_source_is_read_as_the_kind_asked_for() -> None:
    prompts = made("tunnel:demonstrations", kind="prompts")
    assert all(g.responses == () for g in prompts)
    assert all(g.prompt.meta["reference"] for g in prompts)
    with pytest.raises(ConfigError, match=r"cannot be read as demonstrations.*no response"):
        read(path="tunnel:prompts", options={"n": 3}, kind="demonstrations")


def write_lines(file: Path, *rows: dict[str, Any]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows(folder: Path, name: str = "a.jsonl", **fields: Any) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"prompt": f"{name} {i}", **fields}) + "\n" for i in range(4)]
    (folder / name).write_text("".join(lines))
    return folder / name


def test_options_of_files_and_seeds_without_a_limit_are_refused(tmp_path: Path) -> None:
    path = str(rows(tmp_path))
    for entry, said in (
        ({"options": {"n": 3}}, "options are for generated sources"),
        ({"sample_seed": 1}, "together with limit"),
    ):
        with pytest.raises(ConfigError, match=said):
            read(path=path, **entry)
        with pytest.raises(ConfigError, match=said):
            check_source(DataSpec(path=path, **entry), tmp_path)
    with pytest.raises(ConfigError, match="together with limit"):
        made("tunnel:prompts", sample_seed=1)
    assert len(read(path=path, limit=2, sample_seed=1)) == 2


def test_folders_and_patterns_start_from_the_recipe(tmp_path: Path) -> None:
    for name in ("a-1.jsonl", "a-2.jsonl"):
        rows(tmp_path / "set", name)
    for path in ("set", "set/*.jsonl", "set/a-?.jsonl"):
        check_source(DataSpec(path=path), tmp_path)
        assert len(read(tmp_path, path=path)) == 8
    for path in ("set/b-*.jsonl", "sett/*.jsonl", "none.jsonl"):
        with pytest.raises(DataError):
            check_source(DataSpec(path=path), tmp_path)


def test_rows_of_weight_0_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [{"prompt": f"q{i}", "completion": "a", "weight": i % 2} for i in range(4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [g.prompt.messages[0].content for g in read(path=str(path))] == ["q1", "q3"]
    kept = read(path=str(path), wanted="demonstrations")
    assert [g.prompt.messages[0].content for g in kept] == ["q1", "q3"]


def test_a_recipes_labels_and_caps_reach_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    row = {"q": "Hi", "output_1": "a", "output_2": "b" * 5000, "label": 2}
    path.write_text(json.dumps(row) + "\n")
    entry = {"path": str(path), "columns": {"prompt": "q"}, "labels": {1: "a", 2: "b"}}
    (group,) = read(wanted="preferences", **entry)
    assert group.responses[0].text == "b" * 5000
    with pytest.raises(DataError, match=r"longer than .* MB.*max_gb"):
        read(wanted="preferences", max_gb=32 * 4096 / 2**30, **entry)


def mixed_in(base: Path, *entries: Any) -> list[tuple[str, str]]:
    """What is mixed into a step: (what is given, what counts in the loss) of each unit."""
    stage = {"name": "sft", "algorithm": "sft", "pretraining": list(entries)}
    tokenizer = tw.tokenizer()
    encoder = Encoder(tokenizer, max_length=200)
    found = StageData(StageSpec.model_validate(stage), base, Path, seed=0).text(encoder)
    units = []
    for group in found:
        (response,) = group.responses
        given = [i for i, counts in zip(response.ids, response.mask, strict=True) if not counts]
        counted = [i for i, counts in zip(response.ids, response.mask, strict=True) if counts]
        units.append((tokenizer.decode([*group.prompt_ids, *given]), tokenizer.decode(counted)))
    return units


def test_of_text_all_counts_and_of_a_demonstration_its_answer(tmp_path: Path) -> None:
    write_lines(tmp_path / "text.jsonl", {"text": "ab cd"})
    write_lines(tmp_path / "chat.jsonl", {"prompt": "why so", "completion": "as it is"})
    turns = [{"role": "user", "content": "why so"}, {"role": "assistant", "content": "as it is"}]
    write_lines(tmp_path / "turns.jsonl", {"messages": turns})

    (text,) = mixed_in(tmp_path, "text.jsonl")
    assert "b cd" in text[1]
    assert "cd" not in text[0]
    for file in ("chat.jsonl", "turns.jsonl"):
        ((given, counted),) = mixed_in(tmp_path, file)
        assert "why so" in given
        assert "as it is" not in given
        assert "as it is" in counted
        assert "why so" not in counted
        assert mixed_in(tmp_path, file, "text.jsonl") == [text, (given, counted)]


def test_demonstrations_of_a_world_are_mixed_in_as_they_are_learned_from(tmp_path: Path) -> None:
    source = {"path": "tunnel:demonstrations", "options": {"n": 4}}
    answers = [g.responses[0].text for g in read(wanted="demonstrations", **source)]
    assert len(answers) == 4
    for (_, counted), answer in zip(mixed_in(tmp_path, source), answers, strict=True):
        assert counted.startswith(answer[:3])
