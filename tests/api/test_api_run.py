"""``gnomon.run``, ``gnomon.Run`` and ``gnomon.Recipe``; what ``import gnomon`` loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import gnomon
from gnomon.errors import ConfigError, DataError, GnomonError
from gnomon.recipe.load import load_recipe, parse_recipe
from gnomon.runs.records import plain_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted([*ROOT.glob("recipes/*.yaml"), *ROOT.glob("src/gnomon/recipe/presets/*.yaml")])


def raw(tiny_folder: Path, name: str = "once") -> dict[str, object]:
    return {
        "name": name,
        "model": str(tiny_folder),
        "max_length": 128,
        "stages": [
            {
                "name": "sft",
                "algorithm": "sft",
                "data": {"path": "tunnel:demonstrations", "options": {"n": 8, "seed": 1}},
                "train": {"steps": 2, "batch_size": 2, "lr": 1e-3},
            }
        ],
    }


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.name)
def test_a_recipe_goes_to_yaml_and_back(file: Path) -> None:
    recipe = gnomon.Recipe.from_yaml(file)
    assert plain_recipe(recipe) == plain_recipe(load_recipe(file))
    assert plain_recipe(parse_recipe(yaml.safe_load(recipe.to_yaml()))) == plain_recipe(recipe)
    assert recipe.base == file.parent


def test_overrides_and_a_file(tmp_path: Path) -> None:
    recipe = gnomon.Recipe.from_yaml(RECIPES[0], "seed=7")
    assert recipe.seed == 7
    recipe.to_yaml(tmp_path / "mine.yaml")
    assert gnomon.Recipe.from_yaml(tmp_path / "mine.yaml").seed == 7


def test_overrides_do_not_change_the_dict_that_they_are_of(tmp_path: Path) -> None:
    given = {
        "name": "x",
        "model": "nowhere",
        "output": str(tmp_path / "runs"),
        "stages": [{"name": "sft", "algorithm": "sft", "data": "no.jsonl", "train": {"lr": 1e-5}}],
    }
    before = yaml.safe_dump(given)
    with pytest.raises(GnomonError):
        gnomon.run(given, "sft.train.lr=0.5", "seed=3")
    assert yaml.safe_dump(given) == before


def test_a_bad_recipe_is_said_in_words() -> None:
    with pytest.raises(ConfigError, match="unknown key 'modle'; did you mean 'model'"):
        gnomon.Recipe(name="x", modle="tunnel", stages=[])
    with pytest.raises(ConfigError, match="not a int"):
        gnomon.run(3)  # type: ignore[arg-type]
    recipe = gnomon.Recipe.from_yaml(RECIPES[0])
    recipe.seed = "many"  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"seed.*'many'"):
        gnomon.run(recipe)


def test_run_and_what_it_leaves(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = gnomon.run(raw(tiny_folder), "seed=1")
    assert run.recipe.seed == 1
    assert run.metrics["stage"].to_pylist() == ["sft", "sft"]
    assert run.metrics.to_pandas()["loss"].notna().all()
    assert run.samples.num_rows == 0
    assert run.answer == "not shown"
    assert run.alarms == []
    assert run.report() == tmp_path / "runs" / "once" / "report.html"
    assert run.figures["loss"] == run.metrics["loss"].to_pylist()[-1]
    assert run.reasons
    with pytest.raises(ConfigError, match="already holds a run"):
        gnomon.run(raw(tiny_folder))
    monkeypatch.chdir("/")
    old = gnomon.Run(tmp_path / "runs" / "once")
    assert old.metrics == run.metrics
    assert old.recipe.base == tmp_path
    assert type(old.model.eval()).__name__ == "LlamaForCausalLM"
    assert old.resume() is old
    with pytest.raises(DataError, match="not a run directory"):
        gnomon.Run(tmp_path)


def test_a_notebook_shows_it_escaped(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = gnomon.run(raw(tiny_folder))
    info = run.folder / "stages" / "01-sft" / "stage.json"
    info.write_text(info.read_text().replace('"name": "sft"', '"name": "<script>x"'))
    shown = run._repr_html_()
    assert "not shown" in shown
    assert "<td>loss</td>" in shown
    assert "<script>" not in shown
    assert "&lt;script&gt;x" in shown


def test_importing_gnomon_loads_nothing_heavy() -> None:
    program = (
        "import sys, gnomon; assert 'train' in dir(gnomon); "
        "heavy = {'torch', 'transformers', 'pydantic', 'pyarrow'} & sys.modules.keys(); "
        "assert not heavy, heavy; gnomon.Recipe; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_public_name_is_there() -> None:
    assert set(gnomon.__all__) <= set(dir(gnomon))
    for name in ("train", "run", "Run", "Recipe", "Callback", "losses"):
        assert getattr(gnomon, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = gnomon.trian  # type: ignore[attr-defined]
