"""The energy during training: logged per layer, drawn, and what the log costs."""
