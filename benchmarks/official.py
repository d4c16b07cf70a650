"""syncToSynapse of a manifest, by the official client; prints the seconds it took.

Run by the Python of an environment that has `synapseclient`, so it imports nothing of synd. Arguments: manifest,
threads that the client may use. Its home holds the configuration with endpoint and login.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import time


def main() -> None:
    # Where this file is checked there is no such package.
    synapseclient = importlib.import_module("synapseclient")
    synapseutils = importlib.import_module("synapseutils")
    logging.getLogger("synapseclient").setLevel(logging.ERROR)
    manifest, threads = sys.argv[1:]
    syn = synapseclient.Synapse(skip_checks=True, silent=True)
    syn.max_threads = int(threads)
    syn.login(silent=True)
    began = time.perf_counter()
    synapseutils.syncToSynapse(syn, manifest, sendMessages=False)
    print(json.dumps({"took_s": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
