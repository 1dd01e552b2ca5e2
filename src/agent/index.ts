// The door of this folder: connect to a guest agent.

export { connectAgent } from './client.ts'
export type * from './contract.ts'
export { NOT_DONE } from './renewal.ts'
