"""What the command line answers at once, and how it writes to a terminal, a file and a pipe."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gnomon as package
from gnomon.algorithms.registry import METHODS
from gnomon.cli.main import app

RECIPE = """\
name: mine
model: tunnel
stages:
  - name: sft
    algorithm: sft
    data: {path: "tunnel:demonstrations", options: {n: 10}}
    train: {steps: 2}
  - name: ppo
    algorithm: ppo
    data: prompts.jsonl
    reward: gold
compare: {prompts: prompts.jsonl, rewards: gold}
"""
STARTER = """\
import json, os, sys
from gnomon.cli.main import main

for line in sys.stdin:
    folder, arguments = json.loads(line)
    pipes = [os.pipe(), os.pipe()]
    child = os.fork()
    if not child:
        for number, (_, end) in enumerate(pipes, 1):
            os.dup2(end, number)
            os.close(end)
        break
    for _, end in pipes:
        os.close(end)
    said = [open(start).read() for start, _ in pipes]
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([code, *said]), flush=True)
else:
    sys.exit()
os.chdir(folder)
sys.argv = ["gnomon", *arguments]
try:
    main()
except SystemExit as stop:
    code = stop.code or 0
heavy = {"torch", "transformers", "pyarrow", "matplotlib", "pandas", "scipy"} & set(sys.modules)
print("heavy:", sorted(heavy))
sys.exit(code)
"""
"""Runs each command in a fork of itself, which has imported what every command does and no more."""
Gnomon = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def gnomon() -> Iterator[Gnomon]:
    """A command in a process of its own, whose standard output and error are pipes."""
    start = [sys.executable, "-c", STARTER]
    with subprocess.Popen(
        start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdin is not None
        assert starter.stdout is not None

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            print(json.dumps([str(Path.cwd()), arguments]), file=starter.stdin, flush=True)
            return subprocess.CompletedProcess(arguments, *json.loads(starter.stdout.readline()))

        yield run
        starter.stdin.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "hello"}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


QUICK = {
    "no such recipe": (("run", "recpie.yaml"), "did you mean 'recipe.yaml'"),
    "a key": (("run", "recipe.yaml", "sft.train.stps=3"), "did you mean 'steps'"),
    "a value": (("run", "recipe.yaml", "sft.train.steps=-3", "--dry-run"), "greater than"),
    "a setting": (("run", "recipe.yaml", "ppo.settings.bta=3"), "did you mean 'beta'"),
    "a value of a setting": (("run", "recipe.yaml", "ppo.settings.beta=-1"), "settings: beta"),
    "an algorithm": (("run", "recipe.yaml", "ppo.algorithm=pppo"), "did you mean 'ppo'"),
    "a start": (("run", "recipe.yaml", "ppo.from=stf"), "did you mean the stage 'sft'"),
    "a file": (("run", "recipe.yaml", "ppo.data=[promts.jsonl]"), "Did you mean"),
    "a reward": (("run", "recipe.yaml", "ppo.reward=glod"), "did you mean 'gold'"),
    "a reward's file": (("run", "recipe.yaml", "ppo.reward=[{function: 'a.py:f'}]"), "no file"),
    "the comparison's reward": (("run", "recipe.yaml", "compare.rewards=glod"), "compare: "),
    "a quickstart": (("quickstart", "ppo.settings.bta=3"), "did you mean 'beta'"),
    "a preset": (("quickstart", "hackabel"), "did you mean 'hackable'"),
    "an unknown algorithm": (("algorithms", "pppo"), "did you mean 'ppo'"),
    "an unknown setting": (("algorithms", "ppo", "bta"), "did you mean 'beta'"),
}


@pytest.mark.parametrize("case", QUICK)
def test_a_typo_is_answered_before_anything_heavy_is_imported(
    folder: Path, gnomon: Gnomon, case: str
) -> None:
    arguments, answer = QUICK[case]
    result = gnomon(*arguments)
    assert result.returncode == 1, result.stderr
    assert answer in result.stderr
    assert "Traceback" not in result.stderr
    assert "heavy: []" in result.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["algorithms"],
                                       ["algorithms", "grpo"], ["run", "--help"]])  # fmt: skip
def test_help_and_lists_are_quick_too(folder: Path, gnomon: Gnomon, arguments: list[str]) -> None:
    result = gnomon(*arguments)
    assert result.returncode == 0, result.stderr
    assert "heavy: []" in result.stdout


def test_the_registry_tells_of_every_algorithm_what_its_class_says() -> None:
    for name, method in METHODS.items():
        assert method.name == name
        assert issubclass(method.settings, method.algorithm.Settings)
        assert method.summary


def test_version_and_completion() -> None:
    said = CliRunner().invoke(app, ["--version"])
    assert said.output.strip() == f"gnomon {package.__version__}"
    assert said.exit_code == 0
    words = {"_GNOMON_COMPLETE": "complete_bash", "COMP_WORDS": "gnomon alg", "COMP_CWORD": "1"}
    completed = CliRunner().invoke(app, [], env=words, prog_name="gnomon").output
    assert "algorithms" in completed.split()


def test_algorithms_lists_explains_and_narrows() -> None:
    listed = CliRunner().invoke(app, ["algorithms"]).output
    for name in [*METHODS, "collect"]:
        assert name in listed
    explained = CliRunner().invoke(app, ["algorithms", "ppo"]).output
    assert "PPO with a critic" in explained
    for part in ("kl_in", "reward | loss", "clip_eps", "number, > 0", "0.2", "no_eos_penalty"):
        assert part in explained
    assert "label_smoothing" not in explained
    one = CliRunner().invoke(app, ["algorithms", "dapo", "clip_high"]).output
    assert "0.28" in one
    assert "overlong_buffer" not in one
    assert "a labeller" in CliRunner().invoke(app, ["algorithms", "collect"]).output


# -- how it is written ----------------------------------------------------------------------------


def test_no_path_is_broken_when_piped(folder: Path, gnomon: Gnomon) -> None:
    deep = folder / ("a-rather-long-folder-name-" * 4) / ("and-another-one-" * 8)
    deep.mkdir(parents=True)
    recipe = deep / "recipe.yaml"
    recipe.write_text(RECIPE)
    result = gnomon("run", str(recipe), "sft.train.stps=3")
    assert f"error: {recipe}: unknown key 'sft.train.stps'" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    (folder / "prompts.jsonl").unlink()
    missing = gnomon("run", str(recipe))
    assert f"{deep / 'prompts.jsonl'}: no such file" in missing.stderr
    (deep / "no-run").mkdir()
    nothing = gnomon("report", str(deep / "no-run"))
    assert f"error: {deep / 'no-run'} holds no recipe.yaml" in nothing.stderr


def test_no_code_goes_with_a_dry_run(folder: Path, gnomon: Gnomon) -> None:
    result = gnomon("run", "recipe.yaml", "--no-code")
    assert result.returncode == 1
    assert "--no-code goes with --dry-run" in result.stderr
