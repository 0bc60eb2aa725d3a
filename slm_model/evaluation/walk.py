"""One real story followed through the whole pipeline, from the source's bytes to the loss of each of its tokens."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm_model.checkpoint import Checkpoint
from slm_model.data.lookup import find_raw_story, find_story, ids_starting_with
from slm_model.data.parquet import read_batches
from slm_model.data.stories import SPLITS, RawStories, Split, Splits, Stories
from slm_model.errors import UserError
from slm_model.evaluation.walk_page import WalkFacts, WalkPage
from slm_model.generation.config import SamplingConfig, Story
from slm_model.record import Record
from slm_model.reporting.markdown import blocks, quote, table
from slm_model.shards.token_shards import TokenShards
from slm_model.stage_run import StageRun
from slm_model.text.sentences import first_sentence
from slm_model.tokenizer.kinds import kind_of
from slm_model.tokenizer.vocab import Vocab

if TYPE_CHECKING:
    from rich.console import Group

BATCH_COLUMNS = 12
FULL_BAR = 8.0  # nats: a loss of this or more fills its bar


class WalkToken(Record):
    """A token of the story; ``nats``: its loss, None for the beginning mark, which is not predicted."""

    id: int
    token: str  # in print
    nats: float | None


class Walk(Record):
    """What each stage made of one story."""

    story_id: str
    origin: str | None  # where the source has it; None: not found there
    raw: str | None
    cleaned: str
    repairs: list[str]
    side: Split
    tokenizer: str  # kind
    vocab_size: int
    tokens: list[WalkToken]  # the marks included
    loss: float  # nats a token
    bits_per_byte: float
    told: Story  # what the model generates after the first sentence


def walk(
    raw: RawStories,
    stories: Stories,
    splits: Splits,
    vocab: Vocab,
    shards: TokenShards,
    model: Checkpoint,
    story_id: str | None = None,
) -> Walk:
    """Follow a story: the one whose id begins with ``story_id``. Without it, the first test story that was repaired, or
    the first one.

    Raises UserError if no story, or more than one, has such an id.
    """
    from slm_model.evaluation.bits_per_byte import StoryScore, bits_per_byte
    from slm_model.evaluation.scoring import score_tokens
    from slm_model.generation.generator import Generator

    side, story_id = _find_in_splits(splits, story_id or _default_story(stories, splits))
    part, cleaned = _row(stories.parts(), story_id)
    found = find_raw_story(raw, part, cleaned)
    _, encoded = _row(shards.files(f"{side}-"), story_id)
    network, tokenizer = model.load()
    kind: str = vocab.facts.kind
    tokens, unknown_bytes = encoded["tokens"], encoded["unknown_bytes"]
    if model.config().tokenizer_sha256 != vocab.facts.tokenizer_sha256:  # a model with a vocabulary of its own
        kind = kind_of(json.loads(tokenizer.to_json()))
        tokens = [tokenizer.bos_id, *tokenizer.encode(cleaned["text"]), tokenizer.eos_id]
        unknown_bytes = tokenizer.unknown_bytes(cleaned["text"])
    [scored] = score_tokens(network, [tokens])
    total = StoryScore(float(scored.nats.sum()), len(scored.nats), encoded["num_bytes"], unknown_bytes)
    opening = first_sentence(cleaned["text"])
    return Walk(
        story_id=story_id,
        origin=raw.facts.in_words(found["origin"]) if found else None,
        raw=found["text"] if found else None,
        cleaned=cleaned["text"],
        repairs=cleaned["repairs"],
        side=side,
        tokenizer=kind,
        vocab_size=tokenizer.vocab_size,
        tokens=[
            WalkToken(id=index, token=tokenizer.token(index), nats=nats)
            for index, nats in zip(tokens, [None, *scored.nats.tolist()], strict=True)
        ],
        loss=total.nats / total.num_tokens,
        bits_per_byte=bits_per_byte([total]),
        told=Generator(network, tokenizer).generate([opening], SamplingConfig(max_tokens=120))[0],
    )


def to_markdown(walk: Walk) -> str:
    """The walk as a page to read: quotes for texts, a table for the batch, blocks for the losses."""
    shown = [_code(token.token) for token in walk.tokens[: BATCH_COLUMNS + 1]]
    inputs, targets = shown[:-1], shown[1:]
    repaired = f"Repaired: {', '.join(walk.repairs)}." if walk.repairs else "Nothing had to be repaired."
    bars = [f"{_bar(token.nats)} {token.nats:6.3f}  {token.token}" for token in walk.tokens if token.nats is not None]
    page = blocks(
        f"# A story's walk: {walk.story_id}",
        "## As found",
        "Not found among the raw stories." if walk.raw is None else blocks(f"In `{walk.origin}`:", quote(walk.raw)),
        "## As cleaned",
        f"{repaired} Its id is the hash of this text:",
        quote(walk.cleaned),
        "## Its side",
        f"**{walk.side}**, decided by its source and that hash alone.",
        "## As tokens",
        f"{len(walk.tokens)} tokens of a vocabulary of {walk.vocab_size:,} ({walk.tokenizer}), the marks included:",
        " ".join(_code(f"{token.token} {token.id}") for token in walk.tokens),
        "## As the network reads it",
        "From each input, and all before it, the network predicts the target below it:",
        table(("position", *map(str, range(len(inputs)))), [("input", *inputs), ("target", *targets)]),
        "## What each token cost",
        f"{walk.loss:.3f} nats a token, {walk.bits_per_byte:.3f} bits per byte. A full block is {FULL_BAR:.0f} nats "
        "or more:",
        "\n".join(["```text", *bars, "```"]),
        "## What the model makes of its first sentence",
        f"{quote(walk.told.prompt, '**')}\n>\n{quote(walk.told.text[len(walk.told.prompt) :].lstrip())}",
    )
    return f"{page}\n"


def to_rich(walk: Walk) -> Group:
    """The walk for a terminal: losses are colours, from green for a likely token to red for an unlikely one."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    coloured = Text()
    for token in walk.tokens:
        text = token.token.replace("␣", " ").replace("\\n", "\n")
        coloured.append(text, f"rgb(0,0,0) on {_colour(token.nats)}" if token.nats is not None else "dim")
    story = Text(walk.told.prompt, "bold")
    story.append(walk.told.text[len(walk.told.prompt) :], "not bold")
    ids = Text(" ").join(Text(token.token).append(f" {token.id}", "dim") for token in walk.tokens)
    panels = {
        f"as found: {walk.origin}": Text(walk.raw if walk.raw is not None else "not found among the raw stories"),
        f"as cleaned; repaired: {', '.join(walk.repairs) or 'nothing'}": Text(walk.cleaned),
        f"{walk.side} side; {len(walk.tokens)} tokens": ids,
        f"cost: {walk.loss:.3f} nats a token, {walk.bits_per_byte:.3f} bits per byte": coloured,
        "what the model makes of its first sentence": story,
    }
    return Group(*(Panel(text, title=Text(title), title_align="left") for title, text in panels.items()))


