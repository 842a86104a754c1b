"""The parts for a loop of one's own: read, load, sample, judge, pack, losses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, DatasetDict

import gnomon
import tiny_world as tw
from gnomon.api.parts import Model, make_judge
from gnomon.errors import ConfigError, DataError, ModelError
from gnomon.judges.protocol import Sample
from gnomon.records import Comparison, Group, Judgement, Message, Prompt, Response, Score

PAIR = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}


@pytest.fixture(scope="module")
def model() -> Model:
    return gnomon.load(tw.tiny_model(), tw.tokenizer(), roles=("policy", "reference"))


def tried(model: Model, n: int = 2, samples: int = 3, **how: Any) -> list[Group]:
    prompts = [f"question {i}" for i in range(n)]
    return gnomon.sample(model, prompts, samples=samples, max_new_tokens=6, **how)


# -- read ------------------------------------------------------------------------------------------


def test_rows_in_memory_are_read_as_rows_of_a_file_are(tmp_path: Path) -> None:
    rows = [PAIR, {**PAIR, "prompt": "Name a fruit."}]
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given, from_file = gnomon.read(rows), gnomon.read(file)
    assert [g.prompt.messages for g in given] == [g.prompt.messages for g in from_file]
    assert [g.responses for g in given] == [g.responses for g in from_file]
    assert given[0].comparisons == (Comparison(0, 1),)
    assert given[1].prompt.source is not None
    assert given[1].prompt.source.row == 2


def test_what_is_made_when_asked_for_is_read_by_its_name() -> None:
    (group,) = gnomon.read("tunnel:prompts", n=1, seed=0, families=["arithmetic"])
    assert group.prompt.meta["answer"]
    with pytest.raises(ConfigError, match="did you mean 'tunnel:prompts'"):
        gnomon.read("tunnel:promts", n=1)


NAN = float("nan")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{**PAIR, "weight": 1.0}, {**PAIR, "weight": NAN}], "row 2: column 'weight' holds nan"),
        ([{**PAIR, "weight": np.float32("inf")}], "row 1: column 'weight' holds inf"),
        ([{**PAIR, "margin": float("-inf")}], "row 1: column 'margin' holds -inf"),
        (
            [{"prompt": "a", "responses": ["b", "c"], "scores": [1.0, NAN]}],
            "row 1: column 'scores'",
        ),
        ([{"prompt": "a", "responses": ["b", "c"], "scores": np.array([1.0, NAN])}], "'scores'"),
        ([{"prompt": "a", "comparisons": [{"better": 0, "weight": NAN}]}], "'comparisons' holds"),
    ],
)
def test_a_number_that_is_none_is_an_error_that_names_its_row(rows: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        gnomon.read(rows)
    with pytest.raises(DataError, match=said):
        gnomon.train("dpo", model="tunnel", data=rows, name="never")
    assert not Path("runs/never").exists()


def test_text_that_a_data_frame_lacks_stays_missing() -> None:
    rows = [{**PAIR, "system": NAN}, {**PAIR, "system": "Be kind."}]
    assert len(gnomon.read(rows)) == 2


def test_a_table_is_its_rows_and_a_dict_is_none() -> None:
    rows = [{"prompt": "2 + 2?", "answer": "4"}, {"prompt": "3 + 3?", "answer": "6"}]
    expected = gnomon.read(rows, kind="prompts")
    for table in (pd.DataFrame(rows), pa.Table.from_pylist(rows), Dataset.from_list(rows)):
        assert gnomon.read(table, kind="prompts") == expected
    for wrong in (rows[0], DatasetDict(train=Dataset.from_list(rows))):
        with pytest.raises(DataError, match=r"data is a (dict|DatasetDict); it is a path, or rows"):
            gnomon.read(wrong)  # type: ignore[arg-type]


def test_rows_that_cannot_be_used_are_named() -> None:
    with pytest.warns(UserWarning, match="row 2"):
        assert len(gnomon.read([PAIR, {**PAIR, "rejected": ""}, PAIR])) == 2
    with pytest.raises(DataError, match="which cannot be read as preferences"):
        gnomon.read([{"prompt": "Name a colour.", "chosn": "Blue."}], kind="preferences")
    with pytest.raises(DataError, match="no rows"):
        gnomon.read([])
    with pytest.raises(ConfigError, match="no option 'colums'; did you mean 'columns'"):
        gnomon.read([PAIR], colums={})
    with pytest.raises(ConfigError, match="read: columns: Input should be a"):
        gnomon.read([PAIR], columns=3)
    assert gnomon.read([PAIR], columns=None, labels={0: "a"})
    with pytest.raises(DataError, match="data is a int"):
        gnomon.read(3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"(?s)data, row 1.*a string"):
        gnomon.read(["Name a colour."])  # type: ignore[list-item]


# -- load ------------------------------------------------------------------------------------------


def test_roles_sit_on_copies_or_with_lora_on_one_trunk() -> None:
    full = gnomon.load(tw.tiny_model(), tw.tokenizer(), roles=("policy", "reference"))
    assert full.policy.trunk is not full.reference.trunk
    assert sum(p.numel() for p in full.parameters()) == tw.tiny_model().num_parameters()
    shared = gnomon.load(
        tw.tiny_model(), tw.tokenizer(), roles=("policy", "reference", "value_model"), lora=4
    )
    assert shared.policy.trunk is shared.reference.trunk is shared["value_model"].trunk
    assert shared.reference.adapter is None
    batch = gnomon.pack(gnomon.read([PAIR]), shared)[0]
    values_R = shared["value_model"].values(batch)
    assert values_R.shape == batch.targets.shape
    assert not values_R.any()  # a critic begins at zero


def test_a_reference_taken_later_is_the_policy_of_that_moment(model: Model) -> None:
    moved = gnomon.load(tw.tiny_model(), tw.tokenizer(), lora=4)
    tw.shake(moved.policy)
    later = moved.with_reference()
    (batch,) = gnomon.pack(gnomon.read([PAIR]), moved)
    then = moved.policy.logprobs(batch).logprobs
    assert not torch.allclose(then, model.policy.logprobs(batch).logprobs, atol=1e-3)
    tw.shake(moved.policy, seed=6)
    assert torch.allclose(later.reference.logprobs(batch).logprobs, then, atol=1e-6)


def test_mixed_precision_multiplies_in_bfloat16_and_trains_float32(tiny_folder: Path) -> None:
    mixed = gnomon.load(tiny_folder, roles=("policy", "reference"), precision="mixed")
    plain = gnomon.load(tiny_folder)
    assert gnomon.load(tiny_folder).trunk.precision.name == "float32"  # auto, on a CPU
    groups = tried(mixed, 1)
    (batch,) = gnomon.pack(groups, mixed)
    found, exact = (m.policy.logprobs(batch).logprobs for m in (mixed, plain))
    gap = (found - exact).detach().abs().max()
    assert 1e-5 < float(gap) < 0.1
    torch.testing.assert_close(mixed.reference.logprobs(batch).logprobs, found.detach())
    torch.testing.assert_close(batch.token["sampler_logprobs"], found.detach(), atol=0.1, rtol=0)
    found.sum().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in mixed.parameters())
    adapted = gnomon.load(tiny_folder, lora=4, precision="mixed", float32_head=True)
    assert adapted.trunk.model.dtype == torch.bfloat16
    assert {p.dtype for p in adapted.parameters()} == {torch.float32}
    assert not adapted.trunk.packed.deterministic
    assert gnomon.load(tiny_folder, deterministic=True).trunk.packed.deterministic
    with pytest.raises(ConfigError, match="did you mean 'mixed'"):
        gnomon.load(tiny_folder, precision="mixd")
    narrow = tw.tiny_model().to(torch.bfloat16)
    with pytest.raises(ModelError, match=r"needs the weights in float32, and those .* bfloat16"):
        gnomon.load(narrow, tw.tokenizer(), precision="mixed")
    assert gnomon.load(narrow, tw.tokenizer()).trunk.precision.name == "bfloat16"


def test_what_cannot_be_loaded_says_why(tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match="unknown role 'refrence'; did you mean 'reference'"):
        gnomon.load(tiny_folder, roles=("policy", "refrence"))
    with pytest.raises(ModelError, match="needs its tokenizer"):
        gnomon.load(tw.tiny_model())
    with pytest.raises(ModelError, match="leave it out"):
        gnomon.load(tiny_folder, tw.tokenizer())
    with pytest.raises(ModelError, match="a dict is no model"):
        gnomon.load({})  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"no role 'reference'.*roles="):
        _ = gnomon.load(tiny_folder).reference
    with pytest.raises(ConfigError, match="rank"):
        gnomon.load(tiny_folder, lora=0)
    with pytest.raises(ConfigError, match="unknown device 'gpu'"):
        gnomon.load(tiny_folder, device="gpu")
    with pytest.raises(ConfigError, match="max_length is 9999, and the model takes 256 tokens"):
        gnomon.load(tiny_folder, roles="policy", max_length=9999)


def test_a_saved_policy_is_a_plain_model(model: Model, tmp_path: Path) -> None:
    again = gnomon.load(model.save(tmp_path / "out"))
    (batch,) = gnomon.pack(gnomon.read([PAIR]), model)
    one, other = (m.policy.logprobs(batch).logprobs for m in (model, again))
    assert torch.equal(one, other)


def test_saving_replaces_only_what_was_saved(model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds no model that gnomon saved.*overwrite=True"):
        model.save(folder)
    assert (folder / "notes.txt").read_text() == "mine"
    assert model.save(model.save(tmp_path / "new")) == tmp_path / "new"
    model.save(folder, overwrite=True)
    assert not (folder / "notes.txt").exists()


# -- sample ----------------------------------------------------------------------------------------


def test_sampled_logprobs_are_those_of_plain_transformers(model: Model) -> None:
    group = tried(model, n=1, temperature=0.7)[0]
    network = model.trunk.model
    for response in group.responses:
        ids = torch.tensor([[*group.prompt_ids, *response.ids]])
        with torch.no_grad():
            logits = network(ids).logits[0, len(group.prompt_ids) - 1 : -1]
        expected = torch.log_softmax(logits / 0.7, -1)
        expected = expected.gather(1, torch.tensor(response.ids)[:, None])[:, 0]
        assert response.logprobs is not None
        assert torch.allclose(response.logprobs, expected, atol=1e-4)


def test_a_seed_fixes_what_is_sampled(model: Model) -> None:
    texts = [[r.ids for g in tried(model, seed=seed) for r in g.responses] for seed in (3, 3, 4)]
    assert texts[0] == texts[1] != texts[2]


def test_prompts_come_in_any_form_and_say_the_same(model: Model) -> None:
    turns = [{"role": "user", "content": "question 0"}]
    asked = Prompt("p", (Message("user", "question 0"),))
    forms: list[Any] = ["question 0", turns, {"prompt": "question 0"}, asked, Group(asked)]
    alone = [gnomon.sample(model, form, max_new_tokens=4) for form in forms]
    listed = [gnomon.sample(model, [form], max_new_tokens=4) for form in forms]
    assert all(len(groups) == 1 for groups in (*alone, *listed))
    assert len({groups[0].responses[0].ids for groups in (*alone, *listed)}) == 1


def test_one_stop_is_one_string_and_not_its_letters(model: Model) -> None:
    def texts(stop: Any) -> list[str]:
        found = gnomon.sample(model, ["One.", "Two."], samples=4, max_new_tokens=12, stop=stop)
        return [r.text for group in found for r in group.responses]

    free = texts(())
    word = next(text[2:5] for text in free if len(set(text[2:5])) > 1)
    assert texts(word) == texts([word])
    assert texts(word) != texts(list(word))


@pytest.mark.parametrize("name", ["samples", "max_new_tokens", "seed"])
@pytest.mark.parametrize("value", [1.5, "2", True])
def test_counts_are_whole_numbers(model: Model, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {value!r}; it is a whole number"):
        gnomon.sample(model, "One.", **{name: value})


def test_a_prompt_that_does_not_fit_is_named(model: Model) -> None:
    with pytest.raises(DataError, match="data, row 2"):
        gnomon.sample(model, ["short", ""])
    with pytest.raises(DataError):
        gnomon.sample(model, "word " * 4000)


# -- judge -----------------------------------------------------------------------------------------


def test_functions_names_and_objects_judge(model: Model) -> None:
    groups = tried(model)

    class Longest:
        def judge(self, groups: Any) -> Any:
            return [[float(len(r.ids)) for r in g.responses] for g in groups]

    by_function = gnomon.judge(
        lambda samples: [float(len(s.response_ids)) for s in samples], groups
    )
    by_object = gnomon.judge(Longest(), groups)
    lengths = [[float(len(r.ids)) for r in g.responses] for g in groups]
    assert [g.rewards for g in by_function] == [g.rewards for g in by_object] == lengths
    by_name = gnomon.judge("length", groups, high=3)
    assert by_name[0].judgement is not None
    assert by_name[0].judgement.judge == "length"
    assert groups[0].rewards == [None] * 3  # unchanged


def test_what_fails_is_an_error_and_never_a_zero(model: Model) -> None:
    def picky(samples: list[Sample]) -> list[float]:
        if any(s.prompt.id.endswith("2") for s in samples):
            raise ValueError("not that one")
        return [1.0 for _ in samples]

    first, second = gnomon.judge(picky, tried(model))
    assert first.rewards == [1.0] * 3
    assert second.rewards == [None] * 3
    assert second.judgement is not None
    assert "not that one" in str(second.judgement.scores[0].error)
    batches = gnomon.pack([first, second], model)
    assert [batch.group_ids for batch in batches] == [(first.prompt.id,)]
    with pytest.raises(DataError, match=r"every response failed.*not that one"):
        gnomon.pack([second], model)
    wrong = gnomon.judge(lambda samples: [1.0], [first])
    assert "returned 1 scores for 3 samples" in str(wrong[0].judgement)


def test_what_cannot_judge_says_why() -> None:
    with pytest.raises(ConfigError, match="did you mean 'maths'"):
        make_judge("math")
    with pytest.raises(ConfigError, match="its options"):
        make_judge("correct", feild="answer")
    with pytest.raises(ConfigError, match=r"options \(field\) are of judges by name"):
        make_judge(len, field="answer")
    with pytest.raises(ConfigError, match="is a class; give"):
        make_judge(dict)
    with pytest.raises(ConfigError, match="3 cannot judge"):
        make_judge(3)  # type: ignore[arg-type]


# -- pack ------------------------------------------------------------------------------------------


def test_a_sampled_batch_holds_its_tokens_logprobs_and_rewards(model: Model) -> None:
    groups = gnomon.judge(lambda samples: list(range(len(samples))), tried(model, n=3))
    (batch,) = gnomon.pack(groups, model)
    assert batch.scalar["reward"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    ids = [i for g in groups for r in g.responses for i in r.ids]
    assert batch.targets.tolist() == ids
    finished = [float(r.finished) for g in groups for r in g.responses]
    assert batch.scalar["finished"].tolist() == finished
    with torch.no_grad():
        logprobs_R = model.policy.logprobs(batch).logprobs
    assert torch.allclose(batch.token["sampler_logprobs"], logprobs_R, atol=1e-4)


def test_batches_keep_groups_whole_and_a_split_changes_nothing(model: Model) -> None:
    groups = tried(model, n=4)
    one, many = gnomon.pack(groups, model), gnomon.pack(groups, model, max_tokens=40)
    assert len(one) == 1 < len(many)
    whole = model.policy.logprobs(one[0]).logprobs
    parts = torch.cat([model.policy.logprobs(batch).logprobs for batch in many])
    assert torch.allclose(whole, parts, atol=1e-5)


def test_read_groups_are_tokenised_with_masks_and_pairs(model: Model) -> None:
    (batch,) = gnomon.pack(gnomon.read([PAIR]), model)
    assert batch.pairs.tolist() == [[0, 1]]
    ends = batch.response_start
    chosen = batch.targets[: ends[1]][batch.response_mask[: ends[1]]]
    assert "Blue." in model.tokenizer.decode(chosen, skip_special_tokens=True)
    chosen_S, rejected_S = gnomon.losses.reduce.response_logprobs(
        model.policy.logprobs(batch).logprobs, batch.response_mask, batch.response_of, 2
    ).split(1)
    loss_C = gnomon.losses.dpo.dpo(chosen_S, rejected_S, chosen_S, rejected_S, beta=0.1)
    assert loss_C.tolist() == pytest.approx([0.693147], rel=1e-5)  # -log sigmoid(0)


def test_a_failed_response_goes_and_the_pairs_still_name_the_same_answers(model: Model) -> None:
    answers = tuple(Response((Message("assistant", word),)) for word in ("Red.", "Blue.", "Six."))
    scores = (Score(1.0), Score(None, error="x"), Score(0.0))
    group = Group(
        Prompt("p", (Message("user", "Name a colour."),)),
        answers,
        (Comparison(0, 2), Comparison(1, 2)),
        judgement=Judgement("j", scores),
    )
    (batch,) = gnomon.pack([group], model)
    assert batch.pairs.tolist() == [[0, 1]]
    assert batch.scalar["reward"].tolist() == [1.0, 0.0]


def test_prompts_alone_cannot_be_packed(model: Model) -> None:
    with pytest.raises(DataError, match="has no response"):
        gnomon.pack(gnomon.read([{"prompt": "Name a colour."}]), model)
    with pytest.raises(DataError, match="none of 0 groups"):
        gnomon.pack([], model)


# -- the package -----------------------------------------------------------------------------------


def test_the_names_are_there_before_torch_is() -> None:
    code = (
        "import sys, gnomon; assert {'read', 'pack', 'load', 'sample', 'judge', 'losses'} <= "
        "set(dir(gnomon)); gnomon.Callback; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_losses_are_found_by_name() -> None:
    assert gnomon.losses.policy_gradient.ppo_clip.__name__ == "ppo_clip"
    with pytest.raises(AttributeError, match="no attribute 'ppo'"):
        _ = gnomon.losses.ppo  # type: ignore[attr-defined]
    assert set(gnomon.losses.__all__) < set(dir(gnomon.losses))
