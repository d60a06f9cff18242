import re
from pathlib import Path

import pytest
from reporting import tables

ROOT = Path(__file__).parents[2]
MEASURED = re.compile(
    r"\d\s*(?:ms|µs|us|MiB|GiB|GFLOP\S*|TFLOP\S*|exp/s)\b|\d\s*(?:x|times) (?:as fast|faster|slower)"
)


@pytest.mark.parametrize("name", tables.DOCUMENTS)
def test_the_documents_say_what_the_rows_say(name):
    text = (ROOT / name).read_text()
    assert tables.fill(text, tables.read()) == text, "run `make tables`"


@pytest.mark.parametrize("name", tables.DOCUMENTS)
def test_no_measured_number_is_typed(name):
    text = re.sub(r"<!-- begin (\w+) -->.*?<!-- end \1 -->", "", (ROOT / name).read_text(), flags=re.S)
    assert not MEASURED.findall(text)


def test_a_typed_number_is_found():
    text = (ROOT / "docs/benchmarks.md").read_text()
    typed = text.replace("<!-- end walks -->", "| difnet native | 1.0 |\n<!-- end walks -->")
    assert tables.fill(typed, tables.read()) != typed
    assert MEASURED.search("the forward takes 3.5 ms")


def test_pictures_exist():
    text = (ROOT / "docs/benchmarks.md").read_text()
    for link in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (ROOT / "docs" / link).is_file(), link
