"""Sums that are too hard for mental arithmetic, and a calculator.

The prompts carry the right answer in ``meta["answer"]``, so the environment also works on other
data whose answers are numbers (GSM8K, say).
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Context, Decimal
from fractions import Fraction
from random import Random

from gnomon.agents.dialogue import parsed
from gnomon.agents.environment import Observation, ToolEnvironment, ToolError
from gnomon.errors import ConfigError
from gnomon.judges.verifiers.extract import MAX_TAIL, worked_answer
from gnomon.judges.verifiers.extract import last_number as last_written
from gnomon.judges.verifiers.notation import canonical
from gnomon.judges.verifiers.numbers import Number, read_number, same_number
from gnomon.judges.verifiers.rewards import MISSING, answer_of, missing_field
from gnomon.records import Message, Prompt
from gnomon.tasks.tunnel.world import Split, split_of

KINDS = ("expression", "words")
LONGEST = 200
"""Characters of an expression."""
LARGEST = 10**40
"""Numbers beyond this are refused."""

_OPERATORS: Mapping[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: operator.mod,
}
_TIMES = re.compile(r"(?<=[\d)\s])[x×](?=[\s\d(])")
_MONEY = re.compile(r"(?:US)?\\?[$€£¥₹]\s*")
_BEHIND = re.compile(
    r"\s*(?:!|\\?%|\s[a-z][a-z/. ]*(?:(?<=[a-z])(?:\^\{?)?\d\}?)?)$", re.IGNORECASE
)
"""What does not change a number; words that multiply it do."""
_MANY = re.compile(r"\b(?:hundred|thousand|million|billion|trillion|dozen)\b", re.IGNORECASE)


def calculate(expression: str) -> Fraction:
    """The exact value of an expression of numbers, ``+ - * x / // % **`` and brackets.

    It is parsed and walked, never run.

    Raises:
        ToolError: unreadable, undefined, or too large; with what is wrong, for the model.
    """
    if len(expression) > LONGEST:
        raise ToolError(f"the expression is longer than {LONGEST} characters")
    try:
        tree = parsed(_TIMES.sub("*", expression).strip())
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ToolError(f"cannot read {expression.strip()!r}") from None
    return _value(tree, expression)


def _value(node: ast.expr, expression: str) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        number = Fraction(str(node.value)) if node.value != float("inf") else None
        return _small(number)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand, expression)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        a, b = _value(node.left, expression), _value(node.right, expression)
        if isinstance(node.op, ast.Pow):
            return _power(a, b)
        if type(node.op) in _OPERATORS:
            try:
                return _small(_OPERATORS[type(node.op)](a, b))
            except ZeroDivisionError:
                raise ToolError("division by zero") from None
    raise ToolError(f"cannot read {expression.strip()!r}: write numbers, + - * / and brackets")


def _power(a: Fraction, b: Fraction) -> Fraction:
    if b.denominator != 1 or abs(b) > 64:
        raise ToolError("powers take whole exponents up to 64")
    if a == 0 and b < 0:
        raise ToolError("division by zero")
    return _small(Fraction(a**b))


def _small(value: Fraction | None) -> Fraction:
    if value is None or abs(value) > LARGEST or value.denominator > LARGEST:
        raise ToolError("a number is too large")
    return value


def written(value: Fraction) -> str:
    """A whole number as it is, another as a decimal: ten digits, and four behind the point of a
    number that has more in front of it."""
    if value.denominator == 1:
        return str(value.numerator)
    digits = max(10, len(str(abs(int(value)))) + 4)
    decimal = Context(digits).divide(Decimal(value.numerator), Decimal(value.denominator))
    text = f"{decimal:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


class Calculator(ToolEnvironment):
    """Answer a question, with a calculator at hand. Reward 1 for the right number, else 0.

    The last number of the answering turn is the answer.

    Args:
        field: the field of ``Prompt.meta`` with the right answer.
    """

    def __init__(self, field: str = "answer") -> None:
        super().__init__(self.calculator)
        self.field = field
        self._answer = Number(Fraction(0))

    def calculator(self, expression: str) -> str:
        """Work out an expression of numbers.

        Args:
            expression: the expression, such as (12 + 7) * 3
        """
        return written(calculate(expression))

    def reset(self, prompt: Prompt, seed: int) -> Sequence[Message] | None:
        """Look the right answer up.

        Raises:
            ValueError: the prompt has no answer, or the answer is not a number.
        """
        answer = answer_of(prompt, self.field)
        if answer is MISSING:
            raise ValueError(missing_field(prompt, self.field))
        number = only_number(str(answer)) if isinstance(answer, str | int | float) else None
        if number is None:
            raise ValueError(f"prompt {prompt.id}: the answer {answer!r} is not a number")
        self._answer = number
        return None

    def answer(self, text: str) -> Observation:
        """Right or wrong."""
        given = last_number(text)
        shown = Fraction(written(self._answer.value))  # what the tool says
        right = float(
            given is not None and (same_number(given, self._answer) or given.value == shown)
        )
        return Observation(reward=right, done=True, parts={"correct": right})


def last_number(text: str) -> Number | None:
    """The last number in a text, whole: 3/4, 2 1/2, 1.5e-3, 1,234, $5. None where the text has
    none, or ends with what is to be worked out (2 + 2, 2^10)."""
    found = last_written(text[-MAX_TAIL:].replace("__", " "))
    return _read(found) if found is not None else None


def only_number(text: str) -> Number | None:
    """The number that a reference answer is; None where it is anything else, such as two numbers.

    Of a worked solution it is the final answer, where that is marked (``#### 72``).
    """
    answer = worked_answer(text)
    whole = _read(answer)
    if whole is not None:
        return whole
    found = last_written(answer)
    if found is None or any(char.isdigit() for char in answer.replace(found, "", 1)):
        return None
    return _read(found)


def _read(found: str) -> Number | None:
    """The number that a piece of text is, with its currency and its unit."""
    text = _MONEY.sub("", canonical(found.rpartition("=")[2]))
    if _MANY.search(text):
        return None
    return read_number(text) or read_number(_BEHIND.sub("", text))


# -- prompts --------------------------------------------------------------------------------------

_FORMS = ("{a} x {b} + {c}", "{a} x {b} - {c}", "({a} + {b}) x {c}", "{a} + {b} x {c}")
_ASKED = ("Compute {0}.", "What is {0}?", "Find {0}.")
_STORIES = (
    (
        "{x} has {a} boxes of {b} eggs and {c} more. How many eggs is that?",
        "{a} x {b} + {c}",
    ),
    (
        "{x} picks {a} apples an hour for {b} hours, and {y} eats {c}. How many are left?",
        "{a} x {b} - {c}",
    ),
    (
        "{x} walks {a} steps and {y} walks {b} steps, and they do so on {c} days. "
        "How many steps is that?",
        "({a} + {b}) x {c}",
    ),
    (
        "{x} has {a} coins and gets {b} coins on each of {c} days. How many coins has {x} then?",
        "{a} + {b} x {c}",
    ),
)
_PEOPLE = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivan", "Jo", "Kim", "Leo")


def calculator_prompts(
    n: int,
    seed: int = 0,
    split: Split = "train",
    kinds: Sequence[str] = KINDS,
    largest: int = 99,
) -> list[Prompt]:
    """``n`` problems with their answers; the splits share no expression.

    Args:
        n: how many; the i-th does not depend on it.
        seed: fixes them.
        split: "train" or "heldout".
        kinds: "expression" (``Compute 47 x 86 + 15.``) and "words", taking turns.
        largest: of the numbers in a problem; the least is 11.

    Raises:
        ConfigError: an unknown split or kind.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds or split not in ("train", "heldout") or largest < 12:
        raise ConfigError(
            f"calculator prompts: kinds {list(kinds)}, split {split!r}, largest {largest}: kinds "
            f"are {', '.join(KINDS)}, splits train and heldout, and largest is at least 12"
        )
    return [_problem(kinds[i % len(kinds)], seed, split, i, largest) for i in range(n)]


def _problem(kind: str, seed: int, split: Split, i: int, largest: int) -> Prompt:
    rng = Random(f"calculator/{seed}/{split}/{i}")
    while True:
        numbers = {name: rng.randint(11, largest) for name in "abc"}
        if kind == "expression":
            expression = rng.choice(_FORMS).format(**numbers)
            text = rng.choice(_ASKED).format(expression)
        else:
            story, form = rng.choice(_STORIES)
            x, y = rng.sample(_PEOPLE, 2)
            expression = form.format(**numbers)
            text = story.format(x=x, y=y, **numbers)
        if split_of(expression) == split:
            break
    meta = {"answer": written(calculate(expression)), "expression": expression}
    name = f"calculator-{split}-{seed}-{i}"
    return Prompt(name, (Message("user", text),), category=kind, meta=meta)
