"""`python -m shrinkd`: the same as the console script."""

from shrinkd.cli import main

if __name__ == "__main__":
    main()
