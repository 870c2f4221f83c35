"""A file imports at its top, from its own room or from a floor below; no room or file has another package's name."""

import ast
import importlib.metadata
import subprocess
import sys

import pytest

from conftest import ROOT

# From the ground up: files and rooms. Those of one floor import nothing from each other.
FLOORS = [
    {"errors", "lazy"},
    {"settings"},
    {"files", "layers", "optimizers", "parameters", "ranges"},
    {"attacks", "perturbations", "sources"},
    {"pieces"},
    {"data", "model"},
    {"learners"},
    {"training"},
    {"studies"},
    {"figures", "main"},
    {"get_data", "plot", "bench", "train_jax"},
]
FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}
LOADED_LATE = {"tensorflow", "tensorflow_datasets", "jax", "scipy"}  # that not every command needs, or not at once
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted([*ROOT.glob("*.py"), *(file for room in FLOOR for file in (ROOT / room).glob("*.py"))])
}


def imports(module: str, tree: ast.AST) -> set[str]:
    """Return the full names of the modules that this part of the module imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name if name in FILES else name.rpartition(".")[0] or name for name in names}


# Packages that somebody may import beside this program, which does not need them, and what they are.
OTHERS = {
    "art": "attacks on classifiers, and defences (adversarial-robustness-toolbox)",
    "avalanche": "continual learning",
    "cleverhans": "attacks on classifiers",
    "datasets": "Hugging Face's datasets",
    "easyfsl": "few-shot learning in PyTorch",
    "evaluate": "Hugging Face's measures of accuracy",
    "flax": "networks in JAX",
    "foolbox": "attacks on classifiers",
    "higher": "optimizers in PyTorch that can be differentiated",
    "learn2learn": "meta-learning in PyTorch",
    "models": "the name of many projects' own package",
    "official": "the models of TensorFlow's Model Garden",
    "optax": "optimizers in JAX",
    "pandas": "tables",
    "seaborn": "figures",
    "sonnet": "networks in TensorFlow",
    "timm": "networks for images in PyTorch",
    "torch": "PyTorch",
    "torchattacks": "attacks on classifiers",
    "torchmeta": "meta-learning in PyTorch",
    "torchvision": "images in PyTorch",
    "transformers": "Hugging Face's networks",
    "utils": "the name of many projects' own package",
    "wandb": "records of runs",
}
TREES = {module: ast.parse(path.read_text()) for module, path in FILES.items()}
OURS = {
    module: {name for name in imports(module, tree) if name.split(".")[0] in FLOOR} for module, tree in TREES.items()
}


def test_every_file_has_its_floor():
    assert {module.split(".")[0] for module in FILES} == set(FLOOR)


@pytest.mark.parametrize("name", sorted(FLOOR))
def test_no_name_at_the_top_is_that_of_another_package(name):
    """A project may have this folder on its path, and import the other package."""
    assert name not in sys.stdlib_module_names, "Python has such a module"
    assert name not in importlib.metadata.packages_distributions(), (
        "a package that this program needs has such a module"
    )
    assert name not in OTHERS, OTHERS[name]


@pytest.mark.parametrize("module", FILES)
def test_imports_go_downwards_and_are_at_the_top(module):
    room = module.split(".")[0]
    for name in OURS[module]:
        other = name.split(".")[0]
        assert other == room or FLOOR[other] < FLOOR[room], f"{module} imports {name}"
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            late = {name.split(".")[0] for name in imports(module, node)}
            assert late <= LOADED_LATE, f"{module}.{getattr(node, 'name', 'lambda')} imports {late}"


def test_no_two_files_of_tests_have_one_name():
    """Pytest imports each under its name alone."""
    names = sorted(file.name for file in (ROOT / "tests").glob("**/*.py"))
    assert names == sorted(set(names))


def test_there_is_no_circle_in_a_room():
    done = set()
    while left := OURS.keys() - done:
        free = {module for module in left if OURS[module] - {module} <= done}
        assert free, {module: OURS[module] - done for module in left}
        done |= free


@pytest.mark.parametrize("command", ["main", "get_data", "plot", "bench", "train_jax"])
def test_a_command_starts_without_tensorflow(command):
    code = f"import sys, {command}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_train_jax_needs_numpy_alone():
    """And JAX, which it imports later: machines with an accelerator may have nothing else."""
    others = "tensorflow", "PIL", "tqdm", "scipy", "sklearn", "matplotlib"
    code = f"import sys; sys.modules |= dict.fromkeys({others}); import train_jax"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
