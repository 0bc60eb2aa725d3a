"""The code that a stage's bytes depend on: every module of ours that it imports, read as syntax trees.

A tree is hashed without comments, formatting, docstrings and the texts of ``Field(description=...)``, and without the
fields that a ``Config`` class declares (their values are in the key already, unless the code itself builds such a
config: then its defaults are code), so that editing prose reruns nothing and editing a helper two imports away reruns
all that depends on it. Nothing of ours is imported to find this out.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import sys
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeGuard

from slm_model.atomic_files import write_atomically

# What every stage uses has one declared number (manifest.FORMAT) in the key instead of its source: a reworded error
# must not rerun every stage. These modules import nothing else of ours, so nothing is left out of a closure unseen.
FORMATTED = frozenset(
    f"slm_model.{name}"
    for name in ("artifact", "config", "digests", "errors", "manifest", "record", "stage_run", "visible")
)
DISTRIBUTIONS = {"markdown_it": "markdown-it-py", "yaml": "PyYAML"}  # import name -> distribution, where they differ
PROSE = frozenset({"description", "title", "examples"})


class ImportNotFollowed(Exception):
    """The code closure cannot be known, so no cached result could be trusted."""


@dataclass(frozen=True)
class Source:
    """What one module's text says: its digest, and what it imports, reads and builds."""

    digest: str
    imports: list[str]  # modules, and ``module:name`` where the name may be a submodule
    data_files: list[str]
    calls: list[str]  # classes, by name, outside the fields of its configs
    configs: dict[str, list[str]]  # config class -> its bases, and the classes that its fields call


@dataclass(frozen=True)
class Closure:
    """Digests of all modules and data files that a root depends on, and the versions of the libraries they use."""

    code: dict[str, str] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)


