"""What the centre keeps: objects (inputs, outputs, logs) and records (executions, runs, attempts, events)."""
