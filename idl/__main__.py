"""`python -m idl`: what every entry point of MLproject calls."""

from idl.cli import run

if __name__ == "__main__":
    run()
