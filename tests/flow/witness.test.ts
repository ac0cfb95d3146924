/** A relay and its witnesses: real servers, a real file of state for each witness of ours, and hostile ones beside them. */
import { rm } from 'node:fs/promises'
import { createServer, type RequestListener, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { type LogTrust, openCheckpoint, signCheckpoint, type VerifiedCheckpoint } from '../../src/log/checkpoint.ts'
import { generateSecretKey, parseSecretKey } from '../../src/log/cosigner.ts'
import { parseVerifierKey, signNote } from '../../src/log/note.ts'
import { parseProof } from '../../src/log/tlog-proof.ts'
import type { WitnessAddress } from '../../src/log/witnesses.ts'
import type { Receipt } from '../../src/receipt/receipt.ts'
import { makeNoteKey } from '../log/note-key.ts'
import { keyWrapper, TestRelay } from '../support/relay.ts'
import { TestWitness } from '../support/witness.ts'

const ending: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const end of ending.splice(0).reverse()) await end()
})

async function startWitness(): Promise<TestWitness> {
  const witness = await TestWitness.start()
  ending.push(() => witness.stop())
  return witness
}

/** A relay that asks these witnesses; those of ours are told which log to watch. */
async function startRelay(ours: readonly TestWitness[], witnessQuorum: number, others: readonly WitnessAddress[] = []) {
  const witnesses = [...others, ...ours.map(({ address }) => address)]
  const relay = await TestRelay.start({ witnesses, witnessQuorum })
  ending.push(() => relay.stop())
  const log = await logOf(relay)
  for (const witness of ours) await witness.watch(log)
  relay.clock.advance(60_000) // they did not know the log when they were asked first
  return relay
}

async function logOf(relay: TestRelay): Promise<LogTrust> {
  const { body } = await relay.call<string>('GET', '/log/vkey', { key: null })
  return { origin: relay.relay.origin, vkeys: body.trim().split('\n').map(parseVerifierKey) }
}

/** The checkpoint that is served, with the cosignatures of these witnesses. */
async function served(relay: TestRelay, witnesses: readonly WitnessAddress[]): Promise<VerifiedCheckpoint> {
  const { body } = await relay.call<string>('GET', '/log/checkpoint', { key: null })
  const { origin, vkeys } = await logOf(relay)
  return openCheckpoint(body, { origin, vkeys: [...vkeys, ...witnesses.map(({ key }) => key)] })
}

/** Resolves once the checkpoint served holds every leaf there is; rejects if it takes longer than `withinMs`. */
async function settled(relay: TestRelay, withinMs = 10_000): Promise<void> {
  const head = await relay.relay.head()
  await expect
    .poll(async () => (await served(relay, []).catch(() => undefined))?.treeSize, { timeout: withinMs, interval: 50 })
    .toBe(head.treeSize)
}

const namesOf = ({ verified }: VerifiedCheckpoint): string[] =>
  verified.flatMap(({ name, cosignedAt }) => (cosignedAt === undefined ? [] : [name])).sort()

const fetchReceipt = async (relay: TestRelay, message: string): Promise<Receipt> =>
  (await relay.call<Receipt>('GET', `/v1/messages/${message}/receipt`)).body

