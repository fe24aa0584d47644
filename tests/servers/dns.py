"""A DNS server for one command, in a network of its own where port 53 is free:

    unshare --net python tests/servers/dns.py NAME=ADDRESS,... COMMAND...

It answers as a cluster's does: A for these names, no records for their other types, NXDOMAIN for
all else. Ends with the command's exit code. Standard library only: it runs as a script.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import subprocess
import sys
import threading

A, IN, NXDOMAIN = 1, 1, 3
SIOCSIFFLAGS, IFF_UP = 0x8914, 1


def answer(query: bytes, addresses: dict[str, str]) -> bytes:
    """The reply to a query for one name (RFC 1035, section 4)."""
    labels, at = [], 12
    while size := query[at]:
        labels.append(query[at + 1 : at + 1 + size].decode())
        at += 1 + size
    question = query[12 : at + 5]
    (kind,) = struct.unpack(">H", query[at + 1 : at + 3])
    address = addresses.get(".".join(labels).lower())
    record = b""
    if address and kind == A:
        # The name: a pointer to the question's.
        record = struct.pack(">HHHIH", 0xC00C, A, IN, 30, 4) + socket.inet_aton(address)
    flags = 0x8580 | (0 if address else NXDOMAIN)  # an authoritative answer, recursion available
    return query[:2] + struct.pack(">HHHHH", flags, 1, bool(record), 0, 0) + question + record


def serve(server: socket.socket, addresses: dict[str, str]) -> None:
    while True:
        query, client = server.recvfrom(512)
        server.sendto(answer(query, addresses), client)


def main(names: str, *command: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        # A new network has a loopback device that is down.
        fcntl.ioctl(server, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
        server.bind(("127.0.0.1", 53))
        addresses = dict(pair.split("=") for pair in names.split(",") if pair)
        threading.Thread(target=serve, args=(server, addresses), daemon=True).start()
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
