"""The code that a stage's bytes depend on: every module of ours that it imports, read as syntax trees.

A tree is hashed without comments, formatting, docstrings and the texts of ``Field(description=...)``, and without the
fields that a ``Config`` class declares (their values are in the key already), so that editing prose reruns nothing and
editing a helper two imports away reruns all that depends on it. Nothing is imported to find this out.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from tasks.files import write_atomically

FORMATTED = frozenset({"slm_model.artifact"})  # carries a declared format in the key instead of its source
DISTRIBUTIONS = {"yaml": "PyYAML"}  # import name -> distribution, where they differ
PROSE = frozenset({"description", "title", "examples"})


class ImportNotFollowed(Exception):
    """The code closure cannot be known, so no cached result could be trusted."""


@dataclass(frozen=True)
class Source:
    """What one module's text says: its digest, and what it imports and reads."""

    digest: str
    imports: list[str]  # modules, and ``module:name`` where the name may be a submodule
    data_files: list[str]


@dataclass(frozen=True)
class Closure:
    """Digests of all modules and data files that a root depends on, and the versions of the libraries they use."""

    code: dict[str, str] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)


class CodeBase:
    """The packages of ours below ``root``. ``memory``: a JSON file that remembers digests by the bytes of a source."""

    def __init__(self, root: Path, packages: Iterable[str] = ("slm_model",), memory: Path | None = None) -> None:
        self.root, self.packages, self.memory = root, frozenset(packages), memory
        self._known: dict[str, Source] = {}
        self._fresh = False
        if memory and memory.exists():
            try:
                self._known = {key: Source(**value) for key, value in json.loads(memory.read_bytes()).items()}
            except (ValueError, TypeError):  # a memory that cannot be read is no memory
                self._known = {}

    def closure(self, roots: Iterable[str]) -> Closure:
        """Everything that the root modules depend on. Raises ImportNotFollowed where an import leads nowhere."""
        found = Closure()
        todo = sorted(set(roots), reverse=True)
        while todo:
            module = todo.pop()
            if module in found.code or module in FORMATTED:
                continue
            path = self._path(module)
            if path is None:
                raise ImportNotFollowed(f"no source for {module} below {self.root}")
            source = self._read(module, path)
            found.code[module] = source.digest
            for name in source.data_files:
                data = path.parent / name
                if not data.is_file():
                    raise ImportNotFollowed(f"{module} declares the data file {name}, which does not exist")
                found.code[f"{module}:{name}"] = hashlib.sha256(data.read_bytes()).hexdigest()
            for imported in source.imports:
                self._follow(module, imported, todo, found)
        return Closure(dict(sorted(found.code.items())), dict(sorted(found.libraries.items())))

    def remember(self) -> None:
        """Keep what was read for the next process."""
        if self.memory and self._fresh:
            text = json.dumps({key: asdict(source) for key, source in sorted(self._known.items())})
            write_atomically(self.memory, text.encode())
            self._fresh = False

    def _follow(self, module: str, imported: str, todo: list[str], found: Closure) -> None:
        name, _, member = imported.partition(":")
        top = name.partition(".")[0]
        if top not in self.packages:
            if top == "unicodedata":  # its tables come with Python and differ between its versions
                found.libraries[top] = unicodedata.unidata_version
            elif top not in sys.stdlib_module_names:
                found.libraries[DISTRIBUTIONS.get(top, top)] = library_version(DISTRIBUTIONS.get(top, top))
            return
        if member and self._path(f"{name}.{member}"):
            todo.append(f"{name}.{member}")
        elif (path := self._path(name)) is None:
            raise ImportNotFollowed(f"{module} imports {name}, which has no source below {self.root}")
        elif path.name == "__init__.py":
            wanted = f"{member} from {name}" if member else name
            raise ImportNotFollowed(f"{module} imports {wanted}, a package: import from the module that defines it")
        else:
            todo.append(name)

    def _path(self, module: str) -> Path | None:
        base = self.root.joinpath(*module.split("."))
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
        return None

    def _read(self, module: str, path: Path) -> Source:
        text = path.read_bytes()
        for parent in list(path.relative_to(self.root).parents)[:-1]:
            init = self.root / parent / "__init__.py"
            if init.exists() and not all(_is_text(node) for node in ast.parse(init.read_bytes()).body):
                raise ImportNotFollowed(f"{init} defines something: an __init__.py may hold a docstring only")
        key = hashlib.sha256(module.encode() + b"\0" + text).hexdigest()
        if key not in self._known:
            tree = ast.parse(text, str(path))
            self._known[key] = Source(digest_of(tree), list(imports_of(tree, module)), data_files_of(tree))
            self._fresh = True
        return self._known[key]


@cache
def library_version(distribution: str) -> str:
    """The installed version, or ``not installed``: an optional library that appears is a change."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def digest_of(tree: ast.AST) -> str:
    """Hex sha256 of what a syntax tree does, the same on every Python that can parse it."""
    digest = hashlib.sha256()
    for piece in _pieces(tree):
        digest.update(piece.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def _pieces(node: object) -> Iterator[str]:
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for name, value in ast.iter_fields(node):
            if name in ("ctx", "kind", "type_comment"):
                continue
            children = _meaningful(node, name, value) if isinstance(value, list) else value
            if children is None or children == []:  # a newer Python adds fields, empty where they are not used
                continue
            yield name
            yield from _pieces(children)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for child in node:
            yield from _pieces(child)
        yield "]"
    else:
        yield f"{type(node).__name__} {node!r}"


def _meaningful(node: ast.AST, name: str, children: list[ast.AST]) -> list[ast.AST]:
    """The children that can change what the code does."""
    if name == "body" and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        if children and _is_text(children[0]):
            children = children[1:]
        if isinstance(node, ast.ClassDef) and any(_last_name(base).endswith("Config") for base in node.bases):
            children = [c for c in children if not isinstance(c, ast.AnnAssign) or "ClassVar" in ast.dump(c.annotation)]
    if name == "keywords" and isinstance(node, ast.Call) and _last_name(node.func) == "Field":
        children = [c for c in children if not (isinstance(c, ast.keyword) and c.arg in PROSE)]
    return children


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _last_name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def imports_of(tree: ast.AST, module: str) -> Iterator[str]:
    """Every import that can run, at the top or inside a function; those for the type checker alone are passed over."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and _last_name(node.test) == "TYPE_CHECKING":
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *([base] if base else [])])
            yield from (f"{base}:{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _last_name(node.func) in ("import_module", "__import__"):
            if not (node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)):
                raise ImportNotFollowed(f"{module}, line {node.lineno}: an import by a computed name")
            yield node.args[0].value
        todo += ast.iter_child_nodes(node)


def data_files_of(tree: ast.Module) -> list[str]:
    """The files beside the module that it declares in ``DATA_FILES``."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(_last_name(target) == "DATA_FILES" for target in node.targets):
            return [str(name) for name in ast.literal_eval(node.value)]
    return []