test('the checkpoint served, and receipts fetched later, carry the cosignatures of the witnesses', async () => {
  const witnesses = [await startWitness(), await startWitness()]
  const relay = await startRelay(witnesses, 2)
  const tenant = await relay.makeTenant()
  const { body: receipt } = await relay.post(tenant, { order: 1 })
  await settled(relay)

  const names = witnesses.map(({ address }) => address.key.name).sort()
  const addresses = witnesses.map(({ address }) => address)
  expect(namesOf(await served(relay, addresses))).toEqual(names)
  const fresh = await fetchReceipt(relay, receipt.message)
  const log = await logOf(relay)
  const trust = { origin: log.origin, vkeys: [...log.vkeys, ...addresses.map(({ key }) => key)] }
  expect(namesOf(openCheckpoint(parseProof(fresh.header['tlog-proof']).checkpoint, trust))).toEqual(names)

  const verdictOf = async (evidence: Receipt) =>
    (await relay.call('POST', '/v1/verify', { key: null, body: { receipt: evidence } })).body
  const cosignatures = [...names].map((witness) => ({ witness, cosigned_at: expect.any(String) }))
  const verdict = (await verdictOf(fresh)) as { log: { cosignatures: { witness: string }[] } }
  expect(verdict).toMatchObject({ verdict: 'valid' })
  expect(verdict.log.cosignatures.toSorted((a, b) => (a.witness < b.witness ? -1 : 1))).toEqual(cosignatures)
  expect(await verdictOf(receipt)).toMatchObject({ verdict: 'valid', log: { cosignatures: [] } })
  await relay.check()

  // A leaf that no cosigned checkpoint holds yet is proven in the newest checkpoint there is.
  await witnesses[0]?.stop()
  const { body: younger } = await relay.post(tenant, { order: 2 })
  const uncosigned = await fetchReceipt(relay, younger.message)
  expect(await verdictOf(uncosigned)).toMatchObject({ verdict: 'valid', log: { cosignatures: [] } })
  const again = await verdictOf(await fetchReceipt(relay, receipt.message))
  expect(again).toMatchObject({ log: { cosignatures: verdict.log.cosignatures } })
})

test('with a quorum nothing is published until enough have cosigned; without one everything is', async () => {
  const [prompt, late] = [await startWitness(), await startWitness()]
  const relay = await TestRelay.start({ witnesses: [prompt.address, late.address], witnessQuorum: 2 })
  ending.push(() => relay.stop())
  const log = await logOf(relay)
  await prompt.watch(log)
  relay.clock.advance(60_000)
  await prompt.until(() => prompt.checkpoint !== undefined)
  const before = await relay.call('GET', '/log/checkpoint', { key: null })
  expect(before).toMatchObject({ status: 404, body: { code: 'not_found' } })
  const tenant = await relay.makeTenant()
  expect((await relay.post(tenant, { meanwhile: true })).status).toBe(202)

  await late.watch(log)
  relay.clock.advance(60_000)
  await settled(relay)
  expect(namesOf(await served(relay, [prompt.address, late.address]))).toHaveLength(2)
  await relay.check()

  const indulgent = await TestRelay.start({ witnesses: [prompt.address], witnessQuorum: 0 })
  ending.push(() => indulgent.stop()) // another log, which this witness does not know
  await settled(indulgent)
  expect(namesOf(await served(indulgent, [prompt.address]))).toEqual([])
})

test('two processes with the same witness take turns, and the newest checkpoint is cosigned', async () => {
  const witness = await startWitness()
  const relay = await startRelay([witness], 1)
  const other = await TestRelay.start({ witnesses: [witness.address], witnessQuorum: 1 }, relay)
  const tenant = await relay.makeTenant()
  for (let round = 0; round < 3; round++) {
    const posts = [...Array(5).keys()].flatMap((n) => [
      relay.post(tenant, { round, n }),
      other.post(tenant, { round, n, other: true }),
    ])
    for (const { status } of await Promise.all(posts)) expect(status).toBe(202)
    await settled(relay)
    await settled(other)
    await relay.check()
    await other.check()
    expect(namesOf(await served(other, [witness.address]))).toEqual([witness.address.key.name])
  }
  await other.close()
})

