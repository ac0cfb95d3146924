import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const folder = new URL('../../../shared/vectors/', import.meta.url)

/** The published vectors live beside the repository and are read from there, never copied. */
export const vectorsPresent = existsSync(folder)

if (!vectorsPresent) console.warn('LOUD SKIP: ../shared/vectors is absent, so the published vectors are not tested')

export const vectorPath = (path: string): string => fileURLToPath(new URL(path, folder))
