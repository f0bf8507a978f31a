"""Measures Lamplighter and others on the same work in alternation. Started by `punctual`, which installs and builds."""

import argparse
import json
import os
import pathlib
import platform
import signal
import sys
import tempfile
import time

import access_log
import contenders
import table
from accounting import Account

ALL = {"lamplighter": contenders.Lamplighter, "prometheus": contenders.Prometheus, "monit": contenders.Monit}
# Buffered lines of the log reach the file within a second, and results the database.
SETTLE_S = 3


def arguments():
    parser = argparse.ArgumentParser(prog="benches/daemon/punctual", description=__doc__)
    parser.add_argument("--monitors", type=int, default=5000, help="monitors (default: 5000)")
    kinds = ("http", "https", "tcp")
    parser.add_argument("--kind", choices=kinds, default="http", help="of the monitors; https with full verification (default: http)")
    parser.add_argument("--interval", type=int, default=10, help="seconds between checks of one (default: 10)")
    parser.add_argument("--window", type=int, default=120, help="seconds measured, whole intervals (default: 120)")
    parser.add_argument("--warmup", type=int, default=45, help="seconds from start to window (default: 45)")
    parser.add_argument("--rounds", type=int, default=2, help="times that each is measured, by turns (default: 2)")
    parser.add_argument("--only", default=",".join(ALL), help=f"which, separated by commas (default: {','.join(ALL)})")
    parser.add_argument("--small", type=int, default=500, help="monitors of another run of whoever falls behind")
    parser.add_argument("--addresses", type=int, default=50, help="loopback addresses of the target (default: 50)")
    parser.add_argument("--program", default="target/release/lamplighter", help="measure this binary; builds nothing")
    parser.add_argument("--output", default="target/punctual", help="folder for raw results (default: target/punctual)")
    parser.add_argument("--strict", action="store_true", help="exit 1 when Lamplighter misses a target")
    options = parser.parse_args()
    options.only = options.only.split(",")
    if options.kind != "http":
        # The others are set up for http only.
        options.only = [name for name in options.only if name == "lamplighter"]
    unknown = [name for name in options.only if name not in ALL]
    if unknown:
        parser.error(f"--only: {unknown[0]!r} is none of {', '.join(ALL)}")
    counts = ("monitors", "interval", "window", "rounds", "addresses", "small")
    if any(getattr(options, name) < 1 for name in counts) or options.addresses > 250:
        parser.error(f"{', '.join(counts)} are at least 1, and addresses at most 250")
    if options.window % options.interval:
        parser.error("--window must be a whole number of intervals, so that the number of checks due is exact")
    return options


def run(kind, number, monitors, options, folder):
    """One program from start to stop; gives its figures."""
    label = f"{kind.name}, {monitors} monitors, round {number}"
    print(f"    {label}: about {options.warmup + options.window} s", file=sys.stderr, flush=True)
    folder = folder / f"{number}-{kind.__name__.lower()}-{monitors}"
    folder.mkdir()
    # Not /tmp, which may lie in memory: the databases shall pay for a disk. Not below the output, which the user that
    # runs Postgres may not reach.
    with tempfile.TemporaryDirectory(prefix="punctual-", dir="/var/tmp") as state:
        os.chmod(state, 0o755)
        if options.kind == "tcp":
            target = contenders.Listener(str(folder), options.addresses, monitors)
        else:
            target = contenders.Target(str(folder), options.addresses, options.kind == "https")
        contender = kind(str(folder), state, options.program)
        try:
            target.start()
            started = time.time()
            contender.start(target, monitors, options.interval)
            time.sleep(options.warmup)
            account = Account(contender.groups())
            account.begin()
            begin = time.time()
            time.sleep(options.window)
            end = begin + options.window
            accounted = account.end()
            time.sleep(SETTLE_S)
            # Beyond both edges: see access_log.compare_rows.
            rows = contender.rows(begin - 5, end + 1) if hasattr(contender, "rows") else None
        finally:
            contender.stop()
            target.stop()
    times, other = access_log.parse(target.log)
    found = access_log.judge(times, monitors, options.interval, begin, end)
    return {
        "name": kind.name,
        "kind": options.kind,
        "stores": kind.stores,
        "monitors": monitors,
        "round": number,
        "first_round_s": access_log.first_round(times, monitors, started),
        "not_answered_with_200": other,
        "rows": access_log.compare_rows(times, rows, begin, end) if rows is not None else None,
        **found,
        **accounted,
    }


def machine(options):
    facts = {
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "processor": next(
            (line.split(":")[1].strip() for line in open("/proc/cpuinfo", encoding="utf-8") if "model name" in line),
            platform.machine(),
        ),
        "kernel": platform.release(),
        "load_at_start": round(os.getloadavg()[0], 1),
        "nginx": contenders.version("/usr/sbin/nginx", "-v"),
    }
    for name in options.only:
        facts.update(ALL[name]("", "", options.program).versions())
    return facts


def main():
    options = arguments()
    # As an exception, so that every `finally` stops what it started.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    folder = pathlib.Path(options.output).resolve() / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    folder.mkdir(parents=True)
    facts, results = machine(options), []
    behind = set()
    for number in range(1, options.rounds + 1):
        for name in options.only:
            results.append(run(ALL[name], number, options.monitors, options, folder))
            if results[-1]["done_share"] < 0.99:
                behind.add(name)
    for name in (name for name in options.only if name in behind and options.small < options.monitors):
        results.append(run(ALL[name], 1, options.small, options, folder))
    shown = {"options": vars(options), "machine": facts, "results": results}
    (folder / "results.json").write_text(json.dumps(shown, indent=1), encoding="utf-8")
    text, missed = table.render(shown)
    (folder / "results.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"Raw results: {folder}", file=sys.stderr)
    return 1 if missed and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
