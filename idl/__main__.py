"""`python -m idl` and the command `idl`: what every entry point of MLproject calls."""


def main() -> None:
    """Run the command line."""
    # Not above: each process that prepares a dataset imports the script `idl`, and does without torch and mlflow.
    from idl.cli import run

    run()


if __name__ == "__main__":
    main()
