"""Nothing is executed from data: no way of reading that could, anywhere in the package."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "bench.py", *sorted((ROOT / "benchmark").rglob("*.py")), *sorted((ROOT / "methods").rglob("*.py"))]
MODULES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "code", "runpy"}
CALLS = {"eval", "exec", "compile", "__import__", "system", "popen", "read_pickle", "from_file", "unsafe_load"}
MAY_COMPILE = {"re", "torch"}


def problems(tree: ast.AST) -> list[str]:
    """What in a source could execute what it reads, with its line."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += [f"{node.lineno}: imports {name}" for name in names if name.split(".")[0] in MODULES]
        if not isinstance(node, ast.Call):
            continue
        owner = node.func.value.id if _has_owner(node.func) else ""
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if name in CALLS and not (name == "compile" and owner in MAY_COMPILE):
            found.append(f"{node.lineno}: calls {name}")
        if name == "load" and owner == "torch" and not _is(keywords.get("weights_only"), True):
            found.append(f"{node.lineno}: torch.load without weights_only=True")
        if owner in ("np", "numpy") and name == "load" and not _is(keywords.get("allow_pickle"), False):
            found.append(f"{node.lineno}: numpy.load without allow_pickle=False")
        if any(keyword.arg == "shell" and not _is(keyword.value, False) for keyword in node.keywords):
            found.append(f"{node.lineno}: a shell")
    return found


def _has_owner(function: ast.expr) -> bool:
    return isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)


def _is(value: ast.expr | None, wanted: bool) -> bool:
    return isinstance(value, ast.Constant) and value.value is wanted


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_executes_data(path):
    assert problems(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from pickle import loads", "import numpy, yaml", "torch.load(p)", "np.load(p)", "eval(x)",
     "torch.load(p, weights_only=False)", "torch.load(p, weights_only=flag)", "os.system(x)", "pd.read_pickle(p)",
     "subprocess.run(x, shell=True)", "compile(x, 'x', 'exec')", "builtins.exec(x)"],
)  # fmt: skip
def test_the_check_sees(source):
    assert problems(ast.parse(source))


def test_pages_are_escaped_without_exception():
    """Jinja escapes by itself; nothing in a template may switch that off."""
    page = (ROOT / "benchmark" / "report" / "page.py").read_text()
    assert "autoescape=True" in page
    for template in (ROOT / "benchmark").rglob("*.jinja"):
        text = template.read_text()
        assert "|safe" not in text.replace(" ", "") and "autoescape" not in text
    assert not any("Markup(" in path.read_text() for path in SOURCES)
