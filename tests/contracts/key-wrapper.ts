import { sign, verify } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { importPrivateKey, importPublicKey, rawPublicKey } from '../../src/keyring/jwk.ts'
import type { KeyWrapper } from '../../src/ports/key-wrapper.ts'

/** What every key wrapper must do. `open` returns one under the same wrapping key each time. `runsContextsTogether` is
 *  the known fault of one imitation of KMS: the test that shows it fails as soon as the fault is mended. */
export function keyWrapperContract(
  name: string,
  open: () => Promise<KeyWrapper>,
  { runsContextsTogether = false } = {},
): void {
  const seed = Uint8Array.from({ length: 32 }, (_, i) => i)
  const context = { app: 'countersign', purpose: 'signing', tenant: 'ten_1' }

  describe(`${name} as a key wrapper`, () => {
    it('unwraps what it wrapped, also after it was opened again', async () => {
      const wrapped = await (await open()).wrap(seed, context)
      expect(await (await open()).unwrap(wrapped, context)).toEqual(seed)
    })

    it('takes the pairs of a context in any order', async () => {
      const wrapper = await open()
      const wrapped = await wrapper.wrap(seed, context)
      const reordered = Object.fromEntries(Object.entries(context).reverse())
      expect(await wrapper.unwrap(wrapped, reordered)).toEqual(seed)
    })

    it('wraps the same seed to other bytes each time, names its wrapping key and leaves the seed alone', async () => {
      const wrapper = await open()
      const [one, two] = [await wrapper.wrap(seed, context), await wrapper.wrap(seed, context)]
      expect(one.blob).not.toEqual(two.blob)
      expect(Buffer.from(one.blob).includes(seed)).toBe(false)
      expect(one.wrappingKey).toBe(two.wrappingKey)
      expect(one.wrappingKey).not.toBe('')
      expect(seed[31]).toBe(31)
    })

    it.each([
      ['with another value', { ...context, tenant: 'ten_2' }],
      ['that lacks a pair', { app: 'countersign', purpose: 'signing' }],
      ['with a pair more', { ...context, more: 'x' }],
      ['that is empty', {}],
    ])('refuses a context %s', async (_, other) => {
      const wrapper = await open()
      const wrapped = await wrapper.wrap(seed, context)
      await expect(wrapper.unwrap(wrapped, other)).rejects.toThrow()
    })

    const itTellsApart = runsContextsTogether ? it.fails : it
    itTellsApart('refuses a context whose names and values run together to the same text', async () => {
      const wrapper = await open()
      const wrapped = await wrapper.wrap(seed, context)
      const other = { appc: 'ountersign', purpose: 'signing', tenant: 'ten_1' }
      await expect(wrapper.unwrap(wrapped, other)).rejects.toThrow()
    })

    it('refuses a blob with any byte altered, cut or extended', async () => {
      const wrapper = await open()
      const wrapped = await wrapper.wrap(seed, context)
      const { blob } = wrapped
      const lies: Uint8Array[] = [...blob.keys()].map((at) =>
        blob.map((byte, index) => (index === at ? byte ^ 1 : byte)),
      )
      lies.push(
        new Uint8Array(),
        blob.subarray(0, 1),
        blob.subarray(1),
        blob.subarray(0, -1),
        Uint8Array.of(...blob, 0),
      )
      for (const lie of lies) await expect(wrapper.unwrap({ ...wrapped, blob: lie }, context)).rejects.toThrow()
    })

    it('refuses what another wrapping key wrapped, naming it', async () => {
      const wrapper = await open()
      const wrapped = await wrapper.wrap(seed, context)
      const foreign = { ...wrapped, wrappingKey: `${wrapped.wrappingKey}x` }
      await expect(wrapper.unwrap(foreign, context)).rejects.toThrow(foreign.wrappingKey)
    })

    it('generates another data key of 32 bytes each time, under the same wrapping key', async () => {
      const wrapper = await open()
      const [one, two] = [await wrapper.generateDataKey(context), await wrapper.generateDataKey(context)]
      for (const { plain, wrapped } of [one, two]) {
        expect(plain).toHaveLength(32)
        expect(await (await open()).unwrap(wrapped, context)).toEqual(plain)
        expect(Buffer.from(wrapped.blob).includes(plain)).toBe(false)
        expect(wrapped.wrappingKey).toBe((await wrapper.wrap(seed, context)).wrappingKey)
      }
      expect(one.plain).not.toEqual(two.plain)
    })

    it('generates another signing key each time, whose unwrapped half signs what its public half verifies', async () => {
      const wrapper = await open()
      const [one, two] = [await wrapper.generateSigningKey(context), await wrapper.generateSigningKey(context)]
      for (const { publicKey, wrapped } of [one, two]) {
        expect(publicKey).toHaveLength(32)
        const key = importPrivateKey(await (await open()).unwrap(wrapped, context))
        expect(rawPublicKey(key)).toEqual(publicKey)
        expect(verify(null, seed, importPublicKey(publicKey), sign(null, seed, key))).toBe(true)
        expect(wrapped.wrappingKey).toBe((await wrapper.wrap(seed, context)).wrappingKey)
      }
      expect(one.publicKey).not.toEqual(two.publicKey)
    })

    it('binds what it generates to its context', async () => {
      const wrapper = await open()
      const other = { ...context, tenant: 'ten_2' }
      const generated = [await wrapper.generateDataKey(context), await wrapper.generateSigningKey(context)]
      for (const { wrapped } of generated) await expect(wrapper.unwrap(wrapped, other)).rejects.toThrow()
    })
  })
}
