import { connect } from 'node:net'

/**
 * Sends bytes as they are, for what no HTTP client would send, and resolves with all that came back once the server has
 * closed the connection. A server that leaves it open lets the test run into its timeout.
 */
export function speak(url: string, bytes: string | Uint8Array): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port: Number(new URL(url).port) })
    const heard: Buffer[] = []
    socket.on('data', (chunk: Buffer) => heard.push(chunk))
    // The server may stop reading while we still write. What counts is what it said before.
    socket.on('error', () => {})
    socket.on('close', () => resolve(Buffer.concat(heard).toString('latin1')))
    socket.write(bytes)
  })
}
