"""report.html: one self-contained file, made of plain functions from results to markup."""
