// The door of this folder for the composition root.

export { installProgram } from './install.ts'
export { knownPrograms, probeHypervisors } from './look.ts'
export { removeProgram } from './remove.ts'
