"""The command line: one small file per command, found by `minigen.__main__`."""
