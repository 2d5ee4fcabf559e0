"""What a run will take, by arithmetic alone: operations, memory, bytes, hours. Needs no GPU and no torch."""
