"""docs/math.md and the code cite each other: every equation, its number and the places that compute it.

A citation is a number in parentheses, such as (9), in a comment or docstring.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import difnet_kernels

ROOT = Path(__file__).parents[3]
MATH = ROOT / "docs" / "math.md"
# The folder of each column of implementations; a column of one file names the file in its heading.
FOLDERS = {"C++": "csrc", "Triton": "difnet_kernels/triton"}

NUMBER = re.compile(r"(?<![\w\])])\((\d+)\)")  # (9), but neither f(9) nor x[0](9)
DEFINITION = re.compile(r"^ {4}\S.*\((\d+)\)(  \S.*)?$", re.MULTILINE)
COMMENT = re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|(?P<comment>//[^\n]*|/\*.*?\*/)', re.DOTALL)


class Place(NamedTuple):
    """A cell of the table: an equation's number, or None, and where it is computed."""

    number: int | None
    path: str
    name: str


def table(heading: str) -> list[dict[str, str]]:
    """The rows of the table whose heading line starts with `heading`, as cells by column."""
    lines = MATH.read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(heading))
    cells = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        cells.append([cell.strip() for cell in line.strip("|").split("|")])
    columns, _, *rows = cells
    return [dict(zip(columns, row, strict=True)) for row in rows]


def in_backticks(cell: str) -> list[str]:
    return re.findall("`([^`]+)`", cell)


EQUATIONS = table("| paper | here |")
NETWORK = table("| paper | quantity |")


def places() -> Iterator[Place]:
    for row in EQUATIONS:
        number = int(row["here"].strip("()"))
        for column, cell in row.items():
            for entry in in_backticks(cell):
                if column in FOLDERS:
                    file, _, name = entry.partition(":")
                    yield Place(number, f"{FOLDERS[column]}/{file}", name)
                elif column.startswith("`"):
                    yield Place(number, column.strip("`"), entry)
    for row in NETWORK:
        path, _, name = in_backticks(row["place"])[0].partition(":")
        yield Place(None, path, name)


def docstrings(node: ast.AST) -> Iterator[ast.Constant]:
    for child in ast.walk(node):
        if isinstance(child, (ast.Module, ast.ClassDef, ast.FunctionDef)) and child.body:
            first = child.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                yield first.value


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Comments and docstrings of a file, line by line with the number of the line."""
    text = path.read_text()
    if path.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
        lines = text.splitlines()
        for string in docstrings(ast.parse(text)):
            for n in range(string.lineno, (string.end_lineno or string.lineno) + 1):
                yield n, lines[n - 1]
    else:
        for match in COMMENT.finditer(text):
            first = text.count("\n", 0, match.start()) + 1
            for n, line in enumerate((match["comment"] or "").splitlines()):
                yield first + n, line


def citations(path: Path) -> list[tuple[int, int]]:
    """The line and the number of every citation in a file."""
    return [(line, int(number)) for line, words in prose(path) for number in NUMBER.findall(words)]


def extent(path: Path, name: str) -> range | None:
    """The lines of a function or class, in C++ with the comment right above it."""
    text = path.read_text()
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
                return range(node.lineno, (node.end_lineno or node.lineno) + 1)
        return None
    code = COMMENT.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    definition = re.search(rf"\b{name}\b[^;{{}}]*{{", code)
    if definition is None:
        return None
    depth, end = 1, definition.end()
    while depth:
        depth += {"{": 1, "}": -1}.get(code[end], 0)
        end += 1
    lines = text.splitlines()
    first = text.count("\n", 0, definition.start()) + 1
    while first > 1 and re.match(r"\s*(//|template\b)", lines[first - 2]):
        first -= 1
    return range(first, text.count("\n", 0, end) + 2)


def sources() -> list[Path]:
    python = (ROOT / "difnet_kernels").rglob("*.py")
    compiled = (path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".cpp"))
    return sorted([*python, *compiled])


def defined_numbers() -> list[int]:
    return [int(match[1]) for match in DEFINITION.finditer(MATH.read_text())]


def test_equations_are_numbered_in_order() -> None:
    numbers = defined_numbers()
    assert numbers
    assert numbers == list(range(1, len(numbers) + 1))


def test_every_equation_has_a_row_in_the_table() -> None:
    assert [int(row["here"].strip("()")) for row in EQUATIONS] == defined_numbers()


@pytest.mark.parametrize("path", [*sources(), MATH], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_cited_equations_exist(path: Path) -> None:
    defined = set(defined_numbers())
    if path == MATH:
        cited = [
            (n, int(number))
            for n, line in enumerate(MATH.read_text().splitlines(), 1)
            for number in NUMBER.findall(line)
        ]
    else:
        cited = citations(path)
    unknown = [f"{path.relative_to(ROOT)}:{line} cites ({n})" for line, n in cited if n not in defined]
    assert not unknown, f"docs/math.md does not define: {'; '.join(unknown)}"


@pytest.mark.parametrize(
    "place", [*places()], ids=lambda place: f"({place.number}) {place.path}:{place.name}"
)
def test_every_place_of_the_table_exists_and_cites_its_equation(place: Place) -> None:
    path = ROOT / place.path
    assert path.is_file(), f"docs/math.md names {place.path}, which does not exist"
    lines = extent(path, place.name)
    assert lines is not None, f"docs/math.md names {place.name}, which {place.path} does not define"
    if place.number is None:
        return
    cited = {number for line, number in citations(path) if line in lines}
    assert place.number in cited, (
        f"{place.path}:{lines[0]}: {place.name} computes ({place.number}) of docs/math.md "
        f"and cites only {sorted(cited)}"
    )


def test_public_names_of_the_table_exist() -> None:
    names = {name for row in EQUATIONS for name in in_backticks(row["public name"])}
    assert names <= set(difnet_kernels.__all__)


def test_code_is_not_taken_for_a_citation(tmp_path: Path) -> None:
    python = tmp_path / "sample.py"
    python.write_text('"""See (3)."""\nx = (1)  # (4), not f(5)\ny = "(6)"\n')
    assert sorted(citations(python)) == [(1, 3), (2, 4)]
    header = tmp_path / "sample.h"
    header.write_text('int x = (1);  // (2)\nconst char* y = "// (3)"; /* a\n (4) */\n')
    assert citations(header) == [(1, 2), (3, 4)]


def test_extent_of_a_function(tmp_path: Path) -> None:
    header = tmp_path / "sample.h"
    header.write_text("void g() { f(1); }\n// (9)\nvoid f(int x) {\n  if (x) {\n  }  // }\n}\nint y;\n")
    assert extent(header, "f") == range(2, 7)
    assert extent(header, "h") is None
