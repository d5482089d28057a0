"""`python -m jopa.cli`."""

from jopa.cli import main

if __name__ == "__main__":
    main()
