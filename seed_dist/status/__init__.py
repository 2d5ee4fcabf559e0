"""How a training is doing, from its run directory alone: in a terminal, for scripts, and as a page that is kept new."""