test('an answer that is lost after the witness kept it is asked for again', async () => {
  const witness = await startWitness()
  let lost = 0
  const proxy = await listen(async (request, response) => {
    const chunks: Uint8Array[] = []
    for await (const chunk of request) chunks.push(chunk)
    const answer = await fetch(witness.url + request.url, { method: 'POST', body: Buffer.concat(chunks) })
    const body = Buffer.from(await answer.arrayBuffer())
    if (answer.status === 200 && lost++ === 0) return void request.socket.destroy()
    response.writeHead(answer.status, { 'content-type': answer.headers.get('content-type') ?? '' }).end(body)
  })
  const address = { key: witness.address.key, url: proxy }
  const relay = await TestRelay.start({ witnesses: [address], witnessQuorum: 1 })
  ending.push(() => relay.stop())
  await witness.watch(await logOf(relay))
  relay.clock.advance(60_000)
  await expect.poll(() => lost, { timeout: 10_000 }).toBe(1)
  relay.clock.advance(60_000)
  await settled(relay)
  expect(lost).toBeGreaterThan(1)
  await relay.check()
})

// What was published to S3 under a lock cannot be hidden so.
test.runIf(keyWrapper === 'local')(
  'a log restored from a backup, or grown differently, is not cosigned any more, though its own key signs it',
  async () => {
    const witness = await startWitness()
    const relay = await startRelay([witness], 1)
    const tenant = await relay.makeTenant()
    await settled(relay)
    const { database } = relay.database
    const [backup] = await database.query<{
      size: number
      root: Uint8Array
      checkpoint: string
      configuration: number
    }>('select tree_size as size, root_hash as root, checkpoint, configuration from log')
    if (backup === undefined) throw new Error('the database holds no log')
    await relay.post(tenant, { world: 'A' })
    await relay.post(tenant, { world: 'A', more: true })
    await settled(relay)
    const witnessed = witness.checkpoint
    await relay.close()

    // Whoever rolls the database back hides what was published, too, or the relay would not start.
    await relay.database.tamper(
      ['delete from statements where leaf_index >= $1', [backup.size]],
      ['delete from messages where leaf_index >= $1', [backup.size]],
      ['delete from payloads where leaf_index >= $1', [backup.size]],
      ['delete from cosigned_checkpoints'],
    )
    await database.query('update log set tree_size = $1, root_hash = $2, checkpoint = $3, configuration = $4', [
      backup.size,
      backup.root,
      backup.checkpoint,
      backup.configuration,
    ])
    await rm(`${relay.folder}/objects`, { recursive: true })
    relay.receipts.clear()
    const asked = witness.told.length
    await relay.open()
    await witness.until(() => witness.told.length > asked) // 409: it has seen more
    for (let n = 0; n < 5; n++) await relay.post(tenant, { world: 'B', n })
    relay.clock.advance(120_000)
    await witness.until(() => witness.told.some((line) => line.startsWith('422')))
    expect(witness.checkpoint).toBe(witnessed)
    expect((await relay.call('GET', '/log/checkpoint', { key: null })).status).toBe(404)
    const { checkpoint } = await relay.relay.head()
    expect(await witness.judge(await logOf(relay), checkpoint)).toBe(422)
  },
)

