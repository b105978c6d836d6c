"""What can be seen from outside: logs, for now."""
