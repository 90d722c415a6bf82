"""Tables for people, each built once and rendered for terminal, Markdown, HTML and CSV."""
