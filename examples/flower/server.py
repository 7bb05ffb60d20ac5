"""Flower's SuperLink, for as long as it takes to run the app beside this file."""

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

#: Seconds for the SuperLink to answer.
START = 60

parser = argparse.ArgumentParser()
parser.add_argument("--clients", type=int, required=True)
parser.add_argument("--rounds", type=int, required=True)
asked = parser.parse_args()

port, here, result = os.environ["PORT_8080"], Path.cwd(), Path("result.json")
# Nothing is installed or reported from a node. What Flower writes goes to the sandbox.
environment = os.environ | {"FLWR_HOME": str(here / "flwr"), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
(here / "flwr").mkdir()
(here / "flwr/config.toml").write_text(f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n')

link = subprocess.Popen(
    ["flower-superlink", "--insecure", "--host", "0.0.0.0", "--port", port, "--disable-runtime-dependency-installation"], env=environment
)
try:
    for _ in range(START * 5):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
            break
        except urllib.error.HTTPError:
            break  # it has no such page, and answers
        except OSError:
            time.sleep(0.2)
    config = f"clients={asked.clients} num-server-rounds={asked.rounds} result={json.dumps(str(here / result))}"
    app = Path(os.environ["INPUT_PATH"], "app")
    subprocess.run(["flwr", "run", str(app), "here", "--stream", "--run-config", config], env=environment, check=False)
finally:
    link.terminate()
    link.wait()
if not result.exists():
    sys.exit("the app ended and left no result: its log says why")
print(result.read_text())
