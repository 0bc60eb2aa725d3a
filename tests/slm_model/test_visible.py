"""Text that is not ours, made fit to be printed."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from slm_model.errors import ArtifactDamaged, UserError
from slm_model.visible import one_line, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("title\x1b]0;evil\x07", r"title\x1b]0;evil\x07"),
        ("over\rwritten\b", r"over\rwritten\x08"),
        ("C1\x9b31m", r"C1\x9b31m"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("half \ud800 a pair", r"half \ud800 a pair"),
        ("tag\U000e0041", r"tag\U000e0041"),
        ("two\u2028lines", r"two\u2028lines"),
    ],
)
def test_what_commands_a_terminal_or_hides_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize("text", ["Tom said: “Hé, 你好!”\n\tنعم ✓ 👩\u200d🚀", "می\u200cخواهم", "a\xa0b"])
def test_ordinary_text_of_any_script_remains(text: str) -> None:
    assert visible(text) == text


def test_a_message_is_one_line_whose_end_survives_a_cut() -> None:
    message = one_line("keys: " + ", ".join(f"'k{i}'" for i in range(200_000)) + "\n: name the right one")
    assert len(message) < 1100
    assert message.startswith("keys: 'k0', 'k1'")
    assert message.endswith(": name the right one")
    assert "characters left out" in message


def test_hostile_characters_do_not_make_a_cut_message_long() -> None:
    assert len(one_line("\U000e0041" * 10_000)) < 11_000


@pytest.mark.parametrize("error", [UserError("a\nb \x1b[2J" + "x" * 5000), ArtifactDamaged(Path("f"), "a\nb \x1b[2J")])
def test_our_errors_are_one_visible_line_in_every_process(error: Exception) -> None:
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert "a b \\x1b[2J" in str(one)
        assert str(one).isprintable()
        assert len(str(one)) < 1100
