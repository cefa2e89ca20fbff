"""`python -m securellm`: the same as `securellm`."""

from securellm.cli.main import main

if __name__ == "__main__":
    main()
