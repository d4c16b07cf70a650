"""The official client's curation: schemas, record sets, tasks and grids, unmodified, against the registry."""

from pathlib import Path

import pytest

from tests.integration.synapseclient.conftest import Peer, write_config
from tests.integration.synapseclient.test_client import unknown_routes
from tests.support import peers
from tests.support.registry import running

pytestmark = [pytest.mark.tools, pytest.mark.slow]


@pytest.mark.req("S0-60")
def test_whole_round_of_curation_works_unmodified(tmp_path: Path):
    """Schema, binding, record set, task and grid, down to deleting them all; no route is missing."""
    try:
        python = peers.synapseclient(peers.PINNED)
    except peers.PeerMissingError as error:
        pytest.skip(f"synapseclient {peers.PINNED} cannot be installed: {error}")
    home = tmp_path / "home"
    home.mkdir()
    with running(tmp_path / "registry") as registry:
        write_config(home, registry)
        peer = Peer(peers.PINNED, python, home, registry)

        peer.run("curation")

        assert unknown_routes(peer) == []