class CodeBase:
    """The packages of ours below ``root``, as they are when this object is made: what a process loads is what it keys.

    ``memory``: a JSON file that remembers digests by the bytes of a source and of this module.
    """

    def __init__(self, root: Path, packages: Iterable[str] = ("slm_model",), memory: Path | None = None) -> None:
        self.root, self.packages, self.memory = root, frozenset(packages), memory
        self._texts = {path: path.read_bytes() for top in self.packages for path in (root / top).rglob("*.py")}
        self._paths = {_module_of(path.relative_to(root)): path for path in sorted(self._texts, key=_is_package)}
        self._sources: dict[tuple[str, frozenset[str]], Source] = {}  # the same for every stage's closure
        self._own = Path(__file__).read_bytes()
        self._known: dict[str, Source] = {}
        self._used: set[str] = set()  # only these are kept in the memory, which would else grow with every edit
        self._fresh = False
        if memory and memory.exists():
            try:
                self._known = {key: Source(**value) for key, value in json.loads(memory.read_bytes()).items()}
            except (ValueError, TypeError, AttributeError):  # damaged, or of another version: read the sources again
                self._known = {}

    def closure(self, roots: Iterable[str]) -> Closure:
        """Everything that the root modules depend on. Raises ImportNotFollowed where an import leads nowhere."""
        found = Closure()
        sources: dict[str, Source] = {}
        todo = sorted(set(roots), reverse=True)
        while todo:
            module = todo.pop()
            if module in found.code or module in FORMATTED:
                continue
            path = self._paths.get(module)
            if path is None:
                raise ImportNotFollowed(f"no source for {module} below {self.root}")
            source = sources[module] = self._read(module)
            found.code[module] = source.digest
            for name in source.data_files:
                data = path.parent / name
                if not data.is_file():
                    raise ImportNotFollowed(f"{module} declares the data file {name}, which does not exist")
                found.code[f"{module}:{name}"] = hashlib.sha256(data.read_bytes()).hexdigest()
            for imported in source.imports:
                self._follow(module, imported, todo, found)
        built = built_configs(sources.values())
        for module, source in sources.items():
            if fields_of := frozenset(built & source.configs.keys()):
                found.code[module] = self._read(module, fields_of).digest
        return Closure(dict(sorted(found.code.items())), dict(sorted(found.libraries.items())))

    def edited(self, code: Mapping[str, str]) -> list[str]:
        """Those of a closure's modules and data files that would now give another digest: they were edited since."""
        touched = [name for name, digest in code.items() if self._other_bytes(name, digest)]
        if not touched:
            return []
        try:
            present = CodeBase(self.root, self.packages).closure(name for name in code if ":" not in name)
        except (ImportNotFollowed, SyntaxError, ValueError):
            return touched
        return [name for name in touched if present.code.get(name) != code[name]]

    def remember(self) -> None:
        """Keep what was read for the next process, if the disk has room for it."""
        if self.memory and self._fresh:
            text = json.dumps({key: asdict(self._known[key]) for key in sorted(self._used)})
            with suppress(OSError):
                write_atomically(self.memory, text.encode())
            self._fresh = False

    def _other_bytes(self, name: str, digest: str) -> bool:
        """Whether the file of a closure's entry is not as this object, or the closure, has read it."""
        module, _, data = name.partition(":")
        path = self._paths[module]
        try:
            now = (path.with_name(data) if data else path).read_bytes()
        except OSError:  # it was removed
            return True
        return hashlib.sha256(now).hexdigest() != digest if data else now != self._texts[path]

    def _follow(self, module: str, imported: str, todo: list[str], found: Closure) -> None:
        name, _, member = imported.partition(":")
        top = name.partition(".")[0]
        if name in FORMATTED:
            return
        if top not in self.packages:
            if top == "unicodedata":  # its tables come with Python and differ between its versions
                found.libraries[top] = unicodedata.unidata_version
            elif top not in sys.stdlib_module_names:
                found.libraries[DISTRIBUTIONS.get(top, top)] = library_version(top)
            return
        if member and f"{name}.{member}" in self._paths:
            name, member = f"{name}.{member}", ""
        path = self._paths.get(name)
        if path is None:
            raise ImportNotFollowed(f"{module} imports {name}, which has no source below {self.root}")
        if _is_package(path):
            wanted = f"{member} from {name}" if member else name
            raise ImportNotFollowed(f"{module} imports {wanted}, a package: import from the module that defines it")
        todo.append(name)

    def _read(self, module: str, fields_of: frozenset[str] = frozenset()) -> Source:
        if found := self._sources.get((module, fields_of)):
            return found
        path = self._paths[module]
        text = self._texts[path]
        for parent in list(path.relative_to(self.root).parents)[:-1]:
            init = self.root / parent / "__init__.py"
            if not all(_is_text(node) for node in ast.parse(self._texts.get(init, b"")).body):
                raise ImportNotFollowed(f"{init} defines something: an __init__.py may hold a docstring only")
        names = " ".join([module, *sorted(fields_of)])
        key = hashlib.sha256(b"\0".join([self._own, names.encode(), text])).hexdigest()
        self._used.add(key)
        if key not in self._known:
            tree = ast.parse(text, str(path))
            self._known[key] = Source(
                digest_of(tree, fields_of), list(imports_of(tree, module)), data_files_of(tree, module), *calls_of(tree)
            )
            self._fresh = True
        source = self._sources[module, fields_of] = self._known[key]
        return source


def _module_of(path: Path) -> str:
    """A source's name, from its path below the root."""
    return ".".join(path.parent.parts if _is_package(path) else path.with_suffix("").parts)


def _is_package(path: Path) -> bool:
    return path.name == "__init__.py"


@cache
def library_version(library: str) -> str:
    """The installed version of what ``import library`` gets, or ``not installed``: one that appears is a change.

    Raises ImportNotFollowed for one that can be imported and whose version cannot be found.
    """
    try:
        return importlib.metadata.version(DISTRIBUTIONS.get(library, library))
    except importlib.metadata.PackageNotFoundError:
        if importlib.util.find_spec(library):
            raise ImportNotFollowed(f"no distribution is named {library}: name it in DISTRIBUTIONS") from None
        return "not installed"


