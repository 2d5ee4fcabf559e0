"""Studies: trains what `seed_dist.eval.studies` compares, by the ordinary commands, and has it measured."""
