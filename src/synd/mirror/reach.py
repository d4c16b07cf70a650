"""Whether the service can be reached: one probe asks, instead of all that waits."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from synd.client.remote import Remote, foreground
from synd.clock import Clock
from synd.errors import NotLoggedIn, SyndError


class Reach:
    """What keeps everything from being sent: no service, no login. On the daemon's loop."""

    def __init__(
        self,
        remote: Remote,
        clock: Clock,
        *,
        base_s: float,
        cap_s: float,
        login_s: float,
        on_change: Callable[[SyndError | None], None],
    ) -> None:
        """Probes come after `base_s`, ever more rarely up to `cap_s`; without a login each `login_s`."""
        self._remote = remote
        self._clock = clock
        self._base_s = base_s
        self._cap_s = cap_s
        self._login_s = login_s
        self._on_change = on_change
        self._probe: asyncio.Task[None] | None = None
        self.problem: SyndError | None = None
        """None: nothing does."""
        self.offline_since_ns = 0
        """UTC ns; 0: the service answers."""

    def lost(self, error: SyndError) -> None:
        """The service cannot be reached, or knows us no more: probes begin."""
        if self.problem is None:
            self.problem = error
            if not isinstance(error, NotLoggedIn):
                self.offline_since_ns = self._clock.now_ns()
            self._on_change(error)
        if self._probe is None or self._probe.done():
            self._probe = asyncio.get_running_loop().create_task(self._probing(), name="probe")

    def forget_login(self) -> None:
        """There may be another login: it is tried at once."""
        if isinstance(self.problem, NotLoggedIn):
            self.problem = None

    async def close(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)

    async def _probing(self) -> None:
        wait_s = self._login_s if isinstance(self.problem, NotLoggedIn) else self._base_s
        while self.problem is not None:
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
            try:
                with foreground():
                    await self._remote.whoami()
            except NotLoggedIn as error:
                self.problem, wait_s = error, self._login_s
            except SyndError as error:
                self.problem, wait_s = error, min(self._cap_s, wait_s * 2)
            else:
                break
        self.problem = None
        self.offline_since_ns = 0
        self._on_change(None)
