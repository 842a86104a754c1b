"""reasoning-gym's generators and graders: with the package where it is installed, and with a small
stand-in that registers two generators as the package does."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from gnomon.errors import ConfigError
from gnomon.judges.build import one_judge
from gnomon.judges.protocol import Sample, Score
from gnomon.judges.verifiers.reasoning_gym import FIELD, extracted
from gnomon.recipe.schema import RewardSpec
from gnomon.records import Prompt
from gnomon.tasks.sources import check_generated, generated_groups

FACTORY = """
from dataclasses import dataclass
import random, time

@dataclass
class Config:
    size: int = 10
    seed: int = 0
    largest: int = 9

    def validate(self):
        assert self.largest > 0, "largest must be positive"

class Sums:
    def __init__(self, config):
        self.config = config

    def __getitem__(self, i):
        rng = random.Random(self.config.seed * 1000 + i)
        a, b = rng.randint(1, self.config.largest), rng.randint(1, self.config.largest)
        # a tuple, which JSON would not keep
        return {"question": f"{a} + {b} = ?", "answer": str(a + b), "metadata": {"pair": (a, b)}}

    def score_answer(self, answer, entry):
        assert isinstance(entry["metadata"]["pair"], tuple)
        if answer == "sleep":
            time.sleep(60)
        if answer == "raise":
            raise RuntimeError("no such formula")
        return 1.0 if answer == entry["answer"] else 0.1 if entry["answer"] in answer else 0.0

DATASETS = {"sums": (Sums, Config), "chain_sum": (Sums, Config)}
"""
MAIN = """
from .factory import DATASETS

def create_dataset(name, **kwargs):
    make, config = DATASETS[name]
    config = config(**kwargs)
    config.validate()
    return make(config)
"""


def forget() -> None:
    for name in [m for m in sys.modules if m.split(".")[0] == "reasoning_gym"]:
        del sys.modules[name]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The package's place is taken by a small one, in the graders' processes too."""
    package = tmp_path / "reasoning_gym"
    package.mkdir()
    (package / "factory.py").write_text(textwrap.dedent(FACTORY))
    (package / "__init__.py").write_text(textwrap.dedent(MAIN))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", ":".join([str(tmp_path), *filter(None, sys.path)]))
    forget()
    yield package
    forget()


def prompts(name: str, **options: object) -> list[Prompt]:
    return [g.prompt for g in generated_groups("reasoning-gym", name, options)]


def scores(pairs: list[tuple[Prompt, str]], **options: object) -> list[Score]:
    spec = RewardSpec(builtin="reasoning_gym", options=options)
    reward = one_judge(spec, base=Path(), load=None)  # type: ignore[arg-type]
    return reward([Sample(prompt, text) for prompt, text in pairs])


def test_the_datasets_own_grader_scores_the_very_entry(stand_in: Path) -> None:
    made = prompts("sums", n=6, seed=3, largest=50)
    assert made == prompts("sums", n=6, seed=3, largest=50)
    assert [p.meta["answer"] for p in made] != [p.meta["answer"] for p in prompts("sums", n=6)]
    for prompt in made:  # the answer, worked out from the question alone
        a, b = (int(x) for x in prompt.meta[FIELD]["question"][:-4].split("+"))
        assert prompt.meta["answer"] == str(a + b)
        assert prompt.messages[0].content.startswith(f"{a} + {b} = ?\n")
    right = [f"So: <answer> {p.meta['answer']} </answer>" for p in made]
    found = scores(list(zip(made, right, strict=True)))
    assert [s.value for s in found] == [1.0] * 6
    assert all(s.parts == {"correct": 1.0} for s in found)
    # another prompt's answer is graded against its own entry
    wrong = scores([(made[0], "<answer>no</answer>"), (made[1], f"it is {made[1].meta['answer']}")])
    assert [s.value for s in wrong] == [0.0, 0.1]
    assert wrong[1].parts == {"correct": 0.0}


