import { createConfig, lintFromString } from '@redocly/openapi-core'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { TestRelay } from '../support/relay.ts'

/** Rules of the recommended set that we do not follow, and why. All others hold, warnings included. */
const rulesOff = {
  // A method and a path name an operation well enough; nothing is generated from this document.
  'operation-operationId': 'off',
} as const

interface Operation {
  summary?: string
  tags?: string[]
  security?: object[]
  responses: Record<string, { $ref?: string; content?: Record<string, object> }>
}

let relay: TestRelay
let source: string
let paths: Record<string, Record<string, Operation>>

beforeAll(async () => {
  relay = await TestRelay.start()
  const response = await fetch(`${relay.url}/openapi.json`)
  expect(response.headers.get('content-type')).toMatch(/^application\/json/)
  source = await response.text()
  paths = JSON.parse(source).paths
})

afterAll(async () => {
  await relay?.stop()
})

const operations = () =>
  Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ name: `${method.toUpperCase()} ${path}`, operation })),
  )

test('the document is OpenAPI 3.1 and lints clean', async () => {
  expect(JSON.parse(source)).toMatchObject({ openapi: '3.1.0', info: { title: 'Countersign' } })
  const config = await createConfig({ extends: ['recommended'], rules: rulesOff })
  const problems = await lintFromString({ source, config })
  expect(problems.map(({ ruleId, location, message }) => `${ruleId} ${location[0]?.pointer} ${message}`)).toEqual([])
})

test('a lie in the document is found', async () => {
  const config = await createConfig({ extends: ['recommended'], rules: rulesOff })
  const lie = source.replace('"#/components/responses/Problem"', '"#/components/responses/Trouble"')
  const problems = await lintFromString({ source: lie, config })
  expect(problems.map(({ ruleId }) => ruleId)).toContain('no-unresolved-refs')
})

test('every route is in it, and nothing that is no route', () => {
  const documented = operations().map(({ name }) => name)
  expect(documented.sort()).toEqual(routesOf(relay.server.printRoutes({ commonPrefix: false })).sort())
})

test('every operation says what it is for, what it answers, and how it refuses', () => {
  for (const { name, operation } of operations()) {
    expect(operation.summary, name).toMatch(/^[A-Z]/)
    expect(operation.tags, name).toHaveLength(1)
    const answers = Object.keys(operation.responses).filter((status) => status.startsWith('2'))
    expect(answers, name).toHaveLength(1)
    const problem = { $ref: '#/components/responses/Problem' }
    expect(operation.responses, name).toMatchObject({ '4XX': problem, '5XX': problem })
  }
  expect(JSON.parse(source).components.responses.Problem.content).toHaveProperty(['application/problem+json'])
})

test('media types are those of the answers', () => {
  const typeOf = (path: string, method: string, status: string) =>
    Object.keys(paths[path]?.[method]?.responses[status]?.content ?? {})
  const receipt = ['application/vnd.countersign.receipt+json']
  expect(typeOf('/v1/sources/{source}/messages', 'post', '202')).toEqual(receipt)
  for (const path of ['/v1/messages/{message}/receipt', '/v1/statements/{index}/receipt']) {
    expect(typeOf(path, 'get', '200')).toEqual([...receipt, 'application/cose'])
  }
  expect(typeOf('/v1/log/inclusion', 'get', '200')).toEqual(['application/json', 'text/plain'])
  expect(typeOf('/log/checkpoint', 'get', '200')).toEqual(['text/plain'])
  expect(typeOf('/log/tile/{path}', 'get', '200')).toEqual(['application/octet-stream'])
  expect(typeOf('/v1/tenants/{tenant}', 'get', '200')).toEqual(['application/json'])
})

test('what anyone may ask says that it takes no key', async () => {
  for (const { name, operation } of operations()) {
    const [method = '', path = ''] = name.split(' ')
    if (method !== 'GET' || path.includes('{')) continue
    const { status } = await fetch(relay.url + path)
    expect(status === 401 ? undefined : [], name).toEqual(operation.security)
  }
})

/** The routes in Fastify's drawing of its tree: each line is a node, its depth a place in the drawing. */
function routesOf(tree: string): string[] {
  const trail: string[] = []
  return tree.split('\n').flatMap((line) => {
    const [, drawn = '', part = '', methods = ''] = /^([^/*]*)([/*]\S*)(?: \(([A-Z, ]+)\))?/.exec(line) ?? []
    if (part === '') return []
    trail.length = drawn.length / 4 - 1
    trail.push(part)
    const path = trail.join('').replace(/:(\w+)/g, '{$1}')
    // The one wildcard is drawn without the path before it.
    const named = path === '*' ? '/log/tile/{path}' : path
    const visible = methods.split(', ').filter((method) => method !== '' && method !== 'HEAD')
    return visible.map((method) => `${method} ${named}`)
  })
}
