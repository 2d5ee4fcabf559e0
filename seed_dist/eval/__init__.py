"""Evaluation: measures on a held-out split what the stages made; writes report.json and report.html. No deepspeed."""
