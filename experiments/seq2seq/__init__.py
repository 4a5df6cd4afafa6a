"""Sequence to sequence: an encoder, a decoder, and attention between them."""
