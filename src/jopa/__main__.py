"""`python -m jopa`: the command where its script is not on the path."""

from jopa.cli import main

if __name__ == "__main__":
    main()
