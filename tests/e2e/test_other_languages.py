"""A German and a Chinese corpus become a model, with the settings of docs/how-to/other-languages.md."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from slm_model.data.stories import Stories
from tasks.engine.store import Store
from tests.e2e.conftest import SMALL, run_slm

pytestmark = pytest.mark.slow

GERMAN = [
    "Es war einmal ein {kleiner|großer|müder|fröhlicher} {Hund|Bär|Fuchs|Hase} namens {Max|Otto|Emil|Jürgen}.",
    "Er wohnte {im Wald|am Fluss|auf dem Hügel|in einem Häuschen} bei {seiner Mutter|seinem Opa|den Vögeln}.",
    "Eines {Tages|Morgens|Abends} fand er {einen Ball|eine Tür|ein Boot|einen Schlüssel} {im Gras|unter dem Bett}.",
    "„{Wem gehört das|Was ist das|Wo kommt das her}?“, fragte {die Maus|der Igel|die Eule}.",
    "Sie {spielten|sangen|liefen|tanzten} {den ganzen Tag|bis zum Abend|im Regen} und {lachten|freuten sich} sehr.",
    "Dann {gingen sie nach Hause|schliefen sie ein|aßen sie Kuchen}{.|!|. 😊}",
]
CHINESE = [
    "从前有一只{小|大|白|黑}{狗|猫|熊|兔子}，名叫{乐乐|豆豆|毛毛|星星}。",
    "它住在{森林里|河边|山上|小屋里}，和{妈妈|爷爷|小鸟}在一起。",
    "有一天，它在{草地上|床底下|树后面}找到了{一个球|一扇门|一条船|一把钥匙}。",
    "“{这是谁的|这是什么|它从哪里来}？”{老鼠|刺猬|猫头鹰}问。",
    "它们{玩|唱歌|跑步|跳舞}了{一整天|很久|一个下午}，非常{高兴|快乐}。",
    "最后，它们{回家了|睡着了|一起吃蛋糕}{。|！|。😊}",
]


def stories(templates: list[str], num: int) -> list[str]:
    chance = random.Random(1)

    def filled(template: str) -> str:
        while "{" in template:
            before, _, rest = template.partition("{")
            choices, _, after = rest.partition("}")
            template = before + chance.choice(choices.split("|")) + after
        return template

    blank = "" if templates is CHINESE else " "
    return [blank.join(map(filled, templates)) for _ in range(num)]


@pytest.mark.parametrize(
    ("templates", "settings", "prompt"),
    [(GERMAN, [], "Es war einmal"), (CHINESE, ["--clean.min-chars", "20"], "从前")],
    ids=["german", "chinese"],
)
def test_a_corpus_of_another_language_becomes_a_model(
    templates: list[str], settings: list[str], prompt: str, tmp_path: Path
) -> None:
    texts = stories(templates, 500)
    lines = (json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    (tmp_path / "stories.jsonl").write_text("\n".join(lines), encoding="utf-8")
    artifacts = tmp_path / "artifacts"
    words = ["run", "sample", "--source.path", "stories.jsonl", "--clean.language", "any", *settings, *SMALL[2:]]
    assert run_slm(artifacts, *words[:4], "--until", "clean").returncode == 2  # none of it is English
    done = run_slm(artifacts, *words, "--release.model-name", "told")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "told/1 is champion" in done.stdout
    assert "Once upon" not in done.stdout and "minimal pairs" not in done.stdout
    assert "slm generate --model told" in done.stdout

    [folder] = [path for path in (artifacts / "clean").iterdir() if (path / "manifest.json").exists()]
    facts = Stories.open(Store(artifacts).folder("clean", folder.name)).facts
    assert facts.language == "any" and set(facts.rejected) <= {"near_duplicate", "exact_duplicate"}
    generated = run_slm(artifacts, "generate", prompt, "--model", "told", "--max-tokens", "30")
    assert generated.returncode == 0 and generated.stdout.startswith(prompt) and len(generated.stdout) > 10
