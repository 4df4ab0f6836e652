"""The house rules that no linter holds: each a function from source text to problems, tried on a bad snippet."""

import ast
import re
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "snntorch_smixer"
TEXT = {".cff", ".json", ".md", ".py", ".toml", ".txt", ".yaml", ".yml"}
NAMED = {".gitignore", "LICENSE", "Makefile", "run"}
BLOCKS = (ast.For, ast.While, ast.If, ast.With, ast.Try, ast.Match)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Rule = Callable[[str, str], list[str]]


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def public_functions(body: list[ast.stmt]) -> Iterator[Function]:
    """Functions and methods that a user can call by name; what is private or nested is left out."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body)
        elif isinstance(node, Function) and (node.name in ("__init__", "__call__") or not node.name.startswith("_")):
            yield node


def long_file(source: str, module: str) -> list[str]:
    lines = len(source.splitlines())
    return [f"{module}: {lines} lines, at most 500"] if lines > 500 else []


def long_function(source: str, module: str) -> list[str]:
    found = []
    for node in functions(ast.parse(source)):
        lines = node.end_lineno - node.lineno + 1
        if ast.get_docstring(node) is not None:
            lines -= node.body[0].end_lineno - node.body[0].lineno + 1
        if lines > 40:
            found.append(f"{module}:{node.lineno}: {node.name} has {lines} lines, at most 40")
    return found


def deep_nesting(source: str, module: str) -> list[str]:
    def depth(node: ast.AST, is_elif: bool = False) -> int:
        chained = node.orelse[0] if isinstance(node, ast.If) and len(node.orelse) == 1 else None
        children = (child for child in ast.iter_child_nodes(node) if not isinstance(child, Function))
        inner = max(
            (depth(child, is_elif=child is chained and isinstance(child, ast.If)) for child in children), default=0
        )
        return inner + (isinstance(node, BLOCKS) and not is_elif)

    tree = ast.parse(source)
    return [
        f"{module}:{f.lineno}: {f.name} nests blocks {depth(f)} deep, at most 3"
        for f in functions(tree)
        if depth(f) > 3
    ]


FACES = ("wrap", "plan")
"""Functions that users call with many settings, each with a default."""


def many_parameters(source: str, module: str) -> list[str]:
    found = []
    for node in functions(ast.parse(source)):
        if node.name in FACES and module.endswith("/wrap.py"):
            continue
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        names = [name for name in names if name not in ("self", "cls", "ctx")]
        if len(names) > 6:
            found.append(f"{module}:{node.lineno}: {node.name} has {len(names)} parameters, at most 6")
    return found


def public_kwargs(source: str, module: str) -> list[str]:
    """What takes *args too hands a foreign signature on; ``Unpack`` of a TypedDict names the settings."""
    return [
        f"{module}:{node.lineno}: {node.name} takes **{kwarg.arg}; name the settings"
        for node in public_functions(ast.parse(source).body)
        if (kwarg := node.args.kwarg)
        and not node.args.vararg
        and not (kwarg.annotation and ast.unparse(kwarg.annotation).startswith("Unpack["))
    ]


def asserts(source: str, module: str) -> list[str]:
    nodes = ast.walk(ast.parse(source))
    return [f"{module}:{n.lineno}: assert; raise an error of the package" for n in nodes if isinstance(n, ast.Assert)]


def pickle_loading(source: str, module: str) -> list[str]:
    """torch.load(..., weights_only=True) runs no code of the file, so that very call is allowed."""
    banned = {"torch.load", "pickle.load", "pickle.loads", "pickle.Unpickler", "torch.hub.load_state_dict_from_url"}
    tree, found = ast.parse(source), []
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load")
    weights = {call.func for call in calls if "weights_only=True" in map(ast.unparse, call.keywords)}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Attribute) and node not in weights:
            names = [ast.unparse(node)]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found += [
            f"{module}:{node.lineno}: {name} runs code from the file; use safetensors" for name in banned & {*names}
        ]
    return found


def machine_paths(source: str, module: str) -> list[str]:
    pattern = re.compile(r"(?<![\w./])/" + r"work\b")
    lines = enumerate(source.splitlines(), 1)
    return [f"{module}:{number}: a path of one machine" for number, line in lines if pattern.search(line)]


def imports(node: ast.AST, package: list[str]) -> list[str]:
    """Full dotted names that an import statement in ``package`` asks for."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = package[: len(package) - node.level + 1] if node.level else []
    return [".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names]


def face_imports(source: str, module: str) -> list[str]:
    inside = {p.stem for p in PACKAGE.iterdir()} - {"__init__", "dstsp"}
    package = ["snntorch_smixer", *Path(module).parent.parts[1:]]
    found = []
    for node in ast.walk(ast.parse(source)):
        for name in imports(node, package):
            root, first, *deeper = [*name.split("."), ""][:3]
            if root == "snntorch_smixer" and (first == "dstsp" or (first not in inside and not any(deeper))):
                found.append(f"{module}:{node.lineno}: imports {name}; import from the module that defines it")
    return found


def circle(files: dict[str, str]) -> list[str]:
    """Modules that import each other, the first one also last; imports inside functions and for types count."""
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in files}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        package = module.split(".") if path.endswith("/__init__.py") else module.split(".")[:-1]
        asked = {name for node in ast.walk(ast.parse(files[path])) for name in imports(node, package)}
        homes = {name if name in modules else name.rpartition(".")[0] for name in asked}
        graph[module] = (homes & modules.keys()) - {module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def sources(*folders: str) -> dict[str, str]:
    """Text of every Python file below the folders, by its path in the repository."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


def texts() -> dict[str, str]:
    """Text of every file that is written by hand."""
    folders = [ROOT / name for name in ("snntorch_smixer", "zoo", "examples", "tests", "docs", ".ci")]
    paths = [*ROOT.iterdir(), *(path for folder in folders for path in folder.rglob("*"))]
    paths = [path for path in paths if path.is_file() and (path.suffix in TEXT or path.name in NAMED)]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sorted(paths)}


def problems(rule: Rule, files: dict[str, str]) -> list[str]:
    return [problem for module, source in files.items() for problem in rule(source, module)]


@pytest.mark.parametrize("rule", [long_file, long_function, deep_nesting], ids=lambda rule: rule.__name__)
def test_all_python(rule: Rule):
    files = sources("snntorch_smixer", "tests", "examples")
    assert "tests/test_house.py" in files
    assert problems(rule, files) == []


@pytest.mark.parametrize(
    "rule", [many_parameters, public_kwargs, asserts, pickle_loading], ids=lambda rule: rule.__name__
)
def test_package(rule: Rule):
    files = sources("snntorch_smixer")
    assert "snntorch_smixer/extras.py" in files
    assert problems(rule, files) == []


def test_nobody_inside_imports_the_face():
    files = sources("snntorch_smixer")
    del files["snntorch_smixer/__init__.py"]
    assert problems(face_imports, files) == []


def test_no_modules_import_each_other_in_a_circle():
    files = sources("snntorch_smixer")
    assert "snntorch_smixer/kernels/fire.py" in files
    assert circle(files) == []


@pytest.mark.parametrize(
    "back",
    [
        "from pack.a import x",
        "from pack import a",
        "from . import a",
        "import pack.a",
        "def f():\n from pack.a import x",
        "if TYPE_CHECKING:\n from pack.a import X",
    ],
)
def test_a_circle_is_found(back: str):
    files = {"pack/__init__.py": "from pack.a import x", "pack/a.py": "from pack.b import x", "pack/b.py": "x = 1"}
    assert circle(files) == []
    found = circle({**files, "pack/b.py": back})
    assert found[0] == found[-1]
    assert set(found) == {"pack.a", "pack.b"}


def test_no_file_names_a_path_of_one_machine():
    files = texts()
    assert {"pyproject.toml", "Makefile", ".ci/run", "snntorch_smixer/extras.py"} <= set(files)
    assert problems(machine_paths, files) == []


def body(lines: int) -> str:
    return "def f():\n" + '    """Two\n    lines."""\n' + "    x = 1\n" * (lines - 1)


NESTED = "def f():\n for a in b:\n  if a:\n   with a:\n    "
PARAMETERS = "def f(self, a, b, c, *, d, e, g"


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (long_file, "x = 1\n" * 500, "x = 1\n" * 501),
        (long_function, body(40), body(41)),
        (deep_nesting, NESTED + "pass", NESTED + "if c: pass"),
        (deep_nesting, NESTED + "x = [a for a in b if a]", NESTED + "for c in d: pass"),
        (deep_nesting, "def f():\n if a: pass\n" + " elif b: pass\n" * 5, NESTED + "try: pass\n    finally: pass"),
        (many_parameters, PARAMETERS + "): ...", PARAMETERS + ", h): ..."),
        (public_kwargs, "def _f(**kw): ...", "def f(**kw): ..."),
        (public_kwargs, "def f(*args, **kw): ...", "def f(a, *, b, **kw): ..."),
        (public_kwargs, "def f(**kw: Unpack[Settings]): ...", "def f(**kw: Any): ..."),
        (public_kwargs, "class _C:\n def f(self, **kw): ...", "class C:\n def __init__(self, **kw): ..."),
        (asserts, "raise ValueError", "def f():\n assert x"),
        (pickle_loading, "torch.save(x)", "y = torch.load(x)"),
        (pickle_loading, "from torch import zeros", "from pickle import loads"),
        (pickle_loading, "torch.load(x, map_location=y, weights_only=True)", "torch.load(x, weights_only=False)"),
        (pickle_loading, "torch.load(weights_only=True, f=x)", "torch.load(x, weights_only=safe)"),
        (pickle_loading, "y = torch.load(x, weights_only=True)", "y = partial(torch.load, weights_only=True)"),
        (pickle_loading, "torch.load(x, weights_only=True)", "torch.load(torch.load(x), weights_only=True)"),
        (pickle_loading, "torch.load(x, weights_only=True)", "pickle.load(x, weights_only=True)"),
        (machine_paths, "/workflow and home/work", f"see /{'work'}/main"),
        (face_imports, "from snntorch_smixer import errors", "from snntorch_smixer import SMixer"),
        (face_imports, "import snntorch_smixer.errors", "import snntorch_smixer"),
        (face_imports, "from ..errors import X", "from .. import SMixer"),
        (face_imports, "from snntorch_smixer.extras import need", "from snntorch_smixer.dstsp import wrap"),
        (face_imports, "from . import mixer", "from ..dstsp import wrap"),
    ],
)
def test_rules_can_fail(rule: Rule, good: str, bad: str):
    assert rule(good, "snntorch_smixer/layers/x.py") == []
    assert len(rule(bad, "snntorch_smixer/layers/x.py")) == 1
