"""What all pages are made of: markup that escapes, charts as inline SVG, one style. No script, no network."""
