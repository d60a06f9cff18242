"""The generated documents: they follow the rows, and their text contains no measured number."""

import re
from pathlib import Path

import pytest
from reporting import tables

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / name for name in tables.DOCUMENTS]
REPORTS = [folder / tables.REPORT for folder in tables.files_by_machine(tables.read())]
MEASURED = re.compile(
    r"\d\s*(?:ms|µs|us|MiB|GiB|GFLOP\S*|TFLOP\S*|exp/s)\b|\d\s*(?:x|times) (?:as fast|faster|slower)"
)


def name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*DOCUMENTS, *REPORTS], ids=name)
def test_document_agrees_with_the_rows(path):
    assert path.read_text() == tables.make_documents(tables.read())[path], "run `make tables`"


def test_every_report_belongs_to_rows():
    assert sorted(tables.RESULTS.glob(f"*/{tables.REPORT}")) == sorted(REPORTS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_no_measured_number_is_typed(path):
    text = re.sub(r"<!-- begin (\w+) -->.*?<!-- end \1 -->", "", path.read_text(), flags=re.S)
    assert not MEASURED.findall(text)


def test_typed_number_is_detected():
    text = (ROOT / "README.md").read_text()
    typed = text.replace("<!-- end summary -->", "| difnet native | 1.0 |\n<!-- end summary -->")
    assert typed != text
    assert tables.fill(typed, tables.read()) != typed
    assert MEASURED.search("the forward takes 3.5 ms")


@pytest.mark.parametrize("path", [*DOCUMENTS, *REPORTS], ids=name)
def test_links_to_files_are_valid(path):
    for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / link).exists(), link
