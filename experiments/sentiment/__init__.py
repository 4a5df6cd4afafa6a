"""Sentiment: a sequence of words to one class."""
