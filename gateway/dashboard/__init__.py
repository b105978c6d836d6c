"""A page that shows where requests go, what they cost and why."""
