"""Whether a policy was trained on the form of its answers alone, and nobody read what they say.

An instruction that a program checks, a layout, a length: such a reward is right about what it reads
and knows nothing of what an answer says. A policy that follows it away from its start may write
about anything, and no curve of the run shows it.
"""

from __future__ import annotations

from gnomon.audit.change import reward_change
from gnomon.audit.cures import stay_near
from gnomon.audit.decide import decided, not_looked, of_policies, shortened
from gnomon.audit.evidence import Evidence
from gnomon.audit.health import kl_per_token, left_the_start, stays_near
from gnomon.audit.kinds import Entry, reads_form
from gnomon.audit.truths import is_truth, label, reward_entries
from gnomon.runs.audit import Finding

NAME, DETECTOR = "reward_hacking", "form_alone"
EITHER = "regex"
"""A verifier of form which, with patterns of the rows' own, may check what an answer says."""


@of_policies
def form_alone(evidence: Evidence) -> list[Finding]:
    """The rise of a trained reward that reads form alone, where nothing reads the content."""
    trained = evidence.trained
    if not trained or not all(map(_is_form, trained)) or _content_is_read(evidence):
        return []
    change = reward_change(evidence)
    if change is None:
        return not_looked(evidence, NAME, DETECTOR, "training's samples with their rewards")
    names = ", ".join(label(entry) for entry in trained)
    text = (
        f"the reward ({names}) reads the form of an answer and nothing of what it says. It rose by "
        f"{change.gain.value:.2g}, and nothing in this run looks at what the answers say: read "
        "them, observe a judge of it (observe), or add one to the reward"
    )
    moved = kl_per_token(evidence)
    near = stays_near(evidence) if moved else "How far the policy is from its start is not known"
    far = f"The policy is {moved.value:.2f} nats per token from its start" if moved else ""
    best = sorted(evidence.after, key=lambda sample: -(sample.reward or 0.0))
    return [
        decided(
            evidence,
            NAME,
            DETECTOR,
            change.gain,
            measure="rise of a reward that reads form alone",
            alarm=f"{text}. {far}",
            watch=f"{text}. {near}" if near else "",
            first="",  # the sentence says it
            exhibits=shortened([sample.exhibit("paid for its form") for sample in best]),
            curves=["reward", "kl", "length"],
            since=left_the_start(evidence),
            cures=stay_near(evidence),
        )
    ]


def _is_form(entry: Entry) -> bool:
    return reads_form(entry) and entry.get("builtin") != EITHER


def _content_is_read(evidence: Evidence) -> bool:
    """Whether somebody was asked who reads more than form: an observed or compared judge, an eval,
    or people."""
    compare = evidence.recipe.get("compare")
    compared = compare.get("rewards") if isinstance(compare, dict) else None
    asked = [*reward_entries(evidence.spec.get("observe") or []), *reward_entries(compared or [])]
    judges = any(not reads_form(entry) and not is_truth(entry) for entry in asked)
    return judges or bool(evidence.results or evidence.changes or evidence.spotcheck.answered)
