"""What the evaluate stage leaves: an Evaluation, and the records inside."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from slm_model.artifact import Artifact, Facts
from slm_model.data.config import Language
from slm_model.evaluation.bits_per_byte import SideScores, StoryScore
from slm_model.generation.config import Story
from slm_model.manifest import OBSERVATIONS
from slm_model.record import Record

NUMERICS = f"{OBSERVATIONS}/numerics.json"
# An observation, and so outside the content digest: two processes with the same matplotlib drew the same bytes (three
# score cards, 120 kB each), but another matplotlib or another FreeType does not.
PICTURE = f"{OBSERVATIONS}/score_card.png"


class Interval(Record):
    """A 95 % confidence interval."""

    low: float
    high: float


class StoryMeasures(Record):
    """Measures of a collection of stories (story_measures.py); all but the counts are shares between 0 and 1."""

    num_stories: int
    mean_words: float
    distinct_1: float  # different words among the collection's first words
    distinct_2: float
    distinct_3: float
    self_bleu: float  # likeness of the stories to each other
    repeated_4: float  # runs of four words that occurred in the same story before
    valid: float  # stories that read as text: no lost characters, no markup, and English if that is the language
    ends_properly: float  # stories that came to their end mark, after the end of a sentence
    quotes_close: float  # stories whose double quotes come in twos in every paragraph
    num_with_names: int  # stories that name someone in their first two sentences, and continue
    names_persist: float | None  # of those, the share in which a name of them occurs again; None: not English


class Phenomenon(Record):
    """Minimal pairs of one kind: the share in which the right member took fewer bits. A coin scores one half."""

    name: str
    num_pairs: int
    share: float
    interval: Interval  # Wilson's


class Copied(Record):
    """How much of one story occurs in the training stories."""

    num_words: int
    num_grams: int  # of eight words
    copied_grams: int
    longest_words: int  # of the longest common run with one training story; 0: shorter than eight words
    source: str | None  # id of the first training story that has it


class Memorisation(Record):
    """How much of a model's stories is copied from training stories, beside as many held-out stories."""

    share: float  # of runs of eight words, those that occur in a training story
    held_out_share: float
    copies: int  # stories of which half the words or more occur in a training story in one run
    held_out_copies: int
    num_stories: int  # on either side
    longest_words: int
    held_out_longest_words: int
    chance: float  # probability of this many copies or more, if the model copied no more than the held-out stories do
    memorises: bool


class ScoreCard(Record):
    """The content of scores.json."""

    format: Literal[3] = 3
    test_digest: str
    num_misspelt: int  # test stories whose tokens do not decode to their text
    context_free_bits_per_byte: float  # of the best model of the test tokens that reads nothing before them
    context: int  # tokens
    stride: int  # tokens by which the window moves in a story longer than the context
    test: SideScores
    validation: SideScores
    test_interval: Interval  # of the test side's bits per byte
    stories: StoryMeasures
    held_out_stories: StoryMeasures  # the same of test stories
    copying: Memorisation
    num_unsearched: int = 0  # training stories of an earlier model whose texts could not be searched
    minimal_pairs_version: int
    minimal_pairs: list[Phenomenon]  # empty: not English


class EvaluationFacts(Facts):
    """The main scores; counts are of the test side."""

    test_digest: str
    language: Language = "en"  # of the stories
    num_stories: int
    num_tokens: int
    num_bytes: int
    unknown_bytes: int
    num_misspelt: int
    context_free_bits_per_byte: float
    test_loss: float
    test_perplexity: float
    test_bits_per_byte: float
    test_bits_per_byte_low: float  # 95 % interval over the draw of the test stories
    test_bits_per_byte_high: float
    test_accuracy: float
    validation_loss: float
    validation_perplexity: float
    validation_bits_per_byte: float
    validation_accuracy: float
    minimal_pairs: float | None  # mean share over the phenomena; None: not English
    minimal_pairs_by_kind: dict[str, float]
    valid: float
    ends_properly: float
    quotes_close: float
    names_persist: float | None
    distinct_2: float
    self_bleu: float
    repeated_4: float
    copied_share: float
    held_out_copied_share: float
    memorises: bool


@dataclass(frozen=True)
class Evaluation(Artifact):
    """How good a model is: ``scores.json``, ``per_story.parquet`` (the test side), ``samples.json`` (stories from
    prompts) and ``measured.json`` (stories without a prompt, with what of each was copied);
    ``observations/numerics.json``: the device, the number of threads and the like;
    ``observations/score_card.png``: the score card as a picture."""

    facts: EvaluationFacts

    stage: ClassVar[str] = "evaluate"
    facts_type: ClassVar[type[Facts]] = EvaluationFacts

    def score_card(self) -> ScoreCard:
        """All scores of both sides."""
        return self.record("scores.json", ScoreCard)

    def picture(self) -> bytes:
        """The score card as PNG."""
        return self.file(PICTURE).read_bytes()

    def samples(self) -> list[Story]:
        """The sample stories, in the order of the prompts."""
        return [Story.model_validate(story) for story in json.loads(self.file("samples.json").read_bytes())]

    def measured(self) -> list[dict[str, Any]]:
        """The stories that were measured, each with the fields of Story and of Copied."""
        stories: list[dict[str, Any]] = json.loads(self.file("measured.json").read_bytes())
        return stories

    def numerics(self) -> dict[str, Any]:
        """The numerics of the evaluation; empty for an evaluation made before they were recorded."""
        recorded = self.manifest is not None and any(file.name == NUMERICS for file in self.manifest.files)
        return json.loads(self.file(NUMERICS).read_bytes()) if recorded else {}

    def per_story(self) -> dict[str, StoryScore]:
        """The score of every test story by its id, in the order of the test side."""
        from slm_model.data.parquet import read_table

        names = ["nats", "num_tokens", "num_bytes", "unknown_bytes"]
        table = read_table(self.file("per_story.parquet"), ["id", *names])
        rows = zip(*(table[name].to_pylist() for name in names), strict=True)
        return dict(zip(table["id"].to_pylist(), (StoryScore(*row) for row in rows), strict=True))
