"""The figures as Markdown."""

# CPU ms of the daemon a check, by kind of monitor.
MOST_CPU_MS = {"http": 0.20, "https": 0.55, "tcp": 0.12}

# What Lamplighter is to reach at 5,000 monitors every 10 s.
TARGETS = (
    ("checks done", lambda run: run["done_share"] >= 0.999, "at least 99.9 %"),
    ("CPU of the daemon a check", lambda run: _cpu(run, "lamplighter") <= MOST_CPU_MS[run["kind"]], "at most 0.20 ms; https 0.55, tcp 0.12"),
    ("resident memory of the daemon", lambda run: _group(run, "lamplighter")["rss_mib"]["peak"] <= 60, "at most 60 MiB"),
    ("jitter, p99", lambda run: run["jitter_ms"]["p99"] <= 60, "at most 60 ms"),
    ("largest 100 ms", lambda run: run["largest_100ms"] <= 2, "at most twice the even share"),
    ("rows", lambda run: not any(run["rows"][key] for key in run["rows"] if key != "pairs"), "one a request"),
)


def _group(run, name):
    return run["groups"][name]


def _cpu(run, name):
    """CPU milliseconds a check."""
    return _group(run, name)["cpu_seconds"] * 1000 / max(1, run["done"])


def _mean(values):
    return sum(values) / len(values)


def _seconds(values):
    return "never" if None in values else f"{_mean(values):.1f}"


def _row(runs):
    first = runs[0]
    names = list(first["groups"])
    cpu = " + ".join(f"{_mean([_cpu(run, name) for run in runs]):.3f} {name}" for name in names)

    def memory(name):
        # Postgres' processes share their buffers: only the proportional size can be added up.
        kind = "pss_mib" if name == "postgres" else "rss_mib"
        mean = _mean([_group(run, name)[kind]["mean"] for run in runs])
        peak = max(_group(run, name)[kind]["peak"] for run in runs)
        return f"{mean:.0f} (peak {peak:.0f}) {name}"

    def jitter(key, pick=_mean):
        return f"{pick([run['jitter_ms'][key] for run in runs]):.0f}"

    cells = [
        f"{first['name']}, {first['monitors']:,} monitors",
        f"{100 * _mean([run['done_share'] for run in runs]):.2f} %",
        cpu,
        " + ".join(memory(name) for name in names),
        f"{jitter('p50')} / {jitter('p99')} / {jitter('max', max)}",
        f"{max(run['largest_100ms'] for run in runs):.2f} × / {max(run['largest_second'] for run in runs):.2f} ×",
        _seconds([run["first_round_s"] for run in runs]),
        first["stores"],
    ]
    return "| " + " | ".join(cells) + " |"


HEAD = (
    "| program | checks done | CPU ms a check | resident MiB | jitter ms, p50 / p99 / max "
    "| largest 100 ms / 1 s, times the even share | first full round, s | stores |\n|---|---|---|---|---|---|---|---|"
)


def _verdicts(runs):
    lines, missed = [], False
    for what, reached, wanted in TARGETS:
        good = all(reached(run) for run in runs)
        missed |= not good
        lines.append(f"- {'reached' if good else 'MISSED'}: {what}, {wanted}, in every round")
    return lines, missed


def render(shown):
    """The text, and whether Lamplighter missed a target."""
    options, facts, results = shown["options"], shown["machine"], shown["results"]
    groups = {}
    for run in results:
        groups.setdefault((run["name"], run["monitors"]), []).append(run)
    lines = [
        f"{options['monitors']:,} {options.get('kind', 'http')} monitors every {options['interval']} s, {options['window']} s measured after "
        f"{options['warmup']} s, {options['rounds']} rounds by turns:",
        "",
        HEAD,
        *(_row(runs) for runs in groups.values()),
        "",
        "Means over the rounds; peaks, the largest jitter and the largest spans are the largest of all.",
        "",
        "Machine: " + ", ".join(f"{key} {value}" for key, value in facts.items()) + ".",
        "Busy in the windows, everything counted: "
        + ", ".join(f"{100 * run['machine_busy_share']:.0f} %" for run in results)
        + ".",
    ]
    missed = False
    own = [run for run in results if "lamplighter" in run["groups"] and run["monitors"] == options["monitors"]]
    if own:
        pairs = ", ".join(
            f"{run['done']} requests: {run['rows']['pairs']} with their row, {run['rows']['requests_without_row']} "
            f"without; {run['rows']['rows_without_request']} rows without a request"
            for run in own
        )
        verdicts, missed = _verdicts(own)
        lines += ["", f"Rows of Lamplighter: {pairs}.", "", *verdicts]
    return "\n".join(lines) + "\n", missed
