import { hash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type LogTrust, openCheckpoint, signCheckpoint } from '../../src/log/checkpoint.ts'
import { generateSecretKey, makeCosigner, parseSecretKey } from '../../src/log/cosigner.ts'
import { makeVerifierKey, openNote, parseVerifierKey, signNote } from '../../src/log/note.ts'
import { emptyRoot, hashLeaf, proveConsistency } from '../../src/log/tree.ts'
import {
  type CosignAnswer,
  cosign,
  formatRequest,
  hasCosigned,
  readWitnessed,
  type Witness,
  type Witnessed,
  witnessedNothing,
} from '../../src/log/witness.ts'
import { parseCosignerKeys, parseWitnesses } from '../../src/log/witnesses.ts'
import { vectorPath, vectorsPresent } from '../support/vectors.ts'
import { makeCosigner as makeCosignerBySpecification, makeNoteKey } from './note-key.ts'
import { refusal } from './refusal.ts'
import { rfc6962 } from './rfc6962.ts'

const origin = 'example.com/log'
const logKey = makeNoteKey(origin, 1)
const nextLogKey = makeNoteKey(origin, 2)
const stranger = makeNoteKey('example.com/stranger', 3)
const log: LogTrust = { origin, vkeys: [logKey.key, nextLogKey.key] }
const witness: Witness = { cosigner: makeCosigner('example.com/witness', makeNoteKey('any', 4).privateKey), log }
const now = new Date('2026-03-01T12:00:00Z')

/** A log in memory, whose roots and proofs are those of the RFC's own recursion. */
function makeLog(world: string, size: number) {
  const leaves = Array.from({ length: size }, (_, i) => hashLeaf(hash('sha256', `${world} ${i}`, 'buffer')))
  const slow = rfc6962((start, end) => (end - start === 1 ? leaves[start] : undefined))
  const rootHash = (treeSize: number) => (treeSize === 0 ? emptyRoot : slow.treeHash(0, treeSize))
  return {
    rootHash,
    checkpoint: (treeSize: number, signers = [logKey.signer]) =>
      signCheckpoint({ origin, treeSize, rootHash: rootHash(treeSize) }, signers),
    prove: (fromSize: number, toSize: number) =>
      fromSize === 0
        ? []
        : proveConsistency(fromSize, toSize, (level, i) => slow.treeHash(i * 2 ** level, (i + 1) * 2 ** level)),
  }
}

const honest = makeLog('honest', 40)
const base64 = (hash: Uint8Array): string => Buffer.from(hash).toString('base64')

const ask = (witnessed: Witnessed, request: Parameters<typeof formatRequest>[0]): CosignAnswer =>
  cosign(witness, witnessed, formatRequest(request), now)

/** What the witness remembers once it has cosigned the honest log at `treeSize`. */
function witnessedAt(treeSize: number): Witnessed {
  const nothing = witnessedNothing(witness, now)
  const answer = ask(nothing, { oldSize: 0, proof: [], checkpoint: honest.checkpoint(treeSize) })
  if (answer.status !== 200) throw new Error(`${answer.status}`)
  return answer.next
}

