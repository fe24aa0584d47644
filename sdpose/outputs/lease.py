"""The lease of a mirror: one training at a time writes there, whichever machine it runs on.

    <mirror>/lease.json    who holds it, since when, and a number that grows with every heartbeat

The object is made with `put_if_absent` and replaced with `swap`, so of several trainings exactly
one gets it. Its holder changes it every BEAT_SECONDS. Whoever finds another's watches it: if it
changes, its holder is alive, and this training is refused; if it does not for as long as it says,
the holder is gone and the lease is taken over. No clocks are compared. A holder on this very
machine is looked up among its processes, and not waited for.

A holder that could not renew it for long (an outage of the store) asks before every upload whether
it still has it. An upload that is already under way is not recalled: the lease keeps apart two
trainings that both follow it, it is no fence against a process that was stopped in the middle of a
request.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sdpose.errors import UserError
from sdpose.printable import printable_line
from sdpose.storage import Store, StoreUnavailableError, Tag

LEASE = "lease.json"
BEAT_SECONDS = 10.0
EXPIRY_SECONDS = 60.0  # without a heartbeat
LOOK_SECONDS = 1.0  # between two looks at another's lease
# How long the end of a run waits until the lease is given back. It expires by itself.
RELEASE_SECONDS = 2.0

logger = logging.getLogger(__name__)

# Of this process: a training in it that has ended may have left a lease that names it.
_live_tokens: set[str] = set()


class LeaseLostError(UserError):
    """Another training has the lease now."""


class Holder(BaseModel):
    """What the object says."""

    model_config = ConfigDict(extra="ignore", strict=True)

    format: Literal["sdpose-lease/1"] = "sdpose-lease/1"
    token: str  # of one training
    host: str
    process: int
    machine: str  # boot and process namespace in which `process` counts; "" if not known
    process_started: int  # clock ticks since the boot
    since: str
    beat: int = 0
    expires_after: float = Field(EXPIRY_SECONDS, gt=0, allow_inf_nan=False)
    """Seconds without a heartbeat."""
    released: bool = False

    def __str__(self) -> str:
        return printable_line(f"process {self.process} on {self.host}, since {self.since}")

    def is_alive_here(self) -> bool | None:
        """Whether the process is one of this machine's; None if that cannot be told from here."""
        if not self.machine or self.machine != _machine():
            return None
        if self.process == os.getpid():
            return self.token in _live_tokens
        return _started(self.process) == self.process_started


