import { defineConfig } from 'vitest/config'

// .ci/run counts from a JSON report beside the one that people read.
const report = process.env.VITEST_JSON

export default defineConfig({
  test: {
    globalSetup: ['tests/support/global-setup.ts'],
    reporters: report ? ['default', ['json', { outputFile: report }]] : ['default'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    expect: { poll: { timeout: 20_000 } }, // a busy machine is not a failure
    // Two cores: more workers than that only make PostgreSQL and the relays fight for them.
    maxWorkers: 2,
    projects: [
      { extends: true, test: { name: 'relay', include: ['tests/**/*.test.ts'] } },
      // The same relay with its keys under AWS KMS instead of a file, and its objects in S3 instead of a folder: where that
      // makes a difference.
      {
        extends: true,
        test: {
          name: 'aws',
          include: [
            'tests/flow/{message,rotation,start,object-store,export,erasure,witness}.test.ts',
            'tests/http/{receipts,proofs,tenancy}.test.ts',
          ],
          env: { TEST_KEY_WRAPPER: 'aws-kms', TEST_OBJECT_STORE: 's3' },
        },
      },
    ],
  },
})
