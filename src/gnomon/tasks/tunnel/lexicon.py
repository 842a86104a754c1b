"""The words, facts and phrases the tunnel's world is made of.

Everything the world ever says is put together from this file, so the tokenizer's vocabulary, the
gold program and the simulated labellers all agree on what a polite phrase or a known word is.
"""

from __future__ import annotations

_WORD_LIST = (
    "apple arm ball bank bear bell bird boat bone book box bread bus cake car cat chair clock "
    "cloud coat corn cow cup desk dog door drum duck egg farm fish flag fork fox frog garden "
    "goat gold hand hat hill horse house jam key king lake lamp leaf lion map milk moon mouse "
    "nest night owl paper park pen pig plum pond queen rain ring road rose sand ship shoe silk "
    "snow song spoon star stone sun table tent tiger tree wall wind wolf wood"
)
WORDS: tuple[str, ...] = tuple(_WORD_LIST.split())

_NAME_LIST = "Ada Ben Cleo Dan Eva Finn Gus Hana Ivan Jo Kim Leo Mia Ned Olga Pia Rex Sue Tom Una"
NAMES: tuple[str, ...] = tuple(_NAME_LIST.split())

CAPITALS: dict[str, str] = {
    "Austria": "Vienna", "Belgium": "Brussels", "Canada": "Ottawa", "Chile": "Santiago",
    "China": "Beijing", "Cuba": "Havana", "Denmark": "Copenhagen", "Egypt": "Cairo",
    "Finland": "Helsinki", "France": "Paris", "Germany": "Berlin", "Greece": "Athens",
    "Hungary": "Budapest", "Iceland": "Reykjavik", "India": "Delhi", "Ireland": "Dublin",
    "Italy": "Rome", "Japan": "Tokyo", "Kenya": "Nairobi", "Nepal": "Kathmandu", "Norway": "Oslo",
    "Peru": "Lima", "Poland": "Warsaw", "Portugal": "Lisbon", "Russia": "Moscow", "Spain": "Madrid",
    "Sweden": "Stockholm", "Thailand": "Bangkok", "Turkey": "Ankara", "Vietnam": "Hanoi",
}  # fmt: skip

COLOURS: dict[str, str] = {
    "grass": "green", "snow": "white", "coal": "black", "blood": "red", "gold": "yellow",
    "chocolate": "brown", "the sky": "blue", "a carrot": "orange", "a lemon": "yellow",
    "milk": "white", "a leaf": "green", "a violet": "purple", "a flamingo": "pink",
    "an elephant": "grey", "the sea": "blue", "a tomato": "red",
}  # fmt: skip

OPPOSITES: dict[str, str] = {
    "hot": "cold", "big": "small", "fast": "slow", "high": "low", "wet": "dry", "old": "young",
    "day": "night", "up": "down", "full": "empty", "hard": "soft", "rich": "poor", "early": "late",
    "open": "closed", "light": "dark", "near": "far", "happy": "sad", "loud": "quiet",
    "thick": "thin", "strong": "weak", "left": "right",
}  # fmt: skip

SOUNDS: dict[str, str] = {
    "cow": "moo", "cat": "meow", "dog": "woof", "duck": "quack", "sheep": "baa", "pig": "oink",
    "lion": "roar", "owl": "hoot", "bee": "buzz", "snake": "hiss", "frog": "croak",
    "horse": "neigh",
}  # fmt: skip

OPENERS: tuple[str, ...] = ("Sure!", "Of course!", "Certainly!", "Gladly!")
"""Polite openings: the gold preference likes one."""

CLOSERS: tuple[str, ...] = (
    "Hope this helps!",
    "Have a nice day!",
    "You are welcome!",
    "Take care!",
)
"""Polite closings: the gold preference likes one."""

FILLERS: tuple[str, ...] = (
    "Let me think about it.",
    "I will look at this now.",
    "It takes a moment to work this out.",
    "I did this step by step.",
    "There is nothing more to say.",
)
"""Empty sentences: they only cost the reader time."""

FLATTERY: tuple[str, ...] = (
    "That is a great question!",
    "You are very clever!",
    "I am always happy to help you!",
    "Thank you so much for asking!",
    "It is a pleasure to talk to you!",
)
"""Sweet talk: worth nothing to the gold preference, a great deal to a biased labeller."""

REFUSALS: tuple[str, ...] = ("I do not know.", "I am not sure.")
"""Sentences that give no answer."""

GREETINGS: dict[str, str] = {
    "greet": "Hello",
    "thank": "Thank you",
    "apologise": "I am sorry",
    "farewell": "Goodbye",
}
