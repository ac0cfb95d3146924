import type { FastifyDynamicSwaggerOptions } from '@fastify/swagger'
import { problemMediaType } from './problem.ts'
import { Problem } from './schemas.ts'

/** What the routes cannot say of themselves; the rest of /openapi.json is made of their schemas. */
export const openApiDocument = (issuer: string): FastifyDynamicSwaggerOptions => ({
  openapi: {
    openapi: '3.1.0',
    info: {
      title: 'Countersign',
      version: '1',
      description:
        'A signed-payload webhook relay with cryptographic receipts. Errors are application/problem+json with a stable `code`.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: issuer }],
    tags: [
      { name: 'Messages', description: 'Posting payloads and reading them back.' },
      { name: 'Tenants', description: 'Tenants, sources and API keys.' },
      { name: 'Endpoints', description: 'Receivers’ URLs: what is sent there, how it is signed, and when.' },
      { name: 'Deliveries', description: 'What became of each message at each endpoint.' },
      { name: 'Audit', description: 'What was stated, and receipts for it.' },
      { name: 'Exports', description: 'A tenant’s audit log as a file that proves itself.' },
      { name: 'Public', description: 'Keys and verification, for anyone.' },
      { name: 'Log', description: 'The transparency log (c2sp.org/tlog-tiles), for anyone.' },
      { name: 'Operation', description: 'For whoever runs the relay.' },
    ],
    components: {
      schemas: { Problem },
      responses: {
        Problem: {
          description: 'Refused. README.md lists the codes.',
          content: { [problemMediaType]: { schema: { $ref: '#/components/schemas/Problem' } } },
        },
      },
      securitySchemes: { apiKey: { type: 'http', scheme: 'bearer', description: 'cs_<id>_<secret>' } },
    },
    security: [{ apiKey: [] }],
  },
  // OpenAPI knows no parameter that spans slashes, so the wildcard gets a name, and its description says the rest.
  transform: ({ schema, url }) => ({ schema, url: url.replace('*', ':path') }),
  transformObject: (document) => {
    const { openapiObject } = document as { openapiObject: { paths: Record<string, Record<string, Operation>> } }
    for (const operation of Object.values(openapiObject.paths).flatMap((path) => Object.values(path))) {
      operation.responses['4XX'] = operation.responses['5XX'] = { $ref: '#/components/responses/Problem' }
    }
    return openapiObject
  },
})

interface Operation {
  responses: Record<string, object>
}
