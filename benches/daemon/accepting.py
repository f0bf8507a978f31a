"""Listens for every monitor and writes a line for each connection, as nginx does for a request. Started by contenders.py:
accepting.py LOG MONITORS ADDRESS... FIRST_PORT"""

import resource
import selectors
import signal
import socket
import sys
import time


def main():
    log, monitors, *addresses, first_port = sys.argv[1:]
    monitors, first_port = int(monitors), int(first_port)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    selector = selectors.EpollSelector()
    for monitor in range(monitors):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((addresses[monitor % len(addresses)], first_port + monitor // len(addresses)))
        listener.listen(64)
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, monitor)
    # Line by line: what is in the log has happened.
    with open(log, "w", buffering=1, encoding="ascii") as out:
        with open(f"{log}.ready", "w", encoding="ascii"):
            pass
        while True:
            for key, _ in selector.select():
                try:
                    connection, _ = key.fileobj.accept()
                except OSError:
                    continue
                connection.close()
                print(f"{time.time():.3f} /m/{key.data} 200", file=out)


if __name__ == "__main__":
    main()
