"""A character language model: see README.md of this folder."""
