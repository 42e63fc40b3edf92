"""Rows, tables and JSON of a benchmark run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .case import PLAIN, Candidate, Case
from .timing import Samples, quantile, ratios


@dataclass(frozen=True)
class Measured:
    """One candidate's figures, in seconds."""

    library: str
    variant: str
    group: str
    median: float
    p20: float
    p80: float
    error: float
    kept: int | None = None
    peak: int | None = None

    @property
    def label(self) -> str:
        """Library and variant in one word."""
        return f"{self.library}:{self.variant}" if self.variant else self.library


@dataclass(frozen=True)
class Row:
    """One of our candidates against the best peer of its group.

    `ratio` is the median over rounds of (peer's time / our time): above 1 ours is faster.
    `rate` is FLOP/s or bytes/s, `share` its part of the machine's limit.
    """

    family: str
    name: str
    dtype: str
    threads: int
    ours: Measured
    peer: Measured | None
    ratio: float | None
    ratio_p20: float | None
    ratio_p80: float | None
    rate: float | None
    share: float | None
    limit: str
    others: list[Measured] = field(default_factory=list)
    part: str = ""

    @property
    def ratios(self) -> dict[str, float]:
        """Every peer's fastest time over ours; that of the best peer as paired in its rounds."""
        found: dict[str, float] = {}
        for peer in self.others:
            ratio = peer.median / self.ours.median
            found[peer.library] = min(ratio, found.get(peer.library, ratio))
        if self.peer and self.ratio:
            found[self.peer.library] = self.ratio
        return found


@dataclass(frozen=True)
class Mean:
    """Geometric means of the ratios of a part of a family, over rows that are held alike.

    `best` is over the best peer of each row, `over` over each peer alone where it took part.
    """

    family: str
    part: str
    group: str
    dtype: str
    threads: int
    rows: int
    at_par: int
    best: float
    worst: float
    worst_name: str
    over: dict[str, float]


def rows_of(
    case: Case,
    threads: int,
    candidates: Sequence[Candidate],
    samples: Sequence[Samples],
    errors: Sequence[float],
    limit_rate: float | None,
    peaks: Sequence[int | None] | None = None,
) -> list[Row]:
    """Compare each of our candidates with the fastest peer of the same group.

    A group that has peers only, such as weights packed beforehand, is compared with our first
    candidate and marked in its variant. `peaks`, where measured, is the memory of each.
    """
    figures = [
        Measured(
            *(c.library, c.variant, c.group),
            *(s.median, s.quantile(0.2), s.quantile(0.8), e, c.kept, peak),
        )
        for c, s, e, peak in zip(
            candidates, samples, errors, peaks or [None] * len(candidates), strict=True
        )
    ]
    mine = [i for i, c in enumerate(candidates) if c.library == "arraynn"]
    pairs: list[tuple[int, str]] = [(i, candidates[i].group) for i in mine]
    held = {candidates[i].group for i in mine}
    groups = dict.fromkeys(c.group for c in candidates)
    pairs += [(mine[0], group) for group in groups if mine and group not in held]
    rows = []
    for i, group in pairs:
        peers = [j for j, c in enumerate(candidates) if c.library != "arraynn" and c.group == group]
        best = min(peers, key=lambda j: samples[j].median, default=None)
        found = ratios(samples[i], samples[best]) if best is not None else []
        work = case.flops if case.limit == "fma" else candidates[i].nbytes or case.nbytes
        rate = work / samples[i].median if work else None
        rows.append(
            Row(
                family=case.family,
                name=case.name,
                dtype=case.dtype,
                threads=threads,
                ours=figures[i],
                peer=figures[best] if best is not None else None,
                ratio=quantile(found, 0.5) if found else None,
                ratio_p20=quantile(found, 0.2) if found else None,
                ratio_p80=quantile(found, 0.8) if found else None,
                rate=rate,
                share=rate / limit_rate if rate and limit_rate else None,
                limit=case.limit,
                others=[figures[j] for j in peers if j != best],
                part=case.part,
            )
        )
    return rows


def seconds(value: float) -> str:
    """Format a time with three figures and a unit.

    >>> seconds(0.00123456)
    '1.23 ms'
    """
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale * 0.9995 or unit == "us":
            scaled = value / scale
            break
    digits = max(0, 2 - math.floor(math.log10(scaled))) if scaled > 0 else 2
    return f"{scaled:.{min(digits, 3)}f} {unit}"


def rate_text(row: Row) -> str:
    """Format the rate: GFLOP/s for work, GB/s for traffic."""
    if row.rate is None:
        return "-"
    return f"{row.rate / 1e9:.3g} {'GFLOP/s' if row.limit == 'fma' else 'GB/s'}"


def bytes_text(row: Row) -> str:
    """Format the bytes kept for a backward call, or those that a call takes, where measured."""
    for what in ("kept", "peak"):
        found = [None if m is None else getattr(m, what) for m in (row.ours, row.peer)]
        if found[0] is not None:
            return ", ".join("-" if k is None else f"{k / 2**20:.3g} MiB" for k in found)
    return ""


