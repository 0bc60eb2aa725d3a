"""A pipeline of three small stages, written below a folder, so that a test can edit its code and run it for real.

    numbers -> doubled -> total        doubled reads everything that numbers left

As a program it runs the pipeline in a process of its own: ``python toy.py ROOT NAME [COUNT]``.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from slm_model.artifact import Artifact
from slm_model.config import Config
from tasks.engine.code_digest import CodeBase
from tasks.engine.placement import Placement
from tasks.engine.run_or_reuse import Engine
from tasks.engine.stage import Outcome, Stage, load
from tasks.engine.store import Store

REPOSITORY = Path(__file__).parents[3]
HASH_UP_TO = 1000  # bytes: big.bin is larger, numbers.txt smaller

SOURCES = {
    "__init__": "",
    "settings": """
from pydantic import Field
from slm_model.config import Config

class NumbersConfig(Config):
    count: int = Field(3, ge=1, description="How many numbers.")
    seed: int = Field(0, description="The first number.")

class DoubledConfig(Config):
    factor: int = Field(2, description="What each number is multiplied by.")

class TotalConfig(Config):
    pass
""",
    "artifacts": """
from dataclasses import dataclass
from typing import ClassVar
from slm_model.artifact import Artifact, Facts

class CountFacts(Facts):
    count: int

@dataclass(frozen=True)
class Numbers(Artifact):
    facts: CountFacts
    stage: ClassVar[str] = "numbers"
    facts_type: ClassVar[type[Facts]] = CountFacts

class Doubled(Numbers):
    stage: ClassVar[str] = "doubled"

class Total(Numbers):
    stage: ClassVar[str] = "total"
""",
    "record": """
from pathlib import Path

def record(line):
    with (Path(__file__).parents[1] / "ran.log").open("a") as file:
        file.write(line + "\\n")
""",
    "deep": """
def shift(number, by):
    return number + by
""",
    "near": """
def numbers(count, seed):
    from PACKAGE.deep import shift
    return [shift(i, seed) for i in range(count)]
""",
    "numbers": """
import os, time
from pathlib import Path
from PACKAGE.artifacts import CountFacts, Numbers
from PACKAGE.near import numbers
from PACKAGE.record import record

def make(out, config, run):
    record("numbers" + "".join(" resumed from " + p.name for p in sorted(run.resume.iterdir())))
    (out / "numbers.txt").write_text("".join(f"{n}\\n" for n in numbers(config.count, config.seed)))
    (run.resume / "half-way").write_text("numbers.txt is written")
    hang = Path(__file__).parents[1] / f"hang-{config.count}"
    if hang.exists():
        hang.with_name("hanging").touch()
        while hang.exists():
            time.sleep(0.01)
    (out / "big.bin").write_bytes(bytes(range(256)) * 16)
    (out / "observations").mkdir()
    (out / "observations" / "clock.txt").write_text(str(time.time_ns()))
    return Numbers(out, CountFacts(count=config.count))
""",
    "doubled": """
from PACKAGE.artifacts import CountFacts, Doubled
from PACKAGE.record import record

def make(out, numbers, config, run):
    record("doubled")
    assert len(numbers.file("big.bin").read_bytes()) == 4096
    lines = numbers.file("numbers.txt").read_text().split()
    (out / "doubled.txt").write_text("".join(f"{int(n) * config.factor}\\n" for n in lines))
    return Doubled(out, CountFacts(count=len(lines)))
""",
    "total": """
from PACKAGE.artifacts import CountFacts, Total
from PACKAGE.record import record

def make(out, doubled, config, run):
    record("total")
    lines = doubled.file("doubled.txt").read_text().split()
    (out / "total.txt").write_text(str(sum(map(int, lines))))
    return Total(out, CountFacts(count=len(lines)))
