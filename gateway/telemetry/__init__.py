"""What can be seen from outside: spans, metrics, logs. The gateway and the replica both use it."""
