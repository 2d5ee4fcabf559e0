"""Everything that knows of other processes: collectives, the engine, checkpoints, stop requests."""