class Lease:
    """The lease of one training: `held` around it, `check` before every write."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._place = store.uri(LEASE).removesuffix(f"/{LEASE}")
        self._me = Holder(
            token=uuid.uuid4().hex,
            host=platform.node(),
            process=os.getpid(),
            machine=_machine(),
            process_started=_started(os.getpid()),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._tag: Tag | None = None  # of the object as this training wrote it last
        self._renewed_at = 0.0
        self._unprotected = False
        self._trouble: UserError = StoreUnavailableError(
            f"{store.uri(LEASE)} could not be taken yet"
        )
        self._seen: tuple[Tag, float] | None = None  # another's, and since when it is unchanged
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self.lost: LeaseLostError | None = None

    @property
    def is_held(self) -> bool:
        """Whether nobody else writes there; not where the store cannot promise that."""
        return self._tag is not None and self.lost is None

    @contextlib.contextmanager
    def held(self) -> Iterator[Lease]:
        """Takes the lease for the time of the block.

        Raises UserError, which names the holder, if another training has it. Where the store does
        not answer, the block begins without it, and `check` fails until it is taken.
        """
        _live_tokens.add(self._me.token)
        try:
            self._acquire()
            self._thread.start()
            yield self
        finally:
            self._ending.set()
            if self._thread.ident is not None:
                self._thread.join(RELEASE_SECONDS)
            _live_tokens.discard(self._me.token)

    def check(self) -> None:
        """Before a write. Raises LeaseLostError if another training may write there now, and
        StoreUnavailableError if the store does not say."""
        with self._lock:
            if self.lost is not None:
                raise self.lost
            if self._unprotected or (self.is_held and _now() - self._renewed_at < BEAT_SECONDS * 2):
                return
            self._step()
            if not self.is_held and not self._unprotected:
                raise self._trouble

    # ------------------------------------------------------------------------------------- states

    def _acquire(self) -> None:
        waiting = False
        try:
            known = self._store.capabilities()
            if not (known.put_if_absent and known.swap):
                self._go_unprotected("; ".join(known.reasons))
                return
            while True:
                with self._lock:
                    holder = self._step()
                if holder is None:
                    return
                if not waiting:
                    logger.info(
                        f"{self._place} was in use by {holder}; waiting for a heartbeat, "
                        f"or {holder.expires_after:.0f} s without one"
                    )
                waiting = True
                time.sleep(LOOK_SECONDS)
        except StoreUnavailableError as error:
            self._trouble = error
        except LeaseLostError as error:
            raise UserError(
                f"{error}; wait for it, end it, or choose another --work-dir (another "
                "checkpoint_config.mirror if that is the place)"
            ) from None
        except UserError as error:
            self._go_unprotected(str(error))

    def _step(self) -> Holder | None:
        """Renews the lease or tries to take it; another holder that may still be alive."""
        if self._tag is not None:
            self._me = self._me.model_copy(update={"beat": self._me.beat + 1})
            if self._write(self._tag):
                return None
        elif self._write(None):
            return None
        found = self._store.read_tagged(LEASE)
        if found is None:  # removed: whoever did that wants nobody to hold it
            self._tag = None
            return None if self._write(None) else self._me
        data, tag = found
        holder = _parse(data)
        if holder.token == self._me.token:  # only the answer was lost
            self._is_ours(tag)
            return None
        if self._tag is not None:
            self._tag = None
            self._lose(holder)
        alive = holder.is_alive_here()
        if holder.released or alive is False or self._is_expired(holder, tag):
            self._seen = None
            return None if self._write(tag) else holder
        if alive or (self._seen is not None and self._seen[0] != tag):
            self._lose(holder)
        return holder

    def _is_expired(self, holder: Holder, tag: Tag) -> bool:
        """Whether it was seen unchanged for so long."""
        if self._seen is None:
            self._seen = tag, _now()
        unchanged = self._seen[0] == tag
        return unchanged and _now() - self._seen[1] > min(holder.expires_after, EXPIRY_SECONDS)

    def _write(self, expected: Tag | None) -> bool:
        data = self._me.model_dump_json(indent=1).encode()
        if expected is None:
            done = self._store.put_if_absent(LEASE, data)
        else:
            done = self._store.swap(LEASE, data, expected)
        if not done:
            return False
        found = self._store.read_tagged(LEASE)
        if found is None or _parse(found[0]).token != self._me.token:
            return False
        self._is_ours(found[1])
        return True

    def _is_ours(self, tag: Tag) -> None:
        self._tag, self._renewed_at = tag, _now()

    def _lose(self, holder: Holder) -> None:
        self.lost = LeaseLostError(f"{self._place} is in use by another training: {holder}")
        raise self.lost

    def _go_unprotected(self, reason: str) -> None:
        self._unprotected = True
        logger.warning(
            f"nothing keeps a second training from writing to {self._place}, see "
            f"that there is none: {reason}"
        )

    # ------------------------------------------------------------------------------ its own thread

    def _beat(self) -> None:
        while not self._ending.wait(BEAT_SECONDS):
            if self._unprotected:
                return
            try:
                with self._lock:
                    self._step()
            except StoreUnavailableError as error:
                self._trouble = error
            except LeaseLostError:
                return
            except UserError as error:
                self._go_unprotected(str(error))
        with contextlib.suppress(UserError), self._lock:
            if self._tag is not None and self.lost is None:
                # Not deleted: another may have taken it over between a look and the deletion.
                released = self._me.model_copy(update={"released": True})
                self._store.swap(LEASE, released.model_dump_json(indent=1).encode(), self._tag)


def other_holder(store: Store) -> Holder | None:
    """Whose lease a training that starts here now would find; None if it would not wait."""
    found = store.read_tagged(LEASE)
    holder = None if found is None else _parse(found[0])
    gone = holder is None or holder.released or holder.is_alive_here() is False
    return None if gone else holder


def _parse(data: bytes) -> Holder:
    """A damaged one is somebody's, too: it is taken over when it expires."""
    try:
        return Holder.model_validate_json(data)
    except ValidationError:
        return Holder(
            token="", host="unknown", process=0, machine="", process_started=0, since="unknown"
        )


def _now() -> float:
    """Seconds, those of a machine that sleeps included."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _machine() -> str:
    """This boot and this process namespace; "" where the system does not tell (not Linux)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(process: int) -> int:
    """When a process of this machine started, in clock ticks since the boot; 0: there is none."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    state, *fields = stat.rpartition(")")[2].split()  # the name before may hold spaces
    return 0 if state in "ZX" else int(fields[18])
