"""The story at the head of the README is what a shell really said, and its picture shows what a terminal would."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

from docs.record_story import CAST, STORY, Scene, frames, picture, read, record, written

SVG = "{http://www.w3.org/2000/svg}"


def said(cast: list[tuple[float, str]]) -> str:
    """All that was shown, without its colours."""
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", "".join(text for _, text in cast))


def test_what_is_typed_is_carried_out_and_long_answers_are_played_faster(tmp_path: Path) -> None:
    folder = tmp_path / "clone"
    folder.mkdir()
    scenes = [Scene("echo $((6 * 7)) > answer; sleep 8; cat answer", "A caption", at_most=0.1, read=0.0)]
    cast = record(scenes, folder)
    assert (folder / "answer").read_text() == "42\n"
    assert "# A caption" in said(cast) and re.search(r"\s42\r\n", said(cast))
    times = [at for at, _ in cast]
    assert times == sorted(times) and times[-1] < 6


def test_a_scene_is_stopped_where_it_says_and_what_it_ran_can_be_killed(tmp_path: Path) -> None:
    folder = tmp_path / "clone"
    folder.mkdir()
    scenes = [
        # exec: a shell stopped while it starts a child (vfork) waits for it in the kernel, and never stops itself
        Scene("sh -c 'expr 40 + 2; exec sleep 300'", stop_at="42"),
        Scene("kill -9 %1; sleep 2"),
        Scene("jobs; echo over"),
    ]
    assert re.search(r"Stopped.*Killed.*over", said(record(scenes, folder)), re.S)


def test_a_cast_is_drawn_with_its_colours_as_it_stood(tmp_path: Path) -> None:
    shown = ["one <&> \x1b[32mgreen\x1b[0m\r\n", "\x1b[2mdim\x1b[0m", "\r\x1b[Kgone", ""]
    (tmp_path / "story.cast").write_text(written([(float(at), text) for at, text in enumerate(shown)]))
    cast = read(tmp_path / "story.cast")
    drawn = ET.fromstring(picture(cast))
    texts = {text.text: text.get("fill") for text in drawn.iter(f"{SVG}text")}
    assert set(texts) == {"one <&>", "green", "dim", "gone"}
    assert len(set(texts.values())) == 3, "ink, green and grey"
    assert [sum(map(bool, rows)) for _, rows in frames(cast)] == [1, 2, 2, 2, 0]


def test_the_story_that_is_kept_is_that_of_the_script_and_lasts_less_than_a_minute() -> None:
    cast = read(CAST)
    assert cast[-1][0] < 60
    shown = said(cast)
    assert all(scene.caption in shown for scene in STORY)
    weights = re.findall(r"\b([0-9a-f]{32})  (artifacts|elsewhere)/train/", shown)
    undisturbed = [digest for digest, root in weights if root == "elsewhere"]
    assert len(weights) == 3 and len(undisturbed) == 1 and (undisturbed[0], "artifacts") in weights
