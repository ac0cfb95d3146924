import type { FastifyRequest } from 'fastify'
import { RelayError } from '../errors.ts'
import { actorOf } from '../tenant/administration.ts'
import { parseApiKey, secretMatches } from '../tenant/api-key.ts'
import type { Directory } from '../tenant/directory.ts'
import type { ApiKey, Role } from '../tenant/records.ts'

/** Who asks: the holder of an API key. */
export interface Principal {
  /** As statements name them. */
  readonly actor: string
  readonly role: Role
  readonly tenantId: string | null
  readonly sourceId: string | null
}

/** The holder of the key in `Authorization: Bearer`, or `unauthenticated`: the same for a key that is missing,
 *  malformed, unknown, wrong or revoked. */
export async function authenticate(request: FastifyRequest, directory: Directory): Promise<Principal> {
  const [, text = ''] = /^Bearer +(\S+) *$/i.exec(request.headers.authorization ?? '') ?? []
  const presented = parseApiKey(text)
  if (presented === undefined) throw new RelayError('unauthenticated')
  const apiKey: ApiKey | undefined = await directory.findApiKey(presented.id)
  if (!secretMatches(presented.secret, apiKey?.secretHash) || apiKey === undefined)
    throw new RelayError('unauthenticated')
  return { actor: actorOf(apiKey), role: apiKey.role, tenantId: apiKey.tenantId, sourceId: apiKey.sourceId }
}

/** Lets pass who has one of `roles` in this tenant, and administrators. Another tenant's things do not exist. */
export function permitTenant(principal: Principal, tenantId: string, roles: readonly Role[]): void {
  if (principal.role === 'admin') return
  if (principal.tenantId !== tenantId) throw new RelayError('not_found')
  if (!roles.includes(principal.role)) throw new RelayError('forbidden')
}

export function permitAdmin(principal: Principal): void {
  if (principal.role !== 'admin') throw new RelayError('forbidden')
}

/** Whose messages the principal may read: a tenant's id, or null for all. */
export function readableTenant(principal: Principal): string | null {
  if (principal.role === 'admin') return null
  if (principal.role !== 'tenant') throw new RelayError('forbidden')
  return principal.tenantId
}
