"""`python -m mssgen`."""

from mssgen.cli import main

if __name__ == "__main__":
    main()
