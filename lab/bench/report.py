"""Results on disk: JSON into which sections are merged, and Markdown tables made from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from lab.bench.sides import FP32, INT8, REFERENCE

Section = Mapping[str, Any]
Results = dict[str, Any]


def kind_of(device: str) -> str:
    return "cpu" if device == "cpu" else "cuda"


def read(path: Path) -> Results:
    """Return the results of earlier runs, or an empty dict."""
    if not path.exists():
        return {}
    found: Results = json.loads(path.read_text(encoding="utf-8"))
    return found


def merge(results: Results, device: str, section: str, data: Section, machine: Section) -> None:
    """Replace one section's figures and add when and where they were measured. Of ``kinds``, rows of other
    processors are kept."""
    sections = results.setdefault(kind_of(device), {})
    if section == "kinds":
        data = {**data, "rows": {**sections.get(section, {}).get("rows", {}), **data["rows"]}}
    sections[section] = {
        "measured": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": dict(machine),
        **data,
    }


def write(results: Results, folder: Path) -> None:
    """Write ``results.json`` and ``results.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, ensure_ascii=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    (folder / "results.md").write_text(markdown(results), encoding="utf-8")


def markdown(results: Results) -> str:
    """Return all tables as Markdown."""
    lines = ["# Measurements", "", "Made by `make bench`; docs/performance.md explains the tables."]
    for kind, sections in results.items():
        lines += ["", f"## {'CPU' if kind == 'cpu' else 'GPU'}", *_machines(sections)]
        for name, tables in TABLES.items():
            if name in sections:
                try:
                    lines += ["", *tables(sections[name])]
                except KeyError:  # written by an older bench without all of today's figures
                    lines += ["", f"### {name}", "", "Measured by an older version; run this section again."]
    return "\n".join(lines) + "\n"


def _machines(sections: Mapping[str, Section]) -> Iterator[str]:
    sections_by_machine: dict[str, list[str]] = {}
    for name, section in sections.items():
        machine = dict(section["machine"])
        load = machine.pop("load_average")
        words = ", ".join(
            f"{key} {' '.join(value) if isinstance(value, list) else value}"
            for key, value in machine.items()
            if not isinstance(value, dict)
        )
        sections_by_machine.setdefault(words, []).append(f"{name} ({section['measured']}, load {load})")
    for words, names in sections_by_machine.items():
        yield from ("", f"{words}. Sections: {', '.join(names)}.")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return a Markdown table; None is an empty cell."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    ruled = ["---", *["---:"] * (len(head) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (list(head), ruled, *cells)]


def _latency(section: Section) -> list[str]:
    ratios = section.get("ratios", {})
    rows = [
        (name, f"{one['p50']:.3f} s", f"{one['p95']:.3f} s", one["runs"], _times(ratios.get(name)))
        for name, one in section["sides"].items()
    ]
    lines = [
        "### One request at a time",
        "",
        *table(("side", "p50", "p95", "runs", "faster by"), rows),
    ]
    if "recomputed_share" in section:
        share = section["recomputed_share"]
        lines += ["", f"Recomputed in fp32 by the guard: {share:.1%} of the requests."]
    return lines


def _times(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}×"


def _pictures(section: Section) -> list[str]:
    many = section["sentences"]
    rows = [
        ("first", f"{1000 * section['first_sentence']:.0f} ms", None),
        ("second", f"{1000 * section['second_sentence']:.0f} ms", f"{section['second_faster_by']:.0%}"),
        (
            f"each of {many} at once",
            f"{1000 * section['each_of_many']:.0f} ms",
            f"{section['each_of_many_faster_by']:.0%}",
        ),
    ]
    head = (f"sentence about one picture ({section['side']})", "takes", "less by")
    return ["### Many sentences about one picture", "", *table(head, rows)]


def _together(section: Section) -> list[str]:
    rows: list[tuple[object, ...]] = [
        ("at once", section["at_once_per_second"], _times(section["ratio"])),
        ("one after the other", section["one_by_one_per_second"], None),
    ]
    if "reference" in section:
        rows.append((f"{REFERENCE}, at once", section["reference"], None))
    head = (f"{section['requests']} mixed requests ({section['side']})", "a second", "ratio")
    return ["### Eight different requests", "", *table(head, rows)]


def _load(section: Section) -> list[str]:
    rows = [
        (
            one["callers"],
            one["per_second"],
            _times(one.get("ratio")),
            f"{one['p50']:.2f} s",
            f"{one['p95']:.2f} s",
            one["mean_batch"],
            f"{one['share_of_peak']:.0%}",
        )
        for one in section["levels"]
    ]
    head = ("callers", "answers a second", "faster by", "p50", "p95", "in a batch", "of the matrix peak")
    lines = [f"### Load, through the engine ({section['side']})", "", *table(head, rows)]
    lines += ["", f"One request takes {section['gflop_per_request']} GFLOP."]
    if "reference_per_second" in section:
        lines[-1] += f" {REFERENCE} answers {section['reference_per_second']} a second, one by one."
    return lines


