import fc from 'fast-check'
import { expect, test } from 'vitest'
import { LastProof } from '../../src/log/last-proof.ts'
import { NoteError } from '../../src/log/note.ts'
import { formatProof, parseProof } from '../../src/log/tlog-proof.ts'
import { type Growth, hashLeaf, TreeEdge, verifyInclusion } from '../../src/log/tree.ts'

const leaves = Array.from({ length: 1200 }, (_, index) => hashLeaf(Buffer.from(`statement ${index}`)))

/** The batches of a log, each with the leaves before it. */
function grow(sizes: readonly number[]): { first: number; growth: Growth }[] {
  let edge = TreeEdge.empty
  return sizes.map((size) => {
    const first = edge.treeSize
    const growth = edge.append(leaves.slice(first, first + size))
    edge = growth.edge
    return { first, growth }
  })
}

/** What a verifier finds in a text about a leaf: a refusal, or the index and whether it is included. */
function judge(text: string, leafHash: Uint8Array, { edge: { treeSize, rootHash } }: Growth, last?: LastProof) {
  try {
    const { leafIndex, proof, checkpoint, extra } = parseProof(text, last?.hashOf)
    const included = verifyInclusion({ leafHash, leafIndex, treeSize, proof, rootHash }, last?.over)
    return { leafIndex, proof, checkpoint, extra, included }
  } catch (error) {
    if (error instanceof NoteError) return error.message
    throw error
  }
}

/** Ways to spoil a proof, each with the place where. The first leaves it as it is. */
const spoilers: ((text: string, at: number) => string)[] = [
  (text) => text,
  (text, at) => onLines(text, (lines) => lines.toSpliced(at % lines.length, 1)),
  (text, at) => onLines(text, (lines) => lines.toSpliced(at % lines.length, 0, lines[0] ?? '')),
  (text, at) => onLines(text, (lines) => [...lines.slice(at % lines.length), ...lines.slice(0, at % lines.length)]),
  (text, at) => onLines(text, (lines) => lines.with(at % lines.length, hashLeaf(Buffer.of(at)).toString())),
  (text, at) =>
    onLines(text, (lines) => lines.with(at % lines.length, Buffer.from(hashLeaf(Buffer.of(at))).toString('base64'))),
  (text, at) => text.slice(0, at % text.length) + text.slice((at % text.length) + 1),
  (text, at) => {
    const where = at % text.length
    return text.slice(0, where) + String.fromCharCode(text.charCodeAt(where) ^ 1) + text.slice(where + 1)
  },
  (text, at) => text.replace(/index \d+/, `index ${at % 1200}`),
  (text) => text.replace('=\n', '\n'),
]

function onLines(text: string, change: (lines: string[]) => string[]): string {
  const [head = '', note = ''] = text.split('\n\n')
  const [first = '', index = '', ...lines] = head.split('\n')
  return `${[first, index, ...(lines.length > 0 ? change(lines) : [])].join('\n')}\n\n${note}`
}

test('whatever was proven before, the text and the verdict of a proof are those of a stranger', () => {
  const question = fc.record({
    batch: fc.nat(),
    leaf: fc.nat(),
    /** Most proofs are of the next leaf of the same batch, as when receipts are issued. */
    next: fc.boolean(),
    spoiler: fc.oneof({ weight: 2, arbitrary: fc.constant(0) }, fc.nat({ max: spoilers.length - 1 })),
    at: fc.nat(),
    /** Whose leaf it is said to be the proof of: its own, or that of a neighbour. */
    off: fc.constantFrom(0, 0, 0, 1),
  })
  let included = 0
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 4 }),
      fc.array(question, { minLength: 10, maxLength: 60 }),
      (sizes, questions) => {
        const batches = grow(sizes)
        const [made, judged] = [new LastProof(), new LastProof()]
        let [batch, leaf] = [0, 0]
        for (const { next, spoiler, at, off, ...jump } of questions) {
          if (!next) batch = jump.batch % batches.length
          leaf = (next ? leaf + 1 : jump.leaf) % (sizes[batch] as number)
          const { first, growth } = batches[batch] as (typeof batches)[number]
          const leafIndex = first + leaf
          const proof = { leafIndex, proof: growth.prove(leafIndex), checkpoint: `checkpoint of batch ${batch}\n` }
          const text = formatProof(proof, made.lineOf)
          expect(text).toBe(formatProof(proof))
          const spoilt = (spoilers[spoiler] as (typeof spoilers)[number])(text, at)
          const leafHash = leaves[leafIndex + off] as Uint8Array
          const verdict = judge(spoilt, leafHash, growth, judged)
          expect(verdict).toEqual(judge(spoilt, leafHash, growth))
          if (spoiler === 0) expect(verdict).toMatchObject({ included: off === 0 })
          if (typeof verdict === 'object' && verdict.included) included++
        }
      },
    ),
    { numRuns: 200, seed: 9162 },
  )
  expect(included).toBeGreaterThan(1000)
})

test('a neighbour of a leaf just proven is proven by the hashes that differ alone', () => {
  const growth = TreeEdge.empty.append(leaves.slice(0, 1000))
  const last = new LastProof()
  const proofs = [0, 1, 2, 3].map((leafIndex) => {
    const text = formatProof({ leafIndex, proof: growth.prove(leafIndex), checkpoint: 'checkpoint\n' })
    return parseProof(text, last.hashOf).proof
  })
  const shared = (one: number, other: number) => proofs[one]?.filter((hash, i) => hash === proofs[other]?.[i]).length
  expect(proofs[0]).toHaveLength(10)
  expect([shared(0, 1), shared(1, 2), shared(2, 3)]).toEqual([9, 8, 9])
  const overs: Uint8Array[][] = proofs.map((proof, leafIndex) => {
    const nodes: Uint8Array[] = []
    const over: LastProof['over'] = (left, right, linesAbove) => {
      const node = last.over(left, right, linesAbove)
      nodes.push(node)
      return node
    }
    const { treeSize, rootHash } = growth.edge
    const leafHash = leaves[leafIndex] as Uint8Array
    expect(verifyInclusion({ leafHash, leafIndex, treeSize, proof, rootHash }, over)).toBe(true)
    return nodes
  })
  const reused = (one: number, other: number) => overs[one]?.filter((node, i) => node === overs[other]?.[i]).length
  expect([reused(0, 1), reused(1, 2), reused(2, 3)]).toEqual([10, 9, 10])
})
