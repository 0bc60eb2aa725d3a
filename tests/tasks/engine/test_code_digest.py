"""What a stage's key says of the code: every edit that can change a byte, and none of those that cannot."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.engine import code_digest
from tasks.engine.code_digest import FORMATTED, CodeBase, ImportNotFollowed, digest_of, library_version

REPOSITORY = Path(__file__).parents[3]
GOLDEN = REPOSITORY / "tests" / "golden" / "every_syntax.txt"
GOLDEN_DIGEST = "24433cafd4f512d8144687611699675f229bc2866ee34e85bf07232ace0ca285"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write modules of the package ``toy``, given by name with ``__`` for a dot, and get the root."""

    def write(**modules: str) -> Path:
        for name, text in {"__init__": "", **modules}.items():
            path = tmp_path.joinpath("toy", *name.replace("__init__", "\0").split("__")).with_suffix(".py")
            path = path.with_name(path.name.replace("\0", "__init__"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return write


def code(root: Path, *roots: str) -> dict[str, str]:
    return CodeBase(root, ("toy",)).closure(roots or ("toy.stage",)).code


def libraries(root: Path) -> dict[str, str]:
    return CodeBase(root, ("toy",)).closure(["toy.stage"]).libraries


def digest(text: str) -> str:
    return digest_of(ast.parse(text))


PROSE = {
    "a comment": ("x = 1", "x = 1  # one"),
    "formatting": ("f(a, b)", "f(\n    a,\n    b,\n)"),
    "quotes": ("x = 'a'", 'x = "a"'),
    "parentheses": ("x = a + b", "x = (a + b)"),
    "a prefix that says nothing": ("x = 'a'", "x = u'a'"),
    "line ends": ("x = '''a\nb'''\n", "x = '''a\r\nb'''\r\n"),
    "a module's docstring": ("x = 1", "'''Ones.'''\nx = 1"),
    "a class's docstring": ("class A:\n    x = 1", "class A:\n    '''A.'''\n    x = 1"),
    "a function's docstring": ("def f():\n    return 1", "def f():\n    '''One.'''\n    return 1"),
    "a coroutine's docstring": ("async def f():\n    return 1", "async def f():\n    '''One.'''\n    return 1"),
    "text after an attribute": ("class A:\n    x = 1", "class A:\n    x = 1\n    '''The first.'''"),
    "a description": ("x = Field(1, ge=0)", "x = Field(1, ge=0, description='One.', title='X', examples=[1])"),
    "a description of pydantic's": ("x = pydantic.Field(1)", "x = pydantic.Field(1, description='One.')"),
    "a setting's default": ("class A(Config):\n    x: int = 1", "class A(Config):\n    x: int = Field(2, ge=0)"),
    "a setting more": ("class A(NetworkConfig):\n    x: int", "class A(NetworkConfig):\n    x: int\n    y: int"),
}

CODE = {
    "a number": ("x = 1", "x = 2"),
    "a number's type": ("x = 1", "x = 1.0"),
    "a number's sign": ("x = 0.0", "x = -0.0"),
    "a truth": ("x = 1", "x = True"),
    "nothing for something": ("x = None", "x = ..."),
    "an operator": ("x = a + b", "x = a - b"),
    "a comparison": ("x = a < b", "x = a <= b"),
    "a name": ("x = a", "x = b"),
    "an order": ("f()\ng()", "g()\nf()"),
    "a nesting": ("if a:\n    f()\ng()", "if a:\n    f()\n    g()"),
    "a branch": ("if a:\n    f()", "if a:\n    pass\nelse:\n    f()"),
    "a decorator": ("def f(): pass", "@g\ndef f(): pass"),
    "a default": ("def f(x=1): pass", "def f(x=2): pass"),
    "whose default it is": ("def f(x, y=1): pass", "def f(x, *, y=1): pass"),
    "text that is used": ("x = 'a'", "x = 'b'"),
    "text that is returned": ("def f():\n    '''a'''\n    return 'a'", "def f():\n    '''a'''\n    return 'b'"),
    "text and bytes": ("x = 'a'", "x = b'a'"),
    "where text ends": ("x = 'a', 'b'", "x = 'a\\0str b'"),
    "a conversion": ("x = f'{a}'", "x = f'{a!r}'"),
    "a format": ("x = f'{a:>{w}}'", "x = f'{a:<{w}}'"),
    "an asynchronous loop": ("async def f():\n    [x for x in a]", "async def f():\n    [x async for x in a]"),
    "a bound outside a config": ("class A(Facts):\n    x: int = Field(1)", "class A(Facts):\n    x: int = Field(2)"),
    "another's description": ("x = Column(description='a')", "x = Column(description='b')"),
    "a dataclass's default": ("class A:\n    x: int = 1", "class A:\n    x: int = 2"),
    "a config's method": (
        "class A(Config):\n    def f(self):\n        return 1",
        "class A(Config):\n    def f(self):\n        return 2",
    ),
    "a config's validator": (
        "class A(Config):\n    x: int",
        "class A(Config):\n    x: int\n    @v\n    def f(self): pass",
    ),
    "a config's class variable": (
        "class A(Config):\n    x: ClassVar[int] = 1",
        "class A(Config):\n    x: ClassVar[int] = 2",
    ),
    "a config's private attribute": (
        "class A(Config):\n    _x: int = PrivateAttr(1)",
        "class A(Config):\n    _x: int = PrivateAttr(2)",
    ),
    "a config's base": ("class A(Config): pass", "class A(OtherConfig): pass"),
}


@pytest.mark.parametrize(("before", "after"), PROSE.values(), ids=PROSE)
def test_what_cannot_change_a_byte_is_not_in_the_digest(before: str, after: str) -> None:
    assert digest(before) == digest(after)


@pytest.mark.parametrize(("before", "after"), CODE.values(), ids=CODE)
def test_what_can_change_a_byte_is_in_the_digest(before: str, after: str) -> None:
    assert digest(before) != digest(after)


def test_every_statement_of_a_real_module_is_in_its_digest() -> None:
    tree = ast.parse((REPOSITORY / "tasks" / "engine" / "store.py").read_bytes())
    whole = digest_of(tree)
    counted = 0
    for node in ast.walk(tree):
        for name, block in ast.iter_fields(node):
            for i, statement in enumerate(block if isinstance(block, list) else []):
                if isinstance(statement, ast.stmt) and not code_digest._is_text(statement):
                    setattr(node, name, [*block[:i], *block[i + 1 :]])
                    assert digest_of(tree) != whole, f"line {statement.lineno} can go unseen"
                    setattr(node, name, block)
                    counted += 1
    assert digest_of(tree) == whole
    assert counted > 80


def our_modules() -> list[Path]:
    return sorted(path for top in ("slm_model", "tasks") for path in (REPOSITORY / top).rglob("*.py"))


def test_a_module_printed_anew_by_python_keeps_its_digest() -> None:
    for path in our_modules():
        tree = ast.parse(path.read_bytes())
        assert digest_of(ast.parse(ast.unparse(tree))) == digest_of(tree), path


def interpreter(version: str) -> str:
    """A Python of that version, or a skip."""
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [*sorted(pyenv.glob(f"{version}.*/bin/python")), shutil.which(f"python{version}")]
    if not found[0]:
        pytest.skip(f"there is no Python {version} here")
    return str(found[0])


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_every_python_gives_the_same_digests(version: str) -> None:
    sources = {str(path): path.read_text(encoding="utf-8") for path in [GOLDEN, *our_modules()]}
    program = (
        "import ast, json, sys; from tasks.engine.code_digest import digest_of;"
        "print(json.dumps({name: digest_of(ast.parse(text)) for name, text in json.load(sys.stdin).items()}))"
    )
    done = subprocess.run(
        [interpreter(version), "-Bc", program],
        check=False,
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"]},
        input=json.dumps(sources),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: digest(text) for name, text in sources.items()}


def test_the_digest_of_all_syntax_is_what_it_was() -> None:
    """A change here gives every artifact of everyone a new key: let it be meant."""
    assert digest(GOLDEN.read_text(encoding="utf-8")) == GOLDEN_DIGEST


def test_the_golden_source_holds_all_syntax() -> None:
    """But for what the oldest Python that we support cannot read."""
    used = {kind for node in ast.walk(ast.parse(GOLDEN.read_text(encoding="utf-8"))) for kind in type(node).__mro__}
    families = (ast.stmt, ast.expr, ast.pattern, ast.operator, ast.unaryop, ast.cmpop, ast.boolop)
    unused = {kind.__name__ for family in families for kind in family.__subclasses__() if kind not in used}
    assert unused <= {"TypeAlias", "TemplateStr", "Interpolation"}


def test_an_edited_helper_two_imports_away_changes_the_closure(write: Write) -> None:
    root = write(stage="from toy.near import f", near="from toy.far import g\nf = g", far="def g(): return 1")
    before = code(root)
    assert list(before) == ["toy.far", "toy.near", "toy.stage"]
    write(far="def g():\n    # the same\n    return 1")
    assert code(root) == before
    write(far="def g(): return 2")
    assert {name for name in before if code(root)[name] != before[name]} == {"toy.far"}


CONFIGS = """
from pydantic import Field
from slm_model.config import Config

class BaseConfig(Config):
    seed: int = 0

class PartConfig(BaseConfig):
    share: float = Field(0.5, description="A share.")

class WholeConfig(Config):
    part: PartConfig = Field(PartConfig())
    size: int = 1

class OtherConfig(Config):
    size: int = 7
"""
DEFAULT_EDITS = {
    "its own default": (CONFIGS.replace("size: int = 1", "size: int = 2"), True),
    "the default of a config in its fields": (CONFIGS.replace("0.5", "0.6"), True),
    "a default that such a one inherits": (CONFIGS.replace("seed: int = 0", "seed: int = 1"), True),
    "another config's default": (CONFIGS.replace("size: int = 7", "size: int = 8"), False),
    "a description": (CONFIGS.replace("A share.", "The share."), False),
}


@pytest.mark.parametrize(("after", "counts"), DEFAULT_EDITS.values(), ids=DEFAULT_EDITS)
@pytest.mark.parametrize("build", ["configs.WholeConfig(size=3)", "WholeConfig()"])
def test_the_defaults_of_a_config_that_the_code_builds_are_code(
    write: Write, build: str, after: str, counts: bool
) -> None:
    root = write(stage=f"from toy import configs\n\ndef f():\n    return {build}", configs=CONFIGS)
    assert after != CONFIGS
    before = code(root)
    write(configs=after)
    assert (code(root) != before) == counts


@pytest.mark.parametrize("after", [after for after, _ in DEFAULT_EDITS.values()], ids=DEFAULT_EDITS)
def test_the_defaults_of_a_config_that_is_handed_in_are_not_code(write: Write, after: str) -> None:
    """Its values are in the key; and what other stages build is theirs."""
    root = write(stage="from toy.configs import WholeConfig", configs=CONFIGS, other="from toy.configs import *")
    before = code(root)
    write(configs=after, other="from toy.configs import *\nx = WholeConfig()")
    assert code(root) == before


def test_a_module_that_is_not_imported_is_not_in_the_closure(write: Write) -> None:
    root = write(stage="x = 1", other="y = 1")
    before = code(root)
    write(other="y = 2", third="")
    assert code(root) == before


@pytest.mark.parametrize(
    "text",
    [
        "import toy.part.deep",
        "import toy.part.deep as d",
        "from toy.part import deep",
        "from toy.part import deep as d",
        "from toy.part.deep import x",
        "from toy.part.deep import *",
        "from .part.deep import x",
        "from .part import deep",
        "def f():\n    from toy.part.deep import x",
        "class A:\n    def f(self):\n        if x:\n            import toy.part.deep",
        "try:\n    import toy.part.deep\nexcept ImportError:\n    pass",
        "if not TYPE_CHECKING:\n    import toy.part.deep",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import toy.part.deep",
        "import importlib\nimportlib.import_module('toy.part.deep')",
        "__import__('toy.part.deep')",
        "x = lambda: __import__('toy.part.deep')",
    ],
)
def test_every_way_to_import_is_followed(write: Write, text: str) -> None:
    root = write(stage=text, part____init__="", part__deep="x = 1")
    assert list(code(root)) == ["toy.part.deep", "toy.stage"]


def test_a_relative_import_climbs(write: Write) -> None:
    root = write(
        part____init__="", part__deep="from ..near import x\nfrom . import other", part__other="", near="x = 1"
    )
    assert list(code(root, "toy.part.deep")) == ["toy.near", "toy.part.deep", "toy.part.other"]


@pytest.mark.parametrize("test", ["TYPE_CHECKING", "typing.TYPE_CHECKING"])
def test_an_import_for_the_type_checker_alone_is_passed_over(write: Write, test: str) -> None:
    root = write(
        stage=f"import typing\nfrom typing import TYPE_CHECKING\nif {test}:\n    from toy.near import X", near=""
    )
    assert list(code(root)) == ["toy.stage"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("import importlib\nimportlib.import_module(name)", "line 2: an import by a computed name"),
        ("import importlib\nimportlib.import_module(name='toy.near')", "computed name"),
        ("import importlib\nimportlib.import_module('.near', 'toy')", "computed name"),
        ("__import__(f'toy.{x}')", "computed name"),
        ("from importlib import import_module as load", "line 1: import_module under another name"),
        ("from toy.absent import x", "toy.stage imports toy.absent, which has no source"),
        ("import toy.absent", "toy.absent, which has no source"),
        ("def f():\n    from toy.absent import x", "toy.absent, which has no source"),
        ("import toy", "imports toy, a package"),
        ("from toy.part import x", "imports x from toy.part, a package"),
        ("from toy import part", "imports toy.part, a package"),
        ("from toy.part import *", "a package"),
        ("DATA_FILES = ('absent.txt',)", "declares the data file absent.txt, which does not exist"),
        ("DATA_FILES = tuple(names)", "line 1: DATA_FILES is not written out"),
    ],
)
def test_what_cannot_be_followed_raises(write: Write, text: str, complaint: str) -> None:
    root = write(stage=text, part____init__="'''A part.'''", near="")
    with pytest.raises(ImportNotFollowed, match=complaint):
        code(root)


def test_a_root_without_source_raises(write: Write) -> None:
    with pytest.raises(ImportNotFollowed, match=r"toy\.absent"):
        code(write(), "toy.absent")


@pytest.mark.parametrize("package", ["__init__", "part____init__"])
def test_a_package_that_defines_something_raises(write: Write, package: str) -> None:
    root = write(**{"part____init__": "", "part__deep": "x = 1", package: "'''Says.'''\nx = 1"})
    with pytest.raises(ImportNotFollowed, match="defines something"):
        code(root, "toy.part.deep")


def test_where_module_and_package_have_one_name_the_package_is_read_as_python_does(write: Write) -> None:
    root = write(stage="from toy.near.deep import x", near="x = 2", near____init__="", near__deep="x = 1")
    assert list(code(root)) == ["toy.near.deep", "toy.stage"]
    with pytest.raises(ImportNotFollowed, match="a package"):
        code(write(stage="from toy.near import x"))


@pytest.mark.parametrize("declared", ["DATA_FILES = ('words.txt',)", "DATA_FILES: tuple[str, ...] = ('words.txt',)"])
def test_the_bytes_of_a_data_file_are_in_the_closure(write: Write, declared: str) -> None:
    root = write(stage="from toy.part.deep import x", part____init__="", part__deep=f"x = 1\n{declared}")
    words = root / "toy" / "part" / "words.txt"
    words.write_text("cat\n")
    before = code(root)
    assert list(before) == ["toy.part.deep", "toy.part.deep:words.txt", "toy.stage"]
    words.write_text("cats\n")
    assert {name for name in before if code(root)[name] != before[name]} == {"toy.part.deep:words.txt"}


@pytest.mark.parametrize("module", sorted(FORMATTED))
def test_a_module_of_the_declared_format_is_not_followed(write: Write, module: str) -> None:
    root = write(stage=f"from {module} import Something\nimport {module}")
    found = CodeBase(root, ("toy",)).closure(["toy.stage"])
    assert (list(found.code), found.libraries) == (["toy.stage"], {})


def test_modules_of_the_declared_format_import_only_each_other_and_pydantic() -> None:
    """What else they imported would be in no closure, and an edit to it would be taken for no change."""
    imported = set()
    for module in FORMATTED:
        for node in ast.walk(ast.parse((REPOSITORY / (module.replace(".", "/") + ".py")).read_bytes())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.module is not None
                imported.add(node.module)
    others = {name for name in imported - FORMATTED if name.partition(".")[0] not in sys.stdlib_module_names}
    assert others == {"pydantic"}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed libraries."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    library_version.cache_clear()
    return site


def install(site: Path, library: str, version: str) -> None:
    (site / f"{library}.py").write_text("")
    for old in site.glob(f"{library}-*"):
        shutil.rmtree(old)
    info = site / f"{library}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {library}\nVersion: {version}\n")
    library_version.cache_clear()


def test_the_version_of_a_library_is_in_the_closure(write: Write, site: Path) -> None:
    root = write(stage="def f():\n    from toy.near import g", near="import shaping_library.part\nimport json, os.path")
    assert libraries(root) == {"shaping_library": "not installed"}
    install(site, "shaping_library", "1.0")
    assert libraries(root) == {"shaping_library": "1.0"}
    install(site, "shaping_library", "1.1")
    assert libraries(root) == {"shaping_library": "1.1"}


def test_a_library_whose_version_cannot_be_told_raises(write: Write, site: Path) -> None:
    (site / "another_name.py").write_text("")
    with pytest.raises(ImportNotFollowed, match="no distribution is named another_name"):
        libraries(write(stage="import another_name"))


def test_the_tables_of_unicode_are_in_the_closure(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(stage="import unicodedata\nimport json")
    before = libraries(root)
    monkeypatch.setattr("unicodedata.unidata_version", "99.0.0")
    assert before != libraries(root) == {"unicodedata": "99.0.0"}


def test_a_key_speaks_of_the_code_that_was_there_when_the_process_began(write: Write) -> None:
    root = write(stage="from toy.near import x", near="x = 1")
    began = CodeBase(root, ("toy",))
    write(near="x = 2")
    assert began.closure(["toy.near"]).code["toy.near"] == digest("x = 1")


def test_edited_names_what_was_edited_since(write: Write) -> None:
    root = write(stage="from toy.near import x\nDATA_FILES = ('w.txt',)", near="x = 1", far="y = 1")
    (root / "toy" / "w.txt").write_text("a")
    began = CodeBase(root, ("toy",))
    closure = began.closure(["toy.stage"]).code
    assert began.edited(closure) == []
    write(near="x = 1  # the same", far="y = 2")
    assert began.edited(closure) == []
    write(near="x = 2")
    assert began.edited(closure) == ["toy.near"]
    write(near="import toy.absent")
    assert began.edited(closure) == ["toy.near"]
    write(near="x = ")
    (root / "toy" / "w.txt").write_text("b")
    assert began.edited(closure) == ["toy.near", "toy.stage:w.txt"]
    (root / "toy" / "near.py").unlink()
    (root / "toy" / "w.txt").unlink()
    assert began.edited(closure) == ["toy.near", "toy.stage:w.txt"]


def test_an_edited_default_of_a_config_that_is_built_is_an_edit(write: Write) -> None:
    root = write(stage="from toy.configs import *\nx = OtherConfig()", configs=CONFIGS)
    began = CodeBase(root, ("toy",))
    closure = began.closure(["toy.stage"]).code
    write(configs=CONFIGS.replace("size: int = 1", "size: int = 2"))
    assert began.edited(closure) == []
    write(configs=CONFIGS.replace("size: int = 7", "size: int = 8"))
    assert began.edited(closure) == ["toy.configs"]


def remembering(root: Path) -> CodeBase:
    return CodeBase(root, ("toy",), memory=root / "cache" / "code.json")


def test_a_memory_is_used_by_the_next_process_and_gives_the_same_closure(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(stage="from toy.near import x\nimport pydantic\nDATA_FILES = ('w.txt',)", near="x = 1")
    (root / "toy" / "w.txt").write_text("a")
    first = remembering(root)
    closure = first.closure(["toy.stage"])
    first.remember()
    monkeypatch.setattr(code_digest, "digest_of", None)  # whoever reads a source anew fails
    assert remembering(root).closure(["toy.stage"]) == closure
    write(near="x = 2")
    with pytest.raises(TypeError):
        remembering(root).closure(["toy.stage"])


def test_a_memory_of_another_reader_is_not_used(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(stage="x = 1")
    first = remembering(root)
    closure = first.closure(["toy.stage"])
    first.remember()
    memory = root / "cache" / "code.json"
    memory.write_text(memory.read_text().replace(digest("x = 1"), "0" * 64))
    assert remembering(root).closure(["toy.stage"]).code == {"toy.stage": "0" * 64}
    other = tmp_path / "other.py"
    other.write_bytes(Path(code_digest.__file__).read_bytes() + b"\n")
    monkeypatch.setattr(code_digest, "__file__", str(other))
    assert remembering(root).closure(["toy.stage"]) == closure


def test_a_memory_does_not_grow_with_every_edit(write: Write) -> None:
    for i in range(5):
        root = write(stage=f"x = {i}")
        code = remembering(root)
        code.closure(["toy.stage"])
        code.remember()
    assert len(json.loads((root / "cache" / "code.json").read_text())) == 1


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"3", b'{"a": 1}', b'{"a": {"digest": "b"}}', b"\xff\xfe{"])
def test_a_memory_that_cannot_be_read_is_no_memory(write: Write, damaged: bytes) -> None:
    root = write(stage="x = 1")
    memory = root / "cache" / "code.json"
    memory.parent.mkdir()
    memory.write_bytes(damaged)
    assert remembering(root).closure(["toy.stage"]).code == {"toy.stage": digest("x = 1")}


def test_a_memory_that_cannot_be_written_holds_nothing_up(write: Write) -> None:
    root = write(stage="x = 1")
    (root / "cache").write_text("a file where a folder would be")
    code = remembering(root)
    code.closure(["toy.stage"])
    code.remember()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The library's own sources, to be edited."""
    shutil.copytree(REPOSITORY / "slm_model", tmp_path / "slm_model", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_every_module_of_the_library_can_be_followed() -> None:
    code = CodeBase(REPOSITORY)
    for path in (REPOSITORY / "slm_model").rglob("*.py"):
        if path.name not in ("__init__.py", "api.py"):  # the front door is above flows/, and in no stage's closure
            code.closure([".".join(path.relative_to(REPOSITORY).with_suffix("").parts)])


def test_mending_the_lstm_changes_no_transformers_key(copy: Path) -> None:
    def codes() -> dict[str, dict[str, str]]:
        code = CodeBase(copy)
        kinds = ("transformer", "recurrent")
        return {kind: code.closure(["slm_model.training.loop", f"slm_model.networks.{kind}"]).code for kind in kinds}

    before = codes()
    with (copy / "slm_model" / "networks" / "recurrent.py").open("a") as file:
        file.write("\nMENDED = True\n")
    after = codes()
    assert after["transformer"] == before["transformer"]
    assert after["recurrent"] != before["recurrent"]