def digest_of(tree: ast.AST, fields_of: Set[str] = frozenset()) -> str:
    """Hex sha256 of what a syntax tree does, the same on every Python that can parse it.

    ``fields_of``: the config classes whose fields are part of it.
    """
    digest = hashlib.sha256()
    for piece in _pieces(tree, fields_of):
        digest.update(piece.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def _pieces(node: object, fields_of: Set[str]) -> Iterator[str]:
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for name, value in ast.iter_fields(node):
            if name in ("ctx", "kind", "type_comment"):
                continue
            children = _meaningful(node, name, value, fields_of) if isinstance(value, list) else value
            if children is None or children == []:  # a newer Python adds fields, empty where they are not used
                continue
            yield name
            yield from _pieces(children, fields_of)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for child in node:
            yield from _pieces(child, fields_of)
        yield "]"
    else:
        yield f"{type(node).__name__} {node!a}"  # ascii: what repr() prints as it is differs between Unicode versions


def _meaningful(node: ast.AST, name: str, children: list[ast.AST], fields_of: Set[str]) -> list[ast.AST]:
    """The children that can change what the code does."""
    children = [c for c in children if not _is_text(c)]
    if name == "body" and _is_config(node) and node.name not in fields_of:
        children = [c for c in children if not _is_field(c)]
    elif isinstance(node, ast.Call) and name == "keywords" and _last_name(node.func) == "Field":
        children = [c for c in children if not (isinstance(c, ast.keyword) and c.arg in PROSE)]
    elif isinstance(node, ast.JoinedStr):  # Python 3.12.1 ends a nested format with an empty string
        children = [c for c in children if not (isinstance(c, ast.Constant) and c.value == "")]
    return children


def _is_config(node: ast.AST) -> TypeGuard[ast.ClassDef]:
    return isinstance(node, ast.ClassDef) and any(_last_name(base).endswith("Config") for base in node.bases)


def _is_field(node: ast.AST) -> bool:
    """Whether a class statement declares what pydantic makes a field: not a class variable or a private name."""
    if not isinstance(node, ast.AnnAssign) or "ClassVar" in ast.dump(node.annotation):
        return False
    return not _last_name(node.target).startswith("_")


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _last_name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def imports_of(tree: ast.AST, module: str) -> Iterator[str]:
    """Every import that can run, at the top or inside a function; those only for the type checker are left out."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and _last_name(node.test) == "TYPE_CHECKING":
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if any(alias.name == "import_module" and alias.asname for alias in node.names):
                raise ImportNotFollowed(f"{module}, line {node.lineno}: import_module under another name")
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *([base] if base else [])])
            yield from (f"{base}:{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _last_name(node.func) in ("import_module", "__import__"):
            name = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
            if not isinstance(name, str) or name.startswith("."):
                raise ImportNotFollowed(f"{module}, line {node.lineno}: an import by a computed name")
            yield name
        todo += ast.iter_child_nodes(node)


def calls_of(tree: ast.AST) -> tuple[list[str], dict[str, list[str]]]:
    """The classes that a module calls, and for each config in it the classes that its fields depend on."""
    calls: set[str] = set()
    configs: dict[str, list[str]] = {}
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        children = list(ast.iter_child_nodes(node))
        if _is_config(node):
            fields = [child for child in children if _is_field(child)]
            called = {name for child in fields for name in calls_of(child)[0]}
            configs[node.name] = sorted(called.union(map(_last_name, node.bases)))
            children = [child for child in children if child not in fields]
        elif isinstance(node, ast.Call) and _last_name(node.func)[:1].isupper():
            calls.add(_last_name(node.func))
        todo += children
    return sorted(calls), configs


def built_configs(sources: Collection[Source]) -> set[str]:
    """The config classes that code builds, with those that their fields depend on: their defaults are in no key."""
    configs: dict[str, list[str]] = {}
    for source in sources:
        for name, needs in source.configs.items():
            configs[name] = [*configs.get(name, []), *needs]
    built: set[str] = set()
    todo = {name for source in sources for name in source.calls}
    while todo := (todo & configs.keys()) - built:
        built |= todo
        todo = {need for name in todo for need in configs[name]}
    return built


def data_files_of(tree: ast.Module, module: str) -> list[str]:
    """The files beside the module that it declares in ``DATA_FILES``."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(_last_name(target) == "DATA_FILES" for target in targets):
                try:
                    return [str(name) for name in ast.literal_eval(node.value)]
                except ValueError:
                    raise ImportNotFollowed(f"{module}, line {node.lineno}: DATA_FILES is not written out") from None
    return []
