import { createHash } from 'node:crypto'

/**
 * RFC 6962 §2.1, transcribed as it stands there and not for speed: the oracle for src/log/tree.ts, with which it
 * shares no code. `D[start:end]` is given by its bounds; `given` knows the hash of some ranges, at least of every
 * single entry.
 */
export function rfc6962(given: (start: number, end: number) => Uint8Array | undefined) {
  const known = new Map<string, Uint8Array>()

  function treeHash(start: number, end: number): Uint8Array {
    const name = `${start}:${end}`
    const found = known.get(name) ?? given(start, end)
    if (found) return found
    const split = start + largestPowerOfTwoBelow(end - start)
    const hash = sha256(Uint8Array.of(0x01), treeHash(start, split), treeHash(split, end))
    known.set(name, hash)
    return hash
  }

  /** PATH(m, D[start:end]), §2.1.1. */
  function path(m: number, start: number, end: number): Uint8Array[] {
    if (end - start === 1) return []
    const k = largestPowerOfTwoBelow(end - start)
    return m < k
      ? [...path(m, start, start + k), treeHash(start + k, end)]
      : [...path(m - k, start + k, end), treeHash(start, start + k)]
  }

  /** SUBPROOF(m, D[start:end], b), §2.1.2. */
  function subproof(m: number, start: number, end: number, b: boolean): Uint8Array[] {
    if (m === end - start) return b ? [] : [treeHash(start, end)]
    const k = largestPowerOfTwoBelow(end - start)
    return m <= k
      ? [...subproof(m, start, start + k, b), treeHash(start + k, end)]
      : [...subproof(m - k, start + k, end, false), treeHash(start, start + k)]
  }

  return {
    /** MTH(D[start:end]). */
    treeHash: (start: number, end: number) => (start === end ? sha256() : treeHash(start, end)),
    inclusion: (leafIndex: number, treeSize: number) => path(leafIndex, 0, treeSize),
    consistency: (fromSize: number, toSize: number) => subproof(fromSize, 0, toSize, true),
  }
}

/** The oracle over the entries '0', '1', '2', … */
export function countingTree() {
  return rfc6962((start, end) => (end - start === 1 ? sha256(Uint8Array.of(0x00), countingEntry(start)) : undefined))
}

export function countingEntry(index: number): Uint8Array {
  return Buffer.from(String(index))
}

export function sha256(...parts: Uint8Array[]): Uint8Array {
  return createHash('sha256').update(Buffer.concat(parts)).digest()
}

function largestPowerOfTwoBelow(count: number): number {
  let k = 1
  while (2 * k < count) k *= 2
  return k
}
