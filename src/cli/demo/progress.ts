/** On a terminal one line that is rewritten; elsewhere, as in a build's log, a line each second that has news. */
const intervalMs = process.stdout.isTTY ? 100 : 1000

/** Shows what `line` returns until it is disposed of, and a last time then. */
export function showProgress(line: () => string): Disposable {
  let shown: string | undefined
  const show = (): void => {
    const text = line()
    if (text === shown) return
    process.stdout.write(process.stdout.isTTY ? `\r\x1b[2K${text}` : `${text}\n`)
    shown = text
  }
  show()
  const timer = setInterval(show, intervalMs)
  return {
    [Symbol.dispose]() {
      clearInterval(timer)
      show()
      if (process.stdout.isTTY) process.stdout.write('\n')
    },
  }
}

const barWidth = 30

/** `[######      ]`: `done` of `all`. */
export function bar(done: number, all: number): string {
  const filled = all === 0 ? barWidth : Math.floor((done / all) * barWidth)
  return `[${'#'.repeat(filled).padEnd(barWidth)}]`
}
