"""Failure to acquire: how often no face was found, and what that adds to the false reject rate."""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

Rate = TypeVar("Rate", float, "pd.Series")


def frr_with_fta(fnmr: Rate, fta: float) -> Rate:
    """FTA + FNMR * (1 - FTA): a person who is not acquired counts as rejected (ISO/IEC 19795-1, one attempt)."""
    return fta + fnmr * (1 - fta)


def far_with_fta(fmr: Rate, fta: float) -> Rate:
    """FMR * (1 - FTA): a person who is not acquired is never accepted (ISO/IEC 19795-1, one attempt)."""
    return fmr * (1 - fta)


def wilson(count: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a share count / n of independent events (95 % for z = 1.96)."""
    if not 0 <= count <= n or n == 0:
        raise ValueError(f"{count} of {n} is not a share")
    p, scale = count / n, 1 + z * z / n
    centre, half = (p + z * z / (2 * n)) / scale, z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    return (0.0 if count == 0 else float(centre - half)), (1.0 if count == n else float(centre + half))


def failure_rates(status: np.ndarray, group: np.ndarray) -> "pd.DataFrame":
    """Failure to acquire: columns group, n, failed, rate, low, high (Wilson 95 %), and a last row "all".

    `status` (N,) is "ok" or the reason of a failure; `group` (N,) is any label, such as a column of conditions.
    """
    import pandas as pd  # here, because `face3d identify` uses this file but not pandas

    frame = pd.DataFrame({"group": np.asarray(group).astype(str), "failed": np.asarray(status) != "ok"})
    table = frame.groupby("group")["failed"].agg(n="size", failed="sum").reset_index()
    table.loc[len(table)] = ["all", len(frame), int(frame["failed"].sum())]
    table["rate"] = table["failed"] / table["n"]
    table[["low", "high"]] = [wilson(failed, n) for failed, n in zip(table["failed"], table["n"], strict=True)]
    return table
