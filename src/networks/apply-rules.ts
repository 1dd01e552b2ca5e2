// The host's rules, read and changed by the tools of iptables.

import { setTimeout as delay } from 'node:timers/promises'
import { runTool } from '../platform/tool.ts'
import { TOOL_LIMIT_MS } from './shaping.ts'

const forever = new AbortController().signal

/** The host's rules, as iptables-save writes them. */
export async function savedRules(): Promise<string> {
  return (await runTool('iptables-save', [], { cwd: '/', signal: forever, timeoutMs: TOOL_LIMIT_MS })).toString()
}

/** How often rules are tried to be changed, and how long after one that failed, in milliseconds: the kernel refuses a change that another program's has overtaken. */
const [CHANGES_TRIED, RETRY_MS] = [5, 100]

/** All or nothing in each table. */
export async function applyRules(text: string): Promise<void> {
  for (let attempt = 1; ; attempt += 1)
    try {
      await runTool('iptables-restore', ['--noflush', '--wait', '10'], { cwd: '/', signal: forever, timeoutMs: TOOL_LIMIT_MS, input: text })
      return
    } catch (error) {
      if (attempt === CHANGES_TRIED) throw error
      await delay(RETRY_MS)
    }
}
