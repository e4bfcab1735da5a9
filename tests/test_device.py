"""Asking for a device by name."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import torch

from autocache import demo, device
from autocache.cli.main import main
from autocache.errors import DeviceError
from devices import DEVICE

PACKAGE = Path(device.__file__).parent


def test_what_is_there_is_given() -> None:
    """The CPU is always there, and the device of the tests is."""
    assert device.require("cpu") == torch.device("cpu")
    assert device.require("cpu:0") == torch.device("cpu", 0)
    assert device.require(str(DEVICE)) == DEVICE
    assert torch.zeros(2, device=device.require(device.default())).sum() == 0
    device.synchronize(DEVICE)
    assert device.streams(torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("quda", "unknown device 'quda'; did you mean 'cuda'?"),
        ("", "unknown device ''; expected one of: cpu, cuda, mps, npu, xpu"),
        ("cpu:x", "unknown device 'cpu:x'"),
        ("mtia", "device 'mtia' was asked for, and this machine has no such device"),
        ("cuda:999", "device 'cuda:999' was asked for, and this machine has no such device"),
    ],
)
def test_what_is_not_there_is_named(name: str, said: str) -> None:
    """A typing error, a vendor torch was not built for, a number too high."""
    with pytest.raises(DeviceError) as raised:
        device.require(name)
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


def test_a_missing_vendor_package_is_named_with_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An NPU on a machine without torch_npu."""
    monkeypatch.setitem(sys.modules, "torch_npu", None)
    with pytest.raises(DeviceError, match=r"torch_npu.*pip install 'autocache\[npu\]'"):
        device.require("npu:0")


@pytest.mark.parametrize(
    "raises",
    [
        "ImportError('libascendcl.so: cannot open shared object file:\\n No such file')",
        "OSError('libascendcl.so: cannot open shared object file')",
        "RuntimeError('libascendcl.so is of another version')",
        "ModuleNotFoundError('libascendcl.so wants acl', name='acl')",
    ],
)
def test_a_vendor_package_without_its_runtime_is_one_line(
    raises: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch_npu is installed and CANN is not: what it said, and what is missing."""
    (tmp_path / "torch_npu.py").write_text(f"raise {raises}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch_npu", raising=False)
    with pytest.raises(DeviceError, match=r"libascendcl\.so.*CANN") as raised:
        device.require("npu")
    assert "\n" not in str(raised.value)


def test_the_command_line_says_it_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`--device` names a device that is not there: an exit code, one line, no traceback."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n")
    model, out = str(demo.path("shapes")), str(tmp_path / "profile.yaml")
    given = ["--prompts", str(prompts), "--speedup", "2", "--device", "cuda:999", "-o", out]
    code = main(["tune", model, *given])
    assert code == 2
    said = capfd.readouterr().err
    assert "device 'cuda:999' was asked for" in said
    assert "Traceback" not in said


def _named(tree: ast.AST) -> set[str]:
    """What a file calls torch's modules of devices by, and the vendors' packages it imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "torch" and node.attr in (*device.KINDS[1:], "accelerator"):
                found.add(f"torch.{node.attr}")
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name in device.BACKENDS.values()}
        elif isinstance(node, ast.ImportFrom) and node.module in device.BACKENDS.values():
            found.add(node.module)
        elif isinstance(node, ast.Constant) and node.value in device.KINDS[1:]:
            found.add(node.value)
    return found


def test_one_module_knows_the_devices() -> None:
    """No other file of the package names a kind of accelerator, or its module in torch."""
    named = {
        path.relative_to(PACKAGE).as_posix(): _named(ast.parse(path.read_text()))
        for path in PACKAGE.rglob("*.py")
    }
    assert len(named) > 100
    assert named.pop("device.py") >= {"cuda", "npu"}
    assert {path: names for path, names in named.items() if names} == {}
