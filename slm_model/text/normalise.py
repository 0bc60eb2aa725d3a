"""One form for every text: repair what a wrong decoding did to it, then spell it in one, ASCII-leaning way.

The same function cleans the stories and prepares a prompt. What it settles:

- damage: UTF-8 that was read as Windows-1252 or Latin-1 is read again, as often as it happened (see ``repair``);
- characters: Unicode NFC; quotes and primes become ' and "; an ellipsis becomes three full stops; hyphens and the
  minus sign become -, a dash between words becomes a hyphen between blanks; control characters, characters without
  width and lone surrogates go;
- white space: any run of blanks is one space and any run of line breaks one newline (TinyStories sets a paragraph off
  by one or by two, and means the same); lines are trimmed, so nothing is left at the start or the end of a text.
  A prompt's trailing blank goes too: what follows brings its own.

Everything else stays: é is a letter, € a sign, and â a letter of "château".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator


def normalise(text: str) -> str:
    """The text in its one form; the form of that form is itself."""
    if not text.isascii():
        text = _settled(text)
    elif not text.replace("\n", "").isprintable():
        text = _ODD.sub(_spelling, text)
    while "  " in text:
        text = text.replace("  ", " ")
    if " \n" in text or "\n " in text:
        text = text.replace(" \n", "\n").replace("\n ", "\n")
    while "\n\n" in text:
        text = text.replace("\n\n", "\n")
    return text.strip(" \n")


def normalise_piece(text: str) -> str:
    """The form of a text that occurs inside another: blanks and line breaks at its ends stay."""
    return normalise(f"x{text}x")[1:-1]


def story_form(found: str) -> tuple[str, tuple[str, ...]]:
    """A story in its one form, and what was repaired, sorted.

    "end_mark" is a mark of another tokenizer at the beginning or the end, such as ``<|endoftext|>``, which is not kept.
    """
    mended, repairs = repair(found)
    text = normalise(mended)
    start, stop = 0, len(text)
    while match := _FIRST_MARK.match(text, start, stop):
        start = match.end()
    while match := _LAST_MARK.search(text, max(start, stop - _MOST_OF_A_MARK), stop):
        stop = match.start()
    if stop - start < len(text):
        text, repairs = text[start:stop].strip(" \n"), tuple(sorted({*repairs, "end_mark"}))
    return text, repairs


def repair(text: str) -> tuple[str, tuple[str, ...]]:
    """Undo encoding damage. Returns the text and what was found, sorted.

    "mojibake" is a whole sequence; "lost_byte" a closing quote whose third byte was dropped on the way (``â€`` for
    ``â€\\x9d``), as it often was in TinyStories.

    Only sequences that do not occur in undamaged text are touched. Damage that could as well be text ("IRMÃ”", a quoted
    Portuguese sister) is left.
    """
    kinds: set[str] = set()
    found = [(match.start(), match.group()) for match in _DAMAGE.finditer(text)] if not text.isascii() else []
    if not found:
        return text, ()
    chain = _Chain(text)
    while found:  # once more for each time that it was wrongly decoded
        for start, sequence in found:
            kinds.add("lost_byte" if len(sequence) == 2 and sequence[0] == "â" else "mojibake")
            char = "”" if sequence in _LOST else bytes(map(_BYTES.__getitem__, sequence)).decode()
            chain.replace(start, len(sequence), char)
        found = list(chain.damage_near([start for start, _ in found]))
    return str(chain), tuple(sorted(kinds))


class _Chain:
    """A text as a linked list of characters, so that all repairs together take time in proportion to its length.

    A sequence that a repair has completed holds the new character or follows it: after the first search of the whole
    text, only the neighbours of what was replaced are searched.
    """

    def __init__(self, text: str) -> None:
        self.chars = list(text)
        self.after = list(range(1, len(text) + 1))
        self.before = list(range(-1, len(text) - 1))

    def __str__(self) -> str:
        return "".join(self._from(0, len(self.chars)))

    def replace(self, start: int, length: int, char: str) -> None:
        """Put a character in the place of so many from ``start`` on."""
        end = start
        for _ in range(length):
            end = self.after[end]
        self.chars[start], self.after[start] = char, end
        if end < len(self.chars):
            self.before[end] = start

    def damage_near(self, replaced: list[int]) -> Iterator[tuple[int, str]]:
        """What a search of the whole text would find next: where it starts, and the sequence."""
        searched = -1
        for place in replaced:
            first = place
            for _ in range(_LONGEST - 1):
                first = self.before[first] if self.before[first] >= 0 else first
            while first < len(self.chars) and self.before[first] <= place:
                step = self.after[first]
                if first > searched:
                    searched = first
                    if self.chars[first] in _LEADS:
                        context = self.chars[self.before[first]] if self.before[first] >= 0 else ""
                        window = context + "".join(self._from(first, _LONGEST))
                        if match := _DAMAGE.match(window, len(context)):
                            yield first, match.group()
                            for _ in range(len(match.group()) - 1):
                                searched = self.after[searched]
                first = step

    def _from(self, place: int, most: int) -> Iterator[str]:
        while place < len(self.chars) and most:
            yield self.chars[place]
            place, most = self.after[place], most - 1


def _settled(text: str) -> str:
    for _ in range(_MOST_PASSES):  # once more where a removal brought new neighbours together
        if (spelled := _spell(text)) == text:
            return text
        text = spelled
    return _settled(_NOT_ASCII.sub("\ufffd", text))  # damage hidden in damage on purpose: nothing says what was meant


def _spell(text: str) -> str:
    text = _nfc(repair(text)[0])
    text = DASH_BETWEEN_WORDS.sub(" - ", text)
    return _nfc(_ODD.sub(_spelling, text))  # again: what stood apart may have come together


def _nfc(text: str) -> str:
    """NFC in linear time: sorting a run of combining marks takes the square of its length, so a run is bounded first.

    As in the Stream-Safe Text Format (UAX #15): a joiner without effect follows 30 marks. No language comes near that.
    """
    return unicodedata.normalize("NFC", _MANY_MARKS.sub(_divided, text))


def _divided(match: re.Match[str]) -> str:
    """A run of characters that are no letters, with a joiner wherever 30 combining marks in a row are followed by one
    more."""
    made, marks = [], 0
    for char in match.group():
        spelled_out = unicodedata.normalize("NFD", char)  # some of class 0 are two marks
        marks = marks + len(spelled_out) if unicodedata.combining(spelled_out[0]) else 0
        if marks > _MOST_MARKS:
            made.append(_JOINER)
            marks = len(spelled_out)
        made.append(char)
    return "".join(made)


def _spelling(match: re.Match[str]) -> str:
    return SPELLINGS.get(match.group(), match.group())


# Bytes 0x80 to 0xFF as Windows-1252 shows them; Latin-1 and the five bytes that Windows-1252 leaves open show as C1.
_BYTES = {chr(byte): byte for byte in range(0x80, 0x100)}
_BYTES |= {bytes([byte]).decode("cp1252", "ignore"): byte for byte in range(0x80, 0xA0)}
_BYTES.pop("", None)


def _shown(spans: str) -> str:
    """The class, as a regular expression has it, of the characters that show these bytes."""
    bounds = [[int(bound, 16) for bound in span.split("-")] for span in spans.split()]
    shown = [char for char, byte in _BYTES.items() if any(span[0] <= byte <= span[-1] for span in bounds)]
    return f"[{re.escape(''.join(shown))}]"


_LOST = ("â€", "â\x80")
_LEADS, _LONGEST = frozenset("âðïÂÃ"), 4  # how a sequence begins, and how many characters it may have
_ANY = _shown("80-BF")
# What may follow a word in capitals in sound text, as in "IRMÃ”".
_AFTER_CAPITAL = _shown("85 8B 91-97 99 9B A0 AB BB")
_DAMAGE = re.compile(
    # E2 80 xx: quotes, dashes, an ellipsis, blanks and marks. A dagger, E2 80 A0, would be a lost byte before a blank.
    f"â[€\x80]{_shown('82-83 89-9F A2 A6 A8-AF B2-B3 B9-BA')}|â[€\x80]"
    # Other symbols, where the second byte does not show as ordinary punctuation: euro, trademark, hearts, stars; emoji.
    f"|â{_shown('81-84 86-8A 8C-8E 98 9A 9C-9F')}{_ANY}|ð{_shown('9F')}{_ANY}{_ANY}"
    "|ï»¿|ï¿½"  # a byte order mark, and the sign for a character that was lost
    # Latin-1's letters and signs.
    f"|(?<![A-ZÀ-ÖØ-Þ])(?:Â{_shown('A0-BF')}|Ã{_ANY})"
    f"|Â(?!{_AFTER_CAPITAL}){_shown('A0-BF')}|Ã(?!{_AFTER_CAPITAL}){_ANY}"
)
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_MOST_PASSES = 16  # the genuine sample needs two

_MOST_MARKS, _JOINER = 30, "\u034f"
_MANY_MARKS = re.compile(rf"[^\w\x00-\x7f]{{{_MOST_MARKS + 1},}}")
DASH_BETWEEN_WORDS = re.compile(r"(?<=[\w.,!?;:)])[ \t]*(?!(?<=\d)[–—―]\d)[–—―]+[ \t]*(?=\w)")
_ODD = re.compile(r"[^\n -~]")
_MARK = r"(?:<\|\w{1,30}\|>|</?s>|<[be]os>)"
_FIRST_MARK = re.compile(rf"{_MARK}[ \n]?")
_LAST_MARK = re.compile(rf"[ \n]?{_MARK}$")
_MOST_OF_A_MARK = 35
_BLANKS = [0x09, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000]
_LINE_BREAKS = [0x0B, 0x0C, 0x0D, 0x85, 0x2028, 0x2029]
_GONE = [*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x61C, 0x180E, 0xFEFF]  # without width, or of no meaning in a text
_GONE += [*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), *range(0xFE00, 0xFE10)]
_GONE += [*range(0xFFF9, 0xFFFC), *range(0xE0000, 0xE0080), *range(0xD800, 0xE000)]
SPELLINGS = {
    **dict.fromkeys(map(chr, _GONE), ""),
    **dict.fromkeys(map(chr, _BLANKS), " "),
    **dict.fromkeys(map(chr, _LINE_BREAKS), "\n"),
    **dict.fromkeys("‘’‚‛′‹›ʻʼ´", "'"),
    **dict.fromkeys("“”„‟″«»", '"'),
    **dict.fromkeys("‐‑‒–—―−", "-"),
    "…": "...",
}