def _batches(section: Section) -> list[str]:
    rows = [
        (one["max_batch"], one["per_second"], f"{one['mean']:.2f} s", f"{one['p95']:.2f} s")
        for one in section["levels"]
    ]
    title = f"### Size of a batch, {section['callers']} callers ({section['side']})"
    return [title, "", *table(("at most", "answers a second", "mean", "p95"), rows)]


def _fair(section: Section) -> list[str]:
    rows = [
        (name, f"{section[key]['p50']:.2f} s", f"{section[key]['p95']:.2f} s", section[key]["runs"])
        for name, key in (("alone", "alone"), (f"beside {section['in_flight']} of another", "beside"))
    ]
    greedy = ", ".join(f"{count} × {status}" for status, count in sorted(section["greedy"].items()))
    return [
        "### One request at a time beside a greedy caller, over HTTP",
        "",
        *table(("lone caller", "p50", "p95", "runs"), rows),
        "",
        f"The greedy caller got, by status: {greedy}.",
    ]


def _retry(section: Section) -> list[str]:
    rows = [
        (
            one["queue"],
            f"{one['predicted']:.0f} s",
            f"{one['actual']:.2f} s",
            f"{one['first_place']:.2f} s",
            f"{one['largest_error']:.2f} s",
        )
        for one in section["levels"]
    ]
    head = ("places in the queue", "Retry-After", "until all were answered", "until one was", "largest error")
    return [f"### Predicted and actual wait ({section['side']})", "", *table(head, rows)]


def _background(section: Section) -> list[str]:
    rows = [
        (
            f"{one['pause']:g} × a request",
            f"{one['alone']['p95']:.3f} s",
            f"{one['beside']['p95']:.3f} s",
            _times(one["ratio_p50"]),
            _times(one["ratio_p95"]),
            one["rows_per_second"],
            one["preempted"],
        )
        for one in section["levels"]
    ]
    head = (
        *("mean pause of the caller", "p95 alone", "p95 with rows", "p50 ratio", "p95 ratio"),
        *("rows a second", "pre-empted"),
    )
    return [f"### One caller beside background rows ({section['side']})", "", *table(head, rows)]


def _stages(section: Section) -> list[str]:
    peaks = ", ".join(f"{name} {value} GFLOP/s" for name, value in section["peaks_gflops"].items())
    rows = [
        (
            f"{side}: {part}",
            one["ms"],
            one.get("gflop"),
            None if one.get("share_of_peak") is None else f"{one['share_of_peak']:.0%}",
        )
        for side, parts in section["sides"].items()
        for part, one in parts.items()
    ]
    head = ("part", "ms", "GFLOP", "of the matrix peak")
    return [
        "### Where the time goes",
        "",
        f"Measured matrix peak: {peaks}. Decoding ({section['picture']}) runs in a reader process.",
        "",
        *table(head, rows),
    ]


def _start(section: Section) -> list[str]:
    lines = ["### Start and memory (warm disk cache)"]
    for key, title in (("first_verdict", "to the first verdict"), ("web_app_healthy", "web app to healthy")):
        rows = [
            (
                name,
                f"{one['seconds']['p50']:.2f} s",
                f"{one['resident_mb']:.0f} MB",
                f"{one['own_mb']:.0f} MB",
                f"{one['mapped_files_mb']:.0f} MB",
            )
            for name, one in section[key].items()
        ]
        head = (title, "median", "peak RSS", "anonymous", "memory-mapped")
        lines += ["", *table(head, rows)]
    return lines


def _polling(section: Section) -> list[str]:
    rows: list[tuple[object, ...]] = [
        (f"processor time of one `{path}`", f"{ms:.2f} ms") for path, ms in section["cpu_ms_per_call"].items()
    ]
    rows += [
        ("share of the machine at 1 Hz each", f"{section['cpu_share_at_1_hz_each']:.3%}"),
        (
            f"throughput lost, measured ({section['requests']} requests a side)",
            "{:.1%}, between {:.1%} and {:.1%}".format(
                section["throughput_lost"], *section["throughput_lost_between"]
            ),
        ),
    ]
    return ["### Health polls", "", *table(("what", "cost"), rows)]


def _reading(section: Section) -> list[str]:
    cost = f"The reader process costs {section['cost_ms']:.2f} ms at the median."
    return [f"### Reading a picture ({section['picture']})", "", *_sides("decoded in", section), "", cost]


