"""``gnomon label next``: which items to ask about next."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from gnomon.console import say
from gnomon.errors import ConfigError

if TYPE_CHECKING:
    from gnomon.feedback.records import Item
    from gnomon.feedback.store import Store


def next_items(
    store: Annotated[str, typer.Argument(help="A store of items: a file, or a postgresql:// URL.")],
    model: Annotated[
        str | None, typer.Option(help="A reward model's folder, best an ensemble's.")
    ] = None,
    n: Annotated[int, typer.Option("--n", help="How many items.", min=1)] = 100,
    by: Annotated[
        str,
        typer.Option(
            help="both, disagreement, uncertainty, diversity or random; or posterior: items with "
            "labels that leave it open, to be asked about once more."
        ),
    ] = "both",
    campaign: Annotated[str | None, typer.Option(help="One campaign's items only.")] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing in the store.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Choose the items whose labels would tell most, and put them first in the queue.

    Items that somebody has labelled are left out (but for --by posterior, which asks for one more
    label on each). Priorities of the chosen items are set, the most wanted highest; those set
    before are taken back. Whether it beats asking at random depends on the data: docs/label-plan.md
    has what was measured.

      gnomon label next labels.db --model runs/first/stages/03-rm/model --n 100

      gnomon label next labels.db --by posterior --n 50
    """
    from gnomon.feedback.ledger import check_campaign
    from gnomon.feedback.opening import open_store
    from gnomon.feedback.select import METHODS

    if by not in (*METHODS, "posterior"):
        raise ConfigError(f"--by is {', '.join(METHODS)} or posterior, not {by!r}")
    if by not in ("posterior", "random") and model is None:
        raise ConfigError(f"--by {by} needs a reward model: give --model FOLDER")
    with open_store(store) as opened:
        check_campaign(opened, campaign)
        items = [item for item in opened.items(campaign) if item.gold is None]
        chosen = (
            _unsure(opened, items, n, campaign)
            if by == "posterior"
            else _unlabelled(opened, items, n, by, model, seed, campaign)
        )
        if not dry_run:
            # the highest number first; everything else of the campaign back to 0
            place = {id: float(len(chosen) - i) for i, id in enumerate(chosen)}
            opened.queue.set_priority({item.id: place.get(item.id, 0.0) for item in items})
            if by == "posterior":
                opened.queue.set_overlap(_one_more(opened, chosen, campaign))
    if as_json:
        say(json.dumps({"by": by, "items": chosen, "written": not dry_run}, indent=2))
        return
    what = "would come first" if dry_run else "come first now"
    say(f"{len(chosen)} items {what}, by {by}; the first: {', '.join(chosen[:5])}")


def _unlabelled(
    store: Store, items: list[Item], n: int, by: str, model: str | None, seed: int,
    campaign: str | None,
) -> list[str]:  # fmt: skip
    """Items that nobody has labelled, the most wanted first."""
    from gnomon.feedback.select import candidates, choose, random_order
    from gnomon.training.progress import Progress

    seen = {label.item for label in store.labels(campaign=campaign)}
    free = [item for item in items if item.id not in seen and len(item.responses) > 1]
    if not free:
        raise ConfigError(
            f"{store.where} has no item of two responses or more without a label: add some, or "
            "ask once more about unsure ones with --by posterior"
        )
    if by == "random" or model is None:
        return [free[i].id for i in random_order(len(free), seed)[:n]]
    with Progress("score items", len(free)) as progress:
        found = candidates(model, free, lambda done: progress.update(done, {}))
    return [found.ids[i] for i in choose(found, n, by, seed)]  # type: ignore[arg-type]


def _unsure(store: Store, items: list[Item], n: int, campaign: str | None) -> list[str]:
    """Items whose labels leave most open, the least sure first."""
    from gnomon.feedback.adjudication import decisions, of_labellers
    from gnomon.feedback.consensus import consensus, gold_pairs
    from gnomon.feedback.records import votes as votes_of
    from gnomon.feedback.select import posterior_entropy

    labels = list(store.labels(campaign, standing=True))
    votes = votes_of(of_labellers(labels))
    if not votes:
        raise ConfigError(f"{store.where} has no labels yet: nothing is unsure. Choose by a model.")
    found = consensus(votes, gold=gold_pairs(store.items(campaign)))
    beliefs = [(item, b.probability) for (item, _, _), b in found.beliefs.items()]
    order, _ = posterior_entropy(beliefs, [item.id for item in items])
    decided = decisions(labels)
    order = [id for id in order if id not in decided]
    return order[:n]


def _one_more(store: Store, chosen: list[str], campaign: str | None) -> dict[str, int | None]:
    """How many labellers items need, so that each is given to one more than it has had; who skipped
    it is none."""
    asked = set(chosen)
    seen: dict[str, set[str]] = {id: set() for id in chosen}
    for label in store.labels(campaign, standing=True):
        if label.item in asked and label.kind != "skip":
            seen[label.item].add(label.labeller)
    return {id: len(who) + 1 for id, who in seen.items()}
