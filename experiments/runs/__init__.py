"""What every experiment of many runs shares: settings, checkpoints, results."""
