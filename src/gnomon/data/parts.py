"""What of a group is what: its prompt as one text, and the side that a response is on."""

from __future__ import annotations

from gnomon.data.formats import net_wins
from gnomon.records import Group, Prompt, Response


def prompt_text(prompt: Prompt) -> str:
    """All turns of a prompt, a line or more each."""
    return prompt.text or "\n".join(m.content for m in prompt.messages)


def part(group: Group, response: Response, index: int) -> str:
    """``good`` or ``bad`` by its label, ``chosen`` or ``rejected`` of a pair, else ``response``.

    Args:
        index: of the response in the group.
    """
    if "label" in response.meta:
        return "good" if response.meta["label"] else "bad"
    net = net_wins(group)
    if len(net) == 2 and net[0] != net[1]:
        return "chosen" if net[index] > 0 else "rejected"
    return "response"
