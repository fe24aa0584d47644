"""Quantities of Kubernetes as people read them: 23.3Gi, not 25066786816."""

from __future__ import annotations

from decimal import Decimal

UNITS = ("", "Ki", "Mi", "Gi", "Ti", "Pi")
# What is counted in bytes, as nodes (memory) and quotas (limits.memory) name it.
IN_BYTES = ("memory", "storage", "hugepages-")


def readable(name: str, quantity: Decimal, decimals: int = 1) -> str:
    """The quantity of a resource.

    >>> readable("memory", Decimal(25066786816)), readable("requests.storage", Decimal(2**40))
    ('23.3Gi', '1Ti')
    >>> readable("cpu", Decimal("3.50")), readable("nvidia.com/gpu", Decimal(8))
    ('3.5', '8')
    """
    if not any(part in name for part in IN_BYTES):
        return f"{quantity.normalize():f}"
    step = 0
    while abs(quantity) >= 1024 and step < len(UNITS) - 1:
        quantity, step = quantity / 1024, step + 1
    return f"{round(quantity, decimals).normalize():f}{UNITS[step]}"


def compared(name: str, *quantities: Decimal) -> list[str]:
    """As `readable`, with as many decimals as tell different ones apart.

    >>> compared("memory", Decimal(2**30), Decimal(2**30 + 2**20))
    ['1Gi', '1.001Gi']
    """
    texts: list[str] = []
    for decimals in range(1, 12):
        texts = [readable(name, each, decimals) for each in quantities]
        if len(set(texts)) == len(set(quantities)):
            break
    return texts


def counted(count: int, singular: str) -> str:
    """
    >>> counted(1, "node"), counted(0, "pod")
    ('1 node', '0 pods')
    """
    return f"{count} {singular}{'' if count == 1 else 's'}"