def header() -> str:
    """The table's first line."""
    return line(
        (
            *("case", "ours", "thr", "median", "p20-p80", "rate", "limit", "best peer", "peer"),
            *("ratio", "memory: ours, peer"),
        )
    )


def row_text(row: Row) -> str:
    """One line of the table."""
    group = row.peer.group if row.peer and row.peer.group != row.ours.group else row.ours.group
    variant = " ".join(part for part in (row.ours.variant, group and f"[{group}]") if part)
    return line(
        (
            row.name if row.dtype == "float32" else f"{row.name} {row.dtype}",
            variant or "-",
            str(row.threads),
            seconds(row.ours.median),
            f"{seconds(row.ours.p20)}-{seconds(row.ours.p80)}",
            rate_text(row),
            f"{100 * row.share:.0f}%" if row.share else "-",
            row.peer.label if row.peer else "-",
            seconds(row.peer.median) if row.peer else "-",
            f"{row.ratio:.2f}x" if row.ratio else "-",
            bytes_text(row),
        )
    )


_WIDTHS = (34, 26, 3, 9, 19, 14, 5, 24, 9, 8, 20)


def line(cells: Sequence[str]) -> str:
    """Join cells in the table's columns: text to the left, numbers to the right."""
    left = {0, 1, 7}
    return "  ".join(
        cell.ljust(width) if i in left else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, _WIDTHS, strict=True))
    ).rstrip()


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive numbers.

    >>> f"{geometric_mean([0.5, 8.0]):.3f}"
    '2.000'
    """
    return math.exp(sum(math.log(value) for value in values) / len(values))


def means(rows: Sequence[Row]) -> list[Mean]:
    """Geometric means of every part, for each group, dtype and number of threads."""
    parts: dict[tuple[str, str, str, str, int], list[Row]] = {}
    for row in rows:
        if row.part and row.peer and row.ratio:
            key = (row.family, row.part, row.peer.group, row.dtype, row.threads)
            parts.setdefault(key, []).append(row)
    found = []
    for key, rated in parts.items():
        best = [row.ratio or 0.0 for row in rated]
        libraries = sorted({name for row in rated for name in row.ratios})
        over = {
            name: geometric_mean([row.ratios[name] for row in rated if name in row.ratios])
            for name in libraries
        }
        worst = min(rated, key=lambda row: row.ratio or 0.0)
        found.append(
            Mean(
                *key,
                rows=len(rated),
                at_par=sum(ratio >= 1 for ratio in best),
                best=geometric_mean(best),
                worst=min(best),
                worst_name=worst.name,
                over=over,
            )
        )
    return found


def mean_text(mean: Mean) -> str:
    """One line of the summary."""
    over = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in mean.over.items())
    where = " ".join(part for part in (mean.part, mean.group and f"[{mean.group}]") if part)
    return (
        f"  {where} {mean.threads} thr: {mean.at_par} of {mean.rows} rows at 1.00x or better, "
        f"geometric mean over the best peer {mean.best:.2f}x, {over}; "
        f"worst {mean.worst:.2f}x ({mean.worst_name})"
    )


def summary(rows: Sequence[Row]) -> list[str]:
    """Per family: rows at 1.0x or better, geometric mean, and the worst row; then its parts.

    What an option costs our own kernel is a part, and no comparison with a peer.
    """
    lines = []
    for family in dict.fromkeys(row.family for row in rows):
        every = [row for row in rows if row.family == family and row.peer and row.ratio]
        rated = [row for row in every if row.peer and row.peer.library != PLAIN]
        if not rated:
            continue
        found = [row.ratio for row in rated if row.ratio]
        mean = geometric_mean(found)
        worst = min(rated, key=lambda row: row.ratio or 0.0)
        lines.append(
            f"{family}: {sum(r >= 1 for r in found)} of {len(found)} rows at 1.00x or better, "
            f"geometric mean {mean:.2f}x, worst {worst.ratio:.2f}x "
            f"({worst.name} {worst.ours.variant} {worst.threads} thr)".replace("  ", " ")
        )
        lines += [mean_text(mean) for mean in means(every)]
    return lines


def to_json(machine: dict[str, Any], limits: list[dict[str, Any]], rows: Sequence[Row]) -> str:
    """The run as JSON text."""
    body = {
        "machine": machine,
        "limits": limits,
        "means": [asdict(mean) for mean in means(rows)],
        "rows": [asdict(row) for row in rows],
    }
    return json.dumps(body, indent=1) + "\n"


def row_from_dict(found: dict[str, Any]) -> Row:
    """Rebuild a row from its JSON form."""
    fields = dict(found)
    fields["ours"] = Measured(**fields["ours"])
    fields["peer"] = Measured(**fields["peer"]) if fields["peer"] else None
    fields["others"] = [Measured(**other) for other in fields["others"]]
    return Row(**fields)


def write_json(path: str | Path, text: str) -> None:
    """Write JSON text to `path`."""
    Path(path).write_text(text, encoding="utf-8")