describe('the answers of the specification', () => {
  const at10 = witnessedAt(10)
  const good = { oldSize: 10, proof: honest.prove(10, 25), checkpoint: honest.checkpoint(25) }
  const fork = makeLog('fork', 40)

  test('200: a signature line of the witness over the checkpoint, and what is remembered with it', () => {
    const answer = ask(at10, good)
    if (answer.status !== 200) throw new Error(`${answer.status}`)
    expect(answer.cosignature).toMatch(/^— example\.com\/witness \S+\n$/)
    const { verified } = openCheckpoint(good.checkpoint + answer.cosignature, {
      origin,
      vkeys: [...log.vkeys, witness.cosigner.key],
    })
    expect(verified.map(({ cosignedAt }) => cosignedAt)).toEqual([undefined, now])
    expect(answer.next).toMatchObject({ treeSize: 25, note: good.checkpoint + answer.cosignature })
    expect(Buffer.from(answer.next.rootHash)).toEqual(Buffer.from(honest.rootHash(25)))
  })

  test('200: the same checkpoint again, with the time of now', () => {
    const later = new Date(now.getTime() + 60_000)
    const request = formatRequest({ oldSize: 10, proof: [], checkpoint: honest.checkpoint(10) })
    const answer = cosign(witness, at10, request, later)
    if (answer.status !== 200) throw new Error(`${answer.status}`)
    expect(openNote(answer.next.note, [witness.cosigner.key]).verified[0].cosignedAt).toEqual(later)
  })

  test('200: lines of others are neither a hindrance nor remembered; those of both log keys are', () => {
    const checkpoint = honest.checkpoint(25, [stranger.signer, logKey.signer, nextLogKey.signer])
    const answer = ask(at10, { ...good, checkpoint })
    if (answer.status !== 200) throw new Error(`${answer.status}`)
    expect(answer.next.note).not.toContain('stranger')
    expect(openNote(answer.next.note, [...log.vkeys, witness.cosigner.key]).verified).toHaveLength(3)
  })

  const request = (text: string) => Buffer.from(text)
  const tail = `\n${good.checkpoint}`
  const line = `${base64(honest.rootHash(1))}\n`
  test.each<[string, number, Uint8Array]>([
    ['an old size larger than the new', 400, formatRequest({ ...good, oldSize: 26 })],
    ['no body', 400, request('')],
    ['no old size', 400, request(`${line}${tail}`)],
    ['an old size with a leading zero', 400, request(`old 010\n${tail}`)],
    ['an old size with a sign', 400, request(`old +10\n${tail}`)],
    ['an old size beyond 2^53', 400, request(`old 9007199254740993\n${tail}`)],
    ['two spaces', 400, request(`old  10\n${tail}`)],
    ['a carriage return', 400, request(`old 10\r\n${tail}`)],
    ['a hash of 31 bytes', 400, request(`old 10\n${Buffer.alloc(31).toString('base64')}\n${tail}`)],
    ['a hash in base64url', 400, request(`old 10\n${Buffer.alloc(32, 0xff).toString('base64url')}=\n${tail}`)],
    ['64 hashes', 400, request(`old 10\n${line.repeat(64)}${tail}`)],
    ['no checkpoint', 400, request('old 10\n')],
    ['a checkpoint without signatures', 403, request(`old 10\n\n${origin}\n25\n${line}`)],
    [
      'a checkpoint without a root',
      400,
      formatRequest({ ...good, checkpoint: signNote(`${origin}\n25\n`, [logKey.signer]) }),
    ],
    ['a checkpoint that is not UTF-8', 400, Buffer.concat([formatRequest(good), Buffer.of(0xff)])],
    ['another log', 404, formatRequest({ ...good, checkpoint: good.checkpoint.replace(origin, `${origin}2`) })],
    ['a log whose name only starts alike', 404, formatRequest({ ...good, checkpoint: `${origin}x\n25\n` })],
    [
      'nobody’s signature that counts',
      403,
      formatRequest({ ...good, checkpoint: honest.checkpoint(25, [stranger.signer]) }),
    ],
    [
      'a false signature of the log beside a true one',
      403,
      formatRequest({
        ...good,
        checkpoint: honest.checkpoint(25, [logKey.signer, { ...nextLogKey.signer, sign: () => new Uint8Array(64) }]),
      }),
    ],
    [
      'the root of another log',
      403,
      formatRequest({
        ...good,
        checkpoint: good.checkpoint.replace(/\n25\n.+\n/, `\n25\n${base64(fork.rootHash(25))}\n`),
      }),
    ],
    [
      'an older size than was cosigned',
      409,
      formatRequest({ oldSize: 5, proof: honest.prove(5, 25), checkpoint: good.checkpoint }),
    ],
    ['a newer one', 409, formatRequest({ oldSize: 20, proof: honest.prove(20, 25), checkpoint: good.checkpoint })],
    ['nothing cosigned before, though there was', 409, formatRequest({ ...good, oldSize: 0, proof: [] })],
    ['a roll back', 409, formatRequest({ oldSize: 5, proof: honest.prove(5, 8), checkpoint: honest.checkpoint(8) })],
    ['no proof', 422, formatRequest({ ...good, proof: [] })],
    ['a proof from another size', 422, formatRequest({ ...good, proof: honest.prove(9, 25) })],
    ['a proof with a hash too many', 422, formatRequest({ ...good, proof: [...good.proof, honest.rootHash(1)] })],
    [
      'another log under the same name',
      422,
      formatRequest({ oldSize: 10, proof: fork.prove(10, 25), checkpoint: fork.checkpoint(25) }),
    ],
    ['another log of the same size', 422, formatRequest({ oldSize: 10, proof: [], checkpoint: fork.checkpoint(10) })],
    [
      'a proof where none is needed',
      422,
      formatRequest({ oldSize: 10, proof: good.proof, checkpoint: honest.checkpoint(10) }),
    ],
  ])('%s: %i', (_what, status, body) => {
    const answer = cosign(witness, at10, body, now)
    expect(answer).toMatchObject(status === 409 ? { status, treeSize: 10 } : { status, reason: expect.any(String) })
    expect(answer).not.toHaveProperty('next')
  })

  test('422: a proof from the empty tree, and an empty tree with a root that is not empty', () => {
    const nothing = witnessedNothing(witness, now)
    expect(ask(nothing, { oldSize: 0, proof: good.proof, checkpoint: good.checkpoint })).toMatchObject({ status: 422 })
    const hollow = signCheckpoint({ origin, treeSize: 0, rootHash: honest.rootHash(1) }, [logKey.signer])
    expect(ask(nothing, { oldSize: 0, proof: [], checkpoint: hollow })).toMatchObject({ status: 422 })
    const empty = ask(nothing, { oldSize: 0, proof: [], checkpoint: honest.checkpoint(0) })
    expect(empty).toMatchObject({ status: 200 })
  })
})

