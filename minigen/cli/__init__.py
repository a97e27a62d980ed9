"""The command line: one small file a command, found by `minigen.__main__`."""
