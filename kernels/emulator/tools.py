"""The compiler that the emulator needs, and the tools that come with its linker."""

import functools
import os
import shlex
import shutil
import subprocess


class NoCompiler(RuntimeError):
    """There is no C++ compiler, so no kernel can be emulated here."""


def compiler() -> str:
    """The C++ compiler: the environment's CXX (flags may follow), or else g++, or else clang++. Raises NoCompiler."""
    if named := os.environ.get("CXX", "").strip():
        try:
            (program, *_) = shlex.split(named)
        except ValueError as error:
            raise NoCompiler(f"CXX is no command: {error}: {named}") from None
        if not shutil.which(program):
            raise NoCompiler(f"the environment's CXX is {named}, and there is no program {program}")
        return named
    for command in ("g++", "clang++"):
        if shutil.which(command):
            return command
    raise NoCompiler("no C++ compiler was found: the emulator needs g++ or clang++ (apt-get install g++)")


@functools.cache
def version(command: str) -> str:
    """What a compiler says of itself. Raises NoCompiler."""
    done = subprocess.run([*shlex.split(command), "--version"], capture_output=True, text=True)
    if done.returncode:
        raise NoCompiler(f"{command} --version fails, so it is no C++ compiler: {done.stderr.strip()}")
    return done.stdout.partition("\n")[0]


def said_by(command: list[str], check: bool = True) -> str:
    """What one of the tools that come with a compiler's linker prints. Raises NoCompiler where it is missing."""
    if not shutil.which(command[0]):
        raise NoCompiler(f"no {command[0]} was found: the emulator needs GNU binutils (apt-get install binutils)")
    return subprocess.run(command, capture_output=True, text=True, check=check).stdout
