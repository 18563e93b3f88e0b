"""The public face: at most twenty lazy names, and nothing heavy behind ``import kit``."""

import subprocess
import sys

import pytest

import kit


def test_names_are_sorted_and_few():
    assert list(kit._HOMES) == sorted(kit._HOMES)
    assert kit.__all__ == sorted(set(kit.__all__))
    assert 0 < len(kit.__all__) <= 20


@pytest.mark.parametrize("name", kit.__all__)
def test_each_name_is_what_its_module_defines(name):
    thing = getattr(kit, name)
    assert callable(thing)
    assert thing.__module__ == kit._HOMES[name]
    assert thing.__doc__
    assert name in dir(kit)


def test_a_wrong_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'kit' has no attribute 'load_dual_encoders'"):
        kit.load_dual_encoders  # noqa: B018
    assert not hasattr(kit, "__path_of_nothing__")


def test_importing_kit_imports_nothing_heavy():
    heavy = ("torch", "numpy", "transformers", "open_clip", "PIL", "IPython", "matplotlib")
    code = f"import sys, kit; dir(kit); print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_results_and_errors_need_no_torch():
    code = "import sys, kit; kit.Result, kit.Measurement, kit.KitError, kit.save_result; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
