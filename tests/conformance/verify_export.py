#!/usr/bin/env python3
"""The checker of exports once more, from the description of the file in src/receipt/export-format.ts: the standard
library and `cryptography`, and nothing of ours. Reads NDJSON or gzip; Python below 3.14 has no zstd, so pipe it:

    zstd -dc audit.ndjson.zst | python3 verify_export.py - --vkey vkey.txt [--jwks keys.json]

Prints the verdict as JSON, as `countersign verify export --json` does. Exits with 0 if valid, 1 if not.
"""

import argparse
import base64
import datetime
import gzip
import hashlib
import json
import re
import sys
import zlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ZERO = bytes(32)
WIDTH = 256
LEEWAY_S = 60


class Wrong(Exception):
    """What is wrong, with the leaf where it can be told, and how the line begins that was expected instead."""

    def __init__(self, fault, detail, leaf=None, missing=None):
        super().__init__(detail)
        self.fault, self.detail, self.leaf, self.missing = fault, detail, leaf, missing


def sha256(data):
    return hashlib.sha256(data).digest()


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def octets(text, length=None):
    """Bytes of canonical base64url, of this length; None for anything else."""
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9_-]*", text):
        return None
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return None
    return data if base64url(data) == text and length in (None, len(data)) else None


def is_index(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def unique(pairs):
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member twice")
    return members


def parse_object(data):
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def holds(public_key, signature, data):
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, data)
        return True
    except InvalidSignature:
        return False


# The tree (RFC 6962 section 2.1)


def leaf_hash(entry):
    return sha256(b"\x00" + entry)


def node_hash(left, right):
    return sha256(b"\x01" + left + right)


def split(hashes):
    return [hashes[i : i + 32] for i in range(0, len(hashes), 32)]


def tile_root(hashes):
    row = split(hashes)
    while len(row) > 1:
        row = [node_hash(row[i], row[i + 1]) for i in range(0, len(row), 2)]
    return row[0]


def edge_root(partials):
    """The root from the partial tiles, lowest level first: what is right of the last complete node, level by level."""
    remainder = None
    for hashes in partials:
        row = split(hashes)
        for _ in range(8):
            above = [node_hash(row[i], row[i + 1]) for i in range(0, len(row) - 1, 2)]
            if len(row) % 2 == 1:
                remainder = row[-1] if remainder is None else node_hash(row[-1], remainder)
            row = above
    return remainder


# Keys


class Key:
    def __init__(self, public_key, valid_from=None, valid_until=None, revoked=None):
        self.public_key, self.valid_from, self.valid_until, self.revoked = public_key, valid_from, valid_until, revoked

    def problem(self, iat, leaf):
        """Why a statement of unix second `iat` at this leaf may not be signed by this key; None if it may."""
        if self.revoked is not None:
            if iat >= self.revoked[0]:
                return "the key was revoked before the statement was made"
            if leaf is None or leaf >= self.revoked[1]:
                return "the key is revoked, and nothing proves that the statement is older"
        if self.valid_from is None:
            return "the key has not signed anything yet"
        if iat < self.valid_from - LEEWAY_S:
            return "the statement is older than the key"
        if self.valid_until is not None and iat > self.valid_until + LEEWAY_S:
            return "the key had stopped signing by then"
        return None


def thumbprint(public_key):
    return base64url(sha256(('{"crv":"Ed25519","kty":"OKP","x":"%s"}' % base64url(public_key)).encode()))


def seconds(time):
    return None if time is None else datetime.datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()


def read_history(keys):
    """The payload keys of /v1/keys, by kid. ValueError if it is no such list."""
    found = {}
    for key in keys:
        if key.get("purpose") != "payload":
            continue
        public_key = octets(key.get("x"), 32)
        if public_key is None or thumbprint(public_key) != key.get("kid"):
            raise ValueError("a key is not the one its kid names")
        revoked = seconds(key.get("revoked_at"))
        found[key["kid"]] = Key(
            public_key,
            seconds(key.get("activated_at")),
            seconds(key.get("retiring_at")),
            None if revoked is None else (revoked, key.get("revoked_leaf", 0)),
        )
    return found


def read_published(path):
    """A JWKS, or the history."""
    keys = json.load(open(path, encoding="utf-8"))["keys"]
    if any("purpose" in key for key in keys):
        return read_history(keys)
    okp = [key for key in keys if key.get("kty") == "OKP" and key.get("crv") == "Ed25519"]
    return {key["kid"]: Key(octets(key["x"], 32), key.get("nbf"), key.get("exp")) for key in okp}


