"""Fakes that ship with the code: a service in memory, its storage on loopback, a clock that stands still.

`FakeRemote` meets `synd.client.remote.Remote` and passes the same contract tests as the real client
(tests/contract). It answers from plain dictionaries, counts its calls, fails when told to, and is
changed by its builders as other people would change the service. It holds no sockets; `FakeStorage`
serves the bytes behind its presigned URLs where a test wants them fetched. `FakeQueue` is the queue of jobs.
"""

from synd.testing.clock import FakeClock
from synd.testing.queue import FakeQueue
from synd.testing.remote import FakeRemote
from synd.testing.storage import FakeStorage

__all__ = ["FakeClock", "FakeQueue", "FakeRemote", "FakeStorage"]