test('hostile witnesses cost nobody anything: they are bounded, told apart, and never believed', async () => {
  const keyOf = (name: string) => parseSecretKey(generateSecretKey(name))
  const cosignerOf = new Map<string, ReturnType<typeof keyOf>>()
  const textOf = (body: string) => body.slice(body.indexOf('\n\n') + 2, body.lastIndexOf('\n\n') + 1)
  const now = new Date()
  let flooded = 0
  const hostile: Record<string, (body: string, response: Parameters<RequestListener>[1]) => void> = {
    silent: () => {},
    stalling: (_body, response) => void response.writeHead(200).write('— '),
    flooding: (_body, response) => {
      response.writeHead(200)
      const pour = (error?: Error | null) => {
        if (error || response.destroyed) return
        flooded += 65_536
        response.write('x'.repeat(65_536), pour)
      }
      pour()
    },
    'cutting off': (_body, response) => response.destroy(),
    babbling: (_body, response) => response.end(Buffer.from([0xff, 0x00, 0x0a, 0x0a, 0x0a])),
    mute: (_body, response) => response.end(),
    'signing with another key': (body, response) =>
      response.end(
        linesOf(
          signNote(textOf(body), [
            { ...keyOf('x').at(now), name: 'signing', keyId: keyIdOf('signing with another key') },
          ]),
        ),
      ),
    'signing another tree': (_body, response) =>
      response.end(linesOf(cosign('signing another tree', 'relay.test/log\n1\njvM=\n'))),
    'signing a longer text': (body, response) => {
      const text = `${body.slice(body.indexOf('\n\n') + 2)}\nmore\n`
      response.end(`\nmore\n\n${linesOf(cosign('signing a longer text', text))}`)
    },
    redirecting: (_body, response) => response.writeHead(307, { location: '/add-checkpoint' }).end(),
    failing: (_body, response) => response.writeHead(500).end('sorry'),
    forgetful: (_body, response) => response.writeHead(409, { 'content-type': 'text/x.tlog.size' }).end('0\n'),
    boasting: (_body, response) => response.writeHead(409).end(`${Number.MAX_SAFE_INTEGER}\n`),
    'beyond numbers': (_body, response) => response.writeHead(409).end('18446744073709551615\n'),
    forbidding: (_body, response) => response.writeHead(403).end(),
    ignorant: (_body, response) => response.writeHead(404).end(),
    contradicting: (_body, response) => response.writeHead(422).end(),
  }
  const cosign = (name: string, text: string) =>
    signNote(text, [(cosignerOf.get(name) as ReturnType<typeof keyOf>).at(now)])
  const keyIdOf = (name: string) => (cosignerOf.get(name) as ReturnType<typeof keyOf>).key.keyId
  const linesOf = (note: string) => note.slice(note.lastIndexOf('\n\n') + 2)

  const addresses: WitnessAddress[] = []
  for (const [name, answer] of Object.entries(hostile)) {
    const cosigner = keyOf(name.replaceAll(' ', '-'))
    cosignerOf.set(name, cosigner)
    const url = await listen(async (request, response) => {
      const chunks: Uint8Array[] = []
      for await (const chunk of request) chunks.push(chunk)
      answer(Buffer.concat(chunks).toString(), response)
    })
    addresses.push({ key: cosigner.key, url })
  }
  const honest = await startWitness()
  const relay = await startRelay([honest], 1, addresses)
  const tenant = await relay.makeTenant()
  const startedAt = performance.now()
  for (let n = 0; n < 20; n++) expect((await relay.post(tenant, { n })).status).toBe(202)
  expect(performance.now() - startedAt, 'no post waits for a witness').toBeLessThan(2000)
  await settled(relay)
  expect(namesOf(await served(relay, [...addresses, honest.address]))).toEqual([honest.address.key.name])
  expect(flooded, 'nobody reads on').toBeLessThan(64 * 1024 * 1024)
  await relay.check()
  const closing = performance.now()
  await relay.close()
  expect(performance.now() - closing).toBeLessThan(10_000)
})

test('judge: a checkpoint that a witness would expose is told without asking it', async () => {
  const witness = await startWitness()
  const logKey = makeNoteKey('judged.test/log', 7)
  const log = { origin: 'judged.test/log', vkeys: [logKey.key] }
  await witness.watch(log)
  const forged = signCheckpoint({ origin: log.origin, treeSize: 3, rootHash: new Uint8Array(32) }, [logKey.signer])
  const post = (body: string) => fetch(`${witness.url}/add-checkpoint`, { method: 'POST', body })
  expect((await post(`old 0\n\n${forged}`)).status).toBe(200)
  const other = signCheckpoint({ origin: log.origin, treeSize: 3, rootHash: new Uint8Array(32).fill(1) }, [
    logKey.signer,
  ])
  expect(await witness.judge(log, other)).toBe(422)
  expect(await witness.judge(log, forged)).toBe(200)
})

async function listen(handler: RequestListener): Promise<string> {
  const server: Server = createServer(handler)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  ending.push(async () => {
    server.closeAllConnections()
    await new Promise((resolve) => server.close(resolve))
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}
