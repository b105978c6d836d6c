"""Where a request goes. Pure functions over snapshots: no HTTP, no clock, no state."""
