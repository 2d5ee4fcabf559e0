"""Studies: arms that differ in one thing, over several seeds, measured alike. docs/findings.md says what they show."""
