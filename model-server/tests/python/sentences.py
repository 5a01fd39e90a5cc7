"""200 texts that try a tokenizer and an encoder: short and long, plain and odd, one that is cut off, one that is empty."""

import random

ODD = [
    "",
    " ",
    "a",
    "?!",
    "ABC def GHI",
    "don't can't won't",
    "naïve façade Ångström Crème brûlée",
    "東京は日本の首都です。",
    "Привет, мир! Как дела?",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "🚲 delivered in 12 min 🎉🎉",
    "e-mail: someone@example.com, https://example.com/path?q=1&r=2#top",
    "tabs\tand\nnew lines\r\nand\u00a0hard spaces",
    "zero\u200bwidth and soft\u00adhyphen",
    "ﬁne ligatures and ½ fractions, x² + y² = z²",
    "“curly quotes” — dashes – and ellipsis…",
    "snake_case camelCase kebab-case SCREAMING_CASE",
    "1,234,567.89 $ or 99.9% of 10^6",
    "word" * 40,
    "supercalifragilisticexpialidocious antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "[CLS] in the middle is a token, and so is [SEP]; [MASK] and [PAD] too",
    "İstanbul ığüşöç ẞß",
    "C++ && Rust || Go; fn main() { println!(\"{}\", 1 << 4); }",
    "…",
]
WHO = ["The courier", "My neighbour", "A tired cook", "The new kitchen", "Someone from the office", "An old friend", "The customer"]
DOES = ["brings", "forgot", "ordered", "will deliver", "has cancelled", "is looking for", "complains about"]
WHAT = ["two pizzas", "a cold soup", "the wrong address", "seven bowls of ramen", "an umbrella", "the last bicycle", "fresh bread"]
WHERE = ["in the rain", "at half past noon", "near the station", "without a word", "for the third time this week", "on the fifth floor"]


def sentences(count=200):
    chance = random.Random(7)
    sentence = lambda: f"{chance.choice(WHO)} {chance.choice(DOES)} {chance.choice(WHAT)} {chance.choice(WHERE)}."  # noqa: E731
    texts = list(ODD)
    while len(texts) < count - 3:
        texts.append(" ".join(sentence() for _ in range(1 + int(12 * chance.random() ** 3))))
    texts += [" ".join(sentence() for _ in range(repeats)) for repeats in (20, 30, 80)]
    return texts
