"""Read policies: how long a read may trust the copy that this process holds.

Owns the policies' names, their bounds and what is no policy. Acts on nothing: a
volume object is opened with one (``CoherentVolume(..., reads=...)``). A policy
concerns ``read``, ``read_text`` and ``observe`` alone; everything else always
looks. Whatever it is, a commit is judged against the head (I1): a copy that was
too old makes a write be refused, never an update be lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from coherent_volume.errors import UsageError

__all__ = ["FRESH_S", "AccessCount", "ReadLease", "ReadPolicy", "Trust", "trust_of"]

FRESH_S = 2.0
"""How long a copy is trusted, at most, where the feed is listened to. A look at the
feed must not be older either: a listener that is dead or stalled is trusted no longer."""
_SECONDS_MAX = 10**9


@dataclass(frozen=True, slots=True)
class ReadLease:
    """Trust a copy for *ttl* seconds after it was last found current.

    Bound: a read is at most *ttl* seconds behind, in whatever number of commits.
    No thread, no feed. Edits from outside are seen within the same time.
    """

    ttl: float


@dataclass(frozen=True, slots=True)
class AccessCount:
    """Trust a copy for *reads* reads after it was last found current, and *ttl* seconds.

    Bound: a read is at most *ttl* seconds behind, and no more than *reads* reads in
    a row are answered without looking. Edits from outside are seen likewise.
    """

    reads: int
    ttl: float = 60.0


ReadPolicy = Literal["strict", "notified", "eager", "broadcast"] | ReadLease | AccessCount
"""How reads are answered. Each bound is how far a read may be behind.

* ``"strict"``, the default: every read looks at the file. 0 commits.
* ``"notified"``: a copy is trusted until the feed speaks of the file. Milliseconds as
  a rule, ``FRESH_S`` seconds at most, also for edits from outside.
* ``"eager"``: as notified, and the listening thread fetches the new content before it is
  asked for. The same bound.
* ``"broadcast"``: every read looks, and hands over the content even if it is known. 0
  commits. It is the costly baseline of the token experiment.
* ``ReadLease(ttl)`` and ``AccessCount(reads, ttl)``: by time and by number. *ttl* seconds.
"""


class Trust(NamedTuple):
    """A policy that trusts copies, as its parts."""

    seconds: float
    reads: int | None = None
    listens: bool = False
    fetches: bool = False


def trust_of(policy: ReadPolicy) -> Trust | None:
    """What *policy* comes to; None: every read looks. UsageError when it is none."""
    if policy in ("strict", "broadcast"):
        return None
    if policy in ("notified", "eager"):
        return Trust(FRESH_S, listens=True, fetches=policy == "eager")
    if isinstance(policy, ReadLease):
        return Trust(_seconds(policy.ttl))
    if isinstance(policy, AccessCount):
        reads = policy.reads
        if type(reads) is not int or reads < 1:
            raise UsageError(f"reads is a number from 1, not {reads!r}")
        return Trust(_seconds(policy.ttl), reads)
    raise UsageError(
        f"this is no read policy: {policy!r}",
        advice='It is "strict", "notified", "eager", "broadcast", a ReadLease or an AccessCount.',
    )


def _seconds(ttl: float) -> float:
    # Written so that "not a number" fails too.
    if type(ttl) not in (int, float) or not 0 < ttl <= _SECONDS_MAX:
        raise UsageError(f"a ttl is a number of seconds above 0, not {ttl!r}")
    return float(ttl)
