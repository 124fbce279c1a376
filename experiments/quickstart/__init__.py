"""Few examples per class: a deep, narrow CNN with and without the energy."""
