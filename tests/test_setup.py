"""setup.py, as pip runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("version", ["59.6.0", "65.5.0", "76.1.0.post1"])
def test_old_setuptools_is_told_with_the_remedy(tmp_path, version):
    """pip runs setup.py, and setuptools reads pyproject.toml only then."""
    (tmp_path / "setuptools.py").write_text(
        f"__version__ = {version!r}\n\ndef setup(**options):\n    1 / 0\n"
    )
    code = f"import runpy; runpy.run_path({str(ROOT / 'setup.py')!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"difnet-kernels needs setuptools 77 or newer to be built, and here is {version}: "
        "pip install -U 'setuptools>=77'\n"
    )
