"""What the kernel accounts for processes: CPU time and memory, read from /proc, from outside."""

import os
import threading
import time

TICKS = os.sysconf("SC_CLK_TCK")
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
# Proportional memory costs the kernel a walk over all pages, so it is read less often than the resident size.
PSS_EVERY_S = 10


def _read(path):
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children(pid):
    """The living children of all threads of a process."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except FileNotFoundError:
        return []
    return [int(child) for task in tasks for child in _read(f"/proc/{pid}/task/{task}/children").split()]


def family(pid):
    """A process and its living descendants."""
    found, index = [pid], 0
    while index < len(found):
        found += children(found[index])
        index += 1
    return found


def name_of(pid):
    return _read(f"/proc/{pid}/comm").strip()


def cpu_seconds(pids):
    """User and system time of these processes and of the children that they have waited for.

    A child that ends between two readings moves from its own account to its parent's, so a difference over a family
    loses nothing."""
    total = 0
    for pid in pids:
        # The name may hold spaces and parentheses; fields are counted behind it.
        fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        total += sum(int(field) for field in fields[11:15])
    return total / TICKS


def resident_mib(pids):
    """Resident size; memory that several of them share is counted for each."""
    total = 0
    for pid in pids:
        fields = _read(f"/proc/{pid}/statm").split()
        total += int(fields[1]) if fields else 0
    return total * PAGE_KIB / 1024


def proportional_mib(pids):
    """Shared memory divided among those that share it: the fair figure for Postgres, whose processes share buffers."""
    total = 0
    for pid in pids:
        for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def machine_busy_seconds():
    """CPU time that all processors spent on anything but idling; what others do on the machine shows here."""
    fields = [int(field) for field in _read("/proc/stat").splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS


class Account:
    """CPU and memory of named groups of processes over a window. A group is a function that lists its processes."""

    def __init__(self, groups):
        self._groups = groups
        self._resident = {name: [] for name in groups}
        self._proportional = {name: [] for name in groups}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def begin(self):
        self._cpu = {name: cpu_seconds(pids()) for name, pids in self._groups.items()}
        self._busy = machine_busy_seconds()
        self._at = time.monotonic()
        self._thread.start()

    def _sample(self):
        count = 0
        while True:
            for name, pids in self._groups.items():
                found = pids()
                self._resident[name].append(resident_mib(found))
                if count % PSS_EVERY_S == 0:
                    self._proportional[name].append(proportional_mib(found))
            count += 1
            if self._end.wait(1):
                return

    def end(self):
        """Figures of each group, and how busy the whole machine was."""
        spent = {name: cpu_seconds(pids()) - self._cpu[name] for name, pids in self._groups.items()}
        seconds = time.monotonic() - self._at
        busy = (machine_busy_seconds() - self._busy) / seconds / os.cpu_count()
        self._end.set()
        self._thread.join()
        groups = {}
        for name, cpu in spent.items():
            resident, proportional = self._resident[name], self._proportional[name]
            groups[name] = {
                "cpu_seconds": round(cpu, 2),
                "rss_mib": {"mean": sum(resident) / len(resident), "peak": max(resident)},
                "pss_mib": {"mean": sum(proportional) / len(proportional), "peak": max(proportional)},
            }
        return {"groups": groups, "machine_busy_share": round(busy, 3)}
