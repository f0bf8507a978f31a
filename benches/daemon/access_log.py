"""What the target's access log says about punctuality."""

import bisect
import collections

# A row's time is the start of the attempt, a line's that of the answer: a row is before its line, but for the
# millisecond to which nginx rounds, and on loopback not by much more than the answer takes.
ROW_BEFORE_S = 2.0
ROW_AFTER_S = 0.005


def parse(path):
    """Times in seconds of every monitor's requests that were answered with 200, by number; and how many were not."""
    times, other = collections.defaultdict(list), 0
    with open(path, encoding="ascii", errors="replace") as file:
        for line in file:
            fields = line.split()
            # `/m/17` is monitor 17; anything else is not ours to count.
            if len(fields) == 3 and fields[2] == "200" and fields[1].startswith("/m/"):
                times[int(fields[1][3:])].append(float(fields[0]))
            else:
                other += 1
    for list_of_one in times.values():
        list_of_one.sort()
    return times, other


def percentile(ordered, share):
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def _largest(times, length):
    """Most requests in any span of this length, wherever it begins."""
    best, first = 0, 0
    for last, at in enumerate(times):
        while at - times[first] >= length:
            first += 1
        best = max(best, last - first + 1)
    return best


def _largest_aligned(times, per_second):
    """Most requests in a span that begins at a whole second, or at a whole tenth of one."""
    return max(collections.Counter(int(at * per_second + 1e-6) for at in times).values(), default=0)


def judge(times, monitors, interval, begin, end):
    """Punctuality within [begin, end).

    Jitter is the deviation of one monitor's interval between two requests from the wanted one; an interval counts when
    it ends in the window. One that is longer than one and a half has missed checks, which count as not done and not as
    jitter."""
    inside, jitter, missed, silent = [], [], 0, 0
    for monitor in range(monitors):
        of_one = times.get(monitor, [])
        low, high = bisect.bisect_left(of_one, begin), bisect.bisect_left(of_one, end)
        inside += of_one[low:high]
        silent += low == high
        for index in range(max(low, 1), high):
            gap = of_one[index] - of_one[index - 1]
            skipped = max(0, round(gap / interval) - 1)
            missed += skipped
            if not skipped:
                jitter.append(abs(gap - interval) * 1000)
    inside.sort()
    jitter.sort()
    due = monitors * (end - begin) / interval
    tenth, second = due / (end - begin) / 10, due / (end - begin)
    return {
        "due": round(due),
        "done": len(inside),
        "done_share": len(inside) / due,
        "missed_by_intervals": missed,
        "silent_monitors": silent,
        "jitter_ms": {
            "p50": percentile(jitter, 0.5),
            "p99": percentile(jitter, 0.99),
            "max": jitter[-1] if jitter else float("nan"),
            "intervals": len(jitter),
        },
        # Times the even share.
        "largest_100ms": _largest_aligned(inside, 10) / tenth,
        "largest_second": _largest_aligned(inside, 1) / second,
        "largest_100ms_anywhere": _largest(inside, 0.1) / tenth,
    }


def first_round(times, monitors, started):
    """Seconds from the start of the program until every monitor was checked once; none if some never was."""
    firsts = [times[monitor][0] for monitor in range(monitors) if times.get(monitor)]
    return max(firsts) - started if len(firsts) == monitors else None


def compare_rows(times, rows, begin, end):
    """Pairs each request in [begin, end) with the stored row of its check, one to one.

    A row belongs to a request when it began before the answer, so rows of both edges are read beyond the window and
    need a partner only when their time is in it, less what a check may take at its end."""
    pairs, lonely_requests, used = 0, 0, collections.defaultdict(set)
    for monitor, of_one in times.items():
        stored = rows.get(monitor, [])
        for at in of_one[bisect.bisect_left(of_one, begin) : bisect.bisect_left(of_one, end)]:
            index = bisect.bisect_right(stored, at + ROW_AFTER_S) - 1
            if index >= 0 and at - stored[index] <= ROW_BEFORE_S and index not in used[monitor]:
                used[monitor].add(index)
                pairs += 1
            else:
                lonely_requests += 1
    lonely_rows = sum(
        1
        for monitor, stored in rows.items()
        for index, at in enumerate(stored)
        if begin <= at < end - ROW_BEFORE_S and index not in used[monitor]
    )
    return {"pairs": pairs, "requests_without_row": lonely_requests, "rows_without_request": lonely_rows}
