# Verify a ringflow journal without ringflow: python verify_journal.py FOLDER
import hashlib
import json
import sys
from pathlib import Path

import zstandard

folder, head, sequence, parts = Path(sys.argv[1]), "0" * 64, 0, []
for base in sorted(folder.glob("base-*.json"))[-1:]:  # what was archived ended there
    sequence, head = map(json.loads(base.read_bytes())["place"].get, ("seq", "hash"))
names = {path.name.removesuffix(".zst") for path in folder.glob("*-*.jsonl*")}
pin = {"name": max(names, key=lambda name: name.split("-")[::-1]), "size_bytes": None}
while pin and int(pin["name"].split("-")[0]) > sequence:  # each header pins the segment before
    plain = folder / pin["name"]  # zeros at its end are reserved space
    packed = Path(f"{plain}.zst")
    text = plain.read_bytes() if plain.exists() else zstandard.decompress(packed.read_bytes())
    parts.append((pin, text.rstrip(b"\0")[: pin["size_bytes"]]))
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
