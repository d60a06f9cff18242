"""A missing optional package is named, with the remedy."""

import pytest

from difnet.utils.extras import train_extra


def test_missing_package_is_named():
    with (
        pytest.raises(ImportError, match=r"needs the package 'no_such_package'.*pip install") as caught,
        train_extra(),
    ):
        import no_such_package.part  # noqa: F401
    assert caught.value.name == "no_such_package"


def test_missing_module_of_this_package_stays_a_bug():
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'difnet\.nowhere'"), train_extra():
        import difnet.nowhere  # noqa: F401
