"""The pictures of a corpus: two PNG files, the same for the same numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slm_model.data.report.data_report import DataReportFacts, ReportTable
from slm_model.reporting.plots import BLUE, COLOURS, GREY, four_panels, style, to_png

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BARS = 15
BINS = 40


def draw_stories(facts: DataReportFacts, table: ReportTable, lengths: pd.DataFrame) -> bytes:
    """What was rejected and why, and how long the stories of each side are."""
    figure, ((why, in_bytes), (in_words, in_tokens)) = _panels()
    rejected = [(reason.reason.replace("_", " "), reason.num_stories) for reason in table.rejected]
    if facts.num_dropped:
        rejected.append(("near a held-out one", facts.num_dropped))
    gone = facts.num_rejected + facts.num_dropped
    _bars(why, f"Left out: {gone:,} of {facts.num_found:,} stories ({gone / facts.num_found:.2%})", "stories", rejected)
    for axes, unit, length in zip(
        (in_bytes, in_words, in_tokens), ("bytes", "words", "tokens"), table.lengths, strict=True
    ):
        _histogram(axes, unit, length.quantiles["0.5"], lengths[lengths["unit"] == unit])
    return to_png(figure)


def draw_words(facts: DataReportFacts, words: pd.DataFrame, tokens: pd.DataFrame, growth: pd.DataFrame) -> bytes:
    """The most frequent words and tokens, how fast new words come, and how evenly tokens are used."""
    figure, ((common, frequent), (new, ranks)) = _panels()
    top = words.head(BARS)
    shares = 1000 * top["count"] / words["count"].sum()
    _bars(common, "Most frequent words", "in a thousand words", list(zip(top["word"], shares, strict=True)))
    used = tokens.sort_values(["train", "id"], ascending=[False, True])
    marks = used["token"].isin(["<bos>", "<eos>"])
    top = used[~marks].head(BARS)
    shares = 1000 * top["train"] / max(1, tokens["train"].sum())
    _bars(
        frequent,
        "Most frequent tokens of training",
        "in a thousand tokens",
        list(zip(top["token"], shares, strict=True)),
    )

    law = f", as words to the power of {facts.heaps_exponent:.2f}" if facts.heaps_exponent is not None else ""
    style(new, f"New words{law}", "words read", "distinct words")
    new.plot([0, *growth["num_words"]], [0, *growth["num_distinct"]], color=BLUE, linewidth=1.6)
    end = (facts.num_sample_words, facts.num_distinct_words)
    new.annotate(f"{end[1]:,}", end, (0, -14), textcoords="offset points", ha="right")
    new.xaxis.set_major_formatter("{x:,.0f}")
    new.locator_params("x", nbins=5)

    counts = used["train"][used["train"] > 0]
    style(ranks, "Use of each token in training", "rank of the token", "times")
    ranks.loglog(range(1, len(counts) + 1), counts, color=BLUE, linewidth=1.6)
    ranks.minorticks_off()
    ranks.text(
        0.97, 0.94, f"{facts.num_unused_tokens:,} of {len(tokens):,} never", transform=ranks.transAxes, ha="right"
    )
    return to_png(figure)


def _panels() -> tuple[Figure, Any]:
    return four_panels(9, bottom=0.07, top=0.96, wspace=0.42, hspace=0.28)


def _bars(axes: Axes, title: str, unit: str, pairs: Sequence[tuple[str, float]]) -> None:
    """Bars from the top, each with its name and its number."""
    style(axes, title, unit, "")
    axes.grid(visible=False)
    axes.set_yticks(range(len(pairs)), [_plain(name) for name, _ in pairs], parse_math=False)
    bars = axes.barh(range(len(pairs)), [number for _, number in pairs], color=BLUE)
    axes.bar_label(bars, [f"{n:,}" if isinstance(n, int) else f"{n:.1f}" for _, n in pairs], padding=3, fontsize=8)
    axes.margins(x=0.15)
    axes.set_ylim(max(len(pairs), 6) - 0.5, -0.5)
    if not pairs:
        axes.text(0.5, 0.5, "none", ha="center", transform=axes.transAxes, color=GREY)


def _histogram(axes: Axes, unit: str, median: int, lengths: pd.DataFrame) -> None:
    style(axes, f"Length in {unit}", unit, "share of the side")
    longest = int(lengths["length"].max())
    for side, rows in lengths.groupby("side", sort=False):
        axes.hist(
            rows["length"],
            bins=BINS,
            range=(0, longest),
            weights=rows["num_stories"] / rows["num_stories"].sum(),
            histtype="step",
            linewidth=1.4,
            color=COLOURS[str(side)],
            label=f"{side} ({rows['num_stories'].sum():,})",
        )
    axes.axvline(median, color="black", linestyle=":", linewidth=1, label=f"median {median:,}")


def _plain(text: str) -> str:
    """Text that the font has, and no longer than a label may be: other characters by their code points."""
    spelt = "".join(c if c in "␣…" or c < "\u0250" else f"\\u{ord(c):04x}" for c in text)
    return spelt if len(spelt) <= 20 else spelt[:19] + "…"
