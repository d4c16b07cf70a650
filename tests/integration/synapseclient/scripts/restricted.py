"""Terms of use that are not accepted: metadata yes, bytes no."""

import sys

from prelude import WORK, login, raises

syn = login()
without = syn.get(sys.argv[1], downloadFile=False)
assert without.name == "a.txt"
raises("SynapseUnmetAccessRestrictions", syn.get, sys.argv[1], downloadLocation=str(WORK))
