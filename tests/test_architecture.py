"""The house: floors, no cycles, an innocent import, documented exports. Each guard is shown a house that breaks it."""

import ast
import inspect
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

import fundl

ROOT = pathlib.Path(fundl.__file__).parent
TESTS = pathlib.Path(__file__).parent
LONGEST = 350  # lines of a file; a longer one becomes a folder with the same facade
TO_BE_SPLIT = {"fundl.losses._logit_tiles": 420}

# A module imports only what stands on a lower floor, and its own package.
FLOORS = (
    {"_types", "checkpoint", "datasets", "verify"},
    {"_check", "_precise", "_result", "_threads"},
    {"norms", "activations", "losses", "layers", "_from_output"},
    {"least_squares", "descent", "newton", "backprop"},
    {"linear_regression", "logistic_regression", "softmax_regression", "mlp"},
    {"sweep"},
    {"_own_rules", "_tour"},
    {"cli"},
    {"__main__", "__init__"},
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
ALONE = {"verify", "datasets", "checkpoint"}  # they import nothing of fundl: the examiner shares no code
ONLY_JAX_AND_NUMPY = {"verify"}
WITH_OPTAX = {"descent", "mlp", "cli", "_tour"}  # only where something iterates
TESTED_IN = {  # modules whose test file has another name
    "_types": "linear_regression",
    "_from_output": "backprop",
    "_threads": "sweep",
    "_own_rules": "cli",
    "_tour": "cli",
    "__main__": "cli",
    "__init__": "architecture",
}

Sources = dict[str, str]  # dotted module name -> source


def sources() -> Sources:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(("fundl", *(parts[:-1] if parts[-1] == "__init__" else parts)))
        found[name] = path.read_text()
    return found


def room(module: str) -> str:
    """The file or folder directly under fundl that a module belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


def imports(source: str, known: set[str]) -> Iterator[str]:
    """Every imported module by its full name, wherever in the file the import stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which floor is meant"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in known else str(node.module)


def imported(all_sources: Sources) -> dict[str, set[str]]:
    return {name: set(imports(source, set(all_sources))) for name, source in all_sources.items()}


# ---- guards: each returns what is wrong ------------------------------------------------------------------------------


def unknown_rooms(all_sources: Sources) -> list[str]:
    return sorted({room(name) for name in all_sources} - set(FLOOR_OF))


def upward_imports(all_sources: Sources) -> list[str]:
    wrong = []
    for name, targets in imported(all_sources).items():
        for target in targets:
            if not target.startswith("fundl") or room(target) == room(name) or room(name) == "__init__":
                continue
            below = FLOOR_OF[room(target)] < FLOOR_OF[room(name)]
            of_the_facade = room(target) == "__init__" and room(name) == "cli"  # its version
            if not (below or of_the_facade) or room(name) in ALONE:
                wrong.append(f"{name} imports {target}")
    return wrong


def foreign_imports(all_sources: Sources) -> list[str]:
    wrong = []
    for name, targets in imported(all_sources).items():
        for target in targets:
            top = target.partition(".")[0]
            if top == "optax" and room(name) not in WITH_OPTAX:
                wrong.append(f"{name} imports optax")
            allowed = {"jax", "numpy", "fundl", *sys.stdlib_module_names}
            if room(name) in ONLY_JAX_AND_NUMPY and top not in allowed:
                wrong.append(f"{name} imports {target}")
    return wrong


def cycles(all_sources: Sources) -> list[str]:
    """Modules that import each other, found by taking away those that import nothing that is left."""
    graph = {name: {t for t in targets if t in all_sources} for name, targets in imported(all_sources).items()}
    graph.pop("fundl", None)  # the facade imports lazily
    while leaves := [name for name, targets in graph.items() if not targets & (set(graph) - {name})]:
        for name in leaves:
            del graph[name]
    return sorted(graph)


def private_jax(all_sources: Sources) -> list[str]:
    """`jax._src` or jaxlib in code; prose may name them."""
    code = {name: ast.dump(ast.parse(source)) for name, source in all_sources.items()}
    used = r"attr='_src'|module='(jax\._src|jaxlib)|alias\(name='(jax\._src|jaxlib)"
    return [name for name, dump in code.items() if re.search(used, dump)]


def changed_config(all_sources: Sources) -> list[str]:
    calls = r"\bconfig\.update\(|\bconfig\.\w+ *=[^=]|os\.environ\[[^]]*\] *=[^=]|os\.environ\.(setdefault|update)"
    return [name for name, source in all_sources.items() if re.search(calls, source)]


def too_long(all_sources: Sources) -> list[str]:
    lines = {name: source.count("\n") for name, source in all_sources.items()}
    return [f"{name}: {n} lines" for name, n in lines.items() if n > TO_BE_SPLIT.get(name, LONGEST)]


GUARDS: dict[Callable[[Sources], list[str]], Sources] = {  # each with a house that it must find wrong
    unknown_rooms: {"fundl.attic": ""},
    upward_imports: {"fundl.losses._x": "from fundl import mlp", "fundl.mlp": ""},
    foreign_imports: {"fundl.losses": "import optax"},
    cycles: {"fundl.losses._a": "from fundl.losses import _b", "fundl.losses._b": "from fundl.losses._a import f"},
    private_jax: {"fundl.losses": "from jax._src import core"},
    changed_config: {"fundl.losses": 'import jax\njax.config.update("jax_enable_x64", True)'},
    too_long: {"fundl.losses": "x = 1\n" * (LONGEST + 1)},
}
MORE_RED: list[tuple[Callable[[Sources], list[str]], Sources]] = [
    (upward_imports, {"fundl.norms": "from fundl import losses", "fundl.losses": ""}),  # siblings
    (upward_imports, {"fundl.norms": "def f():\n    import fundl.losses", "fundl.losses": ""}),  # hidden in a function
    (upward_imports, {"fundl.verify._a": "from fundl._check import array", "fundl._check": ""}),
    (upward_imports, {"fundl.norms": "from fundl import __version__", "fundl": ""}),
    (foreign_imports, {"fundl.verify._a": "import scipy.linalg"}),
    (private_jax, {"fundl.losses": "import jax\nx = jax._src.core"}),
    (private_jax, {"fundl.losses": "import jaxlib.xla_client"}),
    (changed_config, {"fundl.losses": 'import os\nos.environ["XLA_FLAGS"] = ""'}),
]


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_house(guard: Callable[[Sources], list[str]]) -> None:
    assert guard(sources()) == []


@pytest.mark.parametrize(("guard", "house"), [*GUARDS.items(), *MORE_RED])
def test_guard_is_seen_to_fail(guard: Callable[[Sources], list[str]], house: Sources) -> None:
    assert guard(house)


# ---- every module has its test ---------------------------------------------------------------------------------------


def without_test(rooms: set[str], tests: set[str]) -> list[str]:
    return sorted(r for r in rooms if f"test_{TESTED_IN.get(r, r.lstrip('_'))}.py" not in tests)


def test_every_module_has_a_test_file_of_its_name() -> None:
    assert without_test({room(name) for name in sources()}, {path.name for path in TESTS.glob("test_*.py")}) == []


def test_a_module_without_test_is_seen() -> None:
    assert without_test({"norms", "_check"}, {"test_norms.py"}) == ["_check"]


# ---- docstrings ------------------------------------------------------------------------------------------------------


EXPLAINED_BY = {r"(\w+)_backward": r"\1", r"gradient|value_and_gradient": "loss", r"assert_(\w+)": r"check_\1"}


def exports(module: ModuleType) -> list[str]:
    """`__all__`, or what the facade re-exports from its own folder."""
    inside = f"{module.__name__}."
    of_facade = [n for n, v in vars(module).items() if str(getattr(v, "__module__", "")).startswith(inside)]
    return list(getattr(module, "__all__", of_facade))


def public_functions() -> Iterator[tuple[ModuleType, str, Any]]:
    for name in sorted(set(fundl.__all__)):
        module = getattr(fundl, name)
        if inspect.ismodule(module):
            for member in exports(module):
                yield module, member, getattr(module, member)


def undocumented(module: ModuleType, name: str, member: Any) -> list[str]:
    """What the docstring leaves out: itself, an example that runs, a keyword option."""
    if not callable(member):
        return []
    doc = inspect.getdoc(member) or ""
    wrong = [] if doc else ["docstring"]
    if inspect.isfunction(member) and ">>>" not in doc:
        wrong.append("example")
    if inspect.isfunction(member):
        text = f"{doc}\n{module.__doc__}"
        # A derivative has the options of its function, which explains them; an assertion those of its check.
        for of in EXPLAINED_BY:
            if re.fullmatch(of, name):
                text += inspect.getdoc(getattr(module, re.sub(of, EXPLAINED_BY[of], name), None)) or ""
        for option in inspect.signature(member).parameters.values():
            if option.kind == option.KEYWORD_ONLY and not re.search(rf"\b{option.name}\b", text):
                wrong.append(f"{option.name}=")
    return wrong


TO_BE_DOCUMENTED: dict[str, set[str]] = {
    "checkpoint.load": {"example"},
    "datasets.train_test_split": {"seed="},
    "least_squares.fit": {"weights=", "intercept=", "method="},
    "least_squares.inputs": {"example"},
    "least_squares.solve": {"l2="},
    "linear_regression.fit": {"method="},
    "logistic_regression.fit": {"method=", "max_steps="},
    "mlp.fit": {"loss=", "weights="},
    "mlp.gradient": {"weights=", "reduction="},
    "mlp.loss": {"weights=", "reduction="},
    "mlp.value_and_gradient": {"weights=", "reduction="},
    "newton.fit": {"example", "weights=", "intercept=", "l1=", "l2=", "tol=", "max_steps=", "method="},
    "softmax_regression.fit": {"method=", "max_steps="},
}
PUBLIC = list(public_functions())


@pytest.mark.parametrize(
    ("module", "name", "member"), PUBLIC, ids=[f"{m.__name__.removeprefix('fundl.')}.{n}" for m, n, _ in PUBLIC]
)
def test_docstring(module: ModuleType, name: str, member: Any) -> None:
    open_still = TO_BE_DOCUMENTED.get(f"{module.__name__.removeprefix('fundl.')}.{name}", set())
    assert set(undocumented(module, name, member)) - open_still == set()


def test_missing_documentation_is_seen() -> None:
    def bare(x: float) -> float:
        return x

    def silent(x: float, *, delta: float = 1.0) -> float:
        """Something.

        >>> 1
        1
        """
        return x * delta

    assert undocumented(fundl.norms, "bare", bare) == ["docstring", "example"]
    assert undocumented(fundl.norms, "silent", silent) == ["delta="]


def test_public_modules_are_documented() -> None:
    for module in {module.__name__: module for module, _, _ in PUBLIC}.values():
        assert module.__doc__, module.__name__
        assert len(set(exports(module))) == len(exports(module)), module.__name__


# ---- an innocent library ---------------------------------------------------------------------------------------------

INNOCENT = """
import jax
before = dict(jax.config.values)
import fundl
for name in fundl.__all__:
    getattr(fundl, name)
from fundl import cli
assert dict(jax.config.values) == before, "the configuration of jax was changed"
"""


def in_another_process(code: str) -> subprocess.CompletedProcess[str]:
    """Where starting any backend fails, since there is no such platform."""
    environment = {"JAX_PLATFORMS": "no_such_platform", "PATH": "", "PYTHONPATH": str(ROOT.parent)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_import_starts_no_backend_and_changes_no_configuration() -> None:
    done = in_another_process(INNOCENT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "guilty",
    ["import jax.numpy as jnp\njnp.zeros(1)", INNOCENT.replace("import fundl\n", "import fundl\nGUILTY\n")],
    ids=["backend", "configuration"],
)
def test_guilt_is_seen(guilty: str) -> None:
    done = in_another_process(guilty.replace("GUILTY", 'jax.config.update("jax_enable_x64", True)'))
    assert done.returncode != 0
    assert "no_such_platform" in done.stderr or "the configuration of jax was changed" in done.stderr


def test_an_unknown_module_is_named() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'attention'"):
        fundl.attention
