"""What each exchange cost: tokens, dollars, who, where. One SQLite file, written off the line."""
