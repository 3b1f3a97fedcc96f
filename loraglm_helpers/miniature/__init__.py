"""How the data and the miniature GLM were made: an invented world, its texts, pre-training."""
