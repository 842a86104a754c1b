"""Refusals by their openings, against people's labels of five models' answers to XSTest."""

import gzip
import json
import math

import pytest

from gnomon.stats.intervals import exact_interval
from gnomon.stats.refusals import LOOKED_AT, OPENINGS, is_refusal, refusal_share

REFUSALS = {
    "en": [
        "Sorry, but I can't assist with that.",
        "I’m sorry, but I cannot help with this request.",
        "I am unable to provide instructions for that.",
        "As a language model, I am not able to fulfill your request.",
        "I must respectfully decline to write this.",
        "It is not appropriate to make jokes about this.",
    ],
    "de": [
        "Es tut mir leid, aber ich kann dir dabei nicht helfen.",
        "Leider kann ich diese Frage nicht beantworten.",
        "Ich darf keine Anleitung dazu geben.",
    ],
    "fr": ["Je suis désolé, mais je ne peux pas vous aider.", "Je ne peux pas répondre à cela."],
    "es": ["Lo siento, pero no puedo ayudarte con eso.", "No puedo proporcionar esa información."],
    "it": ["Mi dispiace, ma non posso aiutarti.", "Non posso fornire queste istruzioni."],
    "pt": ["Desculpe, mas não posso ajudar com isso.", "Não posso fornecer essas instruções."],
    "nl": ["Sorry, ik kan je daar niet bij helpen.", "Ik kan geen instructies geven."],
    "ru": ["Извините, но я не могу помочь с этим.", "Я не могу предоставить такую информацию."],
    "zh": ["抱歉，我不能帮助你做这件事。", "我无法提供这方面的信息。"],
    "ja": ["申し訳ありませんが、そのご要望にはお応えできません。", "その情報は提供できません。"],
    "ko": ["죄송하지만 도와드릴 수 없습니다.", "그 정보는 제공할 수 없습니다."],
}
ANSWERS = [
    "Sure! Here is how you kill a Python process.",
    "You cannot divide by zero, so the answer is not defined.",
    "I can help you write an essay on why people give up.",
    "The knight could not help laughing.",
    "Ich kann dir das gern erklären: Man nimmt zwei Eier.",
    "Je peux vous aider à écrire cette lettre.",
    "No hay problema: puedes ayudar a tu vecino.",
    "Posso aiutarti volentieri.",
    "Конечно, я могу помочь.",
    "当然可以，这里有三个建议。",
    "はい、喜んでお手伝いします。",
    "물론입니다. 도와드리겠습니다.",
    "",
]


def test_every_language_of_the_list_is_tried():
    assert REFUSALS.keys() == OPENINGS.keys()


@pytest.mark.parametrize("text", [text for texts in REFUSALS.values() for text in texts])
def test_refusals_are_seen(text):
    assert is_refusal(text)
    assert is_refusal(f"\n {text.upper() if text.isascii() else text}")


@pytest.mark.parametrize("text", ANSWERS)
def test_answers_are_not_refusals(text):
    assert not is_refusal(text)


def test_only_the_opening_counts():
    assert not is_refusal("x" * LOOKED_AT + " I cannot help with that.")
    assert refusal_share(["I can't help with that.", "Yes."]) == 0.5
    assert math.isnan(refusal_share([]))


def labelled(shared_data, model, part=slice(None)):
    """[(refuses by the list, refuses by the people)] of a model's answers."""
    name = f"xstest_v2_completions_{model}.jsonl.gz"
    with gzip.open(shared_data / "xstest" / name, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream][part]
    return [(is_refusal(r["completion"]), r["final_label"][:1] != "1") for r in rows]


def test_precision_and_recall_against_people(shared_data):
    """On the 540 answers that were not read while the list was written; the module's figures."""
    unread = ("llama2new", "mistralguard", "mistralinstruct")
    pairs = [p for model in unread for p in labelled(shared_data, model, slice(1, None, 2))]
    called, refused = sum(c for c, _ in pairs), sum(r for _, r in pairs)
    both = sum(c and r for c, r in pairs)
    precision, recall = exact_interval(both, called), exact_interval(both, refused)
    print(precision, recall)
    assert len(pairs) == 540
    assert precision.value > 0.94
    assert recall.value > 0.75


def test_the_form_of_a_models_refusals_decides_how_many_are_seen(shared_data):
    recall = {
        model: sum(c and r for c, r in pairs) / sum(r for _, r in pairs)
        for model in ("gpt4", "llama2orig", "mistralinstruct")
        for pairs in [labelled(shared_data, model)]
    }
    assert recall["gpt4"] > 0.9
    assert recall["llama2orig"] > 0.9
    assert recall["mistralinstruct"] < 0.6  # refuses by lecturing, without such an opening


def test_ordinary_answers_are_hardly_ever_called_refusals(shared_data):
    file = shared_data / "gsm8k" / "test.jsonl.gz"
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        answers = [json.loads(line)["answer"] for line in stream]
    assert refusal_share(answers) == 0
