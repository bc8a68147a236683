"""``python -m dpinn``."""

from dpinn.cli import main

main()
