"""Flower's SuperNode, for as long as the SuperLink is there."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

host, port, data = sys.argv[1:]

with socket.create_server(("127.0.0.1", 0)) as free:
    own = free.getsockname()[1]
environment = os.environ | {"FLWR_HOME": str(Path.cwd() / "flwr"), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
node = subprocess.Popen(
    [
        "flower-supernode", "--insecure", "--superlink", f"{host}:{port}", "--host", "127.0.0.1", "--port", str(own),
        "--max-wait-time", "60", "--node-config", f"data={json.dumps(data)}",
    ],
    env=environment,
)  # fmt: skip
# A SuperNode never ends by itself: what tells that the app is done is that the SuperLink has gone.
while node.poll() is None:
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except ConnectionRefusedError:
        node.terminate()
        node.wait()
        sys.exit(0)
    time.sleep(0.5)
sys.exit(f"the SuperNode ended with {node.returncode}")
