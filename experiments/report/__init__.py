"""What pages of results share: statistics and tables."""