def read_vkeys(path):
    """c2sp.org/signed-note: name + key id + base64 of 0x01 and the public key."""
    vkeys = []
    for line in open(path, encoding="utf-8").read().split():
        name, key_id, key = line.split("+", 2)
        data = base64.b64decode(key, validate=True)
        expected = sha256(name.encode() + b"\n" + data)[:4]
        if data[0] != 1 or len(data) != 33 or expected.hex() != key_id:
            raise ValueError("%s is no vkey" % line)
        vkeys.append((name, expected, data[1:]))
    return vkeys


def open_checkpoint(note, vkeys):
    """Tree size and root of a signed note of this log (c2sp.org/tlog-checkpoint)."""
    text, separator, signatures = note.rpartition("\n\n")
    text += "\n"
    lines = text.split("\n")
    malformed = not separator or not signatures.endswith("\n") or len(lines) < 4
    if malformed or any(not re.fullmatch(r"\u2014 \S+ \S+", line) for line in signatures.split("\n")[:-1]):
        raise Wrong("changed", "the checkpoint is not a signed note")
    verified = False
    for line in signatures.split("\n")[:-1]:
        _, name, encoded = line.split(" ")
        try:
            data = base64.b64decode(encoded, validate=True)
        except ValueError:
            raise Wrong("changed", "the checkpoint is not a signed note")
        for vkey_name, key_id, public_key in vkeys:
            if name == vkey_name and data[:4] == key_id:
                if not holds(public_key, data[4:], text.encode()):
                    raise Wrong("unsigned", "the signature of the checkpoint does not hold")
                verified = True
    if not verified:
        raise Wrong("unsigned", "no key given signed the checkpoint")
    if lines[0] != vkeys[0][0]:
        raise Wrong("foreign", "the checkpoint is that of another log")
    return lines[0], int(lines[1]), base64.b64decode(lines[2], validate=True)


