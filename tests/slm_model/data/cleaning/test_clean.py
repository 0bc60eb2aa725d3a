"""Cleaning: every story is kept once or rejected with its reason, and nothing depends on who did the work."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from slm_model.data.cleaning import clean as clean_stage
from slm_model.data.cleaning.clean import clean
from slm_model.data.cleaning.filters import has_markup, reason_to_reject
from slm_model.data.config import CleanConfig
from slm_model.data.lookup import find_raw_story
from slm_model.data.parquet import read_table
from slm_model.data.sources.config import FilesSource, StorygenSource, resolve
from slm_model.data.sources.download import download
from slm_model.data.stories import RawStories, Stories
from slm_model.data.storygen.dirt import dirty_stories
from slm_model.data.storygen.generate import story
from slm_model.errors import UserError
from slm_model.stage_run import StageRun
from slm_model.text.normalise import normalise, repair, story_form
from tests.made_stories import raw_stories

GOOD = "One day, the little dog {} was in the garden with his mom. He saw a big red ball and he was very happy to play."
MAX = GOOD.format("Max")


def kept(stories: Stories) -> list[dict[str, Any]]:
    return [row for part in stories.parts() for row in read_table(part).to_pylist()]


def rejected(stories: Stories) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_table(stories.rejected()).to_pylist()
    return rows


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (MAX, None),
        (MAX.replace(".", "!").replace("happy", "“happy”"), None),
        (MAX + " José was there, and so was his 5 € hat.", None),
        (MAX[:-1] + '."', None),
        (MAX + " The end", None),
        (" \n\u200b ", "empty"),
        ("The end.", "too_short"),
        (MAX * 80, "too_long"),
        (MAX.replace("big", "bi\ufffd"), "damaged"),
        (MAX + "<br>", "markup"),
        (MAX + " <|endoftext|>", "markup"),
        (MAX.replace("mom", "mom &amp; dad"), "markup"),
        (MAX + " See www.stories.com for more.", "markup"),
        ("# A story\n" + MAX, "markup"),
        (MAX.replace("big", "**big**"), "markup"),
        (MAX.replace("He", "{name}"), "markup"),
        ("Жил-был маленький пёс по имени Макс. Он любил играть в саду, и мама была рада. " * 3, "not_english"),
        ("Es war einmal ein kleiner Hund namens Max. Er spielte gern im Garten mit dem roten Ball und war froh. Ende.",
         "not_english"),
        ("Había una vez un perro pequeño llamado Max. Jugaba en el jardín con su madre y la pelota todos los días.",
         "not_english"),
        (MAX[:-1] + " and", "cut_off_end"),
        (MAX + " Then he said,", "cut_off_end"),
        (MAX + " He was very very very happy" + " very happy" * 30 + ".", "repetition"),
        (MAX + " He said no." * 20, "repetition"),
        (MAX + " Lily ran home. She told her mom all about the ball. Her mom ran home. She told her dad.", None),
    ],
)  # fmt: skip
def test_a_story_is_rejected_for_the_first_reason_that_holds(text: str, reason: str | None) -> None:
    assert reason_to_reject(normalise(text), CleanConfig()) == reason


@pytest.mark.parametrize("text", [MAX, MAX + " He was happy :)", MAX + " They smiled 😊", f"[{MAX}]"])
@pytest.mark.parametrize("form", [str, str.upper, str.title])
def test_an_english_story_may_be_in_capitals_and_end_in_a_smile_or_a_bracket(text: str, form: Any) -> None:
    assert reason_to_reject(normalise(form(text)), CleanConfig()) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Es war einmal ein kleiner Hund. Er spielte gern im Garten mit dem Ball. „Wie schön!“", None),
        ("Es war einmal ein kleiner Hund. Er spielte gern im Garten mit dem Ball.\nEnde", None),
        ("Es war einmal ein kleiner Hund. Er spielte gern im Garten mit dem", "cut_off_end"),
        ("Es war einmal ein kleiner Hund.\nEr spielte gern im Garten mit dem roten", "cut_off_end"),
        ("从前有一只小狗，它喜欢在花园里玩球。有一天它找到了一个红色的球，它非常高兴。", None),
        ("从前有一只小狗，它喜欢在花园里玩球。有一天它找到了一个红色的球，它非常", "cut_off_end"),
        ("从前有一只小狗，它喜欢在花园里玩球。" * 4, "repetition"),
        ("كان هناك كلب صغير يحب اللعب في الحديقة. هل كان سعيدا؟", None),
        ("वह एक छोटा कुत्ता था और उसे बगीचे में खेलना पसंद था।", None),
        ("กาลครั้งหนึ่งนานมาแล้วมีสุนัขตัวเล็กตัวหนึ่งชอบเล่นในสวน", None),
        ("从前有一只小狗，<b>它</b>喜欢在花园里玩球。", "markup"),
        ("从前有一只小\ufffd，它喜欢在花园里玩球，非常高兴。", "damaged"),
        (MAX, None),
    ],
)
def test_a_story_of_any_language_is_rejected_for_what_is_no_matter_of_english(text: str, reason: str | None) -> None:
    assert reason_to_reject(normalise(text), CleanConfig(language="any", min_chars=20)) == reason


def test_stories_that_are_all_of_another_language_are_refused_with_the_setting_for_them(tmp_path: Path) -> None:
    text = (
        "Жил-был маленький пёс по имени Макс. Он любил играть в саду, и мама была рада. Однажды он нашёл красный мяч."
    )
    raw = raw_stories(tmp_path / "raw", [text])
    with pytest.raises(UserError, match=r"not_english 1\): .*for stories of another language, --clean.language any"):
        clean(tmp_path / "out", raw, CleanConfig(), StageRun())
    assert clean(tmp_path / "any", raw, CleanConfig(language="any"), StageRun()).facts.language == "any"


def test_each_filter_can_be_turned_off() -> None:
    off = CleanConfig(
        min_chars=1,
        max_chars=10**9,
        reject_cut_off=False,
        reject_markup=False,
        max_foreign_share=1,
        min_common_share=0,
        max_repeated_share=1,
    )
    for text in ("x", "<p>Es war einmal ein Hund", "Жил-был пёс " * 99, GOOD * 200):
        assert reason_to_reject(text, off) is None


def test_lengths_out_of_order_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"min_chars \(9\) must not be greater than max_chars \(8\)"):
        CleanConfig(min_chars=9, max_chars=8)


def test_what_is_kept_is_normal_and_bears_the_hash_of_its_text(tmp_path: Path) -> None:
    found = GOOD.format("Max").replace("happy", "â€œhappyâ€") + "  \n\n The end. "
    [row] = kept(clean(tmp_path / "out", raw_stories(tmp_path / "raw", [found]), CleanConfig(), StageRun()))
    assert row["text"] == normalise(found) and '"happy"' in row["text"]
    assert row["id"] == hashlib.sha256(row["text"].encode()).hexdigest()[:16]
    assert (row["split"], row["repairs"]) == ("train", ["lost_byte", "mojibake"])


def test_stories_that_end_in_the_mark_of_another_tokenizer_are_kept_without_it_and_found_again(tmp_path: Path) -> None:
    raw = raw_stories(tmp_path / "raw", [GOOD.format(name) + "<|endoftext|>" for name in ("Max", "Tom")])
    stories = clean(tmp_path / "out", raw, CleanConfig(), StageRun())
    assert [row["text"] for row in kept(stories)] == [GOOD.format("Max"), GOOD.format("Tom")]
    assert stories.facts.repaired == {"end_mark": 2} and not stories.facts.rejected
    for part, row in zip(stories.parts(), kept(stories), strict=False):
        found = find_raw_story(raw, part, row)
        assert found is not None and found["text"].endswith("<|endoftext|>")


def test_what_is_rejected_is_kept_with_its_reason_and_place(tmp_path: Path) -> None:
    stories = [GOOD.format("Max"), "", GOOD.format("Max ") + " ", "Too short.", GOOD.format("Tom")]
    result = clean(tmp_path / "out", raw_stories(tmp_path / "raw", stories), CleanConfig(), StageRun())
    same = hashlib.sha256(stories[0].encode()).hexdigest()[:16]
    assert [tuple(row.values()) for row in rejected(result)] == [
        ("", "train", "here:1", "empty", None),
        (stories[0], "train", "here:2", "exact_duplicate", same),
        ("Too short.", "train", "here:3", "too_short", None),
    ]
    assert result.facts.rejected == {"empty": 1, "exact_duplicate": 1, "too_short": 1}
    assert [path.name for path in result.parts()] == ["stories-00000.parquet", "stories-00001.parquet"]
    assert sorted(files(tmp_path / "out")) == ["rejected.parquet", "stories-00000.parquet", "stories-00001.parquet"]


def test_of_a_text_far_too_long_the_beginning_is_looked_at_and_kept(tmp_path: Path) -> None:
    config = CleanConfig()
    hostile, padded = "Ã" + "ƒ" * 2_000_000, GOOD.format("Tom") + " " * 100_000
    raw = raw_stories(tmp_path / "raw", [hostile, GOOD.format("Max"), padded])
    began = time.process_time()
    result = clean(tmp_path / "out", raw, config, StageRun())
    assert time.process_time() - began < 20
    assert result.facts.rejected == {"too_long": 1} and result.facts.num_stories == 2
    [row] = rejected(result)
    assert (row["reason"], row["origin"]) == ("too_long", "here:0")
    assert len(row["text"]) <= config.max_chars


LINES = st.text(st.sampled_from("<>/!a1 \n&;#*"), max_size=40)


@given(LINES)
def test_a_tag_is_found_wherever_a_line_has_one(text: str) -> None:
    tag = re.search(r"</?[a-zA-Z!][^\n]*?>|&(?:#\w+|[a-zA-Z]+);|\*\*|^#+ ", text, re.MULTILINE)
    assert has_markup(text) == (tag is not None)


def test_tags_that_do_not_close_take_time_in_proportion_to_their_number() -> None:
    began = time.process_time()
    assert not has_markup("<a" * 100_000)
    assert time.process_time() - began < 5  # looking from each to the end took 200 s


def test_of_equal_stories_the_held_out_one_is_kept_then_the_first_across_parts(tmp_path: Path) -> None:
    a, b, c = (GOOD.format(name) for name in ("Ann", "Ben", "Cat"))
    stories = [a, b, (c, "train"), a, (b, "test"), c, (b, "validation"), (a, "train"), (c, "validation")]
    result = clean(tmp_path / "out", raw_stories(tmp_path / "raw", stories, 2), CleanConfig(), StageRun())
    assert [(row["text"], row["split"]) for row in kept(result)] == [(a, "train"), (b, "test"), (c, "validation")]
    assert result.facts.by_split == {"test": 1, "train": 1, "validation": 1}
    both = CleanConfig(reject_duplicates=False, reject_near_duplicates=False)
    everything = clean(tmp_path / "all", raw_stories(tmp_path / "raw", stories, 2), both, StageRun())
    assert everything.facts.num_stories == len(stories)


def test_counts_reconcile_with_the_rows(tmp_path: Path) -> None:
    config = StorygenSource(num_stories=900, dirt=0.3)
    raw = download(tmp_path / "raw", resolve(config), config, StageRun())
    facts = (result := clean(tmp_path / "out", raw, CleanConfig(), StageRun())).facts
    rows = kept(result)
    assert facts.num_raw == raw.facts.num_stories == len(rows) + len(rejected(result))
    assert facts.num_stories == len(rows) == len({row["id"] for row in rows})
    assert facts.rejected == Counter(row["reason"] for row in rejected(result))
    assert facts.repaired == Counter(kind for row in rows for kind in row["repairs"])
    assert facts.num_bytes == sum(len(row["text"].encode()) for row in rows)
    lengths = sorted(len(row["text"].encode()) for row in rows)
    assert (facts.length_quantiles["0"], facts.length_quantiles["1"]) == (lengths[0], lengths[-1])
    assert facts.length_quantiles["0.5"] == lengths[(len(lengths) - 1) // 2]


def test_planted_dirt_is_found_and_the_truth_restored() -> None:
    """Near duplicates are not looked for here, and a duplicate is no reason to reject a story by itself."""
    for planted in dirty_stories(5, 0, 800, 0.5):
        text = normalise(planted.text)
        reason = reason_to_reject(text, CleanConfig())
        if planted.kind in ("exact_duplicate", "near_duplicate"):
            assert reason is None
        elif planted.clean is None:
            assert reason in ({"empty"} if planted.kind == "empty" else {"cut_off_end", "too_short"}), planted
        else:
            assert (text, reason) == (planted.clean, None)


def test_nearly_all_generated_stories_survive() -> None:
    reasons = Counter(reason_to_reject(normalise(story(7, i)), CleanConfig()) for i in range(400))
    assert reasons[None] >= 0.95 * 400


def test_when_all_stories_are_rejected_the_reasons_are_counted(tmp_path: Path) -> None:
    raw = raw_stories(tmp_path / "raw", ["", "Short.", "Shorter.", ""])
    with pytest.raises(UserError, match=r"all 4 stories were rejected \((empty 2, too_short 2|too_short 2, empty 2)\)"):
        clean(tmp_path / "out", raw, CleanConfig(), StageRun())


def test_held_out_stories_of_which_none_is_kept_are_refused(tmp_path: Path) -> None:
    good = [GOOD.format(i) for i in range(3)]
    raw = raw_stories(tmp_path / "raw", [*good, ("x", "validation"), ("y", "validation")])
    with pytest.raises(UserError, match=r"^all 2 held-out stories were rejected \(too_short 2\): .* hold other"):
        clean(tmp_path / "out", raw, CleanConfig(), StageRun())
    some = raw_stories(tmp_path / "some", [*good, ("x", "validation"), (GOOD.format("four"), "test")])
    assert clean(tmp_path / "kept", some, CleanConfig(), StageRun()).facts.by_split == {"train": 3, "test": 1}


def test_training_stories_that_only_copy_the_held_out_ones_are_refused_with_that_reason(tmp_path: Path) -> None:
    good = [GOOD.format(i) for i in range(3)]
    raw = raw_stories(tmp_path / "raw", [*good, "Short.", *((text, "validation") for text in good)])
    error = r"^all 4 training stories were rejected \(exact_duplicate 3, too_short 1\): 3 of them equal or resemble"
    with pytest.raises(UserError, match=error):
        clean(tmp_path / "out", raw, CleanConfig(), StageRun())


def test_a_story_that_is_too_long_may_be_a_text_without_separators(tmp_path: Path) -> None:
    raw = raw_stories(tmp_path / "raw", [GOOD.format(1) * 1000])
    with pytest.raises(UserError, match=r"all 1 stories were rejected \(too_long 1\): .*--source.separator"):
        clean(tmp_path / "out", raw, CleanConfig(), StageRun())


def test_progress_is_reported(tmp_path: Path) -> None:
    heard: list[tuple[int, Mapping[str, Any]]] = []
    run = StageRun(report=lambda step, values: heard.append((step, values)))
    clean(tmp_path / "out", raw_stories(tmp_path / "raw", [GOOD.format(i) for i in range(7)]), CleanConfig(), run)
    assert heard[-1] == (7, {"parts": 6, "of_parts": 6})


def dirty_raw(folder: Path) -> RawStories:
    return raw_stories(folder, [planted.text for planted in dirty_stories(2, 0, 400, 0.4)], stories_per_part=37)


def test_the_bytes_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    raw = dirty_raw(tmp_path / "raw")
    alone = clean(tmp_path / "alone", raw, CleanConfig(), StageRun())
    for num_workers in (1, 2, 4):
        out = tmp_path / str(num_workers)
        with ProcessPoolExecutor(num_workers) as executor:
            result = clean(out, raw, CleanConfig(), StageRun(executor=executor))
        assert result.facts == alone.facts
        assert files(out) == files(tmp_path / "alone")


def test_the_bytes_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    code = (
        "import sys; import tests.slm_model.data.cleaning.test_clean as t; from pathlib import Path; "
        "t.clean(Path(sys.argv[1]), t.dirty_raw(Path(sys.argv[2])), t.CleanConfig(), t.StageRun())"
    )
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", code, tmp_path / seed, tmp_path / f"raw{seed}"],
            cwd=Path(__file__).parents[4],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
        )
    assert files(tmp_path / "1") == files(tmp_path / "2")


def test_a_killed_run_keeps_the_parts_it_had_cleaned_and_cleans_damaged_ones_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = dirty_raw(tmp_path / "raw")
    clean(tmp_path / "alone", raw, CleanConfig(), StageRun())
    (resume := tmp_path / "resume").mkdir()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(clean_stage, "find_duplicates", killed)
        clean(tmp_path / "killed", raw, CleanConfig(), StageRun(resume=resume))
    torn, flipped, sketches, gone = (
        resume / name for name in ("cleaned-00001.arrow", "cleaned-00002.arrow", "sketches-00003.npy", "seal-00004.txt")
    )
    torn.write_bytes(torn.read_bytes()[:-100])
    for path in (flipped, sketches):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    gone.write_bytes(b"")

    seen: list[str] = []
    monkeypatch.setattr(clean_stage, "story_form", lambda text: seen.append(text) or story_form(text))
    clean(tmp_path / "again", raw, CleanConfig(), StageRun(resume=resume))
    assert len(seen) == 4 * 37
    assert files(tmp_path / "again") == files(tmp_path / "alone")


class Killed(Exception):
    pass


def killed(*_: object) -> None:
    raise Killed


def test_the_genuine_stories_come_out_clean(tmp_path: Path) -> None:
    folder = os.environ.get("SLM_SAMPLE_DIR")
    if not folder:
        pytest.skip("SLM_SAMPLE_DIR names no folder with genuine stories")
    config = FilesSource(path=folder)
    raw = download(tmp_path / "raw", resolve(config), config, StageRun())
    result = clean(tmp_path / "out", raw, CleanConfig(), StageRun())
    facts = result.facts
    assert facts.num_raw == raw.facts.num_stories == 8999
    assert facts.num_stories > 0.99 * facts.num_raw
    assert {"cut_off_end", "exact_duplicate", "too_short"} == set(facts.rejected)
    assert min(facts.repaired.values()) > 100
    for row in kept(result):
        assert not re.search(r"â€|Ã.|Â|[‘’“”–—…\xa0\x80-\x9f]|  | \n|\n ", row["text"])
        assert repair(row["text"])[1] == ()
    held_out = {row["text"] for row in kept(result) if row["split"] != "train"}
    assert not held_out & {row["text"] for row in kept(result) if row["split"] == "train"}
