"""DPO and KTO on a tiny model against TRL's own trainers: same weights, tokens and step (bench
extra)."""

import copy

import pytest
import transformers as tf
from offline_zoo import (
    V,
    assert_same,
    given,
    labelled,
    make,
    model,
    move,
    pairs,
    shaken,
    step,
)
from tokenizers import Tokenizer, models, pre_tokenizers

from gnomon.algorithms.kto import mismatch

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

BASE = model()
POLICY = shaken(BASE)
FLATTER = shaken(BASE)  # random answers are likelier to it, so KTO's baseline is positive
FLATTER.get_output_embeddings().weight.data.mul_(0.8)


@pytest.fixture(scope="module")
def tokenizer():
    words = ["<bos>", "<eos>", "<pad>", *(f"w{i}" for i in range(3, V))]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="w3"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )


def options(config, folder):
    return config(
        output_dir=str(folder),
        report_to=[],
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=4,
    )


@pytest.fixture(scope="module")
def dpo_trainer(tmp_path_factory, tokenizer):
    """One trainer for all cases; its rows are thrown away, batches are made by its collator."""
    row = {"prompt": "w5 ", "chosen": "w6", "rejected": "w7"}
    return trl.DPOTrainer(
        model=copy.deepcopy(POLICY),
        ref_model=copy.deepcopy(BASE),
        args=options(trl.DPOConfig, tmp_path_factory.mktemp("dpo")),
        train_dataset=datasets.Dataset.from_list([row] * 4),
        processing_class=tokenizer,
    )


@pytest.fixture(scope="module")
def kto_trainer(tmp_path_factory, tokenizer):
    rows = [{"prompt": "w5 ", "completion": "w6", "label": bool(i % 2)} for i in range(4)]
    return trl.KTOTrainer(
        model=copy.deepcopy(FLATTER),
        ref_model=copy.deepcopy(BASE),
        args=options(trl.KTOConfig, tmp_path_factory.mktemp("kto")),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def theirs(trainer, examples):
    """TRL's loss and gradients of one batch."""
    network = trainer.accelerator.unwrap_model(trainer.model)
    network.zero_grad()
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(examples))
    loss.backward()
    return loss.item(), {f"policy.trunk.{n}": p.grad for n, p in network.named_parameters()}


DPO_CASES = {
    "sigmoid": ({}, {}),
    "hinge": ({"loss": "hinge"}, {"loss_types": ["hinge"]}),
    "ipo": ({"loss": "ipo"}, {"loss_types": ["ipo"]}),
    "robust": (
        {"loss": "robust", "label_smoothing": 0.1},
        {"loss_types": ["robust"], "label_smoothing": 0.1},
    ),
    "forward kl": ({"divergence": "forward_kl"}, {"f_divergence_type": "forward_kl"}),
    "js": ({"divergence": "js"}, {"f_divergence_type": "js_divergence"}),
    # TRL's alpha counts the other way round: its f'(u) = (u^(alpha - 1) - 1) / (alpha - 1)
    "alpha": (
        {"divergence": "alpha", "alpha": 0.7},
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3},
    ),
    "ld-dpo": ({"length_desensitise": 0.4}, {"ld_alpha": 0.4}),
}


@pytest.mark.parametrize("case", DPO_CASES)
def test_dpo_loss_and_gradient(dpo_trainer, monkeypatch, case):
    mine, its = DPO_CASES[case]
    defaults = {"beta": 0.2, "loss_types": ["sigmoid"], "loss_weights": [1.0]}
    for name, value in (defaults | its).items():
        monkeypatch.setattr(dpo_trainer, name, value)
    groups = pairs()
    algorithm = make("dpo", given(groups, BASE), beta=0.2, **mine)
    move(algorithm, POLICY)
    examples = [
        {
            "prompt_ids": list(g.prompt_ids),
            "chosen_ids": list(g.responses[0].ids),
            "rejected_ids": list(g.responses[1].ids),
        }
        for g in groups
    ]
    loss, gradient = theirs(dpo_trainer, examples)
    found = step(algorithm)
    assert found[0] == pytest.approx(loss, rel=1e-4)
    assert_same(found[1], gradient)


def test_rpo_term(dpo_trainer, monkeypatch):
    """TRL averages its NLL over the batch's tokens, so it is compared on one pair."""
    for name, value in (("beta", 0.2), ("loss_types", ["sigmoid", "sft"])):
        monkeypatch.setattr(dpo_trainer, name, value)
    monkeypatch.setattr(dpo_trainer, "loss_weights", [1.0, 0.3])
    (group,) = pairs(1)
    algorithm = make("dpo", given([group], BASE), beta=0.2, nll_coef=0.3)
    move(algorithm, POLICY)
    example = {
        "prompt_ids": list(group.prompt_ids),
        "chosen_ids": list(group.responses[0].ids),
        "rejected_ids": list(group.responses[1].ids),
    }
    loss, gradient = theirs(dpo_trainer, [example])
    found = step(algorithm)
    assert found[0] == pytest.approx(loss, rel=1e-4)
    assert_same(found[1], gradient)


def test_kto_loss_and_gradient(kto_trainer, monkeypatch):
    settings = {"beta": 0.3, "desirable_weight": 1.2, "undesirable_weight": 0.9}
    for name, value in settings.items():
        monkeypatch.setattr(kto_trainer, name, value)
    groups = labelled()
    parts = given(groups, BASE)
    algorithm = make("kto", parts, **settings)
    move(algorithm, FLATTER)
    examples = [
        {
            "prompt_ids": list(g.prompt_ids),
            "completion_ids": list(g.responses[0].ids),
            "KL_completion_ids": list(other.responses[0].ids),
            "label": bool(g.responses[0].scalar["label"]),
        }
        for g, other in zip(groups, mismatch(groups, groups, parts.bench.seed), strict=True)
    ]
    loss, gradient = theirs(kto_trainer, examples)
    found = step(algorithm)
    assert algorithm.experience(0).metrics["kl"] > 0.1
    assert found[0] == pytest.approx(loss, rel=1e-4)
    assert_same(found[1], gradient)
