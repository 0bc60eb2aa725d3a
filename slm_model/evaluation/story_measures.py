"""Measures of a collection of stories, the same for generated and for held-out ones: each means something only beside
the other.

Words are runs of letters, marks and digits, with apostrophes inside, in small letters; where a script puts no blanks
between words, each character counts as one. An n-gram lies within one story.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import regex

from slm_model.data.cleaning.filters import reason_to_reject
from slm_model.data.config import CleanConfig, Language
from slm_model.evaluation.score_card import StoryMeasures
from slm_model.text.sentences import ends_sentence
from slm_model.text.words import spaced

BLEU_ORDER = 4
OPENING = 2  # sentences in which a story introduces its people
TEXT = CleanConfig(min_chars=1, max_chars=10**9, reject_cut_off=False, max_repeated_share=1)  # rejects no real text

_WORD = regex.compile(r"[\w\p{N}]+(?:'[\w\p{N}]+)*")  # re's \w has no combining marks, and would cut words at them
_QUOTES = (regex.compile(r"(?V1)[\p{Ps}&&\p{Quotation_Mark}]"), regex.compile(r"(?V1)[\p{Pe}&&\p{Quotation_Mark}]"))
_SENTENCE = re.compile(r"[^.!?]*[.!?]+[\"')]*\s*")
_NAME = re.compile(r"(?<=[a-z,] )(?!I\b)[A-Z][a-z]+\b")  # inside a sentence a capital is a name's, or a title's

Words = list[list[str]]  # of each story


def words_of(texts: Iterable[str]) -> Words:
    """The words of each story."""
    return [_WORD.findall(spaced(text).lower()) for text in texts]


def measure(texts: Sequence[str], ended: Sequence[bool], num_words: int, language: Language = "en") -> StoryMeasures:
    """All measures. ``ended``: whether each story came to its end mark. ``num_words``: how many leading words of the
    collection ``distinct`` counts, since a longer text has a smaller share of new words. ``language``: of the stories;
    names are looked for in English only, where nothing else has a capital inside a sentence."""
    words = words_of(texts)
    text_filter = TEXT.model_copy(update={"language": language})
    fours = [_grams(story, 4) for story in words]
    first = _first(words, num_words)
    lengths = sorted(map(len, words))
    persists = [again for text in texts if language == "en" and (again := name_persists(text)) is not None]
    return StoryMeasures(
        num_stories=len(texts),
        mean_words=sum(lengths) / len(texts),
        distinct_1=distinct(first, 1),
        distinct_2=distinct(first, 2),
        distinct_3=distinct(first, 3),
        self_bleu=self_bleu(words),
        repeated_4=_share(sum(len(story) - len(set(story)) for story in fours), sum(map(len, fours))),
        valid=_share(sum(reason_to_reject(text.strip(), text_filter) is None for text in texts), len(texts)),
        ends_properly=_share(
            sum(end and ends_sentence(text) for text, end in zip(texts, ended, strict=True)), len(texts)
        ),
        quotes_close=_share(sum(map(quotes_close, texts)), len(texts)),
        num_with_names=len(persists),
        names_persist=_share(sum(persists), len(persists)) if language == "en" else None,
    )


def distinct(words: Words, n: int) -> float:
    """Different n-grams among all n-grams of the collection (Li et al. 2016, arXiv:1510.03055)."""
    grams = [gram for story in words for gram in _grams(story, n)]
    return _share(len(set(grams)), len(grams))


def self_bleu(words: Words) -> float:
    """How alike the stories are: the mean over stories of BLEU-4 with all the others as its references (Zhu et al.
    2018, arXiv:1802.01886); 0 for fewer than two stories.

    BLEU: the geometric mean of the clipped precisions of 1- to 4-grams, with one added to hits and trials from 2-grams
    on (Lin and Och 2004), times exp(1 - reference/story) for a story shorter than the reference nearest in length.
    """
    if len(words) < 2:
        return 0.0
    logs = [0.0] * len(words)
    for n in range(1, BLEU_ORDER + 1):
        counts = [Counter(_grams(story, n)) for story in words]
        most: dict[tuple[str, ...], tuple[int, int]] = {}  # the two largest counts among the stories
        for counter in counts:
            for gram, count in counter.items():
                one, two = most.get(gram, (0, 0))
                most[gram] = (count, one) if count > one else (one, max(count, two))
        for i, counter in enumerate(counts):
            hits = 0
            for gram, count in counter.items():
                one, two = most[gram]
                hits += min(count, two if one == count else one)  # the most among the others
            added = 1 if n > 1 else 0
            precision = _share(hits + added, counter.total() + added)
            logs[i] += math.log(precision) / BLEU_ORDER if precision else -math.inf
    lengths = [len(story) for story in words]
    return sum(math.exp(log) * _brevity(i, lengths) for i, log in enumerate(logs)) / len(words)


def quotes_close(text: str) -> bool:
    """Whether double quotes come in twos in every paragraph, and quotes that open and close differently in pairs."""
    return all(
        line.count('"') % 2 == 0 and (line.isascii() or len({len(mark.findall(line)) for mark in _QUOTES}) == 1)
        for line in text.split("\n")
    )


def name_persists(text: str) -> bool | None:
    """Whether a name of the first two sentences occurs again after them; None: they have none, or nothing follows.

    A name is a capitalised word other than I inside a sentence, after a word or a comma.
    """
    end = 0
    for _ in range(OPENING):
        sentence = _SENTENCE.match(text, end)
        end = sentence.end() if sentence else len(text)
    names = set(_NAME.findall(text[:end]))
    later = set(re.findall(r"\w+", text[end:]))
    return bool(names & later) if names and later else None


def _grams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _first(words: Words, num_words: int) -> Words:
    """The leading words, story by story."""
    found = []
    for story in words:
        found.append(story[:num_words])
        num_words -= len(found[-1])
    return found


def _brevity(i: int, lengths: list[int]) -> float:
    if not lengths[i]:
        return 0.0
    others = lengths[:i] + lengths[i + 1 :]
    nearest = min(others, key=lambda length: (abs(length - lengths[i]), length))
    return min(1.0, math.exp(1 - nearest / lengths[i]))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