describe('any history', () => {
  const size = fc.integer({ min: 0, max: 40 })

  test('of one log is cosigned to its end', () => {
    fc.assert(
      fc.property(fc.array(size, { minLength: 1, maxLength: 8 }), (sizes) => {
        let witnessed = witnessedNothing(witness, now)
        for (const treeSize of sizes.sort((a, b) => a - b)) {
          const oldSize = witnessed.treeSize
          const proof = honest.prove(oldSize, treeSize)
          const answer = ask(witnessed, { oldSize, proof, checkpoint: honest.checkpoint(treeSize) })
          if (answer.status !== 200) throw new Error(`${oldSize} to ${treeSize}: ${answer.status}`)
          witnessed = answer.next
        }
        expect(readWitnessed(witness, Buffer.from(witnessed.note))).toEqual(witnessed)
      }),
    )
  })

  test('that forks is not, from whatever place, with whatever proof', () => {
    const fork = makeLog('fork', 40)
    const proofs = (from: number, to: number) =>
      fc.constantFrom(honest.prove(from, to), fork.prove(from, to), [fork.rootHash(from)], [])
    const lie = fc
      .tuple(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 40 }))
      .map(([a, b]) => [Math.min(a, b), Math.max(a, b)] as const)
      .chain(([from, to]) => fc.tuple(fc.constant(from), fc.constant(to), proofs(from, to)))
    fc.assert(
      fc.property(lie, fc.integer({ min: 0, max: 40 }), ([from, to, proof], oldSize) => {
        const checkpoint = fork.checkpoint(to)
        for (const old of [from, oldSize]) {
          const answer = ask(witnessedAt(from), { oldSize: old, proof, checkpoint })
          expect([400, 409, 422]).toContain(answer.status)
        }
      }),
    )
  })

  test('a request of which any byte is another is refused or means the same, and nothing is thrown', () => {
    const at10 = witnessedAt(10)
    const body = formatRequest({ oldSize: 10, proof: honest.prove(10, 25), checkpoint: honest.checkpoint(25) })
    const intact = cosign(witness, at10, body, now)
    for (const mask of [0x01, 0x10, 0x20, 0x80, 0xff]) {
      for (let at = 0; at < body.length; at++) {
        const answer = cosign(witness, at10, body.with(at, (body[at] ?? 0) ^ mask), now)
        if (answer.status === 200) expect(answer, `byte ${at} ^ ${mask}`).toEqual(intact)
      }
    }
    expect(intact.status).toBe(200)
  })
})

describe('what a witness remembers', () => {
  test('reads back as it was kept, also before anything was cosigned, which is then not shown', () => {
    for (const witnessed of [witnessedNothing(witness, now), witnessedAt(0), witnessedAt(10)]) {
      expect(readWitnessed(witness, Buffer.from(witnessed.note))).toEqual(witnessed)
    }
    expect([witnessedNothing(witness, now), witnessedAt(0)].map((kept) => hasCosigned(witness, kept))).toEqual([
      false,
      true,
    ])
  })

  test('is refused if it is torn anywhere, altered anywhere, of another log or of another witness', () => {
    const kept = Buffer.from(witnessedAt(10).note)
    for (let cut = 0; cut < kept.length; cut++) {
      expect(
        refusal(() => readWitnessed(witness, kept.subarray(0, cut))),
        `cut at ${cut}`,
      ).toBeDefined()
    }
    for (let at = 0; at < kept.indexOf('\n\n'); at++) {
      expect(
        refusal(() => readWitnessed(witness, kept.with(at, (kept[at] ?? 0) ^ 1))),
        `byte ${at}`,
      ).toBeDefined()
    }
    const other = { ...witness, cosigner: makeCosigner('example.com/witness', makeNoteKey('any', 5).privateKey) }
    expect(refusal(() => readWitnessed(other, kept))).toBe('no_known_signature')
    expect(refusal(() => readWitnessed({ ...witness, log: { ...log, origin: 'example.com/other' } }, kept))).toBe(
      'wrong_origin',
    )
  })
})

