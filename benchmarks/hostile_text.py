"""Time against length on text made to be slow: `python -m benchmarks.hostile_text`.

Each text is made in two lengths, one twice the other. Where the work is linear, the ratio of times is near 2; where it
is quadratic, near 4. Times are processor seconds, the least of the repeats.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from slm_model.data.cleaning.filters import has_markup, is_cut_off, repeats_more_than
from slm_model.data.cleaning.near_duplicates import grams_of
from slm_model.data.storygen.generate import story
from slm_model.evaluation.story_measures import measure
from slm_model.reporting.markdown import table
from slm_model.text.normalise import normalise
from slm_model.tokenizer.config import BpeConfig, WordPieceConfig

Make = Callable[[int], str]  # a text of about so many characters
MARKS = "\u0301\u0327"  # two combining marks that Unicode sorts into the other order

UNUSUAL: dict[str, Make] = {
    "each repair completes the next": lambda n: "Ã" + "ƒ" * n,
    "repairs side by side": lambda n: "â€™" * (n // 3),
    "each removal reveals the next": lambda n: "â" * (n // 3) + "\u200b" + "€Œ" * (n // 3),
    "one letter, many marks": lambda n: "a" + MARKS * (n // 2),
    "marks that are two marks": lambda n: "\u0f71\u0f73" * (n // 2),
    "marks between invisible characters": lambda n: (MARKS * 14 + "\u200b") * (n // 29),
    "dashes and blanks": lambda n: "a" + " " * (n // 2) + "—" * (n // 2),
    "no-break spaces": lambda n: "a" + "\xa0" * n + "b",
    "emoji": lambda n: "😀" * n,
}
PLAIN: dict[str, Make] = {
    "one word": lambda n: "a" * n,
    "one word of two letters": lambda n: "ab" * (n // 2),
    "tags that do not close": lambda n: "<a" * (n // 2),
    "closing quotes": lambda n: ".'" * (n // 2),
    "entities that do not end": lambda n: "&a" * (n // 2),
    "blanks": lambda n: "a" + " " * n + "b",
    "blank lines": lambda n: "a\n " * (n // 3),
}


def work() -> dict[str, tuple[dict[str, Make], Callable[[str], object]]]:
    """What is measured: the kinds of text, and what is done with one."""
    stories = [story(0, i) for i in range(300)]
    bpe = BpeConfig(size=512).implementation().build(stories, BpeConfig(size=512))
    pieces = WordPieceConfig(size=512).implementation().build(stories, WordPieceConfig(size=512))
    return {
        "normalise": (UNUSUAL | PLAIN, normalise),
        "markup": (PLAIN, has_markup),
        "other filters": (PLAIN, lambda text: (is_cut_off(text), repeats_more_than(text.split(), 0.4))),
        "n-grams": (PLAIN, lambda text: grams_of([text])),
        "measures of a story": (PLAIN, lambda text: measure([text, "One. Two."], [True, True], 100)),
        "BPE": (UNUSUAL | PLAIN, bpe.encode),
        "WordPiece": (UNUSUAL | PLAIN, pieces.encode),
    }


def seconds(function: Callable[[str], object], text: str, repeats: int) -> float:
    """Processor time of a call, the least of so many."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        function(text)
        times.append(time.process_time() - began)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chars", type=int, default=50_000, help="length of the shorter text")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for name, (kinds, function) in work().items():
        for kind, make in kinds.items():
            short, long = (seconds(function, make(n * options.chars), options.repeats) for n in (1, 2))
            ratio = f"{long / short:.2f}" if short > 1e-3 else ""  # below a millisecond the clock decides
            rows.append((name, kind, f"{short:.3f}", f"{long:.3f}", ratio))
    print(table(("work", "text", f"{options.chars:,} characters, s", "twice, s", "ratio"), rows))


if __name__ == "__main__":
    main()
