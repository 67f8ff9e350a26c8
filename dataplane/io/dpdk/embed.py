"""embed.py IN OUT: the bytes of a file as a list for a C++ array."""

import sys

with open(sys.argv[1], "rb") as source:
    data = source.read()
with open(sys.argv[2], "w", encoding="ascii") as out:
    for at in range(0, len(data), 20):
        out.write("".join(f"{byte}," for byte in data[at:at + 20]) + "\n")