""",
}


class Toy:
    """The package ``name`` below ``root``, its stages, and their artifacts in ``root/artifacts``."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name

    def write(self) -> Toy:
        for module, text in SOURCES.items():
            self.source(module).parent.mkdir(parents=True, exist_ok=True)
            self.source(module).write_text(text.replace("PACKAGE", self.name).lstrip())
        return self

    def source(self, module: str) -> Path:
        return self.root.joinpath(self.name, *module.split(".")).with_suffix(".py")

    def edit(self, module: str, old: str, new: str) -> None:
        text = self.source(module).read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {module}"
        self.source(module).write_text(text.replace(old, new))

    def at_the_start(self, *statements: str) -> None:
        """Have the numbers stage begin with these statements."""
        self.edit("numbers", 'record("numbers"', "\n    ".join([*statements, 'record("numbers"']))

    def at_half_way(self, *statements: str, imports: str = "") -> None:
        """Have the numbers stage run these statements when it has written its first file."""
        line = '(run.resume / "half-way").write_text("numbers.txt is written")'
        self.edit("numbers", line, "\n    ".join(statements))
        self.edit("numbers", "import os, time", f"import os, time\n{imports}")

    def engine(self, **placement: Any) -> Engine:
        """What a new process has: the code as it is on disk now, none of it loaded."""
        for module in [m for m in sys.modules if m.partition(".")[0] == self.name]:
            del sys.modules[module]
        importlib.invalidate_caches()
        store = Store(self.root / "artifacts", hash_up_to=HASH_UP_TO)
        return Engine(store, CodeBase(self.root, (self.name,)), Placement(**placement))

    def stage(self, name: str) -> Stage[Any]:
        return Stage(name, f"{self.name}.{name}:make", f"{self.name}.artifacts:{name.title()}", headline=str)

    def config(self, name: str, **settings: Any) -> Config:
        made: Config = load(f"{self.name}.settings:{name}")(**settings)
        return made

    def numbers(self, engine: Engine, **settings: Any) -> Outcome[Any]:
        return engine.run(self.stage("numbers"), self.config("NumbersConfig", **settings))

    def doubled(self, engine: Engine, numbers: Artifact, **settings: Any) -> Outcome[Any]:
        return engine.run(self.stage("doubled"), numbers, self.config("DoubledConfig", **settings))

    def total(self, engine: Engine, doubled: Artifact) -> Outcome[Any]:
        return engine.run(self.stage("total"), doubled, self.config("TotalConfig"))

    def walk(self, engine: Engine | None = None, factor: int = 2, **settings: Any) -> list[Outcome[Any]]:
        """The whole pipeline."""
        engine = engine or self.engine()
        numbers = self.numbers(engine, **settings)
        doubled = self.doubled(engine, numbers.artifact, factor=factor)
        return [numbers, doubled, self.total(engine, doubled.artifact)]

    def ran(self) -> list[str]:
        """The stages whose functions have run since this was last asked."""
        log = self.root / "ran.log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def folders(self, stage: str) -> list[str]:
        """What stands in a stage's folder, locks left out."""
        folder = self.root / "artifacts" / stage
        return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.exists() else []

    def process(self, *args: str) -> subprocess.Popen[str]:
        """Run the numbers stage in another process; it prints whether it was cached, and its digest."""
        command = [sys.executable, "-m", __name__, str(self.root), self.name, *args]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())


def flip(path: Path, position: int = 0, bit: int = 0) -> None:
    """Flip one bit, and put the times back; size and inode stay."""
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_ino == stat.st_ino


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with our packages to be found and no bytecode written."""
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"} | more


def main() -> None:
    root, name, *settings = sys.argv[1:]
    sys.path.insert(0, root)
    toy = Toy(Path(root), name)
    engine = toy.engine()
    print("ready", flush=True)
    while not (toy.root / "go").exists():
        time.sleep(0.002)
    outcome = toy.numbers(engine, count=int(settings[0]) if settings else 3)
    print(json.dumps({"cached": outcome.cached, "digest": outcome.artifact.digest}))


if __name__ == "__main__":
    main()
