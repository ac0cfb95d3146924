/**
 * The file of an export: lines of JSON (NDJSON), compressed. It holds everything that a check needs but the keys of the
 * log, which must come from elsewhere.
 *
 *     {"format":"countersign-export@v1","id":"exp_…","tenant":"ten_…",…}       the header: {@link ExportHeader}
 *     {"tile":"1/0.p/12","hashes":"…"}                   the right edge of the tree at the checkpoint, from the top down
 *     {"tile":"0/3.p/17","hashes":"…"}
 *     {"tile":"0/1","hashes":"…"}                        a full tile, before the first leaf that is proved by it
 *     {"index":300,"statement":"…","kid":"…","signature":"…"}    a leaf of the tenant; the last two where it was signed
 *     {"index":371,"prev":300,"entry":"…"}               one whose statement was not asked for, or is to be withheld
 *     {"index":645,"prev":371,"statement":"…","path":"…"}  one without a tile: its 8 siblings below the tile's hash
 *     {"index":785,"prev":645,"head":"…"}                the `tenant.head` that counts the leaves above
 *     {"manifest":"eyJ….eyJ….…"}                         a JWS over the number of lines before it, and their digest
 *
 * Bytes are base64url. A tile is named by level and index as in c2sp.org/tlog-tiles, without the folders; what its hashes
 * hash to stands in the tile one level up, and the edge hashes to the root of the checkpoint. `prev` is the index of the
 * leaf line before, so that a line that is gone is missed by name. The members of a line are in this order and no others.
 */
import { sha256 } from '../message/digest.ts'

export const exportFormat = 'countersign-export@v1'

/** The type of the manifest's JWS. */
export const exportJwsType = 'export+jwt'

export interface ExportHeader {
  readonly format: typeof exportFormat
  readonly id: string
  readonly issuer: string
  readonly origin: string
  readonly tenant: string
  /** All leaves of the tenant from `upto` on are here. `digest` rolls over those before it, as the `tenant.head` at leaf
   *  `index` says, which is among the lines; without `index`, there are none before it. */
  readonly basis: { readonly upto: number; readonly digest: string; readonly index?: number }
  /** Leaf indices, `to` excluded. Statements in this range are shown, all of them unless there are `kinds`. */
  readonly range: { readonly from: number; readonly to: number }
  readonly kinds?: readonly string[]
  /** The signed note whose tree all leaves are shown to be in. */
  readonly checkpoint: string
  readonly vkeys: readonly string[]
  /** Every key ever, as `GET /v1/keys` has them. */
  readonly keys: readonly object[]
}

/** Before the first line. */
export const emptyChain: Uint8Array = new Uint8Array(32)

/** The digest of all lines so far, extended by one, without its newline: SHA-256(0x03 ‖ digest ‖ line). A chain and not
 *  one hash over all, so that whoever writes can go on from these 32 bytes. */
export const extendChain = (chain: Uint8Array, line: Uint8Array): Uint8Array =>
  sha256(Buffer.concat([linePrefix, chain, line]))

const linePrefix = Uint8Array.of(0x03)
