"""Features that are learned without labels, and what keeps them apart."""
