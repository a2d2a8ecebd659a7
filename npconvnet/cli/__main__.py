"""`python -m npconvnet.cli` is `npconvnet`."""

from npconvnet.cli import main

if __name__ == "__main__":
    main()
