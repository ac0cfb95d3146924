import { NoteError, type NoteRefusal } from '../../src/log/note.ts'

/** The reason of the NoteError that `act` throws; undefined if it throws nothing. Any other error passes through. */
export function refusal(act: () => unknown): NoteRefusal | undefined {
  try {
    act()
    return undefined
  } catch (error) {
    if (error instanceof NoteError) return error.reason
    throw error
  }
}
