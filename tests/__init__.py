"""Tests. A package, so that spawned ranks find their functions by name and no foreign package `tests` can take its place."""
