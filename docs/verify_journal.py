"""Verify a ringflow journal without ringflow: python verify_journal.py FOLDER"""

import hashlib
import json
import sys
from pathlib import Path

import zstandard

folder, head, sequence, parts = Path(sys.argv[1]), "0" * 64, 0, []
names = {path.name.removesuffix(".zst") for path in folder.glob("*-*.jsonl*")}
pin = {"name": max(names, key=lambda name: name.split("-")[::-1]), "size_bytes": None}
while pin:  # from the newest segment back; each header pins the segment before its own
    if (plain := folder / pin["name"]).exists():
        text = plain.read_bytes().rstrip(b"\0")  # zeros at the end are reserved space
    else:
        text = zstandard.ZstdDecompressor().stream_reader(Path(f"{plain}.zst").read_bytes()).read()
    parts.append((pin, text[: pin["size_bytes"]]))
    pin = json.loads(text.split(b"\n")[0])["previous"]
for pin, text in reversed(parts):
    *lines, rest = text.split(b"\n")
    for line in lines:
        seal = b',"hash":"%s"}' % hashlib.sha256(line[:-75] + b"}").hexdigest().encode()
        new = json.loads(line) if line[-75:] == seal else sys.exit(f"damaged after {sequence}")
        if new["prev"] != head or new.get("seq", sequence + 1) != sequence + 1:
            sys.exit(f"damaged after sequence {sequence}: the link is broken")
        head, sequence = new["hash"], new.get("seq", sequence)
    if rest or pin.get("hash", head) != head:
        sys.exit(f"damaged after sequence {sequence}: the pin of {pin['name']} is broken")
print(sequence, head)