describe('keys', () => {
  test('a cosigner signs as the specification says', () => {
    const specified = makeCosignerBySpecification('example.com/witness', 4)
    expect(witness.cosigner.key.keyId).toEqual(specified.key.keyId)
    const text = 'example.com/log\n1\njvM=\n'
    const seconds = BigInt(now.getTime() / 1000)
    expect(signNote(text, [witness.cosigner.at(now)])).toBe(signNote(text, [specified.at(seconds)]))
  })

  test('a secret key reads back, and no other spelling does', () => {
    const secretKey = generateSecretKey('example.com/witness')
    const { vkey, key } = parseSecretKey(secretKey)
    expect(parseVerifierKey(vkey).publicKey.equals(key.publicKey)).toBe(true)
    for (const [from, to] of [
      [/^P/, 'p'],
      [/\+[0-9a-f]{8}\+/, '+00000000+'],
      [/witness/, 'witnesses'],
      [/.$/, ''],
      [/$/, '\n'],
    ] as const) {
      expect(
        refusal(() => parseSecretKey(secretKey.replace(from, to))),
        String(from),
      ).toBe('malformed_key')
    }
    expect(refusal(() => generateSecretKey('two words'))).toBe('malformed_key')
  })

  test('a time before 1970, or none, cannot be signed', () => {
    expect(() => witness.cosigner.at(new Date(0))).toThrow(RangeError)
  })

  test('a list of witnesses is read by lines and commas, and refused in a sentence', () => {
    const [one, two] = [generateSecretKey('one.test'), generateSecretKey('two.test')].map(
      (key) => parseSecretKey(key).vkey,
    )
    expect(
      parseWitnesses(`${one} https://one.test/,\n ${two}  http://10.1.2.3:7380/prefix\n`).map(({ url }) => url),
    ).toEqual(['https://one.test', 'http://10.1.2.3:7380/prefix'])
    expect(parseWitnesses(' ')).toEqual([])
    for (const bad of [
      one,
      `${one} ftp://one.test`,
      `${one} https://one.test/?a`,
      `${one} https://a.test https://b.test`,
      'x https://one.test',
    ]) {
      expect(() => parseWitnesses(bad ?? ''), bad).toThrow(RangeError)
    }
    expect(() => parseWitnesses(`${makeVerifierKey(origin, logKey.publicKey)} https://one.test`)).toThrow(/type 0x04/)
  })

  test('one key under two names is refused: it would count twice', () => {
    const { privateKey } = makeNoteKey('any', 4)
    expect(() => parseCosignerKeys(['a.test', 'b.test'].map((name) => makeCosigner(name, privateKey).vkey))).toThrow(
      /same key/,
    )
  })
})

describe.skipIf(!vectorsPresent)('published vectors', () => {
  const { origin, logVkey, otherLogVkey, witnessVkey, older, newer, proof } = (
    vectorsPresent ? JSON.parse(readFileSync(vectorPath('tlog/consistency.json'), 'utf8')) : {}
  ) as {
    [Name in 'origin' | 'logVkey' | 'otherLogVkey' | 'witnessVkey']: string
  } & { older: { size: number; checkpoint: string }; newer: { size: number; checkpoint: string }; proof: string[] }

  test('consistency.json: the witness goes from the one checkpoint to the other', () => {
    const published: Witness = { ...witness, log: { origin, vkeys: [parseVerifierKey(logVkey)] } }
    const body = (oldSize: number, hashes: string[], checkpoint: string) =>
      Buffer.from(`old ${oldSize}\n${hashes.map((line) => `${line}\n`).join('')}\n${checkpoint}`)
    const first = cosign(published, witnessedNothing(published, now), body(0, [], older.checkpoint), now)
    if (first.status !== 200) throw new Error(`${first.status}`)
    const refused = cosign(published, first.next, body(older.size, proof.slice(1), newer.checkpoint), now)
    expect(refused).toMatchObject({ status: 422 })
    const second = cosign(published, first.next, body(older.size, proof, newer.checkpoint), now)
    expect(second).toMatchObject({ status: 200, next: { treeSize: newer.size } })
    const mistaken = { ...published, log: { origin, vkeys: [parseVerifierKey(otherLogVkey)] } }
    expect(cosign(mistaken, first.next, body(older.size, proof, newer.checkpoint), now)).toMatchObject({ status: 403 })
  })

  test('consistency.json: the plain key of a witness is not taken for that of its cosignatures', () => {
    expect(() => parseCosignerKeys([witnessVkey])).toThrow(/type 0x04/)
  })

  test('keys.json: the published cosigner key is one, and the plain ones are not', () => {
    const { valid } = JSON.parse(readFileSync(vectorPath('tlog/keys.json'), 'utf8')) as {
      valid: { vkey: string; type: string }[]
    }
    for (const { vkey, type } of valid) {
      const read = () => parseCosignerKeys([vkey])
      if (type.startsWith('0x04')) expect(read()).toHaveLength(1)
      else expect(read).toThrow(RangeError)
    }
  })
})
