"""The benchmark of a GPU and its kit: a part that fails or hangs is a row, and every wheel of the kit has a hash."""

import sys

import pytest

from face3d_lib.base.paths import ROOT

sys.path.insert(0, str(ROOT / "tests" / "bench"))
import gpu
import interval_coverage
import kit

LOCK = """\
alpha==1.2 ; python_full_version < '3.12' \\
    --hash=sha256:aa
    # via beta
alpha==1.3 ; python_full_version >= '3.12' \\
    --hash=sha256:bb \\
    --hash=sha256:cc
beta-ray==2.0 \\
    --hash=sha256:dd
gamma==3.0 ; sys_platform == 'win32' \\
    --hash=sha256:ee
"""


def test_the_kit_takes_versions_and_hashes_for_its_python_from_the_lock():
    assert kit.pinned(LOCK, ["beta-ray", "alpha"]) == (
        "beta-ray==2.0 --hash=sha256:dd\nalpha==1.3 --hash=sha256:bb --hash=sha256:cc\n"
    )
    with pytest.raises(SystemExit, match="delta, gamma: not in"):
        kit.pinned(LOCK, ["alpha", "gamma", "delta"])


def test_every_wheel_of_the_kit_is_in_our_lock_with_a_hash():
    lines = kit.pinned((ROOT / "requirements.lock").read_text(encoding="utf-8"), kit.NAMES).splitlines()
    assert len(lines) == len(kit.NAMES)
    assert all("==" in line and "--hash=sha256:" in line for line in lines)


def test_a_part_that_fails_or_takes_too_long_is_a_row_with_the_reason(tmp_path, monkeypatch, capfd):
    script = tmp_path / "part.py"
    monkeypatch.setattr(gpu, "__file__", str(script))
    script.write_text("import sys; print('a line', file=sys.stderr); sys.exit('no memory on this card')")
    (failed,) = gpu.run_part("training", 60, tiny=False, kit="")
    assert (failed["what"], failed["unit"], failed["value"]) == ("training", "failed", None)
    assert failed["note"] == "exit code 1: no memory on this card"
    assert "a line" in capfd.readouterr().err
    script.write_text("import subprocess, sys; print('compiling', flush=True); subprocess.run(['sleep', '60'])")
    (stopped,) = gpu.run_part("compiled", 1.5, tiny=False, kit="")
    assert stopped["note"] == "stopped after 2 s: compiling"
    table = gpu.as_markdown([failed, stopped, gpu.row("training", 6543.21, "images/s"), gpu.row("share", 0.4567, "")])
    assert "| training | - | failed | exit code 1: no memory on this card |" in table
    assert "| training | 6,543 | images/s |" in table
    assert "| share | 0.4567 |" in table


def test_the_parts_fit_into_the_time_of_the_whole():
    assert sum(gpu.PARTS.values()) <= gpu.TOTAL_SECONDS < 8 * 60
    assert all(callable(getattr(gpu, f"measure_{part}")) for part in gpu.PARTS)


def test_a_part_runs_with_tiny_sizes(tmp_path):
    (row,) = gpu.run_part("detection", 120, tiny=True, kit="")
    assert row["unit"] == "images/s", row
    assert row["value"] > 0


def test_intervals_hold_the_truth_for_ten_people_where_percentiles_do_not():
    """Ten people of whom few make an error: percentiles collapse to a point, ours do not (MC error of .95: .028)."""
    rows = interval_coverage.simulate(60, workers=1, people=(10,), populations=("easy",), rounds=2)
    held = rows.pivot(index="method", columns="rate", values="held") / 60
    rates = list(interval_coverage.RATES)
    assert (held.loc[interval_coverage.OURS, rates] >= 0.86).all()
    assert held.loc[interval_coverage.OURS, rates].mean() > 0.93
    assert held.loc["percentile", rates].mean() < 0.8
    assert held.loc[interval_coverage.OURS_DIFFERENCE, interval_coverage.DIFFERENCE] >= 0.88
    assert interval_coverage.summary(rows)["rates"]["percentile"]["10"][0] == pytest.approx(
        held.loc["percentile", rates].mean()
    )