def _overhead(section: Section) -> list[str]:
    cost = f"HTTP costs {section['cost_ms']:.2f} ms at the median."
    return [f"### A call of the API ({section['picture']})", "", *_sides("called by", section), "", cost]


def _batch(section: Section) -> list[str]:
    rows = [
        (name, one["run_per_second"], one["alone_per_second"], f"{one['share']:.1%}", one["largest_batch"])
        for name, one in section["lists"].items()
    ]
    title = (
        f"### A list of {section['rows']} rows, {section['sentences_per_picture']} about each picture (demo)"
    )
    head = ("pictures", "local run, rows a second", "model alone", "share", "largest batch")
    return [title, "", *table(head, rows)]


def _sides(what: str, section: Section) -> list[str]:
    rows = [
        (name, f"{1000 * one['p50']:.2f} ms", f"{1000 * one['p95']:.2f} ms", one["runs"])
        for name, one in section["sides"].items()
    ]
    return table((what, "p50", "p95", "runs"), rows)


def _agreement(section: Section) -> list[str]:
    if "skipped" in section:
        return ["### Agreement with fp32", "", f"Not measured: {section['skipped']}."]
    rows = [
        (
            side,
            f"{name} ({one['folder']})",
            one["pairs"],
            one["differing_without_guard"],
            one["differing_with_guard"],
            ", ".join(f"{share:.1%} in {step}" for step, share in one["recomputed_share"].items()),
            one["largest_difference"],
        )
        for side, by_pairs in section["sides"].items()
        for name, one in by_pairs.items()
    ]
    head = ("format", "pairs", "number", "labels differ, no guard", "with guard", "recomputed")
    return [f"### Agreement with {FP32}", "", *table((*head, "largest difference"), rows)]


def _margin(section: Section) -> list[str]:
    lines: list[str] = []
    for name, one in section["formats"].items():
        rows = [
            (
                configuration,
                seen["pairs"],
                seen["largest_error"],
                f"{seen['largest_error_of_small_leads']} ({seen['small_leads']})",
                seen["differing"],
                seen["largest_differing_lead"] if seen["differing"] else None,
            )
            for configuration, seen in {**one["configurations"], "all": one["all"]}.items()
        ]
        title = f"### Error of a lead in {name} (margin of the guard: {one['margin']})"
        small = f"of leads under {section['small_lead']:g} (count)"
        head = ("random weights", "pairs", "largest error", small, "labels differ", "largest lead of those")
        lines += [title, "", *table(head, rows), ""]
        if one["all"]["not_finite"]:
            lines += [f"Not finite, recomputed with any margin: {one['all']['not_finite']}.", ""]
    formats = section["formats"]
    shares = [
        (candidate, *(f"{one['recomputed'][candidate]:.1%}" for one in formats.values()))
        for candidate in next(iter(formats.values()))["recomputed"]
    ]
    return [*lines, *table(("margin", *(f"{name} recomputed" for name in formats)), shares)]


def _ablation(section: Section) -> list[str]:
    rows = [
        (name, f"{1000 * one['with']:.0f} ms", f"{1000 * one['without']:.0f} ms", _times(one["gain"]))
        for name, one in section["steps"].items()
    ]
    title = f"### Gain of each optimisation ({section['side']}, one request)"
    return [title, "", *table(("step", "with", "without", "gain"), rows)]


def _kinds(section: Section) -> list[str]:
    names = (REFERENCE, FP32, "bf16", INT8)
    rows = []
    for one in section["rows"].values():
        sides = {name: one["sides"][name] for name in names if name in one["sides"]}
        slow, fast = sides.get(REFERENCE), min(sides, key=sides.__getitem__)
        rows.append(
            (
                one["processor"],
                one["kind"] + (" (forced)" if one["forced"] else ""),
                one["threads"],
                *(f"{sides[name]:.3f} s" if name in sides else None for name in names),
                None if slow is None else f"{fast}, {_times(slow / sides[fast])}",
            )
        )
    head = ("processor", "kind", "threads", *names, f"fastest, against {REFERENCE}")
    return ["### By kind of processor, median of one request without the guard", "", *table(head, rows)]


TABLES: Final[Mapping[str, Callable[[Section], list[str]]]] = {
    "latency": _latency,
    "pictures": _pictures,
    "together": _together,
    "load": _load,
    "batches": _batches,
    "fair": _fair,
    "retry": _retry,
    "background": _background,
    "stages": _stages,
    "start": _start,
    "polling": _polling,
    "reading": _reading,
    "overhead": _overhead,
    "batch": _batch,
    "agreement": _agreement,
    "margin": _margin,
    "ablation": _ablation,
    "kinds": _kinds,
}
