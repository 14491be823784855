from __future__ import annotations

from pathlib import Path

import pytest

from launcher.engines.openvino.precision import choose_precision
from launcher.engines.openvino.threads import usable_threads
from launcher.errors import ConfigError

WITH, WITHOUT = ["FP32", "BF16", "INT8"], ["FP32", "INT8"]


@pytest.mark.parametrize(
    ("wanted", "capabilities", "chosen"),
    [
        ("auto", WITH, "bfloat16"),
        ("auto", WITHOUT, "float32"),
        ("bfloat16", WITH, "bfloat16"),
        ("float32", WITH, "float32"),
        ("float32", WITHOUT, "float32"),
    ],
)
def test_precision(wanted, capabilities, chosen):
    assert choose_precision(wanted, capabilities) == chosen


@pytest.mark.parametrize(("wanted", "capabilities"), [("bfloat16", WITHOUT), ("float16", WITH)])
def test_what_the_cpu_would_only_imitate_is_refused(wanted, capabilities):
    with pytest.raises(ConfigError, match=rf"^engine\.dtype: .*{wanted}"):
        choose_precision(wanted, capabilities)


@pytest.mark.parametrize(
    ("wanted", "quota", "threads"),
    [
        (0, None, 0),
        (0, "max 100000", 0),
        (0, "400000 100000", 4),
        (0, "250000 100000", 2),
        (0, "50000 100000", 1),
        (0, "6400000 100000", 0),
        (3, "100000 100000", 3),
    ],
)
def test_threads_follow_the_containers_limit(tmp_path: Path, wanted, quota, threads):
    if quota:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert usable_threads(wanted, cpus=32, cgroup=tmp_path) == threads


@pytest.mark.parametrize(("quota", "threads"), [("-1", 0), ("300000", 3)])
def test_threads_follow_the_limit_of_cgroup_v1(tmp_path: Path, quota, threads):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota + "\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert usable_threads(0, cpus=32, cgroup=tmp_path) == threads