def test_errors_stay_with_their_sample(stand_in: Path) -> None:
    (prompt, other) = prompts("sums", n=2)
    good = (other, str(other.meta["answer"]))
    found = scores([(prompt, "raise"), good, (prompt, "sleep")], timeout_s=2.0, workers=1)
    assert "no such formula" in str(found[0].error)
    assert found[1].value == 1.0
    assert (found[2].value, found[2].parts) == (0.0, {"timed_out": 1.0})
    stranger = scores([(Prompt("p", text="?"), "4"), good])
    assert "reasoning_gym" in str(stranger[0].error)
    meta = {FIELD: {**prompt.meta[FIELD], "question": "3 + 3 = ?"}}
    changed = scores([(Prompt("p", text="?", meta=meta), "6"), good])
    assert "another version" in str(changed[0].error)


def test_cut_off_responses_fail_and_extraction_is_chosen(stand_in: Path) -> None:
    (prompt,) = prompts("sums", n=1, tags=False)
    assert prompt.messages[0].content == prompt.meta[FIELD]["question"]
    spec = RewardSpec(builtin="reasoning_gym")
    reward = one_judge(spec, base=Path(), load=None)  # type: ignore[arg-type]
    cut = reward([Sample(prompt, str(prompt.meta["answer"]), finished=False)])
    assert cut[0].value == 0.0
    text = "<answer>1</answer> no, <answer> 2\n</answer> I think"
    assert extracted(text, "tags") == extracted(text, "tags_or_all") == "2"
    assert extracted(text, "all") == text
    assert extracted(" 7 ", "tags_or_all") == "7"
    assert extracted("7", "tags") is None
    assert extracted("<answer> </answer>", "tags_or_all") is None
    with pytest.raises(ConfigError, match="tags_or_all"):
        scores([], extract="last")


def test_bad_requests_are_named(stand_in: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean sums"):
        check_generated("reasoning-gym", "sumz", {"n": 2})
    with pytest.raises(ConfigError, match="'n'"):
        check_generated("reasoning-gym", "sums", {})
    with pytest.raises(ConfigError, match="smallest"):
        check_generated("reasoning-gym", "sums", {"n": 2, "smallest": 1})
    with pytest.raises(ConfigError, match="must be positive"):
        check_generated("reasoning-gym", "sums", {"n": 2, "largest": 0})
    with pytest.raises(ConfigError, match="at least 1"):
        generated_groups("reasoning-gym", "sums", {"n": 0})


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    for ask in (lambda: prompts("chain_sum", n=2), lambda: scores([])):
        with pytest.raises(ConfigError, match=r"gnomon-rlhf\[reasoning-gym\]"):
            ask()


def test_with_the_real_package() -> None:
    """Two of its data sets, graded in one process: to import the package takes seconds."""
    pytest.importorskip("reasoning_gym", reason="needs the reasoning-gym extra")
    sums = prompts("chain_sum", n=4, seed=1, max_terms=3)
    for prompt in sums:
        sum_ = prompt.meta[FIELD]["question"].rsplit(":", 1)[1].replace("=", "")
        assert eval(sum_) == int(prompt.meta["answer"])  # the generator's own digits and signs
    spelled = prompts("spell_backward", n=4, seed=1, max_word_len=5)
    for prompt in spelled:
        assert prompt.meta[FIELD]["question"].split()[-1][::-1] == prompt.meta["answer"]
    made = [*sums, *spelled]
    right = [(p, f"<answer>{p.meta['answer']}</answer>") for p in made]
    others = [*sums[1:], sums[0], *spelled[1:], spelled[0]]
    turned = [
        (p, f"<answer>{q.meta['answer']}x</answer>") for p, q in zip(made, others, strict=True)
    ]
    found = [s.value for s in scores([*right, *turned], workers=1)]
    assert found[:8] == [1.0] * 8
    assert all(value is not None and value < 1 for value in found[8:])
