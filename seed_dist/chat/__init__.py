"""Talking with a trained language model that sees and draws: in a terminal, or on a page of this machine's own."""
