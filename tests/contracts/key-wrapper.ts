import { describe, expect, it } from 'vitest'
import type { KeyWrapper } from '../../src/ports/key-wrapper.ts'

/** What every key wrapper must do. `open` returns one under the same wrapping key each time. */
export function keyWrapperContract(name: string, open: () => Promise<KeyWrapper>): void {
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
      [
        'whose names and values run together to the same text',
        { appc: 'ountersign', purpose: 'signing', tenant: 'ten_1' },
      ],
    ])('refuses a context %s', async (_, other) => {
      const wrapper = await open()
      const wrapped = await wrapper.wrap(seed, context)
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
  })
}