class Verification:
    def __init__(self, vkeys, published):
        self.vkeys, self.published = vkeys, published
        self.stage, self.lines, self.chain = "header", 0, ZERO
        self.edge, self.tiles = {}, {}
        self.last, self.basis_seen, self.final = None, False, None
        self.shown = self.withheld = self.signed = 0

    def take(self, data):
        if self.stage == "over":
            raise Wrong("duplicated" if data == self.final else "foreign", "a line follows the manifest")
        self.lines += 1
        line = parse_object(data)
        if line is None:
            raise Wrong("changed", "a line is not a JSON object")
        if self.stage == "header":
            self.take_header(line)
        elif "format" in line:
            raise Wrong("duplicated", "there is a second header")
        elif "tile" in line:
            self.take_tile(line)
        elif self.stage == "edge":
            raise self.edge_missing()
        elif "manifest" in line:
            self.take_manifest(line, data)
        else:
            self.take_leaf(line)
        self.chain = sha256(b"\x03" + self.chain + data)

    # The header and the edge

    def take_header(self, line):
        if line.get("format") != "countersign-export@v1":
            raise Wrong("removed", "the first line is no header")
        texts = [line.get(name) for name in ("id", "issuer", "tenant", "checkpoint")]
        basis, bounds = line.get("basis"), line.get("range")
        if not all(isinstance(text, str) for text in texts) or not isinstance(basis, dict) or not isinstance(bounds, dict):
            raise Wrong("changed", "the header is not of its form")
        self.id, self.issuer, self.tenant, checkpoint = texts
        self.basis, self.digest = basis.get("upto"), octets(basis.get("digest"), 32)
        self.basis_digest, self.basis_index = self.digest, basis.get("index")
        self.start, self.stop = bounds.get("from"), bounds.get("to")
        if self.digest is None or not all(is_index(value) for value in (self.basis, self.start, self.stop)):
            raise Wrong("changed", "the header is not of its form")
        if self.basis_index is None:
            rooted = self.basis == 0 and self.digest == ZERO
        else:
            rooted = is_index(self.basis_index) and self.basis_index >= self.basis
        self.kinds = line.get("kinds")
        named = self.kinds is None or isinstance(self.kinds, list) and all(isinstance(kind, str) for kind in self.kinds)
        if not rooted or not named or self.start < self.basis or self.stop < self.start:
            raise Wrong("changed", "the header contradicts itself")
        self.origin, self.size, self.root = open_checkpoint(checkpoint, self.vkeys)
        try:
            history = read_history(line["keys"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Wrong("changed", "the key history of the header cannot be used")
        self.keys = history if self.published is None else self.published
        self.edge_levels = [level for level in range(8, -1, -1) if self.size // WIDTH**level % WIDTH > 0]
        self.stage = "edge" if self.edge_levels else "leaves"

    def edge_index(self, level):
        return self.size // WIDTH ** (level + 1)

    def edge_missing(self):
        level = next(level for level in self.edge_levels if level not in self.edge)
        name = "%d/%d.p/%d" % (level, self.edge_index(level), self.size // WIDTH**level % WIDTH)
        return Wrong("removed", "tile %s should stand here" % name, None, '{"tile":"%s"' % name)

    def take_tile(self, line):
        text = line["tile"]
        match = re.fullmatch(r"(\d{1,2})/(0|[1-9]\d{0,15})(?:\.p/(\d{1,3}))?", text) if isinstance(text, str) else None
        width = WIDTH if match is None or match[3] is None else int(match[3])
        hashes = octets(line.get("hashes"), width * 32)
        if match is None or hashes is None or set(line) - {"tile", "hashes"}:
            raise Wrong("changed", "a tile is not of its form")
        level, index = int(match[1]), int(match[2])
        if match[3] is not None:
            self.take_edge(level, index, width, hashes)
        elif self.stage == "edge":
            raise self.edge_missing()
        else:
            self.take_full_tile(level, index, hashes)

    def take_edge(self, level, index, width, hashes):
        name = "tile %d/%d.p/%d" % (level, index, width)
        if level in self.edge:
            raise Wrong("duplicated", name + " is there twice")
        if self.stage != "edge":
            raise Wrong("reordered", name + " does not belong here")
        if level != next(each for each in self.edge_levels if each not in self.edge):
            raise self.edge_missing()
        if index != self.edge_index(level) or width != self.size // WIDTH**level % WIDTH:
            raise Wrong("changed", "%s is no tile at the edge of a tree of %d" % (name, self.size))
        self.edge[level] = hashes
        if len(self.edge) < len(self.edge_levels):
            return
        if edge_root([self.edge.get(each, b"") for each in range(self.edge_levels[0] + 1)]) != self.root:
            raise Wrong("changed", "the tiles at the edge do not hash to the root of the checkpoint")
        self.stage = "leaves"

    def take_full_tile(self, level, index, hashes):
        name = "tile %d/%d" % (level, index)
        before = self.tiles.get(level)
        if before is not None and index <= before[0]:
            raise Wrong("duplicated" if index == before[0] else "reordered", name + " is there again, or too late")
        first = index * WIDTH ** (level + 1)
        if (index + 1) * WIDTH ** (level + 1) > self.size:
            raise Wrong("changed", name + " is not full", first)
        if tile_root(hashes) != self.hash_at(level + 1, index, first):
            raise Wrong("changed", name + " does not hash to what the tile above it says", first)
        self.tiles[level] = (index, hashes)

    def hash_at(self, level, index, leaf):
        tile = index // WIDTH
        hashes = b""
        if level in self.tiles and self.tiles[level][0] == tile:
            hashes = self.tiles[level][1]
        elif tile == self.edge_index(level):
            hashes = self.edge.get(level, b"")
        offset = index % WIDTH * 32
        if len(hashes) >= offset + 32:
            return hashes[offset : offset + 32]
        name = "%d/%d" % (level, tile)
        raise Wrong("removed", "tile %s should stand before this line" % name, leaf, '{"tile":"%s"' % name)

    # The leaves

    def take_leaf(self, line):
        index, prev = line.get("index"), line.get("prev")
        if not is_index(index) or prev is not None and not is_index(prev):
            raise Wrong("changed", "a line is not of its form", self.last)
        if self.stage == "manifest":
            raise Wrong(self.misplaced(index), "a leaf stands behind the head", index)
        self.check_order(index, prev)
        text = line.get("statement", line.get("head"))
        statement_bytes = octets(text)
        if text is not None and statement_bytes is None:
            raise Wrong("changed", "the line of leaf %d is not of its form" % index, index)
        if text is None:
            entry, members = octets(line.get("entry"), 32), {"entry"}
        else:
            entry = sha256(statement_bytes)
            members = {"head"} if "head" in line else {"statement", "kid", "signature"}
        if entry is None or set(line) - members - {"index", "prev", "path"}:
            raise Wrong("changed", "the line of leaf %d is not of its form" % index, index)
        self.check_inclusion(index, entry, line.get("path"))
        if text is None:
            if self.kinds is None and self.start <= index < self.stop:
                raise Wrong("removed", "the statement of leaf %d is in the range, and is not shown" % index, index)
            self.withheld += 1
        else:
            statement = parse_object(statement_bytes)
            if statement is None:
                raise Wrong("changed", "the statement of leaf %d is not strict JSON" % index, index)
            if statement.get("tenant") != self.tenant or statement.get("iss") != self.issuer:
                raise Wrong("foreign", "leaf %d is about another tenant, or by another issuer" % index, index)
            if "head" in line:
                return self.take_head(statement, index)
            self.check_signature(line, statement, index)
            self.check_basis(statement, index)
            self.shown += 1
        self.digest = sha256(b"\x02" + self.digest + index.to_bytes(8, "big") + entry)
        self.last = index

    def check_order(self, index, prev):
        if self.last is not None and index <= self.last:
            raise Wrong(self.misplaced(index), "leaf %d stands behind leaf %d" % (index, self.last), index)
        if prev == self.last:
            if not self.basis <= index < self.size:
                raise Wrong("foreign", "leaf %d is none that this export is about" % index, index)
            return
        if prev is None or prev < (-1 if self.last is None else self.last):
            raise Wrong("foreign", "leaf %s is none that the one behind it knows" % self.last, self.last)
        raise Wrong("removed", "leaf %d should stand before leaf %d" % (prev, index), prev, '{"index":%d,' % prev)

    def misplaced(self, index):
        last = -1 if self.last is None else self.last
        return "duplicated" if self.basis <= index <= last else "foreign"

    def check_inclusion(self, index, entry, path):
        found = leaf_hash(entry)
        if path is None:
            expected = self.hash_at(0, index, index)
        else:
            siblings = octets(path, 8 * 32)
            if siblings is None:
                raise Wrong("changed", "the path of leaf %d is not of its form" % index, index)
            for level, sibling in enumerate(split(siblings)):
                found = node_hash(sibling, found) if index >> level & 1 else node_hash(found, sibling)
            expected = self.hash_at(1, index // WIDTH, index)
        if found != expected:
            raise Wrong("changed", "leaf %d is not what stands at this place of the log" % index, index)

    def check_signature(self, line, statement, index):
        if "kid" not in line and "signature" not in line:
            if statement.get("kind") == "message.accepted":
                raise Wrong("unsigned", "leaf %d lacks the signature of its receipt" % index, index)
            return
        kid, signature = line.get("kid"), octets(line.get("signature"), 64)
        key = self.keys.get(kid) if isinstance(kid, str) else None
        if key is None or signature is None:
            raise Wrong("unsigned", "leaf %d is signed by a key that is not known" % index, index)
        header = base64url(('{"alg":"EdDSA","kid":"%s","typ":"receipt+jwt"}' % kid).encode())
        if not holds(key.public_key, signature, ("%s.%s" % (header, line["statement"])).encode()):
            raise Wrong("unsigned", "the signature of leaf %d is not of its statement" % index, index)
        problem = key.problem(statement.get("iat"), index)
        if problem is not None:
            raise Wrong("unsigned", "leaf %d: %s" % (index, problem), index)
        self.signed += 1

    def check_basis(self, statement, index):
        if index != self.basis_index:
            return
        counted = statement.get("kind") == "tenant.head" and statement.get("upto") == self.basis
        if not counted or octets(statement.get("digest"), 32) != self.basis_digest:
            raise Wrong("changed", "leaf %d is not the head that the header builds upon" % index, index)
        self.basis_seen = True

    # The end

    def take_head(self, head, index):
        upto, last = head.get("upto"), -1 if self.last is None else self.last
        if head.get("kind") != "tenant.head" or not is_index(upto) or upto > index:
            raise Wrong("changed", "leaf %d is no head" % index, index)
        if last >= upto:
            raise Wrong("foreign", "leaf %d is none of those that the head counts" % last, last)
        if self.basis_index is not None and not self.basis_seen:
            raise Wrong("removed", "the head that the header builds upon is not there", self.basis_index)
        if self.stop > upto:
            raise Wrong("removed", "the head counts the leaves before %d, and no more" % upto, upto)
        if head.get("digest") != base64url(self.digest):
            here, count = self.shown + self.withheld, head.get("count")
            same_start = head.get("from") == self.basis and head.get("previous") == base64url(self.basis_digest)
            fault = "changed" if not same_start or here == count else "removed" if here < count else "foreign"
            raise Wrong(fault, "the leaves are not those that the head counts")
        self.upto = upto
        self.stage = "manifest"

    def take_manifest(self, line, data):
        if self.stage != "manifest":
            raise Wrong("removed", "the head should stand before the manifest", None, '{"index":')
        parts = line["manifest"].split(".") if isinstance(line["manifest"], str) else []
        header, payload, signature = (parts + ["", "", ""])[:3]
        claims_bytes, signature = octets(payload), octets(signature, 64)
        if set(line) - {"manifest"} or len(parts) > 3 or claims_bytes is None or signature is None:
            raise Wrong("changed", "the manifest is not of its form")
        kid = (parse_object(octets(header) or b"") or {}).get("kid")
        key = self.keys.get(kid) if isinstance(kid, str) else None
        if key is None or header != base64url(('{"alg":"EdDSA","kid":"%s","typ":"export+jwt"}' % kid).encode()):
            raise Wrong("unsigned", "the manifest is signed by a key that is not known")
        if not holds(key.public_key, signature, ("%s.%s" % (header, payload)).encode()):
            raise Wrong("unsigned", "the signature of the manifest is not of these bytes")
        claims = parse_object(claims_bytes) or {}
        problem = key.problem(claims.get("iat"), None)
        if problem is not None:
            raise Wrong("unsigned", "the manifest: " + problem)
        if (claims.get("sub"), claims.get("tenant"), claims.get("iss")) != (self.id, self.tenant, self.issuer):
            raise Wrong("foreign", "the manifest is that of another export")
        if claims.get("lines") != self.lines - 1 or claims.get("digest") != base64url(self.chain):
            raise Wrong("changed", "a line is not as it was written, although all that it says holds")
        self.final, self.stage = data, "over"

    def summary(self):
        if self.stage != "over":
            raise Wrong("truncated", "the file ends before its manifest")
        summary = {"id": self.id, "tenant": self.tenant, "origin": self.origin, "from": self.basis, "upto": self.upto}
        summary.update(range={"from": self.start, "to": self.stop}, shown=self.shown, withheld=self.withheld)
        summary.update(signed=self.signed, tree_size=self.size)
        return summary if self.kinds is None else {**summary, "kinds": self.kinds}


def read_lines(stream):
    """Lines without their newlines; a file that does not decompress, or ends within a line, is Wrong at its end."""
    try:
        for line in stream:
            if not line.endswith(b"\n"):
                raise Wrong("truncated", "the file ends within a line")
            yield line[:-1]
    except EOFError:
        raise Wrong("truncated", "the compressed data ends too early")
    except (zlib.error, gzip.BadGzipFile):
        raise Wrong("changed", "the compressed data is damaged")


def is_among(lines, start):
    try:
        return any(line.startswith(start.encode()) for line in lines)
    except Wrong:
        return False


def verify(stream, vkeys, published):
    verification = Verification(vkeys, published)
    lines = read_lines(stream)
    try:
        for line in lines:
            verification.take(line)
        return {"verdict": "valid", **verification.summary()}
    except Wrong as wrong:
        fault = "reordered" if wrong.missing is not None and is_among(lines, wrong.missing) else wrong.fault
        beyond = fault == "truncated" or verification.stage == "over"
        line = verification.lines + 1 if beyond else max(1, verification.lines)
        leaf = {} if wrong.leaf is None else {"leaf_index": wrong.leaf}
        return {"verdict": "invalid", "fault": fault, **leaf, "line": line, "detail": wrong.detail}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    arguments.add_argument("file")
    arguments.add_argument("--vkey", required=True)
    arguments.add_argument("--jwks")
    given = arguments.parse_args()
    raw = sys.stdin.buffer if given.file == "-" else open(given.file, "rb")
    stream = gzip.open(raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw
    published = None if given.jwks is None else read_published(given.jwks)
    verdict = verify(stream, read_vkeys(given.vkey), published)
    print(json.dumps(verdict))
    return 0 if verdict["verdict"] == "valid" else 1


if __name__ == "__main__":
    sys.exit(main())