def _default_story(stories: Stories, splits: Splits) -> str:
    tests = list(splits.ids("test"))
    repaired: set[str] = set()
    for part in stories.parts():
        for batch in read_batches(part, ["id", "repairs"]):
            rows = zip(batch["id"].to_pylist(), batch["repairs"].to_pylist(), strict=True)
            repaired.update(story_id for story_id, repairs in rows if repairs)
    return next((story_id for story_id in tests if story_id in repaired), tests[0])


def _find_in_splits(splits: Splits, beginning: str) -> tuple[Split, str]:
    """Split and id of the only story whose id begins so."""
    found = [(side, story_id) for side in SPLITS for story_id in ids_starting_with(splits.parts(side), beginning)]
    if not found:
        raise UserError(f"no story's id begins with {beginning!r}: give that of one that the split stage has kept")
    if len(found) > 1:
        raise UserError(f"{len(found):,} stories' ids begin with {beginning!r}, one is {found[0][1]}: give more of it")
    return found[0]


def _row(parts: list[Path], story_id: str) -> tuple[Path, dict[str, Any]]:
    found = find_story(parts, story_id)
    assert found is not None, f"story {story_id}, which the split has, is in none of {[part.name for part in parts]}"
    return found


def _code(text: str) -> str:
    """Text as it is, in a code span: fenced by more backticks than it has itself."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def _bar(nats: float) -> str:
    """Eight characters wide: so many blocks, and the last one as full as the rest."""
    eighths = round(min(nats, FULL_BAR) / FULL_BAR * 64)
    return ("█" * (eighths // 8) + (" ▏▎▍▌▋▊▉"[eighths % 8] if eighths % 8 else "")).ljust(8)


def _colour(nats: float) -> str:
    share = min(nats, FULL_BAR) / FULL_BAR
    return f"rgb({round(120 + 135 * share)},{round(220 - 130 * share)},{round(130 - 60 * share)})"


def follow_one(
    out: Path,
    raw: RawStories,
    stories: Stories,
    splits: Splits,
    vocab: Vocab,
    shards: TokenShards,
    model: Checkpoint,
    run: StageRun,
) -> WalkPage:
    """Follow the first repaired test story; where none was repaired, the first."""
    out.mkdir(parents=True, exist_ok=True)
    walked = walk(raw, stories, splits, vocab, shards, model)
    (out / "walk.md").write_text(to_markdown(walked), encoding="utf-8")
    (out / "walk.json").write_text(walked.model_dump_json(indent=1) + "\n", encoding="utf-8")
    facts = WalkFacts(story_id=walked.story_id, side=walked.side, bits_per_byte=walked.bits_per_byte)
    return WalkPage(out, facts)
