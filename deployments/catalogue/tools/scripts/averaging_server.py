"""Waits for a number of each client, and tells all of them the mean. A message is a line of JSON."""

import argparse
import json
import os
import socket
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--clients", type=int, required=True)
clients = parser.parse_args().clients

values, connections = {}, {}
with socket.create_server(("", int(os.environ["PORT_8080"]))) as server:
    print(f"waiting for {clients} clients", flush=True)
    while len(values) < clients:
        connection, _ = server.accept()
        # Whoever only looks whether somebody listens here sends nothing; whoever sends too much is no client.
        connection.settimeout(30)
        try:
            line = connection.makefile("rb").readline(65536)
            message = json.loads(line)
            values[message["node"]] = float(message["value"])
        except (OSError, ValueError, TypeError, KeyError):
            connection.close()
            continue
        connections[message["node"]] = connection
        print(f"{message['node']}: {len(values)} of {clients}", flush=True)

mean = sum(values.values()) / len(values)
for connection in connections.values():
    with connection:
        connection.sendall(json.dumps({"mean": mean, "clients": clients}).encode() + b"\n")
Path("mean.json").write_text(json.dumps({"mean": mean, "nodes": sorted(values)}))
print(f"the mean is {mean}", flush=True)
