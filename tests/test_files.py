"""Files are written whole or not at all."""

import os
import stat
import subprocess
import sys

import pytest

import pwl_lite as pwl
from pwl_lite.errors import SaveError
from pwl_lite.files import atomic_path, write_atomically
from pwl_lite.hardware import cpu_flags, device_name, speed_features


def test_text_and_bytes_are_written_and_replaced(tmp_path):
    target = tmp_path / "new" / "file.txt"
    write_atomically(target, "erste Zeile ✓\n")
    assert target.read_text(encoding="utf-8") == "erste Zeile ✓\n"
    write_atomically(target, b"\x00\x01")
    assert target.read_bytes() == b"\x00\x01"
    assert os.listdir(target.parent) == ["file.txt"]


def test_readable_as_the_umask_says(tmp_path):
    write_atomically(tmp_path / "file", "x")
    (tmp_path / "plain").write_text("x")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_an_error_inside_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    script = f"""
import os, signal
from pwl_lite.files import atomic_path
with atomic_path({str(target)!r}) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=os.path.dirname(os.path.dirname(pwl.__file__)))
    assert result.returncode == -9
    assert target.read_text() == "old"


def test_what_cannot_be_written_is_named_with_the_way_out(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match=r"file/below: could not be written .*free some space or choose another folder"):
        write_atomically(tmp_path / "file" / "below", "x")


def test_hardware_is_described():
    assert device_name("cpu")
    features = speed_features("cpu")
    assert set(features) == {"bf16", "channels_last"}
    assert not features["bf16"] or {"avx512_bf16", "amx_bf16"} & cpu_flags()


def test_the_package_says_what_it_offers():
    assert set(pwl.__all__) <= set(dir(pwl))
    for name in pwl.__all__:
        assert getattr(pwl, name) is not None
    with pytest.raises(AttributeError, match=r"no attribute 'train_all'; it has .*train"):
        pwl.train_all  # noqa: B018
