import type { ServerResponse } from 'node:http'
import { setTimeout as delay } from 'node:timers/promises'
import { type Arrived, Receiver } from '../support/receiver.ts'
import type { Ledger } from './ledger.ts'
import type { RelayProcess } from './relay-process.ts'

/** Each stands in every payload of its tenant, and nowhere else. */
export const tenantNames = ['amber', 'cobalt', 'jade'] as const
export type TenantName = (typeof tenantNames)[number]

/** A tenant with one source, whose vendors post, and one endpoint: a receiver of its own. */
export interface Tenant {
  readonly name: TenantName
  /** Its ids: of itself, its source and its endpoint. */
  readonly ids: readonly string[]
  readonly path: string
  readonly ingestKey: string
  readonly tenantKey: string
  readonly receiver: Receiver
  /** Its receiver fails for so long, in one of three ways. Resolves with how many webhooks met that. */
  outage(pick: number, lastsMs: number): Promise<number>
}

export async function furnish(relay: RelayProcess, ledger: Ledger): Promise<Tenant[]> {
  const make = async (path: string, wish: object): Promise<{ id: string; key: string }> => {
    const response = await relay.call(path, wish)
    if (response.status !== 201) throw new Error(`${path} answers ${response.status}: ${await response.text()}`)
    return (await response.json()) as { id: string; key: string }
  }
  return Promise.all(
    tenantNames.map(async (name) => {
      const receiver = await Receiver.start()
      const tenant = await make('/v1/tenants', { name, tier: 'operation' })
      const within = `/v1/tenants/${tenant.id}`
      const source = await make(`${within}/sources`, { name })
      const endpoint = await make(`${within}/endpoints`, { url: receiver.url })
      const { key: ingestKey } = await make(`${within}/api-keys`, { name: 'vendor', role: 'ingest', source: source.id })
      const { key: tenantKey } = await make(`${within}/api-keys`, { name: 'staff', role: 'tenant' })
      const ids = [tenant.id, source.id, endpoint.id]
      const path = `/v1/sources/${source.id}/messages`
      const outage = failing(name, receiver, ledger)
      return { name, ids, path, ingestKey, tenantKey, receiver, outage }
    }),
  )
}

type Answer = (response: ServerResponse) => void

const failures: readonly Answer[] = [
  (response) => response.writeHead(500).end(),
  (response) => response.destroy(),
  (response) => void setTimeout(() => response.destroy(), 300),
]

/** Notes what arrives before it is answered, so what was answered is in the ledger. */
function failing(tenant: TenantName, receiver: Receiver, ledger: Ledger): Tenant['outage'] {
  let failure: Answer | undefined
  let met = 0
  receiver.answer = ({ headers, body }: Arrived, response) => {
    const message = String(headers['webhook-id'])
    const told = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, String(value)]))
    const facts = { message, tenant, body: body.toString('base64'), headers: told, taken: failure === undefined }
    ledger.note({ kind: 'arrived', ...facts })
    if (failure === undefined) return void response.writeHead(204).end()
    met += 1
    failure(response)
  }
  return async (pick, lastsMs) => {
    met = 0
    failure = failures[Math.floor(pick * 997) % failures.length]
    await delay(lastsMs)
    failure = undefined
    return met
  }
}
