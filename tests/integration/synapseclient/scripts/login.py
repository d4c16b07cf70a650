"""Starting up: with all checks and without."""

import sys

import synapseclient
from prelude import OLD, raises

syn = synapseclient.Synapse(skip_checks="quick" in sys.argv)
syn.login()
assert syn.getUserProfile()["userName"] == "synd"
if not OLD:
    from synapseclient.models import UserProfile

    assert UserProfile().get().username == "synd"
bad = synapseclient.Synapse(skip_checks=True, silent=True)
raises("SynapseAuthenticationError", bad.login, authToken="nonsense", silent=True)
